"""Names from Kubernetes: looks up the pod UID and the container id of a cgroup's path in the pods of a source.

Cgroups and pods change at different times. A container runs before the status of its pod has its id. A pod's cgroups
can end before or after the source reports the deletion. So a deleted pod stays known for some time, and a cgroup of an
unknown pod is `PENDING` until the source names the pod, or for `NAME_TIMEOUT` at most.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kpod_metrics.cgroup.tree import Directory
from kpod_metrics.pods.model import (
    FILTERED,
    HOST,
    PENDING,
    UNRESOLVED,
    Container,
    Group,
    Identity,
    Pod,
    Snapshot,
    Workload,
)
from kpod_metrics.pods.paths import kubernetes_ids
from kpod_metrics.pods.source import Source
from kpod_metrics.selector import Selector

log = logging.getLogger(__name__)

NAME_TIMEOUT = 30.0
"""Seconds that a connected source has to name a cgroup. The kubelet adds a started container to the status of its pod
within about a second. No status has the id of a sandbox (pause): after this time it counts as the pod itself."""

CAPACITY = 10_000
"""Deleted pods that are remembered, and cgroups that wait for a name; beyond this the oldest are dropped."""

_MAX_LABEL_VALUE = 63
"""Characters of a label's value: the API server's limit. Other servers may not enforce it."""


@dataclass(frozen=True)
class Filter:
    """Which pods the settings choose, and which of their labels become metric labels."""

    namespaces: frozenset[str] = frozenset()
    """Only these; empty: all."""
    without: frozenset[str] = frozenset()
    selector: Selector = field(default=lambda labels: True)
    labels: tuple[str, ...] = ()
    """Names of the pod labels that become metric labels."""

    def wants(self, pod: Pod) -> bool:
        """Whether the settings choose a pod."""
        return (
            (not self.namespaces or pod.namespace in self.namespaces)
            and pod.namespace not in self.without
            and self.selector(pod.labels)
        )


class _Wait(NamedTuple):
    path: str
    since: float


class _Known:
    """A pod for look-ups: its identity, and its containers by id."""

    __slots__ = ("containers", "identity", "pod")

    def __init__(self, pod: Pod, labels: Sequence[str]) -> None:
        self.pod = pod
        extra = tuple([pod.labels.get(label, "")[:_MAX_LABEL_VALUE] for label in labels])
        self.identity = Identity(pod.namespace, pod.name, "", extra)
        self.containers = {id_: self.of(container) for container in pod.containers for id_ in container.ids}

    def of(self, container: Container) -> Identity:
        return self.identity._replace(container=container.name)


class ClusterNamer:
    """Names cgroups with the pods of a source."""

    def __init__(self, source: Source, wanted: Filter, grace: float, clock: Callable[[], float] = time.monotonic):
        """A deleted pod stays known for `grace` seconds, and as long as it has cgroups."""
        self.source, self._wanted, self._grace, self._clock = source, wanted, grace, clock
        self._pods: Mapping[str, Pod] = {}
        self._index: dict[str, _Known | None] = {}
        """By the UID in the paths; None if the settings exclude the pod."""
        self._recent: dict[str, tuple[Pod, float]] = {}
        """Deleted pods by UID, and when they were deleted or last had a cgroup."""
        self._ids: dict[str, tuple[str, str] | None] = {}
        self._waiting: dict[int, _Wait] = {}
        self._settled: set[int] = set()
        """Cgroups whose time to get a name is over, mostly sandboxes."""
        self._before: tuple[Sequence[Directory], Snapshot] = ((), Snapshot())
        self._connected_since: float | None = None
        self._forgotten = {"pod": 0, "waiting": 0}

    @property
    def forgotten(self) -> Mapping[str, int]:
        """Dropped deleted pods and waiting cgroups, and deletions that the source dropped."""
        return {**self._forgotten, "deletion": self.source.deletions_lost}

    def snapshot(
        self, root: str, directories: Sequence[Directory], vanished: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        """Name every cgroup of a pod; returns the same snapshot as before if nothing changed."""
        now = self._clock()
        if not self.source.connected:
            self._connected_since = None
        elif self._connected_since is None:
            self._connected_since = now
        changed = self._take_pods(now)
        before, snapshot = self._before
        if not (changed or vanished or self._waiting or self._recent) and directories == before:
            return snapshot
        identities: dict[int, Identity] = {}
        reported: dict[int, Identity] = {}
        reasons: dict[int, str] = {}
        waiting, self._waiting = self._waiting, {}
        outermost: dict[tuple[str, str], tuple[Directory, list[int], Identity]] = {}
        seen: dict[str, tuple[str, str] | None] = {}
        alive: set[str] = set()

        for directory in directories:
            path = directory.path
            ids = seen[path] = self._ids[path] if path in self._ids else kubernetes_ids(path)
            if ids is None:
                reasons[directory.id] = HOST
                continue
            alive.add(ids[0])
            owner = self._owner(directory.id, path, ids, waiting, now)
            if not isinstance(owner, Identity):
                reasons[directory.id] = owner
                continue
            identities[directory.id] = owner
            if owner.container:
                reported[directory.id] = owner
                # The walk starts at the top: cgroups below a container come after it.
                outermost.setdefault(ids, (directory, [], owner))[1].extend(directory.pids)
        self._ids = seen
        for id_, path in self._departed(waiting, vanished, reasons, identities):
            ids = kubernetes_ids(path)
            owner = HOST if ids is None else self._owner(id_, path, ids, waiting, now)
            if isinstance(owner, Identity):
                identities[id_] = owner
            else:
                reasons[id_] = owner
        self._forget_pods(alive, now)
        present = frozenset([directory.id for directory in directories])
        self._settled &= present
        kept = frozenset(self._kept())
        snapshot = Snapshot(
            identities=identities,
            reported=reported,
            groups=tuple(
                [Group(d.id, f"{root}/{d.path}", tuple(pids), owner) for d, pids, owner in outermost.values()]
            ),
            present=present,
            reasons=reasons,
            kept=kept,
            workloads=tuple(self._workloads({identity.of_pod for identity in (*reported.values(), *kept)})),
        )
        # A cgroup that no longer exists is in one snapshot only.
        self._before = (
            (directories, snapshot) if present.issuperset(identities.keys() | reasons.keys()) else ((), snapshot)
        )
        return snapshot

    def _take_pods(self, now: float) -> bool:
        """Update the index from the source; return whether anything changed."""
        pods, deleted = self.source.poll()
        if pods is self._pods and not deleted:
            return False
        for pod in deleted:
            self._recent[pod.uid] = (pod, now)
        while len(self._recent) > CAPACITY:
            del self._recent[next(iter(self._recent))]
            self._forgotten["pod"] += 1
        self._pods = pods
        self._reindex()
        return True

    def _reindex(self) -> None:
        self._index = {}
        claimed: dict[str, _Known | None] = {}
        for pod in (*(pod for pod, _ in self._recent.values()), *self._pods.values()):
            known = _Known(pod, self._wanted.labels) if self._wanted.wants(pod) else None
            self._index[pod.uid] = claimed[pod.cgroup_uid] = known
        # A static pod's second UID is an annotation, which any user can write: it must not replace a real UID.
        self._index = claimed | self._index

    def _owner(
        self, id_: int, path: str, ids: tuple[str, str], waiting: Mapping[int, _Wait], now: float
    ) -> Identity | str:
        """Return the owner of a cgroup, or why it has none."""
        uid, container = ids
        known = self._index.get(uid, _UNKNOWN)
        if known is None:
            return FILTERED
        if known is not _UNKNOWN:
            identity = known.containers.get(container) if container else known.identity
            if identity is not None:
                return identity
        if id_ not in self._settled and len(self._waiting) >= CAPACITY:
            self._settled.add(id_)
            self._forgotten["waiting"] += 1
        if id_ not in self._settled:
            wait = waiting.get(id_)
            if wait is None:
                wait = _Wait(path, now)
                self.source.hurry()
            # The time starts again when the source reconnects: it could not report anything before.
            if self._connected_since is None or now - max(wait.since, self._connected_since) < NAME_TIMEOUT:
                self._waiting[id_] = wait
                return PENDING
            self._settled.add(id_)
        return UNRESOLVED if known is _UNKNOWN else known.identity

    @staticmethod
    def _departed(
        waiting: Mapping[int, _Wait],
        vanished: Mapping[int, str],
        reasons: Mapping[int, str],
        known: Mapping[int, Identity],
    ) -> Iterable[tuple[int, str]]:
        """Yield the cgroups that no longer exist and have no name yet."""
        for id_, wait in waiting.items():
            if id_ not in reasons and id_ not in known:
                yield id_, wait.path
        for id_, path in vanished.items():
            if id_ not in waiting:
                yield id_, path

    def _forget_pods(self, alive: set[str], now: float) -> None:
        """Forget deleted pods some time after their last cgroup was removed."""
        before = len(self._recent)
        for uid, (pod, _) in list(self._recent.items()):
            if uid in alive or pod.cgroup_uid in alive:
                self._recent[uid] = (pod, now)
            elif now - self._recent[uid][1] > max(self._grace, NAME_TIMEOUT):
                del self._recent[uid]
        if len(self._recent) != before:
            self._reindex()

    def _kept(self) -> Iterable[Identity]:
        """Yield the containers that may be restarted."""
        for uid in self._pods:
            known = self._index.get(uid)
            if known is not None:
                for container in known.pod.containers:
                    if container.ids and not container.ended:
                        yield known.of(container)

    def _workloads(self, pods: set[Identity]) -> Iterable[Workload]:
        """Yield one workload per pod name. A StatefulSet creates a pod again while the last one still has series."""
        newest: dict[tuple[str, str], _Known] = {}
        for uid in (*self._recent, *self._pods):  # in order of age, if `_rank` does not say otherwise
            known = self._index.get(uid)
            if known is not None and known.identity in pods:
                name = known.identity.namespace, known.identity.pod
                if name not in newest or self._rank(known.pod) >= self._rank(newest[name].pod):
                    newest[name] = known
        for known in newest.values():
            restarts = tuple((known.of(c), c.restarts) for c in known.pod.containers if c.ids and not c.ended)
            yield Workload(known.identity, known.pod.owner_kind, known.pod.owner, known.pod.qos, restarts)

    def _rank(self, pod: Pod) -> tuple[bool, bool, str]:
        """Sort key of pods with one name: existing ones, then those not being deleted, then the newest, are last."""
        return pod.uid in self._pods, not pod.terminating, pod.created


_UNKNOWN = _Known(Pod("", "", ""), ())
