"""The Prometheus text format 0.0.4 and OpenMetrics 1.0: the same samples under different headers.

Specifications: prometheus.io/docs/instrumenting/exposition_formats and the OpenMetrics specification. A series' labels
are escaped and joined once in its life and kept with it; a cycle only formats numbers.
"""

import re
from collections.abc import Sequence
from functools import cache
from itertools import accumulate, zip_longest
from operator import add
from typing import Any

from kpod_metrics.histogram import Histogram, slot_of_exponent
from kpod_metrics.metrics import Kind, Metric, Scope, Table
from kpod_metrics.store import Series, Store

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_NO_UTF8 = re.compile("[\udc80-\udcff]")
_UNITS = ("seconds", "bytes", "ratio")


def escape(value: str) -> str:
    r"""Escape a label's value.

    A byte of a path that is no UTF-8 (os.fsdecode() made a surrogate of it) is shown as `\xff`: two names that differ
    in such bytes only stay two series.
    """
    if not value.isascii():
        value = _NO_UTF8.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", value)
    return value.translate(_ESCAPES)


def number(value: float) -> str:
    """Format a sample's value."""
    if type(value) is int:
        return str(value)
    if value != value:  # noqa: PLR0124 - NaN
        return "NaN"
    if value in {float("inf"), float("-inf")}:
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


@cache
def _ends(exponents: tuple[int, ...]) -> list[int]:
    """The slots that the buckets end with."""
    return [slot_of_exponent(exponent) for exponent in exponents]


class Renderer:
    """Renders a store."""

    def __init__(self, constant: dict[str, str], extra: Sequence[str] = ()) -> None:
        """`constant` are labels that every pod's series has with one value (node, and cluster where set).

        `extra` are the names of those whose values an identity has.
        """
        self._constant = "".join(f',{name}="{escape(value)}"' for name, value in constant.items())
        self._extra = extra

    def render(self, store: Store) -> "Page":
        """Render all families that have samples."""
        page = Page()
        for table, at, metric, children in store.families():
            lines: list[str] = []
            add_line = lines.append
            for series in children:
                value = series.values[at]
                if value is None:
                    continue
                written = series.written[at]
                # Most values are the same objects as a cycle ago: their lines are kept.
                if written is None or written[0] is not value:
                    written = self._write(table, metric, series, at)
                add_line(written[2])
            if lines:
                page.add(metric, "\n".join(lines))
        return page

    def _write(self, table: Table, metric: Metric, series: Series, at: int) -> tuple[Any, tuple[str, ...], str]:
        """Write the lines of one value, and keep them with it."""
        value, before = series.values[at], series.written[at]
        assert value is not None
        prefixes = self._prefixes(table, metric, series) if before is None else before[1]
        if isinstance(value, Histogram):
            line = self._histogram(prefixes, value, _ends(metric.exponents))
        else:
            line = prefixes[0] + number(value)
        written = series.written[at] = (value, prefixes, line)
        return written

    @staticmethod
    def _histogram(prefixes: Sequence[str], total: Histogram, ends: Sequence[int]) -> str:
        """Write a histogram's lines; `ends` are the slots that the buckets end with."""
        cumulative = list(accumulate(total.slots))
        count = str(cumulative[-1])
        values = [*[str(cumulative[end]) for end in ends], count, repr(total.sum_ns / 1e9), count]
        return "\n".join(map(add, prefixes, values))

    def _prefixes(self, table: Table, metric: Metric, series: Series) -> tuple[str, ...]:
        """Return all of a series' lines up to their values; made once."""
        labels = self._labels(table, series)
        if metric.kind is not Kind.HISTOGRAM:
            return (f"{metric.name}{{{labels}}} " if labels else f"{metric.name} ",)
        comma = "," if labels else ""
        bounds = [repr(2.0**exponent) for exponent in metric.exponents] + ["+Inf"]
        return (
            *(f'{metric.name}_bucket{{{labels}{comma}le="{bound}"}} ' for bound in bounds),
            f"{metric.name}_sum{{{labels}}} ",
            f"{metric.name}_count{{{labels}}} ",
        )

    def _labels(self, table: Table, series: Series) -> str:
        own = "".join(
            f',{label.name}="{escape(value)}"' for label, value in zip(table.labels, series.labels, strict=True)
        )
        if table.scope is Scope.AGENT:
            return own[1:]
        pod = series.identity
        # One whose pod is not known has them too, empty: every series of a name has the same labels.
        chosen = "".join(
            f',{name}="{escape(value)}"' for name, value in zip_longest(self._extra, pod.extra, fillvalue="")
        )
        return (
            f'namespace="{escape(pod.namespace)}",pod="{escape(pod.pod)}",container="{escape(pod.container)}"'
            f"{self._constant}{chosen}{own}"
        )


class Page:
    """One cycle's samples, to be written in either format."""

    def __init__(self) -> None:
        self._families: list[tuple[Metric, str]] = []

    def add(self, metric: Metric, lines: str) -> None:
        """Add a family's sample lines."""
        self._families.append((metric, lines))

    def text(self) -> bytes:
        """Write in the text format 0.0.4."""
        parts = [
            f"# HELP {metric.name} {metric.help.translate(_HELP_ESCAPES)}\n"
            f"# TYPE {metric.name} {metric.kind.value}\n{body}\n"
            for metric, body in self._families
        ]
        return "".join(parts).encode("utf-8", "replace")

    def openmetrics(self) -> bytes:
        """Write in OpenMetrics 1.0: a counter's family is named without _total, the unit is said, the end is marked."""
        parts = []
        for metric, body in self._families:
            family = metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name
            unit = next((unit for unit in _UNITS if family.endswith(f"_{unit}")), "")
            parts.append(f"# TYPE {family} {metric.kind.value}\n")
            if unit:
                parts.append(f"# UNIT {family} {unit}\n")
            parts.append(f"# HELP {family} {escape(metric.help)}\n{body}\n")
        parts.append("# EOF\n")
        return "".join(parts).encode("utf-8", "replace")
