"""The Prometheus text format 0.0.4 and OpenMetrics 1.0: the same samples under different headers.

Specifications: prometheus.io/docs/instrumenting/exposition_formats and the OpenMetrics specification. A series' labels
are escaped and joined once in its life and kept with it; a cycle only formats numbers.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import accumulate
from operator import itemgetter
from typing import Any

from kpod_metrics.exposition.samples import Family, Labels, Sample, shown
from kpod_metrics.histogram import Histogram, slot_of_exponent
from kpod_metrics.metrics import Kind, Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_UNITS = ("seconds", "bytes", "ratio")
_TOGETHER = 100
"""Samples written in one piece: of a histogram's, 0.3 MB, which is less than the allocator keeps at hand."""


def escape(value: str) -> str:
    """Escape a label's value."""
    return shown(value).translate(_ESCAPES)


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
def _at_ends(exponents: tuple[int, ...]) -> "itemgetter[Any]":
    """What picks the slots that the buckets end with; there are two buckets or more."""
    return itemgetter(*[slot_of_exponent(exponent) for exponent in exponents])


def unit(metric: Metric) -> str:
    """Return the unit that a metric's name ends with, or nothing."""
    family = family_name(metric)
    return next((unit for unit in _UNITS if family.endswith(f"_{unit}")), "")


def family_name(metric: Metric) -> str:
    """Return the name of a metric's family in OpenMetrics: a counter's is without _total."""
    return metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name


def write(families: Iterable[Family], labels: Labels) -> Iterator[bytes]:
    """Write in the text format 0.0.4, piece by piece."""
    for family in families:
        metric = family.metric
        heading = (
            f"# HELP {metric.name} {metric.help.translate(_HELP_ESCAPES)}\n# TYPE {metric.name} {metric.kind.value}\n"
        )
        yield heading.encode()
        yield from _lines(family, labels)


def write_openmetrics(families: Iterable[Family], labels: Labels) -> Iterator[bytes]:
    """Write in OpenMetrics 1.0: a counter's family is named without _total, the unit is said, the end is marked."""
    for family in families:
        metric, name = family.metric, family_name(family.metric)
        heading = f"# TYPE {name} {metric.kind.value}\n"
        if of := unit(metric):
            heading += f"# UNIT {name} {of}\n"
        heading += f"# HELP {name} {escape(metric.help)}\n"
        yield heading.encode()
        yield from _lines(family, labels)
    yield b"# EOF\n"


def _lines(family: Family, labels: Labels) -> Iterable[bytes]:
    if family.lines:
        return family.lines
    if not family.stays:
        return _pieces(family, labels)
    family.lines = tuple(_pieces(family, labels))
    return family.lines


def _pieces(family: Family, labels: Labels) -> Iterator[bytes]:
    """Write a family's samples; one piece after the other is made, for all of them may be much."""
    samples = family.samples
    for at in range(0, len(samples), _TOGETHER):
        texts = [sample.text or _write(family, sample, labels) for sample in samples[at : at + _TOGETHER]]
        texts.append("")
        yield "\n".join(texts).encode("utf-8", "replace")


def _write(family: Family, sample: Sample, labels: Labels) -> str:
    """Write the lines of one sample, and keep them with it."""
    if not sample.form:
        sample.form = _form(family, sample, labels)
    value = sample.value
    if isinstance(value, Histogram):
        sample.text = sample.form % _numbers(value, _at_ends(family.metric.exponents))
    else:
        sample.text = sample.form % number(value)
    return sample.text


def _numbers(total: Histogram, at_ends: Callable[[list[int]], tuple[int, ...]]) -> tuple[int | str, ...]:
    """Return the numbers of a histogram's lines; `at_ends` picks the slots that the buckets end with."""
    cumulative = list(accumulate(total.slots))
    count = cumulative[-1]
    return (*at_ends(cumulative), count, repr(total.sum_ns / 1e9), count)


def _form(family: Family, sample: Sample, labels: Labels) -> str:
    """Return all of a series' lines, with `%s` in the place of each number."""
    metric = family.metric
    pairs = ",".join(f'{name}="{escape(value)}"' for name, value in labels.of(family.table, sample.series))
    pairs = pairs.replace("%", "%%")
    if metric.kind is not Kind.HISTOGRAM:
        return f"{metric.name}{{{pairs}}} %s" if pairs else f"{metric.name} %s"
    comma = "," if pairs else ""
    bounds = [repr(2.0**exponent) for exponent in metric.exponents] + ["+Inf"]
    lines = [f'{metric.name}_bucket{{{pairs}{comma}le="{bound}"}} %s' for bound in bounds]
    return "\n".join([*lines, f"{metric.name}_sum{{{pairs}}} %s", f"{metric.name}_count{{{pairs}}} %s"])
