"""Recording rules: expressions that several alerts use, or that are slow to compute from many series."""

from dataclasses import dataclass

from kpod_metrics.diagnosis import thresholds
from monitoring.promql import CONTAINER, count_rate, quantile, rate, sum_rate


@dataclass(frozen=True)
class Rule:
    """A recorded expression; its name is level:metric:operation."""

    record: str
    expr: str


def _ratio(of: str, to: str, above: float = 0) -> str:
    """Divide two vectors; without a result if the denominator is not above a bound."""
    return f"{of}\n/\n({to} > {above:g})"


_RTT, _SYSCALL = "kpod_net_tcp_rtt_seconds", "kpod_syscall_latency_seconds"

RULES = (
    Rule("container:kpod_cpu_usage_seconds:rate5m", rate("kpod_cpu_usage_seconds_total")),
    # The average number of tasks in the run queue, throttled ones included.
    Rule("container:kpod_cpu_runqueue_wait_seconds:rate5m", sum_rate("kpod_cpu_runqueue_latency_seconds")),
    # The share of the time in which tasks could run, but waited.
    Rule(
        "container:kpod_cpu_runqueue_wait:ratio_rate5m",
        _ratio(
            "container:kpod_cpu_runqueue_wait_seconds:rate5m",
            "(container:kpod_cpu_runqueue_wait_seconds:rate5m + container:kpod_cpu_usage_seconds:rate5m)",
            thresholds.MIN_BUSY_TASKS,
        ),
    ),
    Rule("container:kpod_cpu_runqueue_latency_seconds:p99_rate5m", quantile(0.99, "kpod_cpu_runqueue_latency_seconds")),
    # The share of throttled periods, of those in which tasks could run.
    Rule(
        "container:kpod_cpu_throttled_periods:ratio_rate5m",
        _ratio(rate("kpod_cpu_throttled_periods_total"), rate("kpod_cpu_periods_total")),
    ),
    # Memory without page cache: if it reaches the limit, the OOM killer acts. (tmpfs is in the page cache.)
    Rule(
        "container:kpod_mem_cgroup_unreclaimable_bytes:sum",
        f"sum by ({CONTAINER}) (kpod_mem_cgroup_usage_bytes)\n-\nsum by ({CONTAINER}) (kpod_mem_cgroup_cache_bytes)",
    ),
    Rule(
        "container:kpod_mem_cgroup_unreclaimable:limit_ratio",
        _ratio(
            "container:kpod_mem_cgroup_unreclaimable_bytes:sum",
            f"sum by ({CONTAINER}) (kpod_mem_cgroup_limit_bytes)",
        ),
    ),
    Rule("container:kpod_mem_major_page_faults:rate5m", rate("kpod_mem_major_page_faults_total")),
    Rule("container:kpod_net_tcp_retransmits:rate5m", rate("kpod_net_tcp_retransmits_total")),
    # Both count segments. Infinite if only SYNs are sent, which have no payload.
    Rule(
        "container:kpod_net_tcp_retransmits:segments_ratio_rate5m",
        f"container:kpod_net_tcp_retransmits:rate5m\n/\n{rate('kpod_net_tcp_segments_sent_total')}",
    ),
    Rule(
        "container:kpod_net_tcp_rtt_seconds:mean5m",
        _ratio(f"(\n{sum_rate(_RTT)}\n)", f"(\n{count_rate(_RTT)}\n)"),
    ),
    Rule("container:kpod_net_tcp_rtt_seconds:p99_rate5m", quantile(0.99, _RTT)),
    Rule("container_syscall:kpod_syscall_count:rate5m", rate("kpod_syscall_count_total", "syscall")),
    Rule(
        "container_syscall:kpod_syscall_errors:ratio_rate5m",
        _ratio(rate("kpod_syscall_errors_total", "syscall"), "container_syscall:kpod_syscall_count:rate5m"),
    ),
    Rule("container_syscall:kpod_syscall_latency_seconds:p99_rate5m", quantile(0.99, _SYSCALL, "syscall")),
)
