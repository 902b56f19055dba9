"""Names by Kubernetes: the pod UID and container id in a cgroup's path, looked up in what the API or the kubelet tells.

The two sides come apart in time: a container runs before its status names it, and a pod's cgroups may be gone before
its deletion is heard of, or outlive it. So a pod that was deleted is still known for a while, and what a cgroup of an
unknown pod did is held back (`PENDING`) until somebody names it, or nobody did for `NAME_TIMEOUT`.
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
    PodSource,
    Snapshot,
    Workload,
)
from kpod_metrics.pods.paths import kubernetes_ids
from kpod_metrics.selector import Selector

log = logging.getLogger(__name__)

NAME_TIMEOUT = 30.0
"""Seconds that a connected source has to name a cgroup. The kubelet writes a started container into its pod's status
within about a second; no status ever names a sandbox (pause), which is the pod's own after this time."""

CAPACITY = 10_000
"""Deleted pods that are remembered, and cgroups that wait for a name: the oldest make room."""


_MAX_LABEL_VALUE = 63
"""Characters of a label's value: what the API server accepts, held to with whatever else answers in its place."""


@dataclass(frozen=True)
class Filter:
    """Which pods are wanted, and which of their labels become metric labels."""

    namespaces: frozenset[str] = frozenset()
    """Only these; empty: all."""
    without: frozenset[str] = frozenset()
    selector: Selector = field(default=lambda labels: True)
    labels: tuple[str, ...] = ()
    """Names of the pods' labels that are metric labels too."""

    def wants(self, pod: Pod) -> bool:
        """Whether a pod is collected at all."""
        return (
            (not self.namespaces or pod.namespace in self.namespaces)
            and pod.namespace not in self.without
            and self.selector(pod.labels)
        )


class _Wait(NamedTuple):
    path: str
    since: float


class _Known:
    """A pod as it is looked up: its identity, and its containers by id."""

    __slots__ = ("containers", "identity", "pod")

    def __init__(self, pod: Pod, labels: Sequence[str]) -> None:
        self.pod = pod
        extra = tuple([pod.labels.get(label, "")[:_MAX_LABEL_VALUE] for label in labels])
        self.identity = Identity(pod.namespace, pod.name, "", extra)
        self.containers = {id_: self.of(container) for container in pod.containers for id_ in container.ids}

    def of(self, container: Container) -> Identity:
        return self.identity._replace(container=container.name)


class ClusterNamer:
    """Names cgroups by a source of pods."""

    def __init__(self, source: PodSource, wanted: Filter, grace: float, clock: Callable[[], float] = time.monotonic):
        """A deleted pod is known for `grace` seconds more, and as long as it has cgroups."""
        self._source, self._wanted, self._grace, self._clock = source, wanted, grace, clock
        self._pods: Mapping[str, Pod] = {}
        self._index: dict[str, _Known | None] = {}
        """By the UID in the paths; None: not wanted."""
        self._recent: dict[str, tuple[Pod, float]] = {}
        """Deleted pods by UID, and when they were last seen to matter."""
        self._ids: dict[str, tuple[str, str] | None] = {}
        self._waiting: dict[int, _Wait] = {}
        self._settled: set[int] = set()
        """Cgroups that had their time to be named, sandboxes above all."""
        self._before: tuple[Sequence[Directory], Snapshot] = ((), Snapshot())
        self._connected_since: float | None = None
        self._forgotten = {"pod": 0, "waiting": 0}

    @property
    def forgotten(self) -> Mapping[str, int]:
        """Deleted pods, and cgroups waiting for a name, that had to make room; deletions that the source forgot."""
        return {**self._forgotten, "deletion": self._source.deletions_lost}

    @property
    def name(self) -> str:
        """That of the source."""
        return self._source.name

    @property
    def connected(self) -> bool:
        """Whether the source answers."""
        return self._source.connected

    @property
    def relists(self) -> int:
        """Those of the source."""
        return self._source.relists

    def problem(self) -> str:
        """That of the source."""
        return self._source.problem()

    def start(self) -> None:
        """Start the source."""
        self._source.start()

    def close(self) -> None:
        """End the source."""
        self._source.close()

    def snapshot(
        self, root: str, directories: Sequence[Directory], vanished: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        """Name every cgroup that is some pod's; where nothing has changed, the snapshot is the one before."""
        now = self._clock()
        self._follow_connection(now)
        changed = self._take_pods(now)
        before, snapshot = self._before
        if not (changed or vanished or self._waiting or self._recent) and directories == before:
            return snapshot
        identities: dict[int, Identity] = {}
        reported: dict[int, Identity] = {}
        reasons: dict[int, str] = {}
        waiting, self._waiting = self._waiting, {}
        tops: dict[tuple[str, str], tuple[Directory, list[int], Identity]] = {}
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
                # The walk goes from the top: what is nested in a container comes after it.
                tops.setdefault(ids, (directory, [], owner))[1].extend(directory.pids)
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
            groups=tuple([Group(d.id, f"{root}/{d.path}", tuple(pids), owner) for d, pids, owner in tops.values()]),
            present=present,
            reasons=reasons,
            kept=kept,
            workloads=tuple(self._workloads({identity.of_pod for identity in (*reported.values(), *kept)})),
        )
        # What is not there any more is in one snapshot only.
        self._before = (
            (directories, snapshot) if present.issuperset(identities.keys() | reasons.keys()) else ((), snapshot)
        )
        return snapshot

    def _follow_connection(self, now: float) -> None:
        if not self._source.connected:
            self._connected_since = None
        elif self._connected_since is None:
            self._connected_since = now

    def _take_pods(self, now: float) -> bool:
        """Bring the index up to date with the source; whether there was anything new."""
        pods, deleted = self._source.poll()
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
        # A static pod's other UID is an annotation, which anyone may write: it takes no pod's own.
        self._index = claimed | self._index

    def _owner(
        self, id_: int, path: str, ids: tuple[str, str], waiting: Mapping[int, _Wait], now: float
    ) -> Identity | str:
        """Whose a cgroup is, or why it is nobody's."""
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
                self._source.hurry()
            # What the source could not tell while it was away it may tell once it is back.
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
        """Cgroups that are not there any more, and still have no name."""
        for id_, wait in waiting.items():
            if id_ not in reasons and id_ not in known:
                yield id_, wait.path
        for id_, path in vanished.items():
            if id_ not in waiting:
                yield id_, path

    def _forget_pods(self, alive: set[str], now: float) -> None:
        """Forget deleted pods some time after their last cgroup has gone."""
        before = len(self._recent)
        for uid, (pod, _) in list(self._recent.items()):
            if uid in alive or pod.cgroup_uid in alive:
                self._recent[uid] = (pod, now)
            elif now - self._recent[uid][1] > max(self._grace, NAME_TIMEOUT):
                del self._recent[uid]
        if len(self._recent) != before:
            self._reindex()

    def _kept(self) -> Iterable[Identity]:
        """Containers that may be started again."""
        for uid in self._pods:
            known = self._index.get(uid)
            if known is not None:
                for container in known.pod.containers:
                    if container.ids and not container.ended:
                        yield known.of(container)

    def _workloads(self, pods: set[Identity]) -> Iterable[Workload]:
        """One workload a name: a StatefulSet's pod is made again under its own while the last one still has series."""
        newest: dict[tuple[str, str], _Known] = {}
        for uid in (*self._recent, *self._pods):  # the later, the newer, where nothing else says so
            known = self._index.get(uid)
            if known is not None and known.identity in pods:
                name = known.identity.namespace, known.identity.pod
                if name not in newest or self._rank(known.pod) >= self._rank(newest[name].pod):
                    newest[name] = known
        for known in newest.values():
            restarts = tuple((known.of(c), c.restarts) for c in known.pod.containers if c.ids and not c.ended)
            yield Workload(known.identity, known.pod.owner_kind, known.pod.owner, known.pod.qos, restarts)

    def _rank(self, pod: Pod) -> tuple[bool, bool, str]:
        """The pod that runs comes last: one that is there, is not being deleted, is the newest."""
        return pod.uid in self._pods, not pod.terminating, pod.created


_UNKNOWN = _Known(Pod("", "", ""), ())
