"""The only mutable metric state: a total for each series, which never goes down.

Collectors return running totals. This is the one place that takes differences: it keeps the last row of each counter,
and adds what the counter grew by to the series of its owner. Two things bound it: series end with their pod, and what
is over the cardinality limit is added up in one overflow series and counted.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from kpod_metrics.histogram import EMPTY, Histogram
from kpod_metrics.metrics import Kind, Metric, Row, Scope, Table, Value
from kpod_metrics.pods.model import Identity

OVERFLOW = Identity("kpod-overflow", "kpod-overflow", "")
"""Owner of the series that take what is over the cardinality limit."""

_INFINITE = float("inf")

_LOOK_EVERY = 256
"""New children after which it is looked whether there is memory for more: a storm of pods comes within a cycle."""

_NOBODY = Identity("", "", "")
"""Identity of the agent's own series."""


class Series:
    """The children of one table's metrics with the same labels."""

    __slots__ = ("created_ns", "cycle", "identity", "labels", "protobuf", "values", "written")

    def __init__(self, identity: Identity, labels: tuple[str, ...], metrics: Sequence[Metric]) -> None:
        self.identity, self.labels = identity, labels
        self.values: list[int | float | Histogram | None] = [
            EMPTY if metric.kind is Kind.HISTOGRAM else None for metric in metrics
        ]
        self.written: list[Any] = [None] * len(metrics)
        """What the exposition keeps for each value: the sample that it made last."""
        self.protobuf = b""
        """Its labels, as the exposition wrote them in protobuf."""
        self.created_ns = time.time_ns()
        """Since when it is counted, in Unix time."""
        self.cycle = 0
        """Of gauges: in which cycle of their table they were last put."""


class Store:
    """Totals by table, identity and labels. One thread writes and renders; nobody else touches it."""

    def __init__(
        self,
        tables: Iterable[Table],
        wanted: frozenset[Metric],
        max_series: int = 1_000_000,
        max_total: int = 1_000_000,
        is_full: Callable[[int], bool] = lambda series: False,
    ) -> None:
        """`wanted` are the metrics that are kept at all.

        `max_series` bounds the series of each metric, a histogram counted as one; `max_total` bounds the series of all
        pods together, as the text format has them: a histogram with its buckets. `is_full` is asked now and then
        whether there is memory for no more than that many series.
        """
        self._max, self._max_total = max_series, max_total
        self._total = 0
        self._is_full, self._full = is_full, False
        self._made = 0
        self._admitted: set[Identity] = set()
        """Everybody who has series."""
        self._wanted = wanted
        self._tables: dict[Table, dict[tuple[Identity, tuple[str, ...]], Series]] = {
            table: {} for table in tables if any(metric in wanted for metric in table.metrics)
        }
        self._weights = {
            table: sum(metric.series() for metric in table.metrics if metric in wanted) for table in self._tables
        }
        self._read: dict[Table, dict[tuple[Any, ...], Row]] = {
            table: {} for table in self._tables if not table.of_gauges and table.scope is not Scope.AGENT
        }
        """The last row of each counter."""
        self._cycles = {table: 0 for table in self._tables if table.of_gauges}
        """How many cycles each table of gauges has seen."""
        self._begun: set[Table] = set()
        """Tables of gauges with a new cycle: what was not put in it has to go."""
        self._changed = self._unchanged()
        """Of each metric of a table, whether something has changed since `take_changed`."""
        self.overflow: dict[str, int] = {}
        """Updates folded into an overflow series, by metric."""
        self._beyond = dict.fromkeys(self._tables, 0)
        """How many overflow series each table has: they take no other's place."""

    def look_for_room(self) -> bool:
        """Find out whether new series are admitted; return whether none are."""
        self._full = self._is_full(self._total)
        return self._full

    def has(self, identity: Identity) -> bool:
        """Whether a container has series."""
        return identity in self._admitted

    def begin_cycle(self, table: Table) -> None:
        """Start a cycle's rows of a table: gauges of several cgroups of one pod are summed within a cycle."""
        if table in self._cycles:
            self._cycles[table] += 1
            self._begun.add(table)

    def _drop_stale(self) -> None:
        """Have the gauges gone that were not put in their table's cycle."""
        for table in self._begun:
            cycle, changed = self._cycles[table], self._changed[table]
            for series in self._tables[table].values():
                if series.cycle != cycle:
                    for at, value in enumerate(series.values):
                        if value is not None:
                            series.values[at] = None
                            changed[at] = True
        self._begun.clear()

    def discover(self, identities: Iterable[Identity]) -> None:
        """Have every counter of these containers, and of their pods, at 0, so that increase() sees the first event.

        Counters that the kernel had before the agent appear with their totals, when they are first read.
        """
        tables = [
            (table, children, list(product(*(label.values for label in table.labels))))
            for table, children in self._tables.items()
            if not (table.preexisting or table.scope is Scope.AGENT or any(not label.values for label in table.labels))
            and not table.of_gauges
        ]
        # One after another: who has a series at all is to have all.
        for identity in identities:
            for table, children, combinations in tables:
                owner = identity if table.scope is Scope.CONTAINER else identity.of_pod
                if (owner, combinations[0]) not in children:
                    for labels in combinations:
                        series = self._child(table, owner, labels, update=False)
                        for at, value in enumerate(series.values):
                            if value is None:
                                series.values[at] = 0
                                self._changed[table][at] = True  # what is over the limit may be there already

    def put(self, row: Row, identity: Identity) -> None:
        """Take a row of an owner.

        Raises ValueError or TypeError for a row that is not of its table: nothing of it is taken.
        """
        table, labels = row.table, row.labels
        children = self._tables.get(table)
        if children is None:
            return
        if table.scope is Scope.POD:
            identity = identity.of_pod
        series = children.get((identity, labels))
        if table in self._cycles:
            self._put_gauges(table, series, identity, labels, row.values)
            return
        # Several cgroups of a pod may share what is counted for it, and one after another may have it.
        key = (identity, labels, row.epoch) if table.scope is Scope.POD else (row.owner, labels)
        read = self._read[table]
        before = read.get(key)
        if series is not None and before is not None:
            if before is row:
                return
            # Most cgroups did nothing since.
            if before.values == row.values and before.epoch == row.epoch:
                read[key] = row
                return
        grown = _growth(row, before)
        series = series or self._child(table, identity, labels, update=any(grown))
        changed = self._changed[table]
        # All sums before the first is kept: one that cannot be made is not to leave half a row.
        for at, total in enumerate(_sums(series.values, grown)):
            if total is not series.values[at]:
                series.values[at], changed[at] = total, True
        read[key] = _latest(row, before)

    def pass_over(self, row: Row) -> int:
        """Take a row whose counters no series gets as read; return the events that came since the row before."""
        if row.table not in self._read:
            return 0
        read, key = self._read[row.table], (row.owner, row.labels)
        before = read.get(key)
        if before is row:
            return 0
        events = _events(row, before)
        read[key] = _latest(row, before)
        return events

    def events(self, row: Row) -> int:
        """Return the events of a row that are in no series yet; the row may still be put."""
        read = self._read.get(row.table)
        return 0 if read is None else _events(row, read.get((row.owner, row.labels)))

    def _put_gauges(
        self,
        table: Table,
        series: Series | None,
        identity: Identity,
        labels: tuple[str, ...],
        values: Sequence[Value],
    ) -> None:
        """Take a row of gauges: in place of those of the last cycle, or with those of another cgroup of this one."""
        cycle = self._cycles[table]
        if series is not None and series.cycle != cycle and series.values == [*values]:
            series.cycle = cycle  # as it was
            return
        _check(table, values)
        series = series or self._child(table, identity, labels)
        if series.cycle == cycle:
            values = _sums(series.values, values)
        series.cycle = cycle
        self._replace(table, series, values)

    def set(self, table: Table, labels: tuple[str, ...], values: Sequence[Value]) -> None:
        """Set the agent's own series to these values."""
        self._replace(table, self._child(table, _NOBODY, labels), values)

    def _replace(self, table: Table, series: Series, values: Sequence[Value]) -> None:
        mine, changed = series.values, self._changed[table]
        for at, value in enumerate(values):
            if mine[at] != value:
                mine[at] = value
                changed[at] = True

    def _child(self, table: Table, identity: Identity, labels: tuple[str, ...], *, update: bool = True) -> Series:
        """Return the series of an identity, or the overflow series in its place; `update`: count that as an update."""
        children = self._tables[table]
        series = children.get((identity, labels))
        if series is None:
            weight = self._weights[table] if table.scope is not Scope.AGENT else 0
            if weight and (
                (self._full and identity not in self._admitted)
                or len(children) - self._beyond[table] >= self._max
                or self._total + weight > self._max_total
            ):
                if update:
                    for metric in table.metrics:
                        if metric in self._wanted:
                            self.overflow[metric.name] = self.overflow.get(metric.name, 0) + 1
                # A label with declared values is bounded, and what it tells apart stays so.
                identity, labels = (
                    OVERFLOW,
                    tuple(value if label.values else "" for label, value in zip(table.labels, labels, strict=True)),
                )
                series = children.get((identity, labels))
            if series is None:
                if len(labels) != len(table.labels) or not all(isinstance(value, str) for value in labels):
                    raise ValueError(f"labels {labels!r} are not {[label.name for label in table.labels]}")
                series = children[identity, labels] = Series(identity, labels, table.metrics)
                self._mark(table)
                if identity is OVERFLOW:
                    self._beyond[table] += 1
                else:
                    self._total += weight
                    self._admitted.update((identity, identity.of_pod))
                self._made += 1
                if not self._made % _LOOK_EVERY:
                    self.look_for_room()
        return series

    def retain(self, identities: Collection[Identity]) -> None:
        """Drop the series of everybody who is not among `identities`."""
        keep = {OVERFLOW, _NOBODY, *identities, *(identity.of_pod for identity in identities)}
        self._admitted &= keep
        for table, children in self._tables.items():
            for key in [key for key in children if key[0] not in keep]:
                self._mark(table)
                del children[key]
                self._total -= self._weights[table]

    def forget(self, tables: Iterable[Table], gone: Callable[[int], bool], stays: Callable[[Identity], bool]) -> None:
        """Drop the last rows of cgroups that are `gone`, of collectors that will not read them again.

        A counter of a pod may outlive the cgroup through which it was read, as the sandbox holds the network namespace
        while containers wait to be started again. It is kept while the pod `stays` and nothing else of it was read.
        """
        for table in tables:
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
        """Return of which metrics of each table something may have changed since the last call."""
        self._drop_stale()
        changed, self._changed = self._changed, self._unchanged()
        return changed

    def _mark(self, table: Table) -> None:
        """Take note that series of a table came or went."""
        self._changed[table] = [True] * len(table.metrics)

    def _unchanged(self) -> dict[Table, list[bool]]:
        return {table: [False] * len(table.metrics) for table in self._tables}

    def families(self) -> Iterator[tuple[Table, int, Metric, Iterable[Series]]]:
        """Each metric that is kept, with its place in the table and all its series."""
        self._drop_stale()
        for table, children in self._tables.items():
            for at, metric in enumerate(table.metrics):
                if metric in self._wanted:
                    yield table, at, metric, children.values()


def _growth(row: Row, before: Row | None) -> Sequence[Value]:
    """Return what each running total grew by since the row before; None: it is absent, or a histogram that did not."""
    if before is None or before.epoch != row.epoch:
        _check(row.table, row.values)
        return row.values
    grown: list[Value] = []
    for metric, total, previous in zip(row.table.metrics, row.values, before.values, strict=True):
        if total is previous:
            grown.append(None if total is None or isinstance(total, Histogram) else 0)
            continue
        if total is not None:
            _check_one(metric, total)
        if total is None or previous is None:
            grown.append(total)
        elif isinstance(total, Histogram):
            grown.append(total - previous)  # type: ignore[operator]
        elif metric.wraps:
            grown.append(total - previous & 0xFFFFFFFF)  # type: ignore[operator]
        else:
            # One that went down began again at 0.
            grown.append(total - previous if total >= previous else total)  # type: ignore[operator]
    return grown


def _latest(row: Row, before: Row | None) -> Row:
    """Return a row with the last value of each counter: one that is absent this time may be back."""
    if before is None or None not in row.values or before.epoch != row.epoch:
        return row
    values = zip(row.values, before.values, strict=True)
    return row._replace(values=tuple(old if new is None else new for new, old in values))


def _events(row: Row, before: Row | None) -> int:
    """Return the events among what a row grew by."""
    return sum(
        grown
        for metric, grown in zip(row.table.metrics, _growth(row, before), strict=True)
        if metric.events and isinstance(grown, int)
    )


def _sums(totals: Iterable[Any], more: Iterable[Any]) -> list[Any]:
    """Add values, of which either may be absent: a total to which nothing is added is itself."""
    return [by if total is None else total + by if by else total for total, by in zip(totals, more, strict=True)]


def _check(table: Table, values: Sequence[Value]) -> None:
    """Refuse values that are not of a table's metrics: a total that took one would be wrong for good."""
    # Nearly all rows are such.
    if table.has_histograms:
        if [*map(type, values)] == table.whole and min(map(values.__getitem__, table.numbers), default=0) >= 0:  # type: ignore[type-var,operator]
            return
    elif len(values) == len(table.metrics):
        try:
            # No comparison with NaN holds, and a sum with it is NaN.
            if min(values) >= 0 and sum(values) < _INFINITE:  # type: ignore[type-var,operator,arg-type]
                return
        except TypeError:  # None, or no number
            pass
    for metric, value in zip(table.metrics, values, strict=True):
        if value is not None:
            _check_one(metric, value)


def _check_one(metric: Metric, value: Value) -> None:
    histogram = isinstance(value, Histogram)
    if histogram != (metric.kind is Kind.HISTOGRAM):
        raise TypeError(f"{metric.name} cannot take {value!r}")
    # NaN is neither; what is no number raises TypeError.
    if not histogram and not 0 <= value < _INFINITE and metric.kind is Kind.COUNTER:  # type: ignore[operator]
        raise ValueError(f"{metric.name} cannot be {value!r}")
