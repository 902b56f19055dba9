"""Reading protobuf pages: what our own exposition writes, what protobuf's library writes, and what is broken."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.exposition.page import Renderer
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.histogram import BUCKETS, Histogram
from kpod_metrics.pods.model import Identity
from kpod_metrics.top.figures import read
from kpod_metrics.top.page import SeriesValue, decode
from tests.client_model import decode as decode_with_protobuf
from tests.client_model import labels_of
from tests.fakes.agent import BEGAN, page
from tests.unit.exposition import fixture


@pytest.mark.parametrize("classic", [True, False])
def test_all_that_the_exposition_writes(classic: bool) -> None:
    """Every declared metric, with labels that are hard to write."""
    written = Renderer(fixture.CONSTANT, fixture.EXTRA, classic=classic).render(fixture.filled())
    names = {family.metric.name for family in written.families}
    body = b"".join(written.pieces(PROTOBUF))
    found = list(decode(body, names))
    labels = [(family.name, labels_of(metric)) for family in decode_with_protobuf(body) for metric in family.metric]
    assert [(sample.name, sample.labels) for sample in found] == labels
    values = [sample.value for family in written.families for sample in family.samples]
    for sample, value in zip(found, values, strict=True):
        if isinstance(value, Histogram):
            assert isinstance(sample.value, Histogram)
            assert (sample.value.buckets, sample.value.sum_ns) == (value.buckets, value.sum_ns)
        else:
            assert sample.value == float(value)


def test_only_what_is_wanted_is_read() -> None:
    body = page(0, {("a", "b", "c"): {"kpod_x_total": 3, "kpod_y_bytes": 4.5}})
    labels = {"namespace": "a", "pod": "b", "container": "c", "node": "node-1"}
    assert list(decode(body, {"kpod_y_bytes"})) == [SeriesValue("kpod_y_bytes", labels, 4.5)]


def test_first_and_last_bucket() -> None:
    counts = {0: 5, 1: 7, BUCKETS - 1: 3}
    body = page(0, {("", "p", ""): {"kpod_cpu_runqueue_latency_seconds": counts}})
    [sample] = decode(body, {"kpod_cpu_runqueue_latency_seconds"})
    assert isinstance(sample.value, Histogram)
    assert {bucket: count for bucket, count in enumerate(sample.value.buckets) if count} == counts


def test_a_reading() -> None:
    disks = {("device", "a"): 1.0, ("device", "b"): 2.0}
    body = page(3, {("ns", "p", "c"): {"kpod_disk_read_bytes_total": disks}}, off=["disk"])
    reading = read(body)
    assert (reading.time, reading.interval, reading.node, reading.off) == (BEGAN + 30, 10.0, "node-1", ("disk",))
    of_disk = {"kpod_disk_read_bytes_total": {("a",): 1.0, ("b",): 2.0}}
    assert reading.totals == {Identity("ns", "p", "c"): of_disk}


@pytest.mark.parametrize(
    "body", [b"", b"\x03abc", b"<html>", page(0, {}).replace(b"kpod_last", b"kpod_lost"), b"\xff" * 20]
)
def test_what_is_no_page(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(body)


GOOD = page(
    1, {("ns", "p", ""): {"kpod_cpu_runqueue_latency_seconds": {3: 9, 80: 1}, "kpod_mem_cgroup_usage_bytes": 7}}
)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.booleans())
def test_broken_page_is_a_value_error_or_another_page(at: int, byte: int, cut: bool) -> None:
    broken = GOOD[:at] + (b"" if cut else bytes([byte]) + GOOD[at + 1 :])
    try:
        reading = read(broken)
    except ValueError:
        return
    assert math.isfinite(reading.time)


def test_histogram_of_another_resolution_is_refused() -> None:
    # Field 5, the schema: sint32 2 is written 4; 6 is 3.
    body = GOOD.replace(b"\x28\x04", b"\x28\x06")
    assert body != GOOD
    with pytest.raises(ValueError, match="schema 3 instead of 2"):
        read(body)
