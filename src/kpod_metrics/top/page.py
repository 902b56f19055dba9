"""Reading a page in Prometheus' protobuf format: the counterpart of `exposition.protobuf`, which says where it is from.

It is the format with native histograms, so that quantiles are as exact as the kernel's own slots. Read by hand, as it
is written by hand: of all messages only the few fields that an agent writes.
"""

import math
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from kpod_metrics.histogram import FIRST_INDEX, SCHEMA, SLOTS


@dataclass(frozen=True)
class Native:
    """A native histogram: counts of the slots that `kpod_metrics.histogram` describes, and their sum in seconds."""

    slots: tuple[int, ...]
    sum: float


@dataclass(frozen=True)
class Sample:
    """One series' value."""

    name: str
    labels: dict[str, str]
    value: float | Native


def decode(page: bytes, wanted: Collection[str]) -> Iterator[Sample]:
    """Yield the samples of the `wanted` metrics; raises ValueError for bytes that are no such page."""
    at = 0
    while at < len(page):
        length, at = _varint(page, at)
        yield from _family(_slice(page, at, length), wanted)
        at += length


def _family(data: bytes, wanted: Collection[str]) -> Iterator[Sample]:
    name = ""
    for field, value in _fields(data):
        if field == 1:
            name = _bytes(value).decode("utf-8", "replace")
            if name not in wanted:
                return
        elif field == 4:
            yield _metric(name, _bytes(value))


def _metric(name: str, data: bytes) -> Sample:
    labels: dict[str, str] = {}
    number: float | Native = math.nan
    for field, value in _fields(data):
        if field == 1:
            pair = {key: _bytes(text).decode("utf-8", "replace") for key, text in _fields(_bytes(value))}
            labels[pair.get(1, "")] = pair.get(2, "")
        elif field in {2, 3}:  # a gauge, a counter
            number = next((_double(inner) for key, inner in _fields(_bytes(value)) if key == 1), 0.0)
        elif field == 7:
            number = _histogram(_bytes(value))
    return Sample(name, labels, number)


def _histogram(data: bytes) -> Native:
    slots = [0] * SLOTS
    total, schema = 0.0, None
    spans: list[tuple[int, int]] = []
    deltas: list[int] = []
    for field, value in _fields(data):
        if field == 2:
            total = _double(value)
        elif field == 5:
            schema = _signed(_int(value))
        elif field == 7:
            slots[0] = _int(value)
        elif field == 12:
            span = {key: _int(inner) for key, inner in _fields(_bytes(value))}
            spans.append((_signed(span.get(1, 0)), span.get(2, 0)))
        elif field == 13 and isinstance(value, int):
            deltas.append(_signed(value))
        elif field == 13:
            packed, at = _bytes(value), 0
            while at < len(packed):
                delta, at = _varint(packed, at)
                deltas.append(_signed(delta))
    if schema != SCHEMA:
        raise ValueError(f"a histogram of schema {schema}, not {SCHEMA}")
    # The first offset is an index of the schema, others are gaps; a count is the sum of the differences up to it.
    slot, count, following = -FIRST_INDEX, 0, iter(deltas)
    for offset, length in spans:
        slot += offset
        if not 0 < slot <= slot + length <= SLOTS:
            raise ValueError(f"histogram buckets {slot} to {slot + length} of {SLOTS}")
        for _ in range(length):
            count += next(following, 0)
            slots[slot] = count
            slot += 1
    return Native(tuple(slots), total)


_Field = int | float | bytes
_FIXED = {1: ("<d", 8), 5: ("<f", 4)}
"""Wire types of fixed length, all of which are floating-point numbers here."""


def _fields(data: bytes) -> Iterator[tuple[int, _Field]]:
    """Yield a message's fields (protobuf.dev/programming-guides/encoding)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        value: _Field
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            value = _slice(data, at, length)
            at += length
        elif kind in _FIXED:
            form, length = _FIXED[kind]
            (value,) = struct.unpack(form, _slice(data, at, length))
            at += length
        else:
            raise ValueError(f"a field of wire type {kind}")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a number without an end")


def _signed(number: int) -> int:
    """Undo the zigzag of a `sint32` or `sint64`."""
    return number >> 1 ^ -(number & 1)


def _slice(data: bytes, at: int, length: int) -> bytes:
    if at + length > len(data):
        raise ValueError("the page ends too early")
    return data[at : at + length]


def _bytes(value: _Field) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes should be")
    return value


def _int(value: _Field) -> int:
    if not isinstance(value, int):
        raise ValueError("no whole number where one should be")
    return value


def _double(value: _Field) -> float:
    if not isinstance(value, float):
        raise ValueError("no floating-point number where one should be")
    return value
