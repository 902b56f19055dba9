"""What each pod of this node waits for: rates and shares since a cycle ago, and in words what stands out.

Limits are those of the alerts (`kpod_metrics.limits`), without their patience. As the alerts do, they judge each
container by itself. Two alerts compare with hours before, which the agent does not keep: they have no reason here.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kpod_metrics import limits
from kpod_metrics.exposition.recent import View, number
from kpod_metrics.histogram import Histogram, quantile
from kpod_metrics.kernel.syscalls import waits_by_nature
from kpod_metrics.metrics import Kind, Scope
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import OVERFLOW

IN_SYSCALLS = 0.1
"""No alert's: tasks that are, on average, in syscalls that should not wait."""
KILLED = 100.0
"""Weight of a kill: nothing else is worse."""
FULL = 50.0
"""Weight of a full file system: the most that one can have."""

NOTABLE = 0.5
"""Of a limit: from here on it is said, though no alert is pending for it."""
NOTABLE_FAULTS = 10.0
"""Major faults a second that are said: each waits some milliseconds for a disk, so a task waits a tenth of the time."""


class Reason(NamedTuple):
    """What a pod waits for. `weight` is how far it is to the limit: 1 at it."""

    weight: float
    text: str
    alert: str
    """Whose limit and whose section of the runbook it is."""


@dataclass(slots=True)
class Pod:
    """One pod: shares are 0 to 1, rates a second, None is what is not known (not collected, or no cycle before)."""

    namespace: str
    name: str
    waiting: float | None = None
    """Tasks that wait for a CPU, on average; those throttled too."""
    throttled: float | None = None
    """Of the periods of its CPU limit, those in which it was used up; of the container with most."""
    retransmits: float | None = None
    faults: float | None = None
    syscalls: dict[str, float] | None = None
    """Tasks in each syscall that should not wait, on average."""
    io: float | None = None
    """Share of the time in which all of a container stood still for I/O; of the container with most."""
    memory: float | None = None
    """Share of the time in which some task waited for memory; of the container with most."""
    reasons: list[Reason] = field(default_factory=list)
    """The worst first."""

    @property
    def weight(self) -> float:
        """How bad it is: 1 is at an alert's limit."""
        return self.reasons[0].weight if self.reasons else 0.0


_Values = dict[tuple[str, str], float]
"""Of one container, by metric and its own label's value ("" where it has none): growth a second, or a gauge's value."""

_GAUGES = {
    "kpod_mem_cgroup_usage_bytes",
    "kpod_mem_cgroup_cache_bytes",
    "kpod_mem_cgroup_limit_bytes",
    "kpod_fs_available_bytes",
    "kpod_fs_capacity_bytes",
}
_LOST = (
    "kpod_net_iface_rx_drops_total",
    "kpod_net_iface_tx_drops_total",
    "kpod_net_iface_rx_errors_total",
    "kpod_net_iface_tx_errors_total",
)
_PACKETS = ("kpod_net_iface_rx_packets_total", "kpod_net_iface_tx_packets_total")
_NONE = Reason(0.0, "", "")
_SLOWEST = "99th percentile"
"""Stands for a metric's name: of the calls of a syscall, in seconds."""


def pods(view: View) -> list[Pod]:
    """Return every pod that has series, the worst first."""
    by_pod: dict[Identity, list[_Values]] = {}
    for identity, values in _values(view).items():
        by_pod.setdefault(identity.of_pod, []).append(values)
    found = [_pod(identity, containers, view.seconds) for identity, containers in by_pod.items()]
    return sorted(found, key=lambda pod: (-pod.weight, -(pod.waiting or 0.0), pod.namespace, pod.name))


def _values(view: View) -> dict[Identity, _Values]:
    seconds = view.seconds
    found: dict[Identity, _Values] = defaultdict(dict)
    for family in view.page.families:
        table, metric = family.table, family.metric
        if table.scope is Scope.AGENT:
            continue
        before = view.before.get(metric.name, {}) if seconds else None
        unit = 1e-9 if metric.kind is Kind.HISTOGRAM else 1.0
        rated = metric.name in view.before
        for sample in family.samples:
            series = sample.series
            if series.identity is OVERFLOW:
                continue
            mine = found[series.identity]
            if metric.name in _GAUGES:
                mine[metric.name, "".join(series.labels)] = number(sample.value)
            elif before is not None and rated:
                # One that is new began at 0, unless a total is read that may be old: the kernel's, or the source's.
                was = before.get(series, None if table.preexisting or metric.kind is Kind.GAUGE else 0)
                if was is not None:
                    key = metric.name, "".join(series.labels)
                    grown = (number(sample.value) - number(was)) * unit / seconds
                    mine[key] = mine.get(key, 0.0) + grown
                    if metric.name == "kpod_syscall_latency_seconds" and grown > limits.IN_SLOW_CALLS:
                        mine[_SLOWEST, key[1]] = _p99(sample.value, was)
    return found


def _p99(now: int | float | Histogram, was: int | float | Histogram) -> float:
    """Of what was observed in between."""
    assert isinstance(now, Histogram)
    before = was.slots if isinstance(was, Histogram) else [0] * len(now.slots)
    return quantile([one - other for one, other in zip(now.slots, before, strict=True)], 0.99)


def _by_label(values: _Values, name: str) -> dict[str, float]:
    return {label: value for (metric, label), value in values.items() if metric == name}


def _sum(containers: list[_Values], name: str) -> float | None:
    there = [values[name, ""] for values in containers if (name, "") in values]
    return sum(there) if there else None


def _most(containers: list[_Values], name: str) -> float | None:
    return max((values[name, ""] for values in containers if (name, "") in values), default=None)


def _pod(identity: Identity, containers: list[_Values], seconds: float) -> Pod:
    pod = Pod(identity.namespace, identity.pod)
    pod.waiting = _sum(containers, "kpod_cpu_runqueue_latency_seconds")
    pod.retransmits = _sum(containers, "kpod_net_tcp_retransmits_total")
    pod.faults = _sum(containers, "kpod_mem_major_page_faults_total")
    pod.io = _most(containers, "kpod_pressure_io_stalled_seconds_total")
    pod.memory = _most(containers, "kpod_pressure_memory_waiting_seconds_total")
    worst: dict[str, Reason] = {}
    for values in containers:
        throttled = _throttled(values)
        if throttled is not None:
            pod.throttled = max(pod.throttled or 0.0, throttled)
        if syscalls := _by_label(values, "kpod_syscall_latency_seconds"):
            pod.syscalls = pod.syscalls or {}
            for syscall, tasks in syscalls.items():
                if not waits_by_nature(syscall):
                    pod.syscalls[syscall] = pod.syscalls.get(syscall, 0.0) + tasks
        for reason in _reasons(values, seconds):
            if reason.weight >= NOTABLE and reason > worst.get(reason.alert, _NONE):
                worst[reason.alert] = reason
    pod.reasons = sorted(worst.values(), reverse=True)
    return pod


def _throttled(values: _Values) -> float | None:
    """Of the periods of a CPU limit, those in which it was used up; None without a limit."""
    throttled = values.get(("kpod_cpu_throttled_periods_total", ""))
    if throttled is None:
        return None
    periods = values.get(("kpod_cpu_periods_total", ""), 0.0)
    return throttled / periods if periods > limits.PERIODS else 0.0


def _reasons(values: _Values, seconds: float) -> Iterator[Reason]:
    """Of one container."""
    kills = round(values.get(("kpod_mem_oom_kills_total", ""), 0.0) * seconds)
    if kills:
        processes = "a process was" if kills == 1 else f"{kills} processes were"
        yield Reason(KILLED, f"{processes} killed for want of memory", "KpodOomKill")
    restarts = round(values.get(("kpod_container_restarts", ""), 0.0) * seconds)
    if restarts > 0:
        text = "it was started again" + (f" {restarts} times" if restarts > 1 else "")
        yield Reason(max(NOTABLE, restarts / limits.RESTARTS), text, "KpodContainerRestarts")
    yield from _of_cpu(values)
    yield from _of_memory(values)
    if stalled := values.get(("kpod_pressure_io_stalled_seconds_total", "")):
        text = f"I/O {share(stalled)} of the time: nothing else goes on"
        yield Reason(stalled / limits.IO_STALLED, text, "KpodDiskPressure")
    yield from _of_space(values)
    yield from _of_network(values)
    yield from _of_syscalls(values)


def _of_cpu(values: _Values) -> Iterator[Reason]:
    waiting = values.get(("kpod_cpu_runqueue_latency_seconds", ""), 0.0)
    used = values.get(("kpod_cpu_usage_seconds_total", ""))
    # Without CPU time, the part of the time in which some task waited is the next best.
    cpu = values.get(("kpod_pressure_cpu_waiting_seconds_total", ""))
    if used is not None:
        cpu = waiting / (waiting + used) if waiting else 0.0
    much = (cpu or 0.0) > limits.MUCH_WAIT and waiting > limits.TASKS_WAITING
    throttled = _throttled(values) or 0.0
    if throttled:
        weight = throttled / limits.THROTTLED
        if much and throttled > limits.THROTTLED_AND_WAITING:
            weight = max(1.0, weight)
        yield Reason(weight, f"its CPU limit: used up in {share(throttled)} of its periods", "KpodCpuThrottled")
    # What waits is throttled, or is kept waiting by others: not both at once.
    if waiting and cpu is None:
        # Whether that is much for it cannot be told (the root cgroup has no CPU time of its own).
        weight = min(0.99, waiting)
        yield Reason(weight, f"a CPU: {short(waiting)} tasks at a time", "KpodRunQueueSaturated")
    elif cpu and waiting and throttled <= limits.THROTTLED_AND_WAITING:
        weight = min(cpu / limits.MUCH_WAIT, waiting / limits.TASKS_WAITING)
        text = f"a CPU {share(cpu)} of the time: {short(waiting)} tasks at a time"
        yield Reason(weight, text, "KpodRunQueueSaturated")


def _of_memory(values: _Values) -> Iterator[Reason]:
    if waiting := values.get(("kpod_pressure_memory_waiting_seconds_total", "")):
        text = f"memory {share(waiting)} of the time: reclaim, swap, refaults"
        yield Reason(waiting / limits.MEMORY_WAITING, text, "KpodMemoryPressure")
    limit = values.get(("kpod_mem_cgroup_limit_bytes", ""))
    usage = values.get(("kpod_mem_cgroup_usage_bytes", ""), 0.0)
    held = usage - values.get(("kpod_mem_cgroup_cache_bytes", ""), 0.0)
    if limit and held / limit > limits.NEAR_LIMIT:
        text = f"its memory limit is near: {share(held / limit)} of it is held"
        yield Reason(held / limit / limits.NEAR_LIMIT, text, "KpodMemoryNearLimit")
    if faults := values.get(("kpod_mem_major_page_faults_total", "")):
        text = f"pages from disk: {short(faults)} major faults a second"
        weight = max(faults / limits.FAULTS, NOTABLE if faults >= NOTABLE_FAULTS else 0.0)
        yield Reason(weight, text, "KpodMajorFaultStorm")


def _of_space(values: _Values) -> Iterator[Reason]:
    available = _by_label(values, "kpod_fs_available_bytes")
    for mountpoint, capacity in _by_label(values, "kpod_fs_capacity_bytes").items():
        left = available.get(mountpoint, capacity) / capacity if capacity else 1.0
        if mountpoint == "/" or left >= limits.SPACE_LOW:  # below "/" is the node's: `of_node` has it
            continue
        alert = "KpodFilesystemFull" if left < limits.SPACE_FULL else "KpodFilesystemLow"
        weight = min(FULL, limits.SPACE_LOW / left) if left else FULL
        yield Reason(weight, f"space: {share(left)} of {mountpoint} is left", alert)


def _of_network(values: _Values) -> Iterator[Reason]:
    if retransmits := values.get(("kpod_net_tcp_retransmits_total", "")):
        # Nothing sent is SYNs only: they have no payload.
        sent = values.get(("kpod_net_tcp_segments_sent_total", ""))
        of_all = retransmits / sent if sent else 1.0
        yield Reason(
            min(retransmits / limits.RETRANSMITS, of_all / limits.RETRANSMITTED),
            f"the network: {short(retransmits)} retransmits a second",
            "KpodTcpRetransmits",
        )
    if failures := values.get(("kpod_net_tcp_connect_failures_total", "")):
        connects = values.get(("kpod_net_tcp_connections_total", "outbound"), 0.0)
        weight = failures / limits.CONNECT_FAILURES
        if connects:
            weight = min(weight, failures / connects / limits.FAILURES_TO_CONNECTS)
        yield Reason(weight, f"connects: {short(failures)} a second fail", "KpodTcpConnectFailures")
    lost: dict[str, float] = defaultdict(float)
    for what in _LOST:
        for interface, packets in _by_label(values, what).items():
            lost[interface] += packets
    for interface, packets in lost.items():
        if packets:
            of = sum(values.get((name, interface), 0.0) for name in _PACKETS)
            weight = packets / limits.LOST_PACKETS
            weight = min(weight, packets / of / limits.LOST) if of else weight
            yield Reason(weight, f"{interface}: {short(packets)} packets a second are lost", "KpodInterfaceDrops")


def _of_syscalls(values: _Values) -> Iterator[Reason]:
    errors = _by_label(values, "kpod_syscall_errors_total")
    for syscall, calls in _by_label(values, "kpod_syscall_count_total").items():
        failed = errors.get(syscall, 0.0)
        if failed and calls and not waits_by_nature(syscall):
            weight = min(calls / limits.CALLS, failed / calls / limits.FAILED_CALLS)
            text = f"{syscall}: {share(failed / calls)} of its calls fail, {short(failed)} a second"
            yield Reason(weight, text, "KpodSyscallErrors")
    tasks = {
        syscall: tasks
        for syscall, tasks in _by_label(values, "kpod_syscall_latency_seconds").items()
        if tasks and not waits_by_nature(syscall)
    }
    if not tasks:
        return
    most, total = max(tasks, key=lambda syscall: tasks[syscall]), sum(tasks.values())
    yield Reason(total / IN_SYSCALLS, f"{most}: {short(tasks[most])} tasks are in it at a time", "KpodSyscallSlow")
    for syscall, in_it in tasks.items():
        if slowest := values.get((_SLOWEST, syscall)):
            weight = min(in_it / limits.IN_SLOW_CALLS, slowest / limits.SLOW_CALL)
            text = f"{syscall}: one in a hundred calls takes {short(slowest)} s or longer"
            yield Reason(weight, text, "KpodSyscallSlow")


def of_node(view: View) -> list[Reason]:
    """Return what all pods of the node share: the file system below containers' root directories."""
    sizes: dict[str, dict[Identity, float]] = {"kpod_fs_available_bytes": {}, "kpod_fs_capacity_bytes": {}}
    for family in view.page.families:
        if (size := sizes.get(family.metric.name)) is not None:
            size |= {s.series.identity: number(s.value) for s in family.samples if s.series.labels == ("/",)}
    available, capacity = sizes.values()
    left = min((available[of] / all_ for of, all_ in capacity.items() if all_ and of in available), default=1.0)
    if left >= limits.NODE_SPACE_LOW:
        return []
    text = f"{share(left)} of the file system below containers' root directories is left"
    return [Reason(min(FULL, limits.NODE_SPACE_LOW / left) if left else FULL, text, "KpodNodeFilesystemLow")]


def short(value: float) -> str:
    """Write a number in as many digits as a person reads."""
    if 0 < value < 0.01:
        return "<0.01"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.{2 if value < 10 else 1}f}".rstrip("0").rstrip(".")


def share(value: float) -> str:
    """Write a share in per cent."""
    return "<1 %" if 0 < value < 0.01 else f"{100 * value:.0f} %"
