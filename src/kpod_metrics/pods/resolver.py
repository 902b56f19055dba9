"""Names what the kernel programs saw: cgroup id to pod, also for a while after the cgroup is gone."""

import time
from collections.abc import Callable

from kpod_metrics.pods.model import Identity, Snapshot


class Resolver:
    """Knows the identity of every cgroup id of the last snapshot, and of those gone less than `grace` seconds ago."""

    def __init__(self, grace: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace, self._clock = grace, clock
        self.snapshot = Snapshot()
        self._gone: dict[int, tuple[Identity, float]] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Take a new snapshot: ids that left it stay known through the grace time."""
        now = self._clock()
        for cgroup, identity in self.snapshot.identities.items():
            if cgroup not in snapshot.identities:
                self._gone[cgroup] = (identity, now)
        for cgroup in snapshot.identities:
            self._gone.pop(cgroup, None)
        self.snapshot = snapshot

    def resolve(self, cgroup: int) -> Identity | None:
        """Whose events a cgroup's are; None where nobody is known."""
        identity = self.snapshot.identities.get(cgroup)
        if identity is None and cgroup in self._gone:
            identity = self._gone[cgroup][0]
        return identity

    def expire(self) -> None:
        """Forget the ids whose grace time is over; called after a page with their last values was published."""
        now = self._clock()
        self._gone = {id_: entry for id_, entry in self._gone.items() if now - entry[1] < self._grace}

    def is_gone(self, cgroup: int) -> bool:
        """Whether nothing can be charged to this id any more: it does not exist, and its grace time is over."""
        return cgroup not in self.snapshot.present and cgroup not in self._gone

    def identities(self) -> set[Identity]:
        """Everybody who has series now: reported, or gone within the grace time."""
        return set(self.snapshot.reported.values()) | {identity for identity, _ in self._gone.values()}
