"""What a counter grew by between two rows of running totals, and which values a row may have."""

from collections.abc import Sequence
from typing import Any

from kpod_metrics.histogram import Histogram
from kpod_metrics.metrics import Kind, Metric, Row, Table, Value

_INFINITE = float("inf")


def growth(row: Row, before: Row | None) -> Sequence[Value]:
    """Return the growth of each running total since the row before; None if absent, or for an idle histogram.

    Raises ValueError or TypeError if the row does not fit its table.
    """
    if before is None or before.epoch != row.epoch:
        check(row.table, row.values)
        return row.values
    grown: list[Any] = []
    metrics = row.table.metrics
    for at, (total, previous) in enumerate(zip(row.values, before.values, strict=True)):
        if total is previous or total is None:
            grown.append(None if total is None or isinstance(total, Histogram) else 0)
            continue
        # The comparison is the fast path of the check.
        if isinstance(total, Histogram) or not 0 <= total < _INFINITE:
            _check_one(metrics[at], total)
        if previous is None:
            grown.append(total)
        elif metrics[at].wraps:
            grown.append(total - previous & 0xFFFFFFFF)  # type: ignore[operator]
        elif isinstance(total, Histogram) or total >= previous:  # type: ignore[operator]
            grown.append(total - previous)  # type: ignore[operator]
        else:
            grown.append(total)  # a total that is lower than before restarted at 0
    return grown


def latest(row: Row, before: Row | None) -> Row:
    """Return the row, with the old totals of counters that are absent this time: they may return."""
    if before is None or None not in row.values or before.epoch != row.epoch:
        return row
    values = zip(row.values, before.values, strict=True)
    return row._replace(values=tuple(old if new is None else new for new, old in values))


def events_of(row: Row, before: Row | None) -> int:
    """Return the growth of the counters that count events."""
    return sum(
        grown
        for metric, grown in zip(row.table.metrics, growth(row, before), strict=True)
        if metric.events and isinstance(grown, int)
    )


def check(table: Table, values: Sequence[Value]) -> None:
    """Raise ValueError or TypeError for values that do not fit the table: a total would stay wrong."""
    # The fast path: nearly all rows are correct.
    if table.has_histograms:
        if [*map(type, values)] == table.whole and min(map(values.__getitem__, table.numbers), default=0) >= 0:  # type: ignore[type-var,operator]
            return
    elif len(values) == len(table.metrics):
        try:
            # Comparisons with NaN are false, and a sum with NaN is NaN.
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
    # NaN fails the comparison; other types raise TypeError.
    if not histogram and not 0 <= value < _INFINITE and metric.kind is Kind.COUNTER:  # type: ignore[operator]
        raise ValueError(f"{metric.name} cannot be {value!r}")
