"""What a few numbers were a cycle or two ago, so that the landing page tells rates the first time it is asked for.

Of the metrics in RATED only, one value a series: at 100 pods of the standard profile 0.1 ms a cycle and 0.3 MB.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kpod_metrics.exposition.page import Page
from kpod_metrics.histogram import Histogram
from kpod_metrics.store import Series

RATED = frozenset(
    {
        "kpod_cpu_runqueue_latency_seconds",
        "kpod_cpu_usage_seconds_total",
        "kpod_cpu_throttled_periods_total",
        "kpod_cpu_periods_total",
        "kpod_net_tcp_retransmits_total",
        "kpod_net_tcp_segments_sent_total",
        "kpod_net_tcp_connect_failures_total",
        "kpod_net_tcp_connections_total",
        "kpod_net_iface_rx_packets_total",
        "kpod_net_iface_tx_packets_total",
        "kpod_net_iface_rx_drops_total",
        "kpod_net_iface_tx_drops_total",
        "kpod_net_iface_rx_errors_total",
        "kpod_net_iface_tx_errors_total",
        "kpod_mem_oom_kills_total",
        "kpod_mem_major_page_faults_total",
        "kpod_pressure_cpu_waiting_seconds_total",
        "kpod_pressure_memory_waiting_seconds_total",
        "kpod_pressure_io_stalled_seconds_total",
        "kpod_syscall_count_total",
        "kpod_syscall_errors_total",
        "kpod_syscall_latency_seconds",
        "kpod_container_restarts",
    }
)

Numbers = Mapping[str, Mapping[Series, int | float | Histogram]]
"""By metric and series."""


class View(NamedTuple):
    """A cycle's page, and what was before."""

    page: Page
    at: float
    """time.monotonic() at the end of its cycle."""
    before: Numbers
    since: float
    """time.monotonic() of those; that of the page where there are none yet."""

    @property
    def seconds(self) -> float:
        """How long ago that was; 0 where there are none yet."""
        return self.at - self.since


def number(value: int | float | Histogram) -> float:
    """Return a sample's value; of a histogram its sum, in nanoseconds."""
    return value.sum_ns if isinstance(value, Histogram) else value


class Recent:
    """Keeps the numbers of a cycle that is at least `window` seconds older than the newest, as soon as there is one.

    One thread writes; `view` is replaced whole, so that any may read it.
    """

    def __init__(self, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = window
        self._clock = clock
        self._older: tuple[float, Numbers] | None = None
        self._newer: tuple[float, Numbers] | None = None
        self.view: View | None = None
        """None before the first cycle."""

    def note(self, page: Page) -> None:
        """Take the page of a cycle that just ended."""
        now = self._clock()
        if self._newer is None:
            self._newer = now, _numbers(page)
            self.view = View(page, now, {}, now)
            return
        if now - self._newer[0] >= 0.9 * self.window:  # cycles are not exactly an interval apart
            self._older, self._newer = self._newer, (now, _numbers(page))
        since, before = self._older or self._newer
        self.view = View(page, now, before, since)


def _numbers(page: Page) -> Numbers:
    return {
        family.metric.name: {sample.series: sample.value for sample in family.samples}
        for family in page.families
        if family.metric.name in RATED
    }
