"""Names what the kernel programs saw: cgroup id to pod, also for a while after the cgroup is gone."""

import math
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from kpod_metrics.pods.model import PENDING, Identity, Snapshot

CAPACITY = 10_000
"""Cgroups and containers that are gone and still known: the oldest make room."""

_Key = TypeVar("_Key", bound=Hashable)
_What = TypeVar("_What")


class _Grace(dict[_Key, tuple[_What, float]]):
    """What is gone, and since when; the oldest first."""

    forgotten = 0
    """How many had to go before their time."""

    def add(self, key: _Key, what: _What, now: float) -> None:
        """Add one that was not there."""
        self[key] = (what, now)
        if len(self) > CAPACITY:
            del self[next(iter(self))]
            self.forgotten += 1

    def expire(self, before: float) -> int:
        """Return how many were dropped."""
        doomed = []
        for key, (_, since) in self.items():
            if since > before:
                break
            doomed.append(key)
        for key in doomed:
            del self[key]
        return len(doomed)


class Resolver:
    """Knows the owner of every cgroup id of the last snapshot, and of those gone less than `grace` seconds ago."""

    def __init__(self, grace: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace, self._clock = grace, clock
        self.snapshot = Snapshot()
        self._gone: _Grace[int, Identity | str] = _Grace()
        """Cgroups: whose they were, or why they were nobody's."""
        self._left: _Grace[Identity, None] = _Grace()
        """Containers that have no cgroup any more."""
        self.changes = 0
        """Times that something came, went, or was forgotten: as long as it is the same, all answers are too."""
        self._pods: set[Identity] = set()
        self._pods_at = 0
        """`changes` when these were made, as one look through all serves all who ask."""

    def update(self, snapshot: Snapshot) -> None:
        """Take a new snapshot: what left it stays known through the grace time."""
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
        current = self._current()
        for identity in {*before.identities.values(), *before.kept} - current:
            self._left.add(identity, None, now)
        for identity in current & self._left.keys():
            del self._left[identity]

    @property
    def forgotten(self) -> int:
        """Cgroups and containers that are gone and had to make room before their grace time was over."""
        return self._gone.forgotten + self._left.forgotten

    def owner(self, cgroup: int) -> Identity | str | None:
        """Return the owner of a cgroup's events, or the reason why there is none; None for an unknown cgroup."""
        owner = self.snapshot.identities.get(cgroup)
        if owner is None and cgroup in self._gone:
            return self._gone[cgroup][0]
        return owner or self.snapshot.reasons.get(cgroup)

    def expire(self, read: float = math.inf) -> None:
        """Forget what has been gone for the grace time; called after a page with its last values was published.

        `read` is when the reads began, by the clock, since which all that was counted is charged: who went later may
        still have events to come.
        """
        before = min(self._clock() - self._grace, read)
        if self._gone.expire(before) + self._left.expire(before):
            self.changes += 1

    def is_gone(self, cgroup: int) -> bool:
        """Whether nothing can be charged to this id any more: it does not exist, and its grace time is over."""
        return cgroup not in self.snapshot.present and cgroup not in self._gone

    def has_pod(self, pod: Identity) -> bool:
        """Whether some container of a pod may have series now."""
        if self._pods_at != self.changes:
            self._pods, self._pods_at = {identity.of_pod for identity in self.identities()}, self.changes
        return pod in self._pods

    def _current(self) -> set[Identity]:
        return {*self.snapshot.identities.values(), *self.snapshot.kept}

    def identities(self) -> set[Identity]:
        """Everybody who may have series now: there, to be started again, or gone within the grace time."""
        return self._current() | self._left.keys()
