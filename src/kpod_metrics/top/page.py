"""Reads a page in Prometheus' protobuf format, as `exposition.protobuf` writes it.

It is the format with native histograms, so that quantiles are as exact as the kernel's buckets. Only the fields that an
agent writes are read.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

from kpod_metrics.exposition.wire import Field, fields, part, read_varint, unzigzag
from kpod_metrics.histogram import BUCKETS, FIRST_INDEX, SCHEMA, Histogram

_T = TypeVar("_T", int, float, bytes)


@dataclass(frozen=True)
class SeriesValue:
    """The value of one series."""

    name: str
    labels: dict[str, str]
    value: float | Histogram


def decode(page: bytes, wanted: Collection[str]) -> Iterator[SeriesValue]:
    """Yield the samples of the `wanted` metrics; raises ValueError if the bytes are not such a page."""
    at = 0
    while at < len(page):
        length, at = read_varint(page, at)
        yield from _family(part(page, at, length), wanted)
        at += length


def _family(data: bytes, wanted: Collection[str]) -> Iterator[SeriesValue]:
    name = ""
    for field, value in fields(data):
        if field == 1:
            name = _as(bytes, value).decode("utf-8", "replace")
            if name not in wanted:
                return
        elif field == 4:
            yield _metric(name, _as(bytes, value))


def _metric(name: str, data: bytes) -> SeriesValue:
    labels: dict[str, str] = {}
    number: float | Histogram = math.nan
    for field, value in fields(data):
        if field == 1:
            pair = {key: _as(bytes, text).decode("utf-8", "replace") for key, text in fields(_as(bytes, value))}
            labels[pair.get(1, "")] = pair.get(2, "")
        elif field in {2, 3}:  # a gauge, a counter
            number = next((_as(float, inner) for key, inner in fields(_as(bytes, value)) if key == 1), 0.0)
        elif field == 7:
            number = _histogram(_as(bytes, value))
    return SeriesValue(name, labels, number)


def _histogram(data: bytes) -> Histogram:
    buckets = [0] * BUCKETS
    total, schema = 0.0, None
    spans: list[tuple[int, int]] = []
    deltas: list[int] = []
    for field, value in fields(data):
        if field == 2:
            total = _as(float, value)
        elif field == 5:
            schema = unzigzag(_as(int, value))
        elif field == 7:
            buckets[0] = _as(int, value)
        elif field == 12:
            span = {key: _as(int, inner) for key, inner in fields(_as(bytes, value))}
            spans.append((unzigzag(span.get(1, 0)), span.get(2, 0)))
        elif field == 13 and isinstance(value, int):
            deltas.append(unzigzag(value))
        elif field == 13:
            packed, at = _as(bytes, value), 0
            while at < len(packed):
                delta, at = read_varint(packed, at)
                deltas.append(unzigzag(delta))
    if schema != SCHEMA:
        raise ValueError(f"histogram schema {schema} instead of {SCHEMA}")
    # The first offset is an index of the schema, the others are gaps. A count is the sum of the differences before it.
    bucket, count, following = -FIRST_INDEX, 0, iter(deltas)
    for offset, length in spans:
        bucket += offset
        if not 0 < bucket <= bucket + length <= BUCKETS:
            raise ValueError(f"histogram buckets {bucket} to {bucket + length} of {BUCKETS}")
        for _ in range(length):
            count += next(following, 0)
            buckets[bucket] = count
            bucket += 1
    return Histogram(tuple(buckets), round(total * 1e9) if math.isfinite(total) else 0)


def _as(kind: type[_T], value: Field) -> _T:
    if not isinstance(value, kind):
        raise ValueError(f"{type(value).__name__} instead of {kind.__name__}")
    return value
