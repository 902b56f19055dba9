"""Differences of totals between two pages."""

from kpod_metrics.diagnosis.rates import GAUGES, PREEXISTING, RATED, Input, Rates, Totals
from kpod_metrics.histogram import BUCKETS, Histogram
from kpod_metrics.metrics import Kind, Scope
from kpod_metrics.reference import declared

DISK = "kpod_disk_read_bytes_total"


def one(bucket: int, count: int) -> Histogram:
    """A histogram of one bucket, each observation a second."""
    return Histogram((count,), count * 10**9, bucket)


def test_each_series_has_its_own_reset() -> None:
    before: Totals = {DISK: {("a",): 1000.0, ("b",): 50.0, ("c",): 9.0}}
    # "a" started from 0, "c" is gone. "d" is new: its total can be old.
    now: Totals = {DISK: {("a",): 30.0, ("b",): 80.0, ("d",): 7e9}, "other": {(): 5.0}}
    rates = Rates(before, now, 10.0)
    assert rates.by_label(DISK) == {"a": 3.0, "b": 3.0}
    assert (rates.rate(DISK), rates.rate(DISK, "other"), rates.rate("other")) == (6.0, 6.0, None)


def test_a_new_series_of_an_event_started_at_0() -> None:
    now: Totals = {Input.MAJOR_FAULTS: {(): 40.0}, Input.CPU_USAGE: {(): 40.0}, Input.RUNQUEUE_WAIT: {(): one(5, 3)}}
    rates = Rates({}, now, 10.0)
    assert (rates.rate(Input.MAJOR_FAULTS), rates.rate(Input.CPU_USAGE)) == (4.0, None)
    assert rates.rate(Input.RUNQUEUE_WAIT) == 0.3
    assert rates.observed(Input.RUNQUEUE_WAIT) == list(one(5, 3).buckets)


def test_without_an_earlier_page_only_gauges_are_known() -> None:
    now: Totals = {Input.MAJOR_FAULTS: {(): 40.0}, Input.SPACE_AVAILABLE: {("/data",): 2.0, ("/",): 1.0}}
    for rates in (Rates(None, now, 10.0), Rates({}, now, 0.0)):
        assert (rates.rate(Input.MAJOR_FAULTS), rates.observed(Input.RUNQUEUE_WAIT)) == (None, None)
        assert rates.last_by_label(Input.SPACE_AVAILABLE) == {"/data": 2.0, "/": 1.0}
        assert (rates.last(Input.SPACE_AVAILABLE), rates.last(Input.MEMORY_USAGE)) == (3.0, None)


def test_histograms_are_added_up_and_chosen_by_label() -> None:
    name = Input.SYSCALL_SECONDS
    before: Totals = {name: {("read",): one(5, 1), ("fsync",): one(7, 9)}}
    # "fsync" started from 0.
    now: Totals = {name: {("read",): one(5, 4), ("fsync",): one(7, 2), ("openat",): one(7, 1)}}
    rates = Rates(before, now, 2.0)
    assert rates.by_label(name) == {"read": 1.5, "fsync": 1.0, "openat": 0.5}
    expected = [0] * BUCKETS
    expected[7] = 3
    assert rates.observed(name, "(?!read).*") == expected
    expected[5] = 3
    assert rates.observed(name) == expected
    assert rates.observed(name, "futex") is None


def test_values_that_are_not_finite_are_not_known() -> None:
    now: Totals = {DISK: {(): float("inf")}, "gauge": {(): float("nan")}}
    rates = Rates({DISK: {(): 1.0}}, now, 10.0)
    assert (rates.rate(DISK), rates.last("gauge")) == (None, None)


def test_inputs_are_declared() -> None:
    of_pods = {metric.name: (table, metric) for _, table, metric in declared() if table.scope is not Scope.AGENT}
    assert of_pods.keys() >= set(Input)
    assert {name for name in Input if of_pods[name][1].kind is Kind.GAUGE} == GAUGES | {Input.RESTARTS}
    assert set(Input) == RATED | GAUGES
    # An input has one label at most: causes are found by it.
    assert {len(of_pods[name][0].labels) for name in Input} == {0, 1}
    counters = {name for name in RATED if of_pods[name][0].preexisting}
    assert counters | {Input.RESTARTS} == PREEXISTING
