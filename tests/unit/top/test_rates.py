"""Rates between two pages: resets, pods that come and go, quantiles, and what a pod waits for most."""

from typing import Any

import pytest

from kpod_metrics.histogram import quantile, slot_of_exponent, upper_bound
from kpod_metrics.top.rates import Pod, Row, read, rows
from tests.fakes.agent import page

P, Q = ("shop", "web-1", "app"), ("shop", "web-2", "app")
WAIT, CALLS, CALL_TIME = "kpod_cpu_runqueue_latency_seconds", "kpod_syscall_count_total", "kpod_syscall_latency_seconds"
MS = slot_of_exponent(-10)


def between(before: dict[str, Any], now: dict[str, Any], cycles: int = 1) -> Row:
    """The row of a pod whose values were these, ten seconds for each cycle apart."""
    [row] = rows(read(page(0, {P: before})), read(page(cycles, {P: now})))
    return row


def test_rates_are_of_the_time_between_two_cycles() -> None:
    before = {"kpod_cpu_usage_seconds_total": 5.0, "kpod_mem_cgroup_usage_bytes": 1.0}
    now = {"kpod_cpu_usage_seconds_total": 20.0, "kpod_mem_cgroup_usage_bytes": 4096.0}
    row = between(before, now, cycles=3)
    assert (row.pod, row.cpu, row.memory) == (Pod(*P), 0.5, 4096.0)
    assert row.faults is row.disk is row.call_p99 is row.runqueue_p99 is row.throttled is None


def test_series_of_a_metric_are_added_up_each_with_its_own_reset() -> None:
    before = {"kpod_disk_read_bytes_total": {("device", "a"): 1000.0, ("device", "b"): 50.0, ("device", "c"): 9.0}}
    # Of the first as many were read again after it began anew; the last one is gone, another is new.
    now = {
        "kpod_disk_read_bytes_total": {("device", "a"): 30.0, ("device", "b"): 80.0, ("device", "d"): 7e9},
        "kpod_disk_written_bytes_total": {("device", "b"): 10.0},
    }
    assert between(before, now).disk == (30 + 30) / 10


def test_histogram_that_began_anew() -> None:
    row = between({WAIT: {MS: 100, 60: 3}}, {WAIT: {MS: 40}})
    assert (row.runqueue[MS], sum(row.runqueue), row.runqueue_waits) == (40, 40, 4.0)


def test_quantile_is_of_what_came_since_and_as_exact_as_the_slots() -> None:
    row = between({WAIT: {80: 1000}}, {WAIT: {80: 1000, MS: 98, MS + 1: 2}})
    assert row.runqueue_p99 is not None
    assert upper_bound(MS) < row.runqueue_p99 < upper_bound(MS + 1)
    slots = [0] * len(row.runqueue)
    slots[MS], slots[MS + 1] = 98, 2
    assert row.runqueue_p99 == quantile(slots, 0.99)
    assert between({WAIT: {80: 5}}, {WAIT: {80: 5}}).runqueue_p99 is None


def test_pod_that_is_new_has_no_rates_yet_and_one_that_went_no_row() -> None:
    cpu = "kpod_cpu_usage_seconds_total"
    found = rows(read(page(0, {Q: {cpu: 1.0}})), read(page(1, {P: {cpu: 7200.0, "kpod_mem_cgroup_usage_bytes": 5.0}})))
    assert [(row.pod, row.cpu, row.memory) for row in found] == [(Pod(*P), None, 5.0)]


def test_no_rates_with_one_page_nor_with_the_same_cycle() -> None:
    first, second = (read(page(1, {P: {"kpod_cpu_usage_seconds_total": value}})) for value in (1.0, 9.0))
    assert rows(None, first)[0].cpu is None
    assert rows(first, second)[0].cpu is None


def test_slow_syscalls_are_those_that_do_not_wait_by_nature() -> None:
    def calls(fsync: int, epoll: int) -> dict[str, Any]:
        return {
            CALLS: {("syscall", "fsync"): float(fsync), ("syscall", "epoll_wait"): float(epoll)},
            CALL_TIME: {("syscall", "fsync"): {MS: fsync}, ("syscall", "epoll_wait"): {MS + 40: epoll}},
        }

    row = between(calls(0, 0), calls(100, 900))
    assert row.calls == 100
    assert row.call_p99 == pytest.approx(upper_bound(MS), rel=0.01)


def test_numbers_that_are_none() -> None:
    row = between({"kpod_cpu_usage_seconds_total": 1.0}, {"kpod_cpu_usage_seconds_total": float("inf")})
    assert row.cpu is None
    assert between({}, {"kpod_mem_cgroup_usage_bytes": float("nan")}).memory is None


@pytest.mark.parametrize(
    ("grown", "expected"),
    [
        ({"kpod_cpu_usage_seconds_total": 9.0}, ("", 0.0)),
        ({"kpod_pressure_io_waiting_seconds_total": 0.05}, ("", 0.0)),
        ({"kpod_pressure_io_waiting_seconds_total": 2.0}, ("disk", 0.2)),
        (
            {"kpod_pressure_memory_waiting_seconds_total": 3.0, "kpod_pressure_io_waiting_seconds_total": 2.0},
            ("memory", 0.3),
        ),
        # Four tasks that wait at once.
        ({WAIT: 40}, ("cpu", 1.0)),
        ({WAIT: 4}, ("cpu", 0.4)),
        # Throttled time is in the wait for a CPU.
        ({WAIT: 4, "kpod_cpu_throttled_seconds_total": 3.0}, ("throttled", 0.3)),
        ({WAIT: 8, "kpod_cpu_throttled_seconds_total": 3.0}, ("cpu", 0.5)),
        ({"kpod_net_tcp_retransmits_total": 20.0}, ("network", 0.4)),
    ],
)
def test_what_it_waits_for_most(grown: dict[str, float], expected: tuple[str, float]) -> None:
    second = slot_of_exponent(0)

    def total(share: float) -> dict[str, Any]:
        return {name: {second: int(by * share)} if name == WAIT else by * share for name, by in grown.items()}

    row = between(total(1), total(2))
    assert row.waits_for == expected[0]
    assert row.waits == pytest.approx(expected[1])
