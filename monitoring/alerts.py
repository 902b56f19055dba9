"""Alerts. Each has a section in `docs/runbook.md`, which describes the next steps."""

import enum
from dataclasses import dataclass
from textwrap import dedent

from kpod_metrics.diagnosis import thresholds
from kpod_metrics.kernel.syscalls import WAITING
from monitoring.promql import CONTAINER, rate, sum_rate

RUNBOOK = '{{ with query "kpod_build_info" }}http://{{ . | first | label "instance" }}{{ end }}/docs/runbook'
"""Address of the runbook: every agent serves it, so it is at any agent that Prometheus reaches when the alert fires.

It is not at `$labels.instance`: alerts about pods have no such label, and the agent of KpodAgentDown does not answer.
Without an agent it is only a path.
"""

POD = "{{ $labels.namespace }}/{{ $labels.pod }}{{ with $labels.container }} ({{ . }}){{ end }}"
"""Text that replaces `{pod}` in summaries and descriptions."""


class Severity(enum.StrEnum):
    """How urgent an alert is."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Alert:
    """One alert; `lasts` is its `for`."""

    name: str
    expr: str
    lasts: str
    summary: str
    description: str
    severity: Severity = Severity.WARNING

    @property
    def anchor(self) -> str:
        """The anchor of its section in the runbook."""
        return self.name.lower()

    def rule(self, runbook: str = RUNBOOK) -> dict[str, object]:
        """Return it in the format of a rule file; `runbook` is the address of that page."""
        return {
            "alert": self.name,
            "expr": dedent(self.expr).strip(),
            "for": self.lasts,
            "labels": {"severity": str(self.severity)},
            "annotations": {
                "summary": self.summary.replace("{pod}", POD),
                "description": self.description.replace("{pod}", POD),
                "runbook_url": f"{runbook}#{self.anchor}",
            },
        }


def _while_there(expr: str, metric: str) -> str:
    """Restrict an expression to pods that exist: a rate continues for its window after the end of a pod."""
    return f"(\n{dedent(expr).strip()}\n)\nand on ({CONTAINER}) {metric}"


THROTTLED = "container:kpod_cpu_throttled_periods:ratio_rate5m"
WAIT = "container:kpod_cpu_runqueue_wait:ratio_rate5m"
# The kernel's run-queue wait includes that of throttled tasks. So if more than a tenth of the periods is throttled, the
# CPU limit is the cause (KpodCpuThrottled), else it is the neighbours or the node (KpodRunQueueSaturated).
MUCH_WAIT = (
    f"{WAIT} > {thresholds.RUNQUEUE_SHARE:g}\n"
    f"and container:kpod_cpu_runqueue_wait_seconds:rate5m > {thresholds.RUNQUEUE_TASKS:g}"
)

POD_ALERTS = (
    Alert(
        "KpodRunQueueSaturated",
        _while_there(
            f"{MUCH_WAIT}\nunless {THROTTLED} > {thresholds.THROTTLED_SHARE_WAITING:g}",
            "kpod_cpu_context_switches_total",
        ),
        "10m",
        "{pod} waits in the run queue",
        "Tasks of {pod} on {{ $labels.node }} wait in the run queue for {{ $value | humanizePercentage }} of the time "
        "in which they could run, and the pod's CPU limit is not the cause: other pods use the CPUs.",
    ),
    Alert(
        "KpodCpuThrottled",
        _while_there(
            f"""
            (
              {THROTTLED} > {thresholds.THROTTLED_SHARE:g}
              or
              ({THROTTLED} > {thresholds.THROTTLED_SHARE_WAITING:g} and {MUCH_WAIT})
            )
            and {rate("kpod_cpu_periods_total")} > {thresholds.MIN_PERIODS:g}
            """,
            "kpod_cpu_periods_total",
        ),
        "15m",
        "{pod} is throttled by its CPU limit",
        "The CPU limit of {pod} on {{ $labels.node }} throttles it in {{ $value | humanizePercentage }} of the "
        "periods: its tasks stop for the rest of the period, even if the node is idle.",
    ),
    Alert(
        "KpodMemoryNearLimit",
        f"container:kpod_mem_cgroup_unreclaimable:limit_ratio > {thresholds.MEMORY_OF_LIMIT:g}",
        "5m",
        "{pod} is close to its memory limit",
        "{pod} on {{ $labels.node }} uses {{ $value | humanizePercentage }} of its memory limit, without page cache. "
        "At the limit the OOM killer kills its processes.",
    ),
    Alert(
        "KpodMemoryGrowsToLimit",
        f"""
        predict_linear(container:kpod_mem_cgroup_unreclaimable:limit_ratio[1h], 4 * 3600) > 1
        and container:kpod_mem_cgroup_unreclaimable:limit_ratio > {thresholds.MEMORY_TREND_OF_LIMIT:g}
        unless container:kpod_mem_cgroup_unreclaimable:limit_ratio > {thresholds.MEMORY_OF_LIMIT:g}
        """,
        "30m",
        "{pod} will reach its memory limit",
        "Memory of {pod} on {{ $labels.node }} grows. In four hours it will be {{ $value | humanizePercentage }} of "
        "the limit. At the limit the OOM killer kills its processes.",
    ),
    Alert(
        "KpodOomKill",
        # If it was killed before its first scrape, the counter does not grow.
        f"""
        sum by ({CONTAINER}) (increase(kpod_mem_oom_kills_total[10m])) > 0
        or
        sum by ({CONTAINER}) (
          max_over_time(kpod_mem_oom_kills_total[10m]) unless kpod_mem_oom_kills_total offset 10m
        ) > 0
        """,
        "0s",
        "The OOM killer killed processes of {pod}",
        'OOM kills of {pod} on {{ $labels.node }} within ten minutes: {{ $value | printf "%.0f" }}. The pod reached '
        "its memory limit, or the node has no memory left.",
    ),
    Alert(
        "KpodMemoryPressure",
        _while_there(
            f"{rate('kpod_pressure_memory_waiting_seconds_total')} > {thresholds.MEMORY_WAIT_SHARE:g}",
            "kpod_pressure_memory_waiting_seconds_total",
        ),
        "10m",
        "{pod} waits for memory",
        "For {{ $value | humanizePercentage }} of the time at least one task of {pod} on {{ $labels.node }} waits for "
        "memory: reclaim, swap, or pages that were just dropped from the page cache.",
    ),
    Alert(
        "KpodMajorFaultStorm",
        _while_there(
            f"container:kpod_mem_major_page_faults:rate5m > {thresholds.MAJOR_FAULTS:g}",
            "kpod_mem_major_page_faults_total",
        ),
        "10m",
        "{pod} has many major page faults",
        "{pod} on {{ $labels.node }} has {{ $value | humanize }} page faults a second that wait for the disk.",
    ),
    Alert(
        "KpodDiskPressure",
        _while_there(
            f"{rate('kpod_pressure_io_stalled_seconds_total')} > {thresholds.IO_STALL_SHARE:g}",
            "kpod_pressure_io_stalled_seconds_total",
        ),
        "15m",
        "{pod} is stalled on I/O",
        "For {{ $value | humanizePercentage }} of the time all tasks of {pod} on {{ $labels.node }} that could run "
        "wait for I/O.",
    ),
    Alert(
        "KpodFilesystemLow",
        f"""
        min by ({CONTAINER}, mountpoint) (
          kpod_fs_available_bytes{{mountpoint!="/"}} / kpod_fs_capacity_bytes{{mountpoint!="/"}}
          < {thresholds.SPACE_LOW:g}
          unless kpod_fs_available_bytes / kpod_fs_capacity_bytes < {thresholds.SPACE_FULL:g}
        )
        """,
        "15m",
        "{{ $labels.mountpoint }} of {pod} is nearly full",
        "{{ $value | humanizePercentage }} of the file system at {{ $labels.mountpoint }} of {pod} on "
        "{{ $labels.node }} is left.",
    ),
    Alert(
        "KpodFilesystemFull",
        f"""
        min by ({CONTAINER}, mountpoint) (
          kpod_fs_available_bytes{{mountpoint!="/"}} / kpod_fs_capacity_bytes{{mountpoint!="/"}}
        ) < {thresholds.SPACE_FULL:g}
        """,
        "5m",
        "{{ $labels.mountpoint }} of {pod} is full",
        "{{ $value | humanizePercentage }} of the file system at {{ $labels.mountpoint }} of {pod} on "
        "{{ $labels.node }} is left: writes fail now or soon.",
        Severity.CRITICAL,
    ),
    Alert(
        "KpodNodeFilesystemLow",
        # Containers of a node share the file system of their root directories: one alert per node, not per container.
        f"""
        min by (cluster, node) (
          kpod_fs_available_bytes{{mountpoint="/"}} / kpod_fs_capacity_bytes{{mountpoint="/"}}
        ) < {thresholds.NODE_SPACE_LOW:g}
        """,
        "15m",
        "The disk for containers on {{ $labels.node }} is nearly full",
        "{{ $value | humanizePercentage }} is left of the file system of the containers' root directories on "
        "{{ $labels.node }}. At 10% the kubelet begins to evict pods.",
    ),
    Alert(
        "KpodTcpRetransmits",
        _while_there(
            f"""
            container:kpod_net_tcp_retransmits:rate5m > {thresholds.RETRANSMITS:g}
            and container:kpod_net_tcp_retransmits:segments_ratio_rate5m > {thresholds.RETRANSMIT_SHARE:g}
            """,
            "kpod_net_tcp_retransmits_total",
        ),
        "10m",
        "{pod} has many TCP retransmits",
        f"{{pod}} on {{{{ $labels.node }}}} has {{{{ $value | humanize }}}} TCP retransmits a second, more than "
        f"{thresholds.RETRANSMIT_SHARE:.0%} of its segments: the network loses packets, or a peer does not answer.",
    ),
    Alert(
        "KpodTcpRttRise",
        _while_there(
            f"""
            container:kpod_net_tcp_rtt_seconds:mean5m > {thresholds.RTT_SECONDS:g}
            and container:kpod_net_tcp_rtt_seconds:mean5m
              > {thresholds.RTT_RISE:g} * avg_over_time(container:kpod_net_tcp_rtt_seconds:mean5m[6h] offset 10m)
            """,
            "kpod_net_tcp_retransmits_total",
        ),
        "10m",
        "The TCP round-trip time of {pod} has doubled",
        "The mean TCP round-trip time of {pod} on {{ $labels.node }} is {{ $value | humanizeDuration }}, more than "
        "twice that of the six hours before.",
    ),
    Alert(
        "KpodTcpConnectFailures",
        _while_there(
            f"""
            {rate("kpod_net_tcp_connect_failures_total")} > {thresholds.CONNECT_FAILURES:g}
            and {rate("kpod_net_tcp_connect_failures_total")}
              > {thresholds.CONNECT_FAILURE_RATIO:g} * {rate('kpod_net_tcp_connections_total{direction="outbound"}')}
            """,
            "kpod_net_tcp_connect_failures_total",
        ),
        "10m",
        "TCP connects of {pod} fail",
        "{{ $value | humanize }} TCP connects a second of {pod} on {{ $labels.node }} fail, more than one for ten that "
        "succeed: refused, timed out or unreachable.",
    ),
    Alert(
        "KpodInterfaceDrops",
        _while_there(
            "("
            + " + ".join(
                rate(f"kpod_net_iface_{way}_{what}_total", "interface")
                for way in ("rx", "tx")
                for what in ("drops", "errors")
            )
            + f") > {thresholds.LOST_PACKETS:g}\nand ("
            + " + ".join(
                rate(f"kpod_net_iface_{way}_{what}_total", "interface")
                for way in ("rx", "tx")
                for what in ("drops", "errors")
            )
            + f") > {thresholds.LOST_PACKET_SHARE:g} * ("
            + " + ".join(rate(f"kpod_net_iface_{way}_packets_total", "interface") for way in ("rx", "tx"))
            + ")",
            "kpod_net_iface_rx_packets_total",
        ),
        "10m",
        "{{ $labels.interface }} of {pod} loses packets",
        "{{ $labels.interface }} of {pod} on {{ $labels.node }} loses {{ $value | humanize }} packets a second by "
        "drops or errors, more than 1% of all.",
    ),
    Alert(
        "KpodSyscallErrors",
        _while_there(
            f"""
            container_syscall:kpod_syscall_errors:ratio_rate5m{{syscall!~"{WAITING}"}}
              > {thresholds.SYSCALL_ERROR_SHARE:g}
            and container_syscall:kpod_syscall_count:rate5m > {thresholds.SYSCALLS:g}
            """,
            "kpod_syscall_count_total",
        ),
        "10m",
        "{{ $labels.syscall }} fails in {pod}",
        "{{ $value | humanizePercentage }} of the calls of {{ $labels.syscall }} by {pod} on {{ $labels.node }} fail.",
    ),
    Alert(
        "KpodSyscallSlow",
        # Together with the total time: of few calls, the slowest one is the 99th percentile.
        _while_there(
            f"""
            container_syscall:kpod_syscall_latency_seconds:p99_rate5m{{syscall!~"{WAITING}"}}
              > {thresholds.SLOW_SYSCALL_SECONDS:g}
            and (
            {sum_rate("kpod_syscall_latency_seconds", "syscall")}
            ) > {thresholds.SLOW_SYSCALL_TASKS:g}
            """,
            "kpod_syscall_count_total",
        ),
        "10m",
        "{{ $labels.syscall }} is slow in {pod}",
        "One in a hundred calls of {{ $labels.syscall }} by {pod} on {{ $labels.node }} takes "
        "{{ $value | humanizeDuration }} or longer.",
    ),
    Alert(
        "KpodContainerRestarts",
        f"max by ({CONTAINER}) (kpod_container_restarts - min_over_time(kpod_container_restarts[30m]))"
        f" >= {thresholds.RESTARTS}",
        "0s",
        "{pod} restarts repeatedly",
        '{pod} on {{ $labels.node }} restarted {{ $value | printf "%.0f" }} times within half an hour.',
    ),
)


def _growth(counter: str) -> str:
    return f"increase({counter}[10m])"


def _growing(counter: str) -> str:
    return f"{_growth(counter)} > 0"


AGENT_ALERTS = (
    Alert(
        "KpodAgentsAbsent",
        "absent(kpod_build_info)",
        "15m",
        "No kpod-metrics agent is scraped",
        "Prometheus has no metrics of any kpod-metrics agent.",
        Severity.CRITICAL,
    ),
    Alert(
        "KpodAgentDown",
        # By its job's name, or by what it served before: the user may have named the job differently.
        """
        up{job=~".*kpod-metrics.*"} == 0
        or
        (up == 0 and on (job, instance) present_over_time(kpod_build_info[1d]))
        """,
        "5m",
        "The agent at {{ $labels.instance }} is down",
        "Prometheus cannot scrape the kpod-metrics agent at {{ $labels.instance }}: metrics of that node's pods are "
        "missing.",
        Severity.CRITICAL,
    ),
    Alert(
        "KpodAgentStuck",
        "time() - kpod_last_cycle_timestamp_seconds > 60 + 3 * kpod_poll_interval_seconds",
        "5m",
        "The agent at {{ $labels.instance }} serves old values",
        "The agent at {{ $labels.instance }} answers, but its last cycle ended {{ $value | humanizeDuration }} ago.",
        Severity.CRITICAL,
    ),
    Alert(
        "KpodSlowCycles",
        # Half of the deadline of collectors, which is half of the interval, but at most five seconds.
        "kpod_collection_cycle_seconds > 0.25 * clamp_max(kpod_poll_interval_seconds, 10)",
        "15m",
        "Cycles of the agent at {{ $labels.instance }} are slow",
        "A cycle of the agent at {{ $labels.instance }} takes {{ $value | humanizeDuration }}: collectors will soon "
        "miss their deadline.",
    ),
    Alert(
        "KpodCollectorOff",
        "kpod_collector_up == 0 unless max_over_time(kpod_collector_up[10m]) > 0",
        "10m",
        "Collector {{ $labels.collector }} is off at {{ $labels.instance }}",
        "Collector {{ $labels.collector }} of the agent at {{ $labels.instance }}, or a part of it, has not worked for "
        "more than ten minutes: some of its metrics are missing or old.",
    ),
    Alert(
        "KpodCollectorErrors",
        "increase(kpod_collector_errors_total[30m]) > 5 and max_over_time(kpod_collector_up[10m]) > 0",
        "5m",
        "Collector {{ $labels.collector }} sometimes fails at {{ $labels.instance }}",
        '{{ $value | printf "%.0f" }} reads of collector {{ $labels.collector }} at {{ $labels.instance }} failed or '
        "were late within half an hour.",
    ),
    Alert(
        "KpodMapNearCapacity",
        "kpod_bpf_map_entries / kpod_bpf_map_capacity > 0.8",
        "10m",
        "Kernel map {{ $labels.map }} at {{ $labels.instance }} is nearly full",
        "Kernel map {{ $labels.map }} at {{ $labels.instance }} is {{ $value | humanizePercentage }} full. If it fills "
        "up, the kernel evicts entries, and events are lost.",
    ),
    Alert(
        "KpodMapUpdatesFail",
        _growing("kpod_bpf_map_update_errors_total"),
        "5m",
        "Updates of kernel map {{ $labels.map }} fail at {{ $labels.instance }}",
        '{{ $value | printf "%.0f" }} updates of kernel map {{ $labels.map }} at {{ $labels.instance }} failed within '
        "ten minutes: as many events are not counted.",
    ),
    Alert(
        "KpodMapEvictions",
        _growing("kpod_bpf_map_evictions_total"),
        "5m",
        "Kernel map {{ $labels.map }} at {{ $labels.instance }} loses entries",
        'The kernel evicted {{ $value | printf "%.0f" }} entries of map {{ $labels.map }} at {{ $labels.instance }} '
        "within ten minutes: events after the last read are lost.",
    ),
    Alert(
        "KpodProgramRunsMissed",
        _growing("kpod_bpf_program_missed_runs_total"),
        "5m",
        "The kernel skips program {{ $labels.program }} at {{ $labels.instance }}",
        'The kernel skipped {{ $value | printf "%.0f" }} runs of program {{ $labels.program }} at '
        "{{ $labels.instance }} within ten minutes: as many events are not counted.",
    ),
    Alert(
        "KpodUnresolvedEvents",
        # One cause, such as a source that does not list a pod, affects all collectors: one alert per agent.
        'sum without (reason, collector) (rate(kpod_unattributed_events_total{reason="unresolved"}[10m])) > 1',
        "15m",
        "The agent at {{ $labels.instance }} counts events of unknown pods",
        "{{ $value | humanize }} events a second at {{ $labels.instance }} are of pods whose names are not known.",
    ),
    Alert(
        "KpodPodSourceDisconnected",
        "kpod_pod_source_connected == 0",
        "5m",
        "The agent at {{ $labels.instance }} has lost its source of pods",
        "The source of pods of the agent at {{ $labels.instance }}, {{ $labels.source }}, does not answer: the names "
        "of new pods are not known, and their events are held.",
    ),
    Alert(
        "KpodSeriesOverflow",
        # One cause, such as too many pods, affects nearly all metrics: one alert per agent.
        f"sum without (metric) ({_growth('kpod_series_overflow_total')}) > 0",
        "5m",
        "The agent at {{ $labels.instance }} has reached its series limit",
        '{{ $value | printf "%.0f" }} updates at {{ $labels.instance }} went into overflow series within ten minutes: '
        "pods are missing from metrics. The runbook has a query for the affected metrics.",
    ),
    Alert(
        "KpodOtlpDropsPoints",
        _growing("kpod_otlp_dropped_points_total"),
        "5m",
        "The agent at {{ $labels.instance }} drops OTLP points",
        '{{ $value | printf "%.0f" }} data points of the agent at {{ $labels.instance }} were dropped within ten '
        "minutes: the OTLP receiver rejected them, or did not answer.",
    ),
)

ALERTS = (*POD_ALERTS, *AGENT_ALERTS)
