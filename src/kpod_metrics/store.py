"""The only mutable metric state: a total for each series, that never goes down.

Rows come in by cgroup owner; the store attaches the pod's labels (through the identity it is given), adds differences
up, and takes differences of running totals. Two things bound it: series end with their pod, and what is over the
cardinality limit is added up in one overflow series and counted.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from kpod_metrics.histogram import EMPTY, Histogram
from kpod_metrics.metrics import HistogramDelta, Kind, Metric, Scope, Table, Value, sum_of
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

    __slots__ = ("born_ns", "cycle", "identity", "labels", "protobuf", "values", "written")

    def __init__(self, identity: Identity, labels: tuple[str, ...], metrics: Sequence[Metric]) -> None:
        self.identity, self.labels = identity, labels
        self.values: list[int | float | Histogram | None] = [
            EMPTY if metric.kind is Kind.HISTOGRAM else None for metric in metrics
        ]
        self.written: list[Any] = [None] * len(metrics)
        """What the exposition keeps for each value: the sample that it made last."""
        self.protobuf = b""
        """Its labels, as the exposition wrote them in protobuf."""
        self.born_ns = time.time_ns()
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
        self._totals: dict[Table, dict[tuple[int, int, tuple[str, ...]], Sequence[Value]]] = {
            table: {} for table in self._tables if table.totals
        }
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
        self._folded: set[Table] = set()
        """Tables of which a row was folded since there was room last."""
        self._incomplete: set[Table] = set()
        """Tables of which a series was dropped, or a row was folded and there is room, since `took_all` was asked."""

    def look_for_room(self) -> bool:
        """Find out whether new series are admitted; return whether none are."""
        was_full, self._full = self._full, self._is_full(self._total)
        if was_full and not self._full:
            self._make_room()
        return self._full

    def _make_room(self) -> None:
        """Have the rows told once more that were folded: before there is room they would only be folded again."""
        self._incomplete |= self._folded
        self._folded.clear()

    def took_all(self, tables: Iterable[Table]) -> bool:
        """Whether the store holds all that it was given of these tables since this was asked last.

        False where a series was dropped, or where rows were folded and there is room for them by now: then the rows of
        these tables have to be put again.
        """
        incomplete = self._incomplete.intersection(tables)
        self._incomplete -= incomplete
        return not incomplete

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

        Only tables filled by kernel events: those filled from files appear, with their running totals, when first read.
        """
        tables = [
            (table, children, list(product(*(label.values for label in table.labels))))
            for table, children in self._tables.items()
            if not (table.totals or table.scope is Scope.AGENT or any(not label.values for label in table.labels))
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

    def put(
        self,
        table: Table,
        identity: Identity,
        labels: tuple[str, ...],
        values: Sequence[Value],
        origin: tuple[int, int],
    ) -> None:
        """Take a row. `origin` is (owner, source): where running totals come from.

        Raises ValueError or TypeError for a row that is not of its table: nothing of it is taken.
        """
        children = self._tables.get(table)
        if children is None:
            return
        if table.scope is Scope.POD:
            identity = identity.of_pod
        series = children.get((identity, labels))
        grown: Iterable[tuple[int, Value]]
        if table.totals:
            grown = self._grown(table, series, (*origin, labels), values)
            if not grown:
                return
        elif table in self._cycles:
            self._put_gauges(table, series, identity, labels, values)
            return
        else:
            _check(table, values)
            if series is not None and not any(values) and None not in series.values:
                return
            grown = enumerate(values)
        mine = (series or self._child(table, identity, labels)).values
        changed = self._changed[table]
        for at, value in grown:
            if value is None:
                continue
            total = mine[at]
            if total is None:
                mine[at] = value  # type: ignore[assignment]
            elif type(value) is HistogramDelta:
                mine[at] = total.plus(*value)  # type: ignore[union-attr]
            elif value:
                mine[at] = total + value  # type: ignore[operator]
            else:
                continue
            changed[at] = True

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
            values = list(map(sum_of, series.values, values))  # type: ignore[arg-type]
        series.cycle = cycle
        self._replace(table, series, values)

    def set(self, table: Table, labels: tuple[str, ...], values: Sequence[Value]) -> None:
        """Set the agent's own series to these values."""
        self._replace(table, self._child(table, _NOBODY, labels), values)

    def _replace(self, table: Table, series: Series, values: Sequence[Value]) -> None:
        mine, changed = series.values, self._changed[table]
        for at, value in enumerate(values):
            if mine[at] != value:
                mine[at] = value  # type: ignore[assignment]
                changed[at] = True

    def _grown(
        self, table: Table, series: Series | None, origin: tuple[int, int, tuple[str, ...]], totals: Sequence[Value]
    ) -> list[tuple[int, Value]]:
        """Return the places of running totals that grew, and by what; one that went down began anew."""
        known = self._totals[table]
        before = known.get(origin)
        if before is None:
            _check(table, totals)
            known[origin] = totals
            return list(enumerate(totals))
        # Most files say most of the time what they said before, and the others do of most numbers.
        if before == totals and series is not None:
            return []
        grown: list[tuple[int, Value]] = []
        for at, (metric, total, previous) in enumerate(zip(table.metrics, totals, before, strict=True)):
            if total is None or (total == previous and series is not None):
                continue
            _check_one(metric, total)
            grown.append((at, total if previous is None or total < previous else total - previous))  # type: ignore[operator]
        # A total that is not there this time keeps its last value: it may be back.
        known[origin] = (
            [previous if total is None else total for total, previous in zip(totals, before, strict=True)]
            if None in totals
            else totals
        )
        return grown

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
                    self._folded.add(table)
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
        before = self._total
        for table, children in self._tables.items():
            for key in [key for key in children if key[0] not in keep]:
                self._mark(table)
                self._incomplete.add(table)
                del children[key]
                self._total -= self._weights[table]
        if self._total < before:
            self._make_room()

    def forget_owners(self, gone: Callable[[int], bool]) -> None:
        """Drop the running totals last read from cgroups that are `gone`."""
        for totals in self._totals.values():
            for origin in [origin for origin in totals if gone(origin[0])]:
                del totals[origin]

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
    histogram = isinstance(value, HistogramDelta)
    if histogram != (metric.kind is Kind.HISTOGRAM):
        raise TypeError(f"{metric.name} cannot take {value!r}")
    # NaN is neither; what is no number raises TypeError.
    if not histogram and not 0 <= value < _INFINITE and metric.kind is Kind.COUNTER:  # type: ignore[operator]
        raise ValueError(f"{metric.name} cannot grow by {value!r}")
