"""The only mutable metric state: a total for each series, that never goes down.

Rows come in by cgroup owner; the store attaches the pod's labels (through the identity it is given), adds differences
up, and takes differences of running totals. Two things bound it: series end with their pod, and what is over the
cardinality limit is added up in one overflow series and counted.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import product
from typing import Any

from kpod_metrics.histogram import Histogram
from kpod_metrics.metrics import HistogramDelta, Kind, Metric, Scope, Table, Value
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

    __slots__ = ("born_ns", "identity", "labels", "protobuf", "values", "written")

    def __init__(self, identity: Identity, labels: tuple[str, ...], metrics: Sequence[Metric]) -> None:
        self.identity, self.labels = identity, labels
        self.values: list[int | float | Histogram | None] = [
            Histogram() if metric.kind is Kind.HISTOGRAM else None for metric in metrics
        ]
        self.written: list[Any] = [None] * len(metrics)
        """What the exposition keeps for each value: the sample that it made last."""
        self.protobuf = b""
        """Its labels, as the exposition wrote them in protobuf."""
        self.born_ns = time.time_ns()
        """Since when it is counted, in Unix time."""


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
        self._with_gauges = {t for t in self._tables if any(metric.kind is Kind.GAUGE for metric in t.metrics)}
        self._changed = set(self._tables)
        """Tables of which something has changed since `take_changed`."""
        self.overflow: dict[str, int] = {}
        """Updates folded into an overflow series, by metric."""

    def look_for_room(self) -> bool:
        """Find out whether new series are admitted; return whether none are."""
        self._full = self._is_full(self._total)
        return self._full

    def has(self, identity: Identity) -> bool:
        """Whether a container has series."""
        return identity in self._admitted

    def begin_cycle(self, table: Table) -> None:
        """Start a cycle's rows of a table: gauges of several cgroups of one pod are summed within a cycle."""
        if table in self._with_gauges:
            self._changed.add(table)
            for series in self._tables[table].values():
                for at, metric in enumerate(table.metrics):
                    if metric.kind is Kind.GAUGE:
                        series.values[at] = None

    def discover(self, identities: Iterable[Identity]) -> None:
        """Have every counter of these containers, and of their pods, at 0, so that increase() sees the first event.

        Only tables filled by kernel events: those filled from files appear, with their running totals, when first read.
        """
        tables = [
            (table, children, list(product(*(label.values for label in table.labels))))
            for table, children in self._tables.items()
            if not (table.totals or table.scope is Scope.AGENT or any(not label.values for label in table.labels))
            and not all(metric.kind is Kind.GAUGE for metric in table.metrics)
        ]
        # One after another: who has a series at all is to have all.
        for identity in identities:
            for table, children, combinations in tables:
                owner = identity if table.scope is Scope.CONTAINER else identity.of_pod
                if (owner, combinations[0]) not in children:
                    self._changed.add(table)
                    for labels in combinations:
                        series = self._child(table, owner, labels, update=False)
                        for at, value in enumerate(series.values):
                            if value is None:
                                series.values[at] = 0

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
        with_gauges = table in self._with_gauges
        if table.totals:
            key = (*origin, labels)
            # Most files say most of the time what they said before.
            if series is not None and not with_gauges and self._totals[table].get(key) == values:
                return
            _check(table, values)
            values = self._differences(table, key, values)
        else:
            _check(table, values)
            if series is not None and not with_gauges and not any(values) and None not in series.values:
                return
        self._changed.add(table)
        mine = (series or self._child(table, identity, labels)).values
        for at, value in enumerate(values):
            if value is None:
                continue
            total = mine[at]
            if isinstance(value, HistogramDelta):
                assert isinstance(total, Histogram)
                mine[at] = total.plus(*value)
            elif total is None:
                mine[at] = value
            elif value:
                assert not isinstance(total, Histogram)
                mine[at] = total + value

    def set(self, table: Table, labels: tuple[str, ...], values: Sequence[Value]) -> None:
        """Set the agent's own series to these values."""
        self._changed.add(table)
        mine = self._child(table, _NOBODY, labels).values
        for at, value in enumerate(values):
            assert not isinstance(value, HistogramDelta)
            mine[at] = value

    def clear(self, table: Table) -> None:
        """Drop all series of a table of the agent's own."""
        self._changed.add(table)
        self._tables[table].clear()

    def _differences(
        self, table: Table, origin: tuple[int, int, tuple[str, ...]], totals: Sequence[Value]
    ) -> Sequence[Value]:
        """What running totals grew by; one that went down began anew. Gauges pass as they are."""
        before = self._totals[table].get(origin)
        if before is None:
            self._totals[table][origin] = totals
            return totals
        grown: list[Value] = []
        for at, (metric, total) in enumerate(zip(table.metrics, totals, strict=True)):
            previous = before[at]
            if total is None or previous is None or metric.kind is Kind.GAUGE:
                grown.append(total)
            else:
                assert not isinstance(total, HistogramDelta)
                assert not isinstance(previous, HistogramDelta)
                grown.append(total - previous if total >= previous else total)
        # A total that is not there this time keeps its last value: it may be back.
        self._totals[table][origin] = (
            [before[at] if total is None else total for at, total in enumerate(totals)] if None in totals else totals
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
                or len(children) >= self._max
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
                if identity is not OVERFLOW:
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
                self._changed.add(table)
                del children[key]
                self._total -= self._weights[table]

    def forget_owners(self, gone: Callable[[int], bool]) -> None:
        """Drop the running totals last read from cgroups that are `gone`."""
        for totals in self._totals.values():
            for origin in [origin for origin in totals if gone(origin[0])]:
                del totals[origin]

    def take_changed(self) -> Collection[Table]:
        """Return the tables of which something may have changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def families(self) -> Iterator[tuple[Table, int, Metric, Iterable[Series]]]:
        """Each metric that is kept, with its place in the table and all its series."""
        for table, children in self._tables.items():
            for at, metric in enumerate(table.metrics):
                if metric in self._wanted:
                    yield table, at, metric, children.values()


def _check(table: Table, values: Sequence[Value]) -> None:
    """Refuse values that are not of a table's metrics: a total that took one would be wrong for good."""
    if not table.has_histograms and len(values) == len(table.metrics):
        try:
            # Nearly all rows are such. No comparison with NaN holds, and a sum with it is NaN.
            if min(values) >= 0 and sum(values) < _INFINITE:  # type: ignore[type-var,operator,arg-type]
                return
        except TypeError:  # None, or no number
            pass
    for metric, value in zip(table.metrics, values, strict=True):
        if value is None:
            continue
        histogram = isinstance(value, HistogramDelta)
        if histogram != (metric.kind is Kind.HISTOGRAM):
            raise TypeError(f"{metric.name} cannot take {value!r}")
        # NaN is neither; what is no number raises TypeError.
        if not histogram and not 0 <= value < _INFINITE and metric.kind is Kind.COUNTER:  # type: ignore[operator]
            raise ValueError(f"{metric.name} cannot grow by {value!r}")
