"""What a container did between two pages of metrics: the one place that takes differences of exported totals."""

import math
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum

from kpod_metrics.histogram import EMPTY, Histogram

Labels = tuple[str, ...]
"""The values of a metric's own labels."""
Value = float | Histogram
Totals = Mapping[str, Mapping[Labels, Value]]
"""The values of one container on a page, by metric."""


class Input(StrEnum):
    """The metrics that a diagnosis is made from."""

    RUNQUEUE_WAIT = "kpod_cpu_runqueue_latency_seconds"
    CPU_USAGE = "kpod_cpu_usage_seconds_total"
    CPU_PERIODS = "kpod_cpu_periods_total"
    CPU_THROTTLED_PERIODS = "kpod_cpu_throttled_periods_total"
    CPU_WAITING = "kpod_pressure_cpu_waiting_seconds_total"
    MEMORY_WAITING = "kpod_pressure_memory_waiting_seconds_total"
    MEMORY_USAGE = "kpod_mem_cgroup_usage_bytes"
    MEMORY_CACHE = "kpod_mem_cgroup_cache_bytes"
    MEMORY_LIMIT = "kpod_mem_cgroup_limit_bytes"
    OOM_KILLS = "kpod_mem_oom_kills_total"
    MAJOR_FAULTS = "kpod_mem_major_page_faults_total"
    IO_STALLED = "kpod_pressure_io_stalled_seconds_total"
    SPACE_AVAILABLE = "kpod_fs_available_bytes"
    SPACE_CAPACITY = "kpod_fs_capacity_bytes"
    RETRANSMITS = "kpod_net_tcp_retransmits_total"
    SEGMENTS_SENT = "kpod_net_tcp_segments_sent_total"
    CONNECTIONS = "kpod_net_tcp_connections_total"
    CONNECT_FAILURES = "kpod_net_tcp_connect_failures_total"
    RX_PACKETS = "kpod_net_iface_rx_packets_total"
    TX_PACKETS = "kpod_net_iface_tx_packets_total"
    RX_DROPS = "kpod_net_iface_rx_drops_total"
    TX_DROPS = "kpod_net_iface_tx_drops_total"
    RX_ERRORS = "kpod_net_iface_rx_errors_total"
    TX_ERRORS = "kpod_net_iface_tx_errors_total"
    SYSCALLS = "kpod_syscall_count_total"
    SYSCALL_ERRORS = "kpod_syscall_errors_total"
    SYSCALL_SECONDS = "kpod_syscall_latency_seconds"
    RESTARTS = "kpod_container_restarts"


GAUGES = frozenset(
    {Input.MEMORY_USAGE, Input.MEMORY_CACHE, Input.MEMORY_LIMIT, Input.SPACE_AVAILABLE, Input.SPACE_CAPACITY}
)
"""Inputs of which the last value matters."""
RATED = frozenset(Input) - GAUGES
"""Inputs of which the growth matters."""
PREEXISTING = frozenset(
    {
        *(Input.CPU_USAGE, Input.CPU_PERIODS, Input.CPU_THROTTLED_PERIODS),
        *(Input.CPU_WAITING, Input.MEMORY_WAITING, Input.IO_STALLED, Input.RESTARTS),
    }
)
"""Totals that can be older than their first page, such as those of cgroup files. The others start at 0 with it."""
_FROM_ZERO = RATED - PREEXISTING


class Rates:
    """Growth per second of one container's totals, and the last values of its gauges."""

    def __init__(self, before: Totals | None, now: Totals, seconds: float) -> None:
        """`before` is None if there is no earlier page, and empty if that page does not have the container."""
        self._before = before if seconds > 0 else None
        self._now = now
        self.seconds = seconds

    def _pairs(self, name: str) -> Iterator[tuple[Labels, Value, Value]]:
        """Yield the labels of each series of which the growth is known, its value now and its value before."""
        if self._before is None:
            return
        before = self._before.get(name, {})
        for labels, now in self._now.get(name, {}).items():
            if (was := before.get(labels)) is not None:
                yield labels, now, was
            elif name in _FROM_ZERO:
                yield labels, now, EMPTY if isinstance(now, Histogram) else 0.0

    def by_label(self, *names: str) -> dict[str, float]:
        """Return the growth per second of these metrics by label value; of a histogram, the observed seconds.

        A total that is smaller than before started from 0 in between.
        """
        found: dict[str, float] = {}
        for name in names:
            for labels, now, was in self._pairs(name):
                total, earlier = _number(now), _number(was)
                growth = total - earlier if total >= earlier else total
                if math.isfinite(growth):
                    key = ",".join(labels)
                    found[key] = found.get(key, 0.0) + growth / self.seconds
        return found

    def rate(self, *names: str) -> float | None:
        """Return the growth per second of all series of these metrics; None if no growth is known."""
        found = self.by_label(*names)
        return sum(found.values()) if found else None

    def observed(self, name: str, chosen: str = ".*") -> list[int] | None:
        """Return the observations by bucket, of all series whose labels match the expression; None if there are none.

        The expression is for the label values, joined by commas.
        """
        total: list[int] | None = None
        for labels, now, was in self._pairs(name):
            if not (isinstance(now, Histogram) and isinstance(was, Histogram)):
                continue
            if not re.fullmatch(chosen, ",".join(labels)):
                continue
            grown = [one - other for one, other in zip(now.buckets, was.buckets, strict=True)]
            if min(grown) < 0:
                grown = list(now.buckets)
            total = grown if total is None else [one + other for one, other in zip(total, grown, strict=True)]
        return total

    def last_by_label(self, name: str) -> dict[str, float]:
        """Return the last value of each series of a gauge, by the value of its only label."""
        return {",".join(labels): value for labels, value in self._last(name)}

    def last(self, *names: str) -> float | None:
        """Return the sum of the last values of gauges; None if there are none."""
        found = [value for name in names for _, value in self._last(name)]
        return sum(found) if found else None

    def _last(self, name: str) -> Iterator[tuple[Labels, float]]:
        for labels, value in self._now.get(name, {}).items():
            if not isinstance(value, Histogram) and math.isfinite(value):
                yield labels, value


def _number(value: Value) -> float:
    return value.sum_ns / 1e9 if isinstance(value, Histogram) else value
