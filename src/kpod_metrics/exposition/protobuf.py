"""Prometheus' protobuf format, the only one with native histograms.

Each family is a MetricFamily message behind its length (github.com/prometheus/client_model, metrics.proto; for the
format see prometheus.io/docs/specs/native_histograms). The labels of a series are encoded once.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from operator import sub

from kpod_metrics.exposition.samples import Family, Labels, Sample, shown
from kpod_metrics.exposition.wire import double, message, signed, sint, string, uint, varint
from kpod_metrics.histogram import FIRST_INDEX, MIN_EXPONENT, SCHEMA, Histogram, bucket_of_exponent
from kpod_metrics.metrics import Kind, Metric

PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

_TYPES = {Kind.COUNTER: 0, Kind.GAUGE: 1, Kind.HISTOGRAM: 4}
"""Values of enum MetricType."""
_COUNTER, _GAUGE, _HISTOGRAM = 3, 2, 7
"""Fields of message Metric."""
_MAX_GAP = 2
"""Empty buckets that do not end a span: a new span costs as many bytes."""

# In every histogram. Bucket 0 has all observations from 0 to 2**MIN_EXPONENT seconds. A bucket of the schema would
# claim that all are in the upper sixth of that range, so it is the zero bucket, with this width. That also marks a
# histogram without observations as native.
_SCHEMA = sint(5, SCHEMA) + double(6, 2.0**MIN_EXPONENT)


def write(families: Iterable[Family], labels: Labels, *, classic: bool) -> Iterator[bytes]:
    """Write a page, piece by piece; `classic`: histograms have classic buckets too."""
    for family in families:
        metric = family.metric
        samples = [sample.protobuf or _write(family, sample, labels, classic) for sample in family.samples]
        head = string(1, metric.name) + string(2, metric.help) + uint(3, _TYPES[metric.kind])
        body = b"".join([head, *samples])
        yield varint(len(body))
        yield body


def _write(family: Family, sample: Sample, labels: Labels, classic: bool) -> bytes:
    """Encode one message Metric as a field of its family, and keep it with the sample."""
    series = sample.series
    if not series.protobuf:
        pairs = labels.of(family.table, series)
        series.protobuf = b"".join(message(1, string(1, name) + string(2, shown(value))) for name, value in pairs)
    if isinstance(sample.value, Histogram):
        value = message(_HISTOGRAM, _histogram(family.metric, sample.value, classic))
    else:
        value = message(_COUNTER if family.metric.kind is Kind.COUNTER else _GAUGE, double(1, sample.value))
    sample.protobuf = message(4, series.protobuf + value)
    return sample.protobuf


def _histogram(metric: Metric, total: Histogram, classic: bool) -> bytes:
    parts = [uint(1, total.count), double(2, total.sum_ns / 1e9)]
    if classic:
        ends, bounds = _buckets(metric.exponents)
        parts += [
            message(3, uint(1, count) + bound) for count, bound in zip(total.at_or_below(ends), bounds, strict=True)
        ]
    parts += (_SCHEMA, uint(7, total.zeros))
    deltas: list[bytes] = []
    at = previous = 0
    for first, end in _spans(total):
        # Bucket 0 is in no span. The first offset is the index of the bucket, the others are gaps.
        offset = first + FIRST_INDEX if not deltas else first - at
        parts.append(message(12, sint(1, offset) + uint(2, end - first)))
        counts = total.counts[first - total.first : end - total.first]
        deltas += map(signed, map(sub, counts, [previous, *counts]))
        at, previous = end, counts[-1]
    if deltas:
        parts.append(message(13, b"".join(deltas)))
    return b"".join(parts)


@cache
def _buckets(exponents: tuple[int, ...]) -> tuple[tuple[int, ...], list[bytes]]:
    """Return the last kernel bucket of each classic bucket, and the bounds as fields of message Bucket."""
    return tuple(map(bucket_of_exponent, exponents)), [double(2, 2.0**exponent) for exponent in exponents]


def _spans(total: Histogram) -> list[tuple[int, int]]:
    """Return the first and last bucket of each run of buckets with counts, without the zero bucket.

    Observations above the last finite bound are in the bucket that follows, up to 76 s: a histogram needs a bucket for
    every observation, and a quantile there still shows that it is above 64 s.
    """
    spans: list[tuple[int, int]] = []
    first = end = 0
    for bucket, count in enumerate(total.counts, total.first):
        if bucket and count:
            if end and bucket - end > _MAX_GAP:
                spans.append((first, end))
                first = bucket
            elif not end:
                first = bucket
            end = bucket + 1
    if end:
        spans.append((first, end))
    return spans
