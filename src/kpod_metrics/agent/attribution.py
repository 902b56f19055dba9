"""Whose a cgroup's events are, and what becomes of those that have no owner, or none yet.

Three parts answer together: the tree (which cgroups there are), the source of names (which pod a cgroup belongs to),
and the grace time (a cgroup that is gone keeps its owner for a while). All others ask one question: `owner`.
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


@dataclass
class Ownerless:
    """What one collector counted that is in no series: for good, by the reason, or until the owner is known."""

    unattributed: dict[str, int] = field(default_factory=lambda: dict.fromkeys((HOST, FILTERED, UNRESOLVED), 0))
    _held: dict[int, dict[tuple[Any, ...], Row]] = field(default_factory=dict)
    """By cgroup id: the last row of each counter."""

    def hold(self, row: Row) -> None:
        """Keep a row until its owner is known."""
        self._held.setdefault(row.owner, {})[row.table, row.labels, row.epoch] = row

    def release(self, is_pending: Callable[[int], bool]) -> list[Row]:
        """Return the rows whose owner is pending no more, and keep the others."""
        known = [cgroup for cgroup in self._held if not is_pending(cgroup)]
        return [row for cgroup in known for row in self._held.pop(cgroup).values()]

    def pending(self, store: Store) -> int:
        """Return the events in the rows that are kept."""
        return sum(store.events(row) for rows in self._held.values() for row in rows.values())


class Reader(Protocol):
    """Who read rows."""

    ownerless: Ownerless

    def failed(self, error: Exception) -> None:
        """One of the rows was refused."""


class Attribution:
    """Answers from the last look at what there is, and from the looks of the grace time before it."""

    def __init__(self, finder: Finder, grace: float) -> None:
        """`grace` seconds a cgroup that is gone keeps its owner."""
        self.finder = finder
        self._resolver = Resolver(grace)
        self._active: set[int] = set()
        """Cgroups without processes that had events: they had processes, so they have series."""
        self._outside: set[int] = set()
        """Cgroups with events, known to be outside of the root: no reason to look again."""
        self._blind = False
        """Whether the last look failed: who is unknown now may be known after the next one."""
        self._expired_at = 0
        """The resolver's `changes` when all that is gone was last dropped."""

    @property
    def snapshot(self) -> Snapshot:
        """What the last look found."""
        return self._resolver.snapshot

    @property
    def forgotten(self) -> dict[str, int]:
        """What had to make room in tables before its time was over, by kind."""
        return {"cgroup": self._resolver.forgotten, **self.finder.forgotten}

    def look(self) -> bool:
        """Find out what there is now; return whether there are owners that were not there before.

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
        """Look again if it is not known of all these cgroups, which have events, whose they are.

        A cgroup may be made, and have events, after a cycle's look and before its reads.
        """
        snapshot = self.snapshot
        idle = {id_ for id_ in cgroups - snapshot.reported.keys() - self._active if id_ in snapshot.identities}
        if idle or not all(self._knows(id_) for id_ in cgroups - self._outside):
            self._active |= idle
            self.look()
        self._outside = {id_ for id_ in cgroups if not self._knows(id_) and self.finder.is_outside(id_)}

    def owner(self, cgroup: int) -> Identity | str:
        """Return whom a cgroup's events are charged to, or why nobody: HOST, FILTERED, PENDING or UNRESOLVED."""
        found = self._resolver.owner(cgroup)
        if found is None and self._blind:
            return PENDING
        if found is None or found == UNRESOLVED:
            return HOST if self.finder.is_outside(cgroup) else UNRESOLVED
        return found

    def _knows(self, cgroup: int) -> bool:
        return self._resolver.owner(cgroup) is not None

    def is_pending(self, cgroup: int) -> bool:
        """Whether the owner of a cgroup may still become known."""
        return self.owner(cgroup) == PENDING

    @property
    def waits_for_names(self) -> bool:
        """Whether there are cgroups whose owner is pending."""
        return PENDING in self.snapshot.reasons.values()

    def charge(self, rows: Iterable[Row], store: Store, reader: Reader) -> None:
        """Give each row to its owner's series; count or hold the others.

        A row that does not fit its table is a defect of the collector. The other rows still count.
        """
        refused: Exception | None = None
        known = self.snapshot.identities
        for row in rows:
            try:
                # Most owners are in the snapshot: that saves two calls.
                owner = known.get(row.owner) or self.owner(row.owner)
                if isinstance(owner, Identity):
                    store.put(row, owner)
                elif owner == PENDING:
                    reader.ownerless.hold(row)
                else:
                    reader.ownerless.unattributed[owner] += store.pass_over(row)
            except Exception as error:
                refused = refused or error
        if refused is not None:
            reader.failed(refused)

    def expire(self, read: float) -> bool:
        """Forget what has been gone for the grace time and since `read`; return whether series may have to go.

        To be called after a page with the last values was published.
        """
        self._resolver.expire(read)
        changed = self._resolver.changes != self._expired_at
        self._expired_at = self._resolver.changes
        return changed

    def owners(self) -> set[Identity]:
        """Everybody who may have series now."""
        return self._resolver.identities()

    def is_gone(self, cgroup: int) -> bool:
        """Whether nothing can be charged to this id any more: the cgroup is gone, and its grace time is over."""
        return self._resolver.is_gone(cgroup)

    def has_pod(self, pod: Identity) -> bool:
        """Whether some container of a pod may have series now."""
        return self._resolver.has_pod(pod)
