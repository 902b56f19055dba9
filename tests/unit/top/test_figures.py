"""Figures from two pages: series, containers that come and go, quantiles."""

from typing import Any

import pytest

from kpod_metrics.histogram import bucket_of_exponent, quantile, upper_bound
from kpod_metrics.pods.model import Identity
from kpod_metrics.top.figures import Figures, figures, read
from tests.fakes.agent import page

P, Q = ("shop", "web-1", "app"), ("shop", "web-2", "app")
WAIT, CALLS, CALL_TIME = "kpod_cpu_runqueue_latency_seconds", "kpod_syscall_count_total", "kpod_syscall_latency_seconds"
MS = bucket_of_exponent(-10)


def between(before: dict[str, Any], now: dict[str, Any], cycles: int = 1) -> Figures:
    """The row of a pod whose values were these, ten seconds for each cycle apart."""
    [row] = figures(read(page(0, {P: before})), read(page(cycles, {P: now})))
    return row


def test_rates_are_of_the_time_between_two_cycles() -> None:
    before = {"kpod_cpu_usage_seconds_total": 5.0, "kpod_mem_cgroup_usage_bytes": 1.0}
    now = {"kpod_cpu_usage_seconds_total": 20.0, "kpod_mem_cgroup_usage_bytes": 4096.0}
    row = between(before, now, cycles=3)
    assert (row.owner, row.values["cpu"], row.values["memory"]) == (Identity(*P), 0.5, 4096.0)
    assert {name for name, value in row.values.items() if value is not None} == {"cpu", "memory"}


def test_series_of_a_metric_are_added_up_each_with_its_own_reset() -> None:
    before = {"kpod_disk_read_bytes_total": {("device", "a"): 1000.0, ("device", "b"): 50.0, ("device", "c"): 9.0}}
    # The first one started from 0, the last one is gone, another is new.
    now = {
        "kpod_disk_read_bytes_total": {("device", "a"): 30.0, ("device", "b"): 80.0, ("device", "d"): 7e9},
        "kpod_disk_written_bytes_total": {("device", "b"): 10.0},
    }
    assert between(before, now).values["disk"] == (30 + 30) / 10


def test_histogram_that_started_from_0() -> None:
    row = between({WAIT: {MS: 100, 60: 3}}, {WAIT: {MS: 40}})
    assert (row.bars["runqueue_waits"][MS], sum(row.bars["runqueue_waits"]), row.values["runqueue_waits"]) == (
        40,
        40,
        4.0,
    )


def test_quantile_is_of_what_came_since_and_as_exact_as_the_buckets() -> None:
    row = between({WAIT: {80: 1000}}, {WAIT: {80: 1000, MS: 98, MS + 1: 2}})
    assert row.values["runqueue_p99"] is not None
    assert upper_bound(MS) < row.values["runqueue_p99"] < upper_bound(MS + 1)
    buckets = [0] * len(row.bars["runqueue_waits"])
    buckets[MS], buckets[MS + 1] = 98, 2
    assert row.values["runqueue_p99"] == quantile(buckets, 0.99)
    assert between({WAIT: {80: 5}}, {WAIT: {80: 5}}).values["runqueue_p99"] is None


def test_pod_that_is_new_has_no_rates_yet_and_one_that_went_no_row() -> None:
    cpu = "kpod_cpu_usage_seconds_total"
    found = figures(
        read(page(0, {Q: {cpu: 1.0}})), read(page(1, {P: {cpu: 7200.0, "kpod_mem_cgroup_usage_bytes": 5.0}}))
    )
    assert [(row.owner, row.values["cpu"], row.values["memory"]) for row in found] == [(Identity(*P), None, 5.0)]


def test_no_rates_with_one_page_nor_with_the_same_cycle() -> None:
    first, second = (read(page(1, {P: {"kpod_cpu_usage_seconds_total": value}})) for value in (1.0, 9.0))
    assert figures(None, first)[0].values["cpu"] is None
    assert figures(first, second)[0].values["cpu"] is None


def test_slow_syscalls_are_those_that_do_not_wait_by_nature() -> None:
    def calls(fsync: int, epoll: int) -> dict[str, Any]:
        return {
            CALLS: {("syscall", "fsync"): float(fsync), ("syscall", "epoll_wait"): float(epoll)},
            CALL_TIME: {("syscall", "fsync"): {MS: fsync}, ("syscall", "epoll_wait"): {MS + 40: epoll}},
        }

    row = between(calls(0, 0), calls(100, 900))
    assert row.values["calls"] == 100
    assert row.values["call_p99"] == pytest.approx(upper_bound(MS), rel=0.01)


def test_numbers_that_are_none() -> None:
    row = between({"kpod_cpu_usage_seconds_total": 1.0}, {"kpod_cpu_usage_seconds_total": float("inf")})
    assert row.values["cpu"] is None
    assert between({}, {"kpod_mem_cgroup_usage_bytes": float("nan")}).values["memory"] is None
