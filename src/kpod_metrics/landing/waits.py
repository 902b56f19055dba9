"""What each pod of this node waits for: rates and shares since a cycle ago, and in words what stands out.

Limits are those of the alerts of the same names (`monitoring/alerts.py`), without their patience.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kpod_metrics.exposition.recent import View, number
from kpod_metrics.kernel.syscalls import waits_by_nature
from kpod_metrics.metrics import Kind, Scope
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import OVERFLOW

SEGMENT = 1448
"""Payload of a TCP segment at an MTU of 1500."""

MUCH_WAIT, TASKS_WAITING = 0.3, 0.1
THROTTLED, THROTTLED_AND_WAITING, PERIODS = 0.25, 0.1, 0.5
NEAR_LIMIT = 0.9
MEMORY_WAITING, IO_STALLED = 0.2, 0.5
FAULTS = 100.0
RETRANSMITS, RETRANSMITTED = 1.0, 0.02
IN_SYSCALLS = 0.1
"""No alert's: tasks that are, on average, in syscalls that should not wait."""
KILLED = 100.0
"""Weight of a kill: nothing else is worse."""

NOTABLE = 0.5
"""Of a limit: from here on it is said, though it is no alert's business."""


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
    cpu: float | None = None
    """Of the time in which tasks had something to run, the part in which they waited."""
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
"""Of one container, by metric and syscall ("" for all other metrics): growth a second, or a gauge's value."""

_GAUGES = {"kpod_mem_cgroup_usage_bytes", "kpod_mem_cgroup_cache_bytes", "kpod_mem_cgroup_limit_bytes"}


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
                mine[metric.name, ""] = number(sample.value)
            elif before is not None and rated:
                # One that is new began at 0, unless the kernel's running total is what is read: that may be old.
                was = before.get(series, None if table.totals else 0)
                if was is not None:
                    key = metric.name, "".join(series.labels)
                    mine[key] = mine.get(key, 0.0) + (number(sample.value) - was) * unit / seconds
    return found


def _sum(containers: list[_Values], name: str) -> float | None:
    there = [values[name, ""] for values in containers if (name, "") in values]
    return sum(there) if there else None


def _most(containers: list[_Values], name: str) -> float | None:
    return max((values[name, ""] for values in containers if (name, "") in values), default=None)


def _pod(identity: Identity, containers: list[_Values], seconds: float) -> Pod:
    pod = Pod(identity.namespace, identity.pod)
    pod.waiting = _sum(containers, "kpod_cpu_runqueue_latency_seconds")
    used = _sum(containers, "kpod_cpu_usage_seconds_total")
    if pod.waiting is not None:
        if used is not None:
            pod.cpu = pod.waiting / (pod.waiting + used) if pod.waiting else 0.0
        else:  # the part of the time in which somebody waited is the next best
            pod.cpu = _most(containers, "kpod_pressure_cpu_waiting_seconds_total")
    pod.retransmits = _sum(containers, "kpod_net_tcp_retransmits_total")
    pod.faults = _sum(containers, "kpod_mem_major_page_faults_total")
    pod.io = _most(containers, "kpod_pressure_io_stalled_seconds_total")
    pod.memory = _most(containers, "kpod_pressure_memory_waiting_seconds_total")
    for values in containers:
        periods = values.get(("kpod_cpu_periods_total", ""), 0.0)
        throttled = values.get(("kpod_cpu_throttled_periods_total", ""))
        if throttled is not None:
            pod.throttled = max(pod.throttled or 0.0, throttled / periods if periods > PERIODS else 0.0)
        for (name, syscall), tasks in values.items():
            if name == "kpod_syscall_latency_seconds":
                pod.syscalls = pod.syscalls or {}
                if not waits_by_nature(syscall):
                    pod.syscalls[syscall] = pod.syscalls.get(syscall, 0.0) + tasks
    pod.reasons = sorted((r for r in _reasons(pod, containers, seconds) if r.weight >= NOTABLE), reverse=True)
    return pod


def _reasons(pod: Pod, containers: list[_Values], seconds: float) -> Iterator[Reason]:
    kills = round((_sum(containers, "kpod_mem_oom_kills_total") or 0.0) * seconds)
    if kills:
        processes = "a process was" if kills == 1 else f"{kills} processes were"
        yield Reason(KILLED, f"{processes} killed for want of memory", "KpodOomKill")
    yield from _of_cpu(pod)
    yield from _of_memory(pod, containers)
    if pod.io:
        yield Reason(pod.io / IO_STALLED, f"I/O {share(pod.io)} of the time: nothing else goes on", "KpodDiskPressure")
    if pod.retransmits:
        # Of full segments: an estimate from below. Nothing sent is SYNs only.
        sent = (_sum(containers, "kpod_net_tcp_bytes_sent_total") or 0.0) / SEGMENT
        of_all = pod.retransmits / sent if sent else 1.0
        yield Reason(
            min(pod.retransmits / RETRANSMITS, of_all / RETRANSMITTED),
            f"the network: {short(pod.retransmits)} segments a second sent again",
            "KpodTcpRetransmits",
        )
    if pod.syscalls:
        syscall, tasks = max(pod.syscalls.items(), key=lambda item: item[1])
        total = sum(pod.syscalls.values())
        yield Reason(total / IN_SYSCALLS, f"{syscall}: {short(tasks)} tasks are in it at a time", "KpodSyscallSlow")


def _of_cpu(pod: Pod) -> Iterator[Reason]:
    much = bool(pod.cpu and pod.waiting) and (pod.cpu or 0) > MUCH_WAIT and (pod.waiting or 0) > TASKS_WAITING
    throttled = pod.throttled or 0.0
    if throttled:
        weight = throttled / THROTTLED
        if much and throttled > THROTTLED_AND_WAITING:
            weight = max(1.0, weight)
        yield Reason(weight, f"its CPU limit: used up in {share(throttled)} of its periods", "KpodCpuThrottled")
    # What waits is throttled, or is kept waiting by others: not both at once.
    if pod.waiting and pod.cpu is None:
        # Whether that is much for it cannot be told (the root cgroup has no CPU time of its own).
        weight = min(0.99, pod.waiting)
        yield Reason(weight, f"a CPU: {short(pod.waiting)} tasks at a time", "KpodRunQueueSaturated")
    elif pod.cpu and pod.waiting and throttled <= THROTTLED_AND_WAITING:
        weight = min(pod.cpu / MUCH_WAIT, pod.waiting / TASKS_WAITING)
        text = f"a CPU {share(pod.cpu)} of the time: {short(pod.waiting)} tasks at a time"
        yield Reason(weight, text, "KpodRunQueueSaturated")


def _of_memory(pod: Pod, containers: list[_Values]) -> Iterator[Reason]:
    if pod.memory:
        yield Reason(
            pod.memory / MEMORY_WAITING,
            f"memory {share(pod.memory)} of the time: reclaim, swap, refaults",
            "KpodMemoryPressure",
        )
    for values in containers:
        limit = values.get(("kpod_mem_cgroup_limit_bytes", ""))
        usage = values.get(("kpod_mem_cgroup_usage_bytes", ""), 0.0)
        held = usage - values.get(("kpod_mem_cgroup_cache_bytes", ""), 0.0)
        if limit and held / limit > NEAR_LIMIT:
            text = f"its memory limit is near: {share(held / limit)} of it is held"
            yield Reason(held / limit / NEAR_LIMIT, text, "KpodMemoryNearLimit")
            break
    if pod.faults:
        text = f"pages from disk: {short(pod.faults)} major faults a second"
        yield Reason(pod.faults / FAULTS, text, "KpodMajorFaultStorm")


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
