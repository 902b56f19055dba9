"""Names from Kubernetes: looks up the pod UID and the container id of a cgroup's path in the pods of a source.

Cgroups and pods change at different times. A container runs before the status of its pod has its id. A pod's cgroups
can end before or after the source reports the deletion. So a deleted pod stays known for some time, and a cgroup of an
unknown pod is `PENDING` until the source names the pod, or for `NAME_TIMEOUT` at most.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kpod_metrics.cgroup.tree import Directory, is_container
from kpod_metrics.pods.kubelet_tree import KubeletTree
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
from kpod_metrics.pods.paths import Place
from kpod_metrics.pods.source import Source
from kpod_metrics.selector import Selector

log = logging.getLogger(__name__)

NAME_TIMEOUT = 30.0
"""Seconds that a connected source has to name a cgroup. The kubelet adds a started container to the status of its pod
within about a second. No status has the id of a sandbox (pause): after this time it counts as the pod itself."""

CAPACITY = 10_000
"""Deleted pods that are remembered (beyond this the oldest are dropped), and cgroups that wait for a name."""

FEW = 32
"""A pod with fewer waiting cgroups can always have one more: only the kubelet creates pods. A pod has a sandbox and a
cgroup for each container."""

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
    place: Place
    since: float


class _Known:
    """A pod for look-ups: its identity, its containers by id, and whether the settings choose it."""

    __slots__ = ("containers", "identity", "pod", "wanted")

    def __init__(self, pod: Pod, wanted: Filter) -> None:
        self.pod, self.wanted = pod, wanted.wants(pod)
        extra = tuple([pod.labels.get(label, "")[:_MAX_LABEL_VALUE] for label in wanted.labels])
        self.identity = Identity(pod.namespace, pod.name, "", extra)
        self.containers = {id_: self.of(container) for container in pod.containers for id_ in container.ids}

    def of(self, container: Container) -> Identity:
        return self.identity._replace(container=container.name)


class ClusterNamer:
    """Names cgroups with the pods of a source."""

    def __init__(
        self,
        source: Source,
        wanted: Filter,
        grace: float,
        clock: Callable[[], float] = time.monotonic,
        tree: KubeletTree | None = None,
    ):
        """A deleted pod stays known for `grace` seconds, and as long as it has cgroups."""
        self.source, self._wanted, self._grace, self._clock = source, wanted, grace, clock
        self.tree = tree or KubeletTree()
        self._pods: Mapping[str, Pod] = {}
        self._index: dict[str, _Known] = {}
        """By UID."""
        self._static: dict[str, list[_Known]] = {}
        """By the hash in the paths of static pods: the pods with this annotation, which any user can write."""
        self._proven: dict[str, str] = {}
        """For each such hash: the UID of the pod that has a container there."""
        self._recent: dict[str, tuple[Pod, float]] = {}
        """Deleted pods by UID, and when they were deleted or last had a cgroup."""
        self._uids: frozenset[str] = frozenset()
        self._waiting: dict[int, _Wait] = {}
        self._waits_of: Counter[str] = Counter()
        """How many of these each pod has."""
        self._settled: set[int] = set()
        """Cgroups whose time to get a name is over, mostly sandboxes."""
        self._before: tuple[Sequence[Directory], Snapshot] = ((), Snapshot())
        self._connected_since: float | None = None
        self._forgotten = {"pod": 0, "waiting": 0}

    @property
    def forgotten(self) -> Mapping[str, int]:
        """Dropped deleted pods and waiting cgroups, and deletions and pods that the source dropped."""
        return {**self._forgotten, "deletion": self.source.deletions_lost, "excess": self.source.excess}

    @property
    def refused_claims(self) -> int:
        """How many cgroups outside of all pods had the ids of a pod."""
        return self.tree.refused

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
        self.tree.look(directories, self._uids)
        places = self.tree.places
        passed = {id_: place for id_, path in vanished.items() if (place := self.tree.place_of_vanished(path))}
        self._prove([*places.values(), *passed.values(), *(wait.place for wait in self._waiting.values())])
        identities: dict[int, Identity] = {}
        reported: dict[int, Identity] = {}
        reasons: dict[int, str] = {}
        waiting, self._waiting = self._waiting, {}
        self._waits_of.clear()
        outermost: dict[str, tuple[Directory, list[Directory], Identity]] = {}
        for directory in directories:
            place = places.get(directory.path)
            if place is None:
                reasons[directory.id] = HOST
                continue
            owner = self._owner(directory.id, place, waiting, now)
            if not isinstance(owner, Identity):
                reasons[directory.id] = owner
                continue
            identities[directory.id] = owner
            if owner.container:
                reported[directory.id] = owner
                # Parents come first: the first one of a place is the container's own.
                _, populated, _ = outermost.setdefault(place.directory, (directory, [], owner))
                if directory.pids:
                    populated.append(directory)
        for id_, place in self._departed(waiting, passed, reasons, identities):
            owner = self._owner(id_, place, waiting, now)
            if isinstance(owner, Identity):
                identities[id_] = owner
            else:
                reasons[id_] = owner
        reasons.update((id_, HOST) for id_ in vanished.keys() - passed.keys() - waiting.keys())
        alive = {place.uid for place in places.values()}
        self._forget_pods(alive, now)
        present = frozenset([directory.id for directory in directories])
        self._settled &= present
        kept = frozenset(self._kept())
        snapshot = Snapshot(
            identities=identities,
            reported=reported,
            groups=tuple([Group.of(d, root, populated, owner) for d, populated, owner in outermost.values()]),
            present=present,
            holders=self.tree.levels(directories) | self._levels(directories),
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
        self._index, self._static = {}, {}
        for pod in (*(pod for pod, _ in self._recent.values()), *self._pods.values()):
            self._index[pod.uid] = known = _Known(pod, self._wanted)
            if pod.cgroup_uid != pod.uid:
                self._static.setdefault(pod.cgroup_uid, []).append(known)
        self._uids = frozenset(self._index)

    def _prove(self, places: Iterable[Place]) -> None:
        """Find out which pod each static pod's hash belongs to: the one with the id of a container that is there.

        Only the kubelet writes the ids in a status. If pods of several names have one, the hash stays with the pod that
        it belonged to before, or belongs to none.
        """
        matching: dict[str, dict[str, _Known]] = {}
        for place in places if self._static else ():
            for known in self._static.get(place.uid, ()):
                of_hash = matching.setdefault(place.uid, {})
                if place.container in known.containers:
                    of_hash[known.pod.uid] = known
        before, self._proven = self._proven, {}
        for uid, found in matching.items():
            found = {pod: known for pod, known in found.items() if pod in self._pods} or found  # noqa: PLW2901
            candidates = [known.pod.uid for known in self._static[uid] if not found or known.pod.uid in found]
            if len({(known.pod.namespace, known.pod.name) for known in found.values()}) == 1:
                self._proven[uid] = candidates[-1]  # the newest: a mirror can be deleted and created again
            elif before.get(uid) in candidates:
                self._proven[uid] = before[uid]

    def _find(self, uid: str) -> _Known | None:
        """Return the pod with this UID in its paths; the annotation of another pod never replaces a real UID."""
        return self._index.get(uid) or self._index.get(self._proven.get(uid, ""))

    def _owner(self, id_: int, place: Place, waiting: Mapping[int, _Wait], now: float) -> Identity | str:
        """Return the owner of a cgroup, or why it has none."""
        known = self._find(place.uid)
        if known is not None:
            if not known.wanted:
                return FILTERED
            identity = known.containers.get(place.container) if place.container else known.identity
            if identity is not None:
                return identity
        if id_ not in self._settled and len(self._waiting) >= CAPACITY and self._waits_of[place.uid] >= FEW:
            self._settled.add(id_)
            self._forgotten["waiting"] += 1
        if id_ not in self._settled:
            wait = waiting.get(id_)
            if wait is None:
                wait = _Wait(place, now)
                self.source.hurry()
            # The time starts again when the source reconnects: it could not report anything before.
            if self._connected_since is None or now - max(wait.since, self._connected_since) < NAME_TIMEOUT:
                self._waiting[id_] = wait
                self._waits_of[place.uid] += 1
                return PENDING
            self._settled.add(id_)
        return UNRESOLVED if known is None else known.identity

    def _levels(self, directories: Sequence[Directory]) -> dict[int, int]:
        """Return the directories of users and containers in which no pod can be."""
        root = self.tree.root
        found = {}
        for directory in directories:
            path = directory.path
            if path == "user.slice" or (directory.id == directory.holder and path not in self.tree.places):
                # A container has no pods if the kubelet is known to be elsewhere.
                certain = path == "user.slice" or directory.delegated or (root is not None and is_container(path))
                if certain and not f"{root or ''}/".startswith(f"{path}/"):
                    found[directory.id] = 0
        return found

    @staticmethod
    def _departed(
        waiting: Mapping[int, _Wait],
        passed: Mapping[int, Place],
        reasons: Mapping[int, str],
        known: Mapping[int, Identity],
    ) -> Iterable[tuple[int, Place]]:
        """Yield the cgroups that no longer exist and have no name yet."""
        for id_, wait in waiting.items():
            if id_ not in reasons and id_ not in known:
                yield id_, wait.place
        for id_, place in passed.items():
            if id_ not in waiting:
                yield id_, place

    def _forget_pods(self, alive: set[str], now: float) -> None:
        """Forget deleted pods some time after their last cgroup was removed."""
        before = len(self._recent)
        for uid, (pod, _) in list(self._recent.items()):
            if uid in alive or self._proven.get(pod.cgroup_uid) == uid:
                self._recent[uid] = (pod, now)
            elif now - self._recent[uid][1] > max(self._grace, NAME_TIMEOUT):
                del self._recent[uid]
        if len(self._recent) != before:
            self._reindex()

    def _kept(self) -> Iterable[Identity]:
        """Yield the containers that may be restarted."""
        for uid in self._pods:
            known = self._index.get(uid)
            if known is not None and known.wanted:
                for container in known.pod.containers:
                    if container.ids and not container.ended:
                        yield known.of(container)

    def _workloads(self, pods: set[Identity]) -> Iterable[Workload]:
        """Yield one workload per pod name. A StatefulSet creates a pod again while the last one still has series."""
        newest: dict[tuple[str, str], _Known] = {}
        for uid in (*self._recent, *self._pods):  # in order of age, if `_rank` does not say otherwise
            known = self._index.get(uid)
            if known is not None and known.wanted and known.identity in pods:
                name = known.identity.namespace, known.identity.pod
                if name not in newest or self._rank(known.pod) >= self._rank(newest[name].pod):
                    newest[name] = known
        for known in newest.values():
            restarts = tuple((known.of(c), c.restarts) for c in known.pod.containers if c.ids and not c.ended)
            yield Workload(known.identity, known.pod.owner_kind, known.pod.owner, known.pod.qos, restarts)

    def _rank(self, pod: Pod) -> tuple[bool, bool, str]:
        """Sort key of pods with one name: existing ones, then those not being deleted, then the newest, are last."""
        return pod.uid in self._pods, not pod.terminating, pod.created
