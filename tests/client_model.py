"""A decoder of Prometheus' protobuf format that is not ours: protobuf's own, by the fields of client_model."""

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# github.com/prometheus/client_model, io/prometheus/client/metrics.proto: field numbers and types.
_SCHEMA = {
    "LabelPair": {1: "string name", 2: "string value"},
    "Gauge": {1: "double value"},
    "Counter": {1: "double value"},
    "Bucket": {1: "uint64 cumulative_count", 2: "double upper_bound"},
    "BucketSpan": {1: "sint32 offset", 2: "uint32 length"},
    "Histogram": {
        1: "uint64 sample_count",
        2: "double sample_sum",
        3: "repeated Bucket bucket",
        5: "sint32 schema",
        6: "double zero_threshold",
        7: "uint64 zero_count",
        12: "repeated BucketSpan positive_span",
        13: "repeated sint64 positive_delta",
    },
    "Metric": {1: "repeated LabelPair label", 2: "Gauge gauge", 3: "Counter counter", 7: "Histogram histogram"},
    "MetricFamily": {1: "string name", 2: "string help", 3: "int32 type", 4: "repeated Metric metric"},
}
TYPES = {0: "counter", 1: "gauge", 4: "histogram"}


def _family() -> Any:
    kinds = descriptor_pb2.FieldDescriptorProto
    package = "io.prometheus.client"
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package=package, syntax="proto2")
    for name, fields in _SCHEMA.items():
        described = file.message_type.add(name=name)
        for number, field in fields.items():
            *repeated, kind, own = field.split()
            added = described.field.add(name=own, number=number)
            added.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in _SCHEMA:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.MetricFamily"))


FAMILY = _family()


def decode(page: bytes) -> Iterator[Any]:
    """The families of a page, each of which has its length before it; nothing in them may be unknown to the schema."""
    at = 0
    while at < len(page):
        length = shift = 0
        while True:
            byte = page[at]
            at += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        family = FAMILY.FromString(page[at : at + length])
        assert at + length <= len(page)
        known = FAMILY()
        known.CopyFrom(family)
        known.DiscardUnknownFields()
        assert known.ByteSize() == family.ByteSize()
        at += length
        yield family


def labels_of(metric: Any) -> dict[str, str]:
    """The labels of a series, each of which it has once."""
    labels = {pair.name: pair.value for pair in metric.label}
    assert len(labels) == len(metric.label)
    return labels


def buckets_of(histogram: Any, buckets: int, first_index: int) -> list[int]:
    """The counts of a native histogram by our buckets: the zero bucket is the first, `first_index` the one after."""
    counts = [0] * buckets
    counts[0] = histogram.zero_count
    index, count = 0, 0
    deltas = iter(histogram.positive_delta)
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            counts[index - first_index + 1] = count
            index += 1
    assert not list(deltas)
    return counts
