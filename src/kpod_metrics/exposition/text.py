"""The Prometheus text format 0.0.4 and OpenMetrics 1.0: the same samples under different headers.

Specifications: prometheus.io/docs/instrumenting/exposition_formats and the OpenMetrics specification. The labels of a
series are escaped and joined once, and kept with it; a cycle only formats numbers.
"""

from collections.abc import Iterable, Iterator
from functools import cache

from kpod_metrics.exposition.samples import Family, Labels, Sample, shown
from kpod_metrics.histogram import BUCKETS, Histogram, bucket_of_exponent
from kpod_metrics.metrics import Kind, Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_UNITS = ("seconds", "bytes", "ratio")
_PIECE_SAMPLES = 100
"""Samples of one piece. Of histograms this is 0.3 MB, less than the allocator keeps for reuse."""


def escape(value: str) -> str:
    """Escape the value of a label."""
    return shown(value).translate(_ESCAPES)


def decimal(value: float) -> bytes:
    """Format the value of a sample."""
    if type(value) is int:
        return b"%d" % value
    if value != value:  # noqa: PLR0124 - NaN
        return b"NaN"
    if value in {float("inf"), float("-inf")}:
        return b"+Inf" if value > 0 else b"-Inf"
    return repr(value).encode()


@cache
def _ends(exponents: tuple[int, ...]) -> tuple[int, ...]:
    """Return the last kernel bucket of each classic bucket, +Inf included."""
    return (*map(bucket_of_exponent, exponents), BUCKETS - 1)


def unit(metric: Metric) -> str:
    """Return the unit at the end of a metric's name; "" without one."""
    family = family_name(metric)
    return next((unit for unit in _UNITS if family.endswith(f"_{unit}")), "")


def family_name(metric: Metric) -> str:
    """Return the name of a metric's family in OpenMetrics, for a counter without _total."""
    return metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name


def write(families: Iterable[Family], labels: Labels, *, openmetrics: bool) -> Iterator[bytes]:
    """Write in the text format 0.0.4 or in OpenMetrics 1.0, piece by piece."""
    heading = _openmetrics_heading if openmetrics else _heading
    for family in families:
        yield heading(family.metric)
        yield from _lines(family, labels)
    if openmetrics:
        yield b"# EOF\n"


@cache
def _heading(metric: Metric) -> bytes:
    text = f"# HELP {metric.name} {metric.help.translate(_HELP_ESCAPES)}\n# TYPE {metric.name} {metric.kind.value}\n"
    return text.encode()


@cache
def _openmetrics_heading(metric: Metric) -> bytes:
    """Write the lines before a family: its name lacks _total, and it has a UNIT."""
    name, of = family_name(metric), unit(metric)
    unit_line = f"# UNIT {name} {of}\n" if of else ""
    return f"# TYPE {name} {metric.kind.value}\n{unit_line}# HELP {name} {escape(metric.help)}\n".encode()


def _lines(family: Family, labels: Labels) -> Iterator[bytes]:
    """Write the samples of a family, one piece after the other, as all together can be large."""
    if family.lines:
        yield from family.lines
        return
    samples, lines = family.samples, []
    for at in range(0, len(samples), _PIECE_SAMPLES):
        texts = [sample.text or _write(family, sample, labels) for sample in samples[at : at + _PIECE_SAMPLES]]
        texts.append(b"")
        piece = b"\n".join(texts)
        if family.stays:
            lines.append(piece)
        yield piece
    family.lines = lines


def _write(family: Family, sample: Sample, labels: Labels) -> bytes:
    """Write the lines of one sample, and keep them with the sample."""
    if not sample.form:
        sample.form = _form(family, labels.of(family.table, sample.series))
    value = sample.value
    if isinstance(value, Histogram):
        below = value.at_or_below(_ends(family.metric.exponents))
        sample.text = sample.form % (*below, decimal(value.sum_ns / 1e9), below[-1])
    else:
        sample.text = sample.form % decimal(value)
    return sample.text


def _form(family: Family, labels: Iterable[tuple[str, str]]) -> bytes:
    """Return all lines of a series, with a conversion of `%` in place of each number.

    They are bytes: formatting numbers into bytes takes a third of the time of text, and a page is bytes.
    """
    metric = family.metric
    pairs = ",".join(f'{name}="{escape(value)}"' for name, value in labels)
    pairs = pairs.replace("%", "%%")
    if metric.kind is not Kind.HISTOGRAM:
        form = f"{metric.name}{{{pairs}}} %b" if pairs else f"{metric.name} %b"
    else:
        comma = "," if pairs else ""
        bounds = [repr(2.0**exponent) for exponent in metric.exponents] + ["+Inf"]
        lines = [f'{metric.name}_bucket{{{pairs}{comma}le="{bound}"}} %d' for bound in bounds]
        form = "\n".join([*lines, f"{metric.name}_sum{{{pairs}}} %b", f"{metric.name}_count{{{pairs}}} %d"])
    return form.encode("utf-8", "replace")
