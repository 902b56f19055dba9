"""The only mutable metric state: a total for each series, which never goes down.

Collectors return running totals. This is the one place that takes differences: it keeps the last row of each counter,
and adds what the counter grew by to the series of its owner. Two things bound it: series end with their pod, interface,
device or mount, and what is over a limit is added up in one series of the pod or of all pods, and counted.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from kpod_metrics.bounds import clipped
from kpod_metrics.growth import check, events_of, growth, latest
from kpod_metrics.limits import OTHER, Limits, folded
from kpod_metrics.metrics import Metric, Row, Scope, Table, Value
from kpod_metrics.pods.model import Group, Identity
from kpod_metrics.series import Series
from kpod_metrics.sources import Sources

OVERFLOW = Identity("kpod-overflow", "kpod-overflow", "")
"""Owner of the series that take what is over the cardinality limit."""

_NOBODY = Identity("", "", "")
"""Owner of the agent's own series."""


class Store:
    """Totals by table, owner and labels; not for more than one thread."""

    def __init__(
        self,
        tables: Iterable[Table],
        wanted: frozenset[Metric],
        limits: Limits | None = None,
        exceeded: Callable[[int, str], None] = lambda owner, limit: None,
    ) -> None:
        """`wanted` are the metrics to keep. `exceeded` takes the cgroup id of who went over a limit, and the limit."""
        self._limits, self._exceeded = limits or Limits(), exceeded
        self._wanted = wanted
        self._tables: dict[Table, dict[tuple[Identity, tuple[str, ...]], Series]] = {
            table: {} for table in tables if any(metric in wanted for metric in table.metrics)
        }
        self._weights = {
            table: sum(metric.series() for metric in table.metrics if metric in wanted) for table in self._tables
        }
        self._read: dict[Table, dict[tuple[Any, ...], Row]] = {
            table: {} for table in self._tables if not (table.of_gauges or table.is_open or table.scope is Scope.AGENT)
        }
        """The last row of each counter whose labels are declared."""
        self._sources = {
            table: Sources(table, self._limits) for table in self._tables if table.is_open and not table.of_gauges
        }
        """The last rows of all other counters."""
        self._cycles = {table: 0 for table in self._tables if table.of_gauges}
        """Cycles of each table of gauges."""
        self._begun: set[Table] = set()
        """Tables of gauges that began a cycle: gauges without a row in it are dropped."""
        self._passed: dict[Table, Collection[Identity]] = {}
        """For tables of gauges, the owners that the last read passed over."""
        self._changed = self._unchanged()
        """For each metric of a table: whether a value changed since `take_changed`."""
        self._rising: list[tuple[Row, Identity]] = []
        """The first rows of sparse series: these are at 0 on the next page."""
        self.overflow: dict[str, int] = {}
        """Updates folded into an overflow series, by metric."""
        self._beyond = dict.fromkeys(self._tables, 0)
        """Overflow series of each table: they do not count against the limit."""

    def look_for_room(self) -> bool:
        """Check the memory limit; return whether it allows no new owners."""
        return self._limits.look()

    def has(self, identity: Identity) -> bool:
        """Whether a container has series."""
        return identity in self._limits.admitted

    def begin_cycle(self, table: Table) -> None:
        """Begin a cycle of a table: gauges of several cgroups of one owner are added up within a cycle."""
        if table in self._cycles:
            self._cycles[table] += 1
            self._begun.add(table)

    def end_read(self, tables: Iterable[Table], groups: Sequence[Group], unread: Collection[int]) -> None:
        """End a complete read of these tables, of all `groups` but the `unread` ones: drop the series that are gone.

        A counter that a read did not find is on one more page with its last value, and goes with the next read.
        """
        for table in tables:
            if table in self._sources:
                self._drop(table, self._sources[table].end_read(groups, unread))
            elif table in self._cycles and unread:
                passed = {group.identity for group in groups if group.id in unread}
                self._passed[table] = {identity.of_pod for identity in passed} if table.scope is Scope.POD else passed

    def _drop_stale(self) -> None:
        """Drop the gauges that had no row in the last cycle of their table; those of unread cgroups a cycle later."""
        for table in self._begun:
            cycle, changed, passed = self._cycles[table], self._changed[table], self._passed.pop(table, ())
            stale = [
                series
                for series in self._tables[table].values()
                if series.cycle != cycle and (series.cycle != cycle - 1 or series.identity not in passed)
            ]
            if table.is_open:
                self._drop(table, stale)
                continue
            for series in stale:
                for at, value in enumerate(series.values):
                    if value is not None:
                        series.values[at] = None
                        changed[at] = True
        self._begun.clear()

    def _drop(self, table: Table, gone: Iterable[Series]) -> None:
        """Drop series, but not overflow series, which are of no owner."""
        children = self._tables[table]
        for series in gone:
            if series.identity is not OVERFLOW and children.pop((series.identity, series.labels), None) is not None:
                self._mark(table)
                self._limits.remove(table, series, self._weights[table])

    def discover(self, identities: Iterable[Identity]) -> None:
        """Create the counters of these containers and of their pods at 0, so that increase() sees the first event.

        Counters that the kernel keeps without the agent are created by their first row instead.
        """
        tables = [
            (table, children, list(product(*(label.values for label in table.labels))))
            for table, children in self._tables.items()
            if not (table.preexisting or table.scope is Scope.AGENT or any(not label.values for label in table.labels))
            and not (table.of_gauges or table.sparse)
        ]
        # Owner by owner: near the limit, some owners have all their series, and the others none.
        for identity in identities:
            for table, children, combinations in tables:
                owner = identity if table.scope is Scope.CONTAINER else identity.of_pod
                if (owner, combinations[0]) not in children:
                    for labels in combinations:
                        series = self._child(table, owner, labels, update=False)
                        for at, value in enumerate(series.values):
                            if value is None:
                                series.values[at] = 0
                                self._changed[table][at] = True  # the overflow series may exist already

    def put(self, row: Row, identity: Identity) -> None:
        """Add what the counters of a row grew by to the series of its owner, or replace its gauges.

        Raises ValueError or TypeError if the row does not fit its table: then nothing is added.
        """
        table, labels = row.table, row.labels
        children = self._tables.get(table)
        if children is None:
            return
        if table.scope is Scope.POD:
            identity = identity.of_pod
        series = children.get((identity, labels))
        read = self._read.get(table)
        if read is None:
            if table.of_gauges:
                self._put_gauges(row, identity, series)
            else:
                self._put_open(self._sources[table], row, identity, series)
            return
        # A counter of a pod may be read through several cgroups of the pod.
        key = (identity, labels, row.epoch) if table.scope is Scope.POD else (row.owner, labels)
        before = read.get(key)
        if series is not None and before is not None:
            if before is row:
                return
            # Most cgroups were idle since the last row.
            if before.values == row.values and before.epoch == row.epoch:
                read[key] = row
                return
        grown = growth(row, before)
        if series is None and table.sparse:
            self._begin_sparse(row, identity, grown)
            return
        self._add(series or self._child(table, identity, labels, update=any(grown)), table, grown)
        read[key] = row if None not in row.values else latest(row, before)

    def _put_open(self, sources: Sources, row: Row, identity: Identity, series: Series | None) -> None:
        """Add what a source grew by to the series of its owner."""
        key = sources.key(row, identity)
        source = sources.get(key)
        if source is None and not sources.has_room(identity):
            self._exceeded(row.owner, "series")
            return
        before = None if source is None else source.row
        if before is None or series is None or before.values != row.values or before.epoch != row.epoch:
            grown = growth(row, before)
            update = source is None or any(grown)
            series = series or self._child(row.table, identity, row.labels, row.owner, update=update)
            self._add(series, row.table, grown)
            row = latest(row, before)
        if source is None:
            sources.add(key, row, series, identity)
        else:
            source.row, source.series, source.read = row, series, sources.read

    def _add(self, series: Series, table: Table, grown: Sequence[Value]) -> None:
        changed = self._changed[table]
        # All sums are made before the first is stored: an error must not leave half a row.
        totals: list[Any] = series.values
        sums = [by if total is None else total + by if by else total for total, by in zip(totals, grown, strict=True)]
        for at, total in enumerate(sums):
            if total is not totals[at]:
                totals[at], changed[at] = total, True

    def _begin_sparse(self, row: Row, identity: Identity, grown: Sequence[Value]) -> None:
        """Create a series at 0 if a counter rose; `rise` puts the row."""
        if any(grown):
            series = self._child(row.table, identity, row.labels)
            for at in range(len(series.values)):
                series.values[at] = series.values[at] or 0
            self._rising.append((row, identity))

    def rise(self) -> None:
        """Put the first rows of sparse series, after a page with these series at 0."""
        rising, self._rising = self._rising, []
        for row, identity in rising:
            self.put(row, identity)

    def pass_over(self, row: Row) -> int:
        """Take a row whose events are in no series; return its new events."""
        if row.table not in self._read:
            return 0
        read, key = self._read[row.table], (row.owner, row.labels)
        before = read.get(key)
        if before is row:
            return 0
        events = events_of(row, before)
        read[key] = latest(row, before)
        return events

    def events(self, row: Row) -> int:
        """Return the new events of a row, without taking it."""
        read = self._read.get(row.table)
        return 0 if read is None else events_of(row, read.get((row.owner, row.labels)))

    def _put_gauges(self, row: Row, identity: Identity, series: Series | None) -> None:
        """Replace the gauges of the last cycle, or add to those of another cgroup in this cycle."""
        table, values = row.table, row.values
        cycle = self._cycles[table]
        if series is not None and series.cycle != cycle and series.values == [*values]:
            series.cycle = cycle  # unchanged
            return
        check(table, values)
        series = series or self._child(table, identity, row.labels, row.owner)
        if series.cycle == cycle:
            others: list[Any] = series.values
            values = [one if other is None else other + (one or 0) for other, one in zip(others, values, strict=True)]
        series.cycle = cycle
        self._replace(table, series, values)

    def set(self, table: Table, labels: tuple[str, ...], values: Sequence[Value]) -> None:
        """Set series of the agent itself."""
        self._replace(table, self._child(table, _NOBODY, labels), values)

    def _replace(self, table: Table, series: Series, values: Sequence[Value]) -> None:
        mine, changed = series.values, self._changed[table]
        for at, value in enumerate(values):
            if mine[at] != value:
                mine[at] = value
                changed[at] = True

    def _child(
        self, table: Table, identity: Identity, labels: tuple[str, ...], owner: int = 0, *, update: bool = True
    ) -> Series:
        """Return or create the series of an owner; over a limit, the series `other` of its pod, or the overflow series.

        Such an `update` is counted; `owner` is the id of its cgroup.
        """
        children = self._tables[table]
        series = children.get((identity, labels))
        if series is None:
            if len(labels) != len(table.labels) or not all(isinstance(value, str) for value in labels):
                raise ValueError(f"labels {labels!r} are not {[label.name for label in table.labels]}")
            labels = tuple(map(clipped, labels))
            series = children.get((identity, labels))
        if series is None and table.scope is not Scope.AGENT:
            identity, labels = self._place(table, identity, labels, owner if update else None)
            series = children.get((identity, labels))
        if series is None:
            series = children[identity, labels] = Series(identity, labels, table.metrics)
            self._mark(table)
            if identity is OVERFLOW:
                self._beyond[table] += 1
            elif table.scope is not Scope.AGENT:
                self._limits.add(table, series, self._weights[table])
        return series

    def _place(
        self, table: Table, identity: Identity, labels: tuple[str, ...], owner: int | None
    ) -> tuple[Identity, tuple[str, ...]]:
        """Return where a new series is counted; an `owner` whose events it does not get is named."""
        limits, weight = self._limits, self._weights[table]
        if table.is_open and (limit := limits.of_pod(table, identity, labels, weight)):
            if owner is not None:
                self._exceeded(owner, limit)
            labels = folded(table, labels, OTHER)
            if (identity, labels) in self._tables[table]:
                return identity, labels
        if limits.refuses(identity, len(self._tables[table]) - self._beyond[table], weight):
            if owner is not None:
                for metric in table.metrics:
                    if metric in self._wanted:
                        self.overflow[metric.name] = self.overflow.get(metric.name, 0) + 1
            return OVERFLOW, folded(table, labels, "")
        return identity, labels

    def retain(self, identities: Collection[Identity]) -> bool:
        """Drop the series of all other owners; return whether some must stay until `rise` has put their rows."""
        rising = {identity for _, identity in self._rising} - {*identities}
        keep = {OVERFLOW, _NOBODY, *rising, *identities, *(identity.of_pod for identity in identities)}
        for table, children in self._tables.items():
            self._drop(table, [series for series in children.values() if series.identity not in keep])
        self._limits.retain(keep)
        return bool(rising)

    def forget(self, tables: Iterable[Table], gone: Callable[[int], bool], stays: Callable[[Identity], bool]) -> None:
        """Drop the last rows of cgroups that are `gone`; their collector must not read them again.

        A counter of a pod may outlive the cgroup through which it was read: the sandbox keeps the network namespace
        while a container waits for its restart. Its row is kept while the pod `stays` and has no other counter.
        """
        for table in tables:
            if table in self._sources:
                self._drop(table, self._sources[table].forget(gone, stays))
                continue
            read = self._read.get(table, {})
            if not (owners := {owner for owner in {row.owner for row in read.values()} if gone(owner)}):
                continue
            doomed = [key for key, row in read.items() if row.owner in owners]
            if table.scope is Scope.POD:
                living = {key[0] for key, row in read.items() if row.owner not in owners}
                doomed = [key for key in doomed if key[0] in living or not stays(key[0])]
            for key in doomed:
                del read[key]

    def take_changed(self) -> Mapping[Table, Sequence[bool]]:
        """Return, for each metric of each table, whether a value may have changed since the last call."""
        self._drop_stale()
        changed, self._changed = self._changed, self._unchanged()
        return changed

    def _mark(self, table: Table) -> None:
        """Mark all metrics of a table as changed: series were created or dropped."""
        self._changed[table] = [True] * len(table.metrics)

    def _unchanged(self) -> dict[Table, list[bool]]:
        return {table: [False] * len(table.metrics) for table in self._tables}

    def families(self) -> Iterator[tuple[Table, int, Metric, Iterable[Series]]]:
        """Yield each kept metric, with its table, its place there, and all its series."""
        self._drop_stale()
        for table, children in self._tables.items():
            for at, metric in enumerate(table.metrics):
                if metric in self._wanted:
                    yield table, at, metric, children.values()
