"""The owner of each cgroup's events, and what happens to events without one.

Three parts answer together: the tree (which cgroups exist), the source of names (which pod a cgroup belongs to), and
the grace period (a vanished cgroup keeps its owner for a while). All others ask one question: `owner`.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from kpod_metrics.errors import is_unexpected
from kpod_metrics.metrics import Row
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import FILTERED, HOST, PENDING, UNRESOLVED, Identity, Snapshot
from kpod_metrics.pods.resolver import Resolver
from kpod_metrics.store import Store

log = logging.getLogger(__name__)

MAX_HELD = 1_000
"""Rows of one cgroup that are held: twice as many as there are syscalls. A full kernel map evicts entries and creates
them again, with a row for each life of an entry, for as long as no source knows the pod."""


@dataclass
class Ownerless:
    """Events of one collector that are in no series: by reason, or held until their owner is known."""

    unattributed: dict[str, int] = field(default_factory=lambda: dict.fromkeys((HOST, FILTERED, UNRESOLVED), 0))
    _held: dict[int, dict[tuple[Any, ...], Row]] = field(default_factory=dict)
    """The last row of each counter, by cgroup id."""

    def hold(self, row: Row, store: Store) -> None:
        """Hold a row until its owner is known; the events of too many rows are unresolved at once."""
        rows, key = self._held.setdefault(row.owner, {}), (row.table, row.labels, row.epoch)
        if key in rows or len(rows) < MAX_HELD:
            rows[key] = row
        else:
            self.unattributed[UNRESOLVED] += store.pass_over(row)

    def release(self, is_pending: Callable[[int], bool]) -> list[Row]:
        """Return the held rows whose owner is no longer pending."""
        known = [cgroup for cgroup in self._held if not is_pending(cgroup)]
        return [row for cgroup in known for row in self._held.pop(cgroup).values()]

    def pending(self, store: Store) -> int:
        """Return the events in the held rows."""
        return sum(store.events(row) for rows in self._held.values() for row in rows.values())


class Reader(Protocol):
    """The reader of rows, which also counts its events without an owner."""

    ownerless: Ownerless

    def failed(self, error: Exception) -> None:
        """Take the error of the first refused row."""


class Attribution:
    """Knows the owner of each cgroup: of the last snapshot, and of those that vanished within the grace period."""

    def __init__(self, finder: Finder, grace: float) -> None:
        """A vanished cgroup keeps its owner for `grace` seconds."""
        self.finder = finder
        self._resolver = Resolver(grace, exceeded=finder.exceeded)
        self._active: set[int] = set()
        """Cgroups that have events and no processes now: they get series too."""
        self._outside: set[int] = set()
        """Cgroups with events outside of the root: not searched again."""
        self._blind = False
        """Whether the last look failed: the next one may find the owner of an unknown cgroup."""
        self._expired_at = 0
        """The resolver's `changes` at the last `expire`."""

    @property
    def snapshot(self) -> Snapshot:
        """The result of the last look."""
        return self._resolver.snapshot

    @property
    def forgotten(self) -> dict[str, int]:
        """Entries that full tables dropped before their grace period ended, by kind."""
        return {"cgroup": self._resolver.forgotten, **self.finder.forgotten}

    def look(self) -> bool:
        """Take a new snapshot of cgroups and pods; return whether it has new owners.

        A look that fails is logged and counted. The last snapshot stands: what ran a moment ago most likely still runs.
        """
        before = self._resolver.identities()
        try:
            self._resolver.update(self.finder.refresh(frozenset(self._active)))
            self._blind = False
        except Exception as error:
            self._blind = True
            if not self.finder.error:
                self.finder.fail(error)
            log.error("source of pods: %s", self.finder.error, exc_info=is_unexpected(error))
        self._active &= self.snapshot.present
        return bool(self._resolver.identities() - before)

    def look_for(self, cgroups: set[int]) -> None:
        """Look again if the owner of one of these cgroups, which have events, is not known.

        A cgroup may be created, and have events, after the look of a cycle and before its reads.
        """
        snapshot = self.snapshot
        idle = {id_ for id_ in cgroups - snapshot.reported.keys() - self._active if id_ in snapshot.identities}
        if idle or not all(self._knows(id_) for id_ in cgroups - self._outside):
            self._active |= idle
            self.look()
        self._outside = {id_ for id_ in cgroups if not self._knows(id_) and self.finder.is_outside(id_)}

    def owner(self, cgroup: int) -> Identity | str:
        """Return the owner of a cgroup's events, or why there is none: HOST, FILTERED, PENDING or UNRESOLVED."""
        found = self._resolver.owner(cgroup)
        if found is None and self._blind:
            return PENDING
        if found is None or found == UNRESOLVED:
            return HOST if self.finder.is_outside(cgroup) else UNRESOLVED
        return found

    def _knows(self, cgroup: int) -> bool:
        return self._resolver.owner(cgroup) is not None

    def is_pending(self, cgroup: int) -> bool:
        """Whether the owner of a cgroup is not known yet."""
        return self.owner(cgroup) == PENDING

    @property
    def waits_for_names(self) -> bool:
        """Whether the owner of some cgroup is not known yet."""
        return PENDING in self.snapshot.reasons.values()

    def charge(self, rows: Iterable[Row], store: Store, reader: Reader) -> None:
        """Add each row to the series of its owner; count or hold the others.

        A row that does not fit its table is a defect of the collector. The other rows still count.
        """
        refused: Exception | None = None
        known = self.snapshot.identities
        for row in rows:
            try:
                # The fast path: most owners are in the snapshot.
                owner = known.get(row.owner) or self.owner(row.owner)
                if isinstance(owner, Identity):
                    store.put(row, owner)
                elif owner == PENDING:
                    reader.ownerless.hold(row, store)
                else:
                    reader.ownerless.unattributed[owner] += store.pass_over(row)
            except Exception as error:
                refused = refused or error
        if refused is not None:
            reader.failed(refused)

    def expire(self, read: float) -> bool:
        """Forget cgroups that vanished before the grace period and before `read`; return whether owners changed.

        To be called after a page with the last values was published.
        """
        self._resolver.expire(read)
        changed = self._resolver.changes != self._expired_at
        self._expired_at = self._resolver.changes
        return changed

    def owners(self) -> set[Identity]:
        """The owners that may have series now."""
        return self._resolver.identities()

    def is_gone(self, cgroup: int) -> bool:
        """Whether the cgroup vanished and its grace period is over."""
        return self._resolver.is_gone(cgroup)

    def has_pod(self, pod: Identity) -> bool:
        """Whether some container of a pod may have series now."""
        return self._resolver.has_pod(pod)
