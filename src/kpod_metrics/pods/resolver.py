"""Maps cgroup ids to their owners, also for some time after a cgroup was removed."""

import math
import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import TypeVar

from kpod_metrics.bounds import Ledger
from kpod_metrics.pods.model import PENDING, Identity, Snapshot

CAPACITY = 10_000
"""Removed cgroups and containers that are remembered; beyond this the oldest of the pod that has most are dropped."""
OF_ONE = 1_000
"""Removed cgroups of one pod that are remembered: as many as the walk reads below one container."""

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class _Grace(dict[_Key, tuple[_Value, float]]):
    """Removed entries with the time of their removal, the oldest first."""

    def __init__(self, pod_of: Callable[[_Key, _Value], Hashable]) -> None:
        """`pod_of` tells to which pod an entry belongs."""
        self._pod_of = pod_of
        self._of_pod: dict[Hashable, dict[_Key, None]] = {}
        self.forgotten = 0
        """How many were dropped before their grace time was over."""
        self.dropped: Counter[Hashable] = Counter()
        """The same by pod, since the last `clear`."""

    def add(self, key: _Key, value: _Value, now: float) -> None:
        """Add an entry that was not there."""
        self[key] = (value, now)
        pod = self._pod_of(key, value)
        of_pod = self._of_pod.setdefault(pod, {})
        of_pod[key] = None
        if len(self) > CAPACITY:
            pod, of_pod = max(self._of_pod.items(), key=lambda item: len(item[1]))
        elif len(of_pod) <= OF_ONE or not isinstance(pod, Identity):
            return
        self.forgotten += 1
        self.dropped[pod] += 1
        del self[next(iter(of_pod))]

    def __delitem__(self, key: _Key) -> None:
        pod = self._pod_of(key, self[key][0])
        super().__delitem__(key)
        del self._of_pod[pod][key]
        if not self._of_pod[pod]:
            del self._of_pod[pod]

    def expire(self, before: float) -> int:
        """Drop the entries removed at `before` or earlier; return how many."""
        expired = []
        for key, (_, since) in self.items():
            if since > before:
                break
            expired.append(key)
        for key in expired:
            del self[key]
        return len(expired)


class Resolver:
    """Knows the owner of every cgroup in the last snapshot, and of those removed less than `grace` seconds ago."""

    def __init__(
        self, grace: float = 5.0, clock: Callable[[], float] = time.monotonic, exceeded: Ledger | None = None
    ) -> None:
        """`exceeded` counts the pods that remove too many cgroups."""
        self._grace, self._clock, self._exceeded = grace, clock, exceeded or Ledger()
        self.snapshot = Snapshot()
        self._gone: _Grace[int, Identity | str] = _Grace(
            lambda _, owner: owner.of_pod if isinstance(owner, Identity) else owner
        )
        """Removed cgroups: their owner, or why they had none."""
        self._left: _Grace[Identity, None] = _Grace(lambda identity, _: identity.of_pod)
        """Containers that no longer have a cgroup."""
        self.changes = 0
        """Changes so far. While this number stays the same, so do all answers."""
        self._pods: set[Identity] = set()
        self._pods_at = 0
        """`changes` when `_pods` was computed: it is computed once per change."""

    def update(self, snapshot: Snapshot) -> None:
        """Take a new snapshot. What is no longer in it stays known for the grace time."""
        if snapshot is self.snapshot:
            return
        self.changes += 1
        now = self._clock()
        before, self.snapshot = self.snapshot, snapshot
        known = snapshot.identities.keys() | {id_ for id_, reason in snapshot.reasons.items() if reason != PENDING}
        for cgroup in self._gone.keys() & known:
            del self._gone[cgroup]
        for cgroup, identity in before.identities.items():
            if cgroup not in known:
                self._gone.add(cgroup, identity, now)
        for cgroup, reason in before.reasons.items():
            if cgroup not in known and reason != PENDING:
                self._gone.add(cgroup, reason, now)
        self._count_dropped()
        current = self._current()
        for identity in {*before.identities.values(), *before.kept} - current:
            self._left.add(identity, None, now)
        for identity in current & self._left.keys():
            del self._left[identity]

    def _count_dropped(self) -> None:
        """Count the pods of which removed cgroups were dropped."""
        if self._gone.dropped:
            ids = {owner.of_pod: id_ for id_, owner in self.snapshot.identities.items()}
            for pod, number in self._gone.dropped.items():
                if pod in ids:
                    self._exceeded.add(ids[pod], "cgroups", number)
        self._gone.dropped.clear()
        self._left.dropped.clear()

    @property
    def forgotten(self) -> int:
        """Removed cgroups and containers that were dropped before their grace time was over."""
        return self._gone.forgotten + self._left.forgotten

    def owner(self, cgroup: int) -> Identity | str | None:
        """Return the owner of a cgroup's events, or why it has none; None if the cgroup is not known."""
        owner = self.snapshot.identities.get(cgroup)
        if owner is None and cgroup in self._gone:
            return self._gone[cgroup][0]
        return owner or self.snapshot.reasons.get(cgroup)

    def expire(self, read: float = math.inf) -> None:
        """Forget what was removed before the grace time. Call this after a page with its last values was published.

        Everything counted before `read`, a time of the clock, is in the store. A cgroup that was removed later can
        still have events that were not read.
        """
        before = min(self._clock() - self._grace, read)
        if self._gone.expire(before) + self._left.expire(before):
            self.changes += 1

    def is_gone(self, cgroup: int) -> bool:
        """Whether this id can have no more events: the cgroup was removed, and its grace time is over."""
        return cgroup not in self.snapshot.present and cgroup not in self._gone

    def has_pod(self, pod: Identity) -> bool:
        """Whether a container of this pod can have series now."""
        if self._pods_at != self.changes:
            self._pods, self._pods_at = {identity.of_pod for identity in self.identities()}, self.changes
        return pod in self._pods

    def _current(self) -> set[Identity]:
        return {*self.snapshot.identities.values(), *self.snapshot.kept}

    def identities(self) -> set[Identity]:
        """All owners that can have series now: they run, will be restarted, or ended within the grace time."""
        return self._current() | self._left.keys()
