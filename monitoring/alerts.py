"""Alerts. Each has a section of its name in `docs/runbook.md`, which says what to look at next."""

import enum
from dataclasses import dataclass
from textwrap import dedent

from kpod_metrics.diagnosis import thresholds
from kpod_metrics.kernel.syscalls import WAITING
from monitoring.promql import CONTAINER, rate, sum_rate

RUNBOOK = '{{ with query "kpod_build_info" }}http://{{ . | first | label "instance" }}{{ end }}/docs/runbook'
"""Where the runbook is: at any agent that Prometheus reaches when the alert fires, for each of them serves it.

Not at `$labels.instance`: alerts of pods have none, and the agent of KpodAgentDown does not answer. Without an agent it
is a path only.
"""

POD = "{{ $labels.namespace }}/{{ $labels.pod }}{{ with $labels.container }} ({{ . }}){{ end }}"
"""What `{pod}` stands for in a summary."""


class Severity(enum.StrEnum):
    """How soon someone should look."""

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
        """The anchor of its section in the runbook, as it is made of a heading."""
        return self.name.lower()

    def rule(self, runbook: str = RUNBOOK) -> dict[str, object]:
        """Return it as a rule file has it, where `runbook` is the address of that page."""
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
    """Of pods that are still there: a rate goes on for its window after a pod's end, when there is nothing to do."""
    return f"(\n{dedent(expr).strip()}\n)\nand on ({CONTAINER}) {metric}"


THROTTLED = "container:kpod_cpu_throttled_periods:ratio_rate5m"
WAIT = "container:kpod_cpu_runqueue_wait:ratio_rate5m"
# The kernel's wait for a CPU includes that of throttled tasks, so the two alerts part the cases between them: with more
# than a tenth of periods throttled a wait is the limit's, below that it is the neighbours'.
MUCH_WAIT = (
    f"{WAIT} > {thresholds.RUNQUEUE_SHARE:g}\n"
    f"and container:kpod_cpu_runqueue_wait_seconds:rate5m > {thresholds.RUNQUEUE_TASKS:g}"
)

OF_PODS = (
    Alert(
        "KpodRunQueueSaturated",
        _while_there(
            f"{MUCH_WAIT}\nunless {THROTTLED} > {thresholds.THROTTLED_SHARE_WAITING:g}",
            "kpod_cpu_context_switches_total",
        ),
        "10m",
        "{pod} waits for a CPU",
        "Tasks of {pod} on {{ $labels.node }} wait {{ $value | humanizePercentage }} of the time in which they have "
        "something to run, and it is not the pod's CPU limit that holds them back: the CPUs are short, or the "
        "neighbours take them.",
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
        "The CPU limit of {pod} on {{ $labels.node }} is used up in {{ $value | humanizePercentage }} of its periods; "
        "for the rest of each its tasks stand still, however idle the node is.",
    ),
    Alert(
        "KpodMemoryNearLimit",
        f"container:kpod_mem_cgroup_unreclaimable:limit_ratio > {thresholds.MEMORY_OF_LIMIT:g}",
        "5m",
        "{pod} is close to its memory limit",
        "{pod} on {{ $labels.node }} holds {{ $value | humanizePercentage }} of its memory limit in memory that cannot "
        "be reclaimed from the page cache. At the limit its processes are killed.",
    ),
    Alert(
        "KpodMemoryGrowsToLimit",
        f"""
        predict_linear(container:kpod_mem_cgroup_unreclaimable:limit_ratio[1h], 4 * 3600) > 1
        and container:kpod_mem_cgroup_unreclaimable:limit_ratio > {thresholds.MEMORY_TREND_OF_LIMIT:g}
        unless container:kpod_mem_cgroup_unreclaimable:limit_ratio > {thresholds.MEMORY_OF_LIMIT:g}
        """,
        "30m",
        "{pod} grows towards its memory limit",
        "Memory of {pod} on {{ $labels.node }} grows so that within four hours it is at "
        "{{ $value | humanizePercentage }} of its limit. At the limit its processes are killed.",
    ),
    Alert(
        "KpodOomKill",
        # Or it was killed before its first scrape: then nothing grows.
        f"""
        sum by ({CONTAINER}) (increase(kpod_mem_oom_kills_total[10m])) > 0
        or
        sum by ({CONTAINER}) (
          max_over_time(kpod_mem_oom_kills_total[10m]) unless kpod_mem_oom_kills_total offset 10m
        ) > 0
        """,
        "0s",
        "Processes of {pod} were killed for want of memory",
        'The kernel killed {{ $value | printf "%.0f" }} processes of {pod} on {{ $labels.node }} within ten minutes: '
        "the pod's memory limit, or the node's memory, is used up.",
    ),
    Alert(
        "KpodMemoryPressure",
        _while_there(
            f"{rate('kpod_pressure_memory_waiting_seconds_total')} > {thresholds.MEMORY_WAIT_SHARE:g}",
            "kpod_pressure_memory_waiting_seconds_total",
        ),
        "10m",
        "{pod} waits for memory",
        "In {{ $value | humanizePercentage }} of the time some task of {pod} on {{ $labels.node }} waits for memory: "
        "it reclaims, swaps, or reads again what was just dropped from the page cache.",
    ),
    Alert(
        "KpodMajorFaultStorm",
        _while_there(
            f"container:kpod_mem_major_page_faults:rate5m > {thresholds.MAJOR_FAULTS:g}",
            "kpod_mem_major_page_faults_total",
        ),
        "10m",
        "{pod} reads its memory from disk",
        "{pod} on {{ $labels.node }} has {{ $value | humanize }} page faults a second that wait for a disk.",
    ),
    Alert(
        "KpodDiskPressure",
        _while_there(
            f"{rate('kpod_pressure_io_stalled_seconds_total')} > {thresholds.IO_STALL_SHARE:g}",
            "kpod_pressure_io_stalled_seconds_total",
        ),
        "15m",
        "{pod} stands still for I/O",
        "In {{ $value | humanizePercentage }} of the time every task of {pod} on {{ $labels.node }} that has something "
        "to do waits for I/O.",
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
        "Little space is left in {{ $labels.mountpoint }} of {pod}",
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
        # Containers of a node share what is below their roots: one alert a node, not one a container.
        f"""
        min by (cluster, node) (
          kpod_fs_available_bytes{{mountpoint="/"}} / kpod_fs_capacity_bytes{{mountpoint="/"}}
        ) < {thresholds.NODE_SPACE_LOW:g}
        """,
        "15m",
        "Little space is left on {{ $labels.node }} for containers",
        "{{ $value | humanizePercentage }} of the file system that containers of {{ $labels.node }} have as their root "
        "is left; at 10% a kubelet begins to evict pods.",
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
        "{pod} sends TCP segments again",
        "{pod} on {{ $labels.node }} sends {{ $value | humanize }} TCP segments a second again, more than 2% of all "
        "that it sends: packets are lost on the way, or nobody answers.",
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
        "Round trips of {pod} take longer than they did",
        "The mean TCP round trip of {pod} on {{ $labels.node }} is {{ $value | humanizeDuration }}, more than twice "
        "that of the six hours before.",
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
        "{pod} cannot connect",
        "{{ $value | humanize }} TCP connects of {pod} on {{ $labels.node }} fail a second, more than one to ten that "
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
        "{{ $labels.interface }} of {pod} on {{ $labels.node }} drops, or has errors in, {{ $value | humanize }} "
        "packets a second, more than 1% of all.",
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
        # With the time that it takes in all: of few calls, the slowest is the 99th percentile.
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
        "{pod} is started again and again",
        '{pod} on {{ $labels.node }} was started again {{ $value | printf "%.0f" }} times within half an hour.',
    ),
)


def _growth(counter: str) -> str:
    return f"increase({counter}[10m])"


def _growing(counter: str) -> str:
    return f"{_growth(counter)} > 0"


OF_AGENT = (
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
        # By what it served before or by its job's name: a rule file does not know how its user named the job.
        """
        up{job=~".*kpod-metrics.*"} == 0
        or
        (up == 0 and on (job, instance) present_over_time(kpod_build_info[1d]))
        """,
        "5m",
        "The agent at {{ $labels.instance }} is down",
        "Prometheus cannot scrape the kpod-metrics agent at {{ $labels.instance }}: nothing is known of that node's "
        "pods.",
        Severity.CRITICAL,
    ),
    Alert(
        "KpodAgentStuck",
        "time() - kpod_last_cycle_timestamp_seconds > 60 + 3 * kpod_poll_interval_seconds",
        "5m",
        "The agent at {{ $labels.instance }} shows old numbers",
        "The agent at {{ $labels.instance }} answers, but its last cycle ended {{ $value | humanizeDuration }} ago.",
        Severity.CRITICAL,
    ),
    Alert(
        "KpodSlowCycles",
        # Half of what collectors may take before they count as late: half of the interval, and five seconds at most.
        "kpod_collection_cycle_seconds > 0.25 * clamp_max(kpod_poll_interval_seconds, 10)",
        "15m",
        "Cycles of the agent at {{ $labels.instance }} are slow",
        "A cycle of the agent at {{ $labels.instance }} takes {{ $value | humanizeDuration }}: collectors are about to "
        "miss their deadline.",
    ),
    Alert(
        "KpodCollectorOff",
        "kpod_collector_up == 0 unless max_over_time(kpod_collector_up[10m]) > 0",
        "10m",
        "Collector {{ $labels.collector }} is off at {{ $labels.instance }}",
        "Collector {{ $labels.collector }} of the agent at {{ $labels.instance }} has not worked, or not in all of its "
        "parts, for more than ten minutes: its metrics, or some, are missing or old.",
    ),
    Alert(
        "KpodCollectorErrors",
        "increase(kpod_collector_errors_total[30m]) > 5 and max_over_time(kpod_collector_up[10m]) > 0",
        "5m",
        "Collector {{ $labels.collector }} fails now and then at {{ $labels.instance }}",
        '{{ $value | printf "%.0f" }} reads of collector {{ $labels.collector }} at {{ $labels.instance }} failed or '
        "were late within half an hour.",
    ),
    Alert(
        "KpodMapNearCapacity",
        "kpod_bpf_map_entries / kpod_bpf_map_capacity > 0.8",
        "10m",
        "Kernel map {{ $labels.map }} at {{ $labels.instance }} is nearly full",
        "Kernel map {{ $labels.map }} at {{ $labels.instance }} is {{ $value | humanizePercentage }} full. When it is "
        "full, entries are evicted and what they counted is lost.",
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
        "within ten minutes; what they counted after the last read is lost.",
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
        # One cause, such as a source that does not list a pod, is in every collector: one alert an agent.
        'sum without (reason, collector) (rate(kpod_unattributed_events_total{reason="unresolved"}[10m])) > 1',
        "15m",
        "The agent at {{ $labels.instance }} does not know whose events it counts",
        "{{ $value | humanize }} events a second at {{ $labels.instance }} are of pods whose names are not known.",
    ),
    Alert(
        "KpodPodSourceDisconnected",
        "kpod_pod_source_connected == 0",
        "5m",
        "The agent at {{ $labels.instance }} has lost its source of pods",
        "The source of pods of the agent at {{ $labels.instance }}, {{ $labels.source }}, does not answer: new pods "
        "have no names, and what they do is held back.",
    ),
    Alert(
        "KpodSeriesOverflow",
        # One cause, such as too many pods, folds series of nearly every metric: one alert an agent.
        f"sum without (metric) ({_growth('kpod_series_overflow_total')}) > 0",
        "5m",
        "The agent at {{ $labels.instance }} has more series than it may",
        '{{ $value | printf "%.0f" }} updates at {{ $labels.instance }} went into overflow series within ten minutes: '
        "pods are missing from metrics. The runbook has the query for the metrics that are cut most.",
    ),
    Alert(
        "KpodOtlpDropsPoints",
        _growing("kpod_otlp_dropped_points_total"),
        "5m",
        "What the agent at {{ $labels.instance }} pushes does not arrive",
        '{{ $value | printf "%.0f" }} data points of the agent at {{ $labels.instance }} were refused by the OTLP '
        "receiver, or waited for it too long, within ten minutes.",
    ),
)

ALERTS = (*OF_PODS, *OF_AGENT)
