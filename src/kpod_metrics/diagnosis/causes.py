"""The causes: what a pod waits for, by the thresholds of the alerts, the worst first.

As in the alerts, each container is judged by itself. An alert fires only after its threshold was exceeded for some
time, a cause is there immediately. Two alerts compare with earlier hours, which the agent does not keep: they have no
cause.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kpod_metrics.diagnosis import thresholds
from kpod_metrics.diagnosis.rates import Input, Rates
from kpod_metrics.histogram import quantile
from kpod_metrics.kernel.syscalls import waits_by_nature

_KILLED = 100.0
"""Severity of an OOM kill: nothing is worse."""
_MAX_SPACE = 50.0
"""Severity of a full file system."""


class Cause(NamedTuple):
    """One cause, and how severe it is."""

    severity: float
    """Ratio to the threshold: from 1 on, the alert is pending."""
    name: str
    amount: str
    """How much of it, without a blank."""
    text: str
    alert: str
    """The alert with this threshold; the runbook has a section for it."""


def causes(containers: Iterable[Rates]) -> list[Cause]:
    """Return what a pod waits for, the worst first; for each alert, the cause of its worst container."""
    worst: dict[str, Cause] = {}
    for rates in containers:
        for cause in _of_container(rates):
            if cause.severity >= thresholds.NOTABLE and (cause.alert not in worst or cause > worst[cause.alert]):
                worst[cause.alert] = cause
    return sorted(worst.values(), reverse=True)


def node_causes(containers: Iterable[Rates]) -> list[Cause]:
    """Return what all pods of the node share: the file system of the containers' root directories."""
    left = min((left for rates in containers for path, left in _space(rates) if path == "/"), default=1.0)
    if left >= thresholds.NODE_SPACE_LOW:
        return []
    severity = min(_MAX_SPACE, thresholds.NODE_SPACE_LOW / left) if left else _MAX_SPACE
    text = f"{percent(left)} is left of the file system of the containers' root directories"
    return [Cause(severity, "space", _amount(left), text, "KpodNodeFilesystemLow")]


def throttled_share(rates: Rates) -> float | None:
    """Return the share of the periods of a CPU limit in which it throttled tasks; None without a limit."""
    throttled = rates.rate(Input.CPU_THROTTLED_PERIODS)
    if throttled is None:
        return None
    periods = rates.rate(Input.CPU_PERIODS) or 0.0
    return throttled / periods if periods > thresholds.MIN_PERIODS else 0.0


def syscall_tasks(rates: Rates) -> dict[str, float] | None:
    """Return the average number of tasks in each syscall whose purpose is not to wait; None if no time is known."""
    tasks = rates.by_label(Input.SYSCALL_SECONDS)
    return {syscall: number for syscall, number in tasks.items() if not waits_by_nature(syscall)} if tasks else None


def _of_container(rates: Rates) -> Iterator[Cause]:
    if kills := round((rates.rate(Input.OOM_KILLS) or 0.0) * rates.seconds):
        text = "OOM killer: " + ("a process was killed" if kills == 1 else f"{kills} processes were killed")
        yield Cause(_KILLED, "oom", str(kills), text, "KpodOomKill")
    if restarts := round((rates.rate(Input.RESTARTS) or 0.0) * rates.seconds):
        text = "restarts: " + ("once" if restarts == 1 else f"{restarts} times")
        severity = max(thresholds.NOTABLE, restarts / thresholds.RESTARTS)
        yield Cause(severity, "restarts", str(restarts), text, "KpodContainerRestarts")
    yield from _of_cpu(rates)
    yield from _of_memory(rates)
    if stalled := rates.rate(Input.IO_STALLED):
        text = f"disk: all tasks wait for I/O {percent(stalled)} of the time"
        yield Cause(stalled / thresholds.IO_STALL_SHARE, "disk", _amount(stalled), text, "KpodDiskPressure")
    for path, left in _space(rates):
        if path != "/" and left < thresholds.SPACE_LOW:  # "/" is the node's: see node_causes
            alert = "KpodFilesystemFull" if left < thresholds.SPACE_FULL else "KpodFilesystemLow"
            severity = min(_MAX_SPACE, thresholds.SPACE_LOW / left) if left else _MAX_SPACE
            yield Cause(severity, "space", _amount(left), f"disk space: {percent(left)} of {path} is left", alert)
    yield from _of_network(rates)
    yield from _of_syscalls(rates)


def _of_cpu(rates: Rates) -> Iterator[Cause]:
    tasks = rates.rate(Input.RUNQUEUE_WAIT) or 0.0
    used = rates.rate(Input.CPU_USAGE)
    # Without CPU time, the share of the time in which some task waited is the next best.
    share = rates.rate(Input.CPU_WAITING)
    if used is not None:
        share = tasks / (tasks + used) if tasks else 0.0
    waits = (share or 0.0) > thresholds.RUNQUEUE_SHARE and tasks > thresholds.RUNQUEUE_TASKS
    throttled = throttled_share(rates) or 0.0
    if throttled:
        severity = throttled / thresholds.THROTTLED_SHARE
        if waits and throttled > thresholds.THROTTLED_SHARE_WAITING:
            severity = max(1.0, severity)
        text = f"CPU limit: throttled in {percent(throttled)} of its periods"
        yield Cause(severity, "throttled", _amount(throttled), text, "KpodCpuThrottled")
    # The kernel's run-queue wait includes that of throttled tasks: it has one cause, not both.
    if tasks and share is None:
        # The root cgroup has no CPU time: whether the wait is long for it is not known.
        text = f"CPU: {short(tasks)} tasks in the run queue on average"
        yield Cause(min(0.99, tasks), "cpu", short(tasks), text, "KpodRunQueueSaturated")
    elif share and tasks and throttled <= thresholds.THROTTLED_SHARE_WAITING:
        severity = min(share / thresholds.RUNQUEUE_SHARE, tasks / thresholds.RUNQUEUE_TASKS)
        text = f"CPU: in the run queue {percent(share)} of the time, {short(tasks)} tasks on average"
        yield Cause(severity, "cpu", _amount(share), text, "KpodRunQueueSaturated")


def _of_memory(rates: Rates) -> Iterator[Cause]:
    if waiting := rates.rate(Input.MEMORY_WAITING):
        text = f"memory: reclaim, swap or refaults {percent(waiting)} of the time"
        severity = waiting / thresholds.MEMORY_WAIT_SHARE
        yield Cause(severity, "memory", _amount(waiting), text, "KpodMemoryPressure")
    if limit := rates.last(Input.MEMORY_LIMIT):
        used = ((rates.last(Input.MEMORY_USAGE) or 0.0) - (rates.last(Input.MEMORY_CACHE) or 0.0)) / limit
        if used > thresholds.MEMORY_OF_LIMIT:
            severity = used / thresholds.MEMORY_OF_LIMIT
            text = f"memory limit: {percent(used)} of it is used"
            yield Cause(severity, "mem_limit", _amount(used), text, "KpodMemoryNearLimit")
    if faults := rates.rate(Input.MAJOR_FAULTS):
        notable = thresholds.NOTABLE if faults >= thresholds.NOTABLE_FAULTS else 0.0
        severity = max(faults / thresholds.MAJOR_FAULTS, notable)
        text = f"page faults: {short(faults)} a second wait for the disk"
        yield Cause(severity, "faults", f"{short(faults)}/s", text, "KpodMajorFaultStorm")


def _space(rates: Rates) -> Iterator[tuple[str, float]]:
    """Yield the mount points of which the size is known, and the share that is left."""
    available = rates.last_by_label(Input.SPACE_AVAILABLE)
    for path, capacity in rates.last_by_label(Input.SPACE_CAPACITY).items():
        if capacity and path in available:
            yield path, available[path] / capacity


def _of_network(rates: Rates) -> Iterator[Cause]:
    if retransmits := rates.rate(Input.RETRANSMITS):
        # If no segment was sent, they are SYNs, which have no payload.
        sent = rates.rate(Input.SEGMENTS_SENT)
        share = retransmits / sent if sent else 1.0
        severity = min(retransmits / thresholds.RETRANSMITS, share / thresholds.RETRANSMIT_SHARE)
        text = f"network: {short(retransmits)} retransmits a second"
        yield Cause(severity, "network", f"{short(retransmits)}/s", text, "KpodTcpRetransmits")
    if failures := rates.rate(Input.CONNECT_FAILURES):
        severity = failures / thresholds.CONNECT_FAILURES
        if connections := rates.by_label(Input.CONNECTIONS).get("outbound"):
            severity = min(severity, failures / connections / thresholds.CONNECT_FAILURE_RATIO)
        text = f"connects: {short(failures)} a second fail"
        yield Cause(severity, "connects", f"{short(failures)}/s", text, "KpodTcpConnectFailures")
    packets = rates.by_label(Input.RX_PACKETS, Input.TX_PACKETS)
    for interface, lost in rates.by_label(Input.RX_DROPS, Input.TX_DROPS, Input.RX_ERRORS, Input.TX_ERRORS).items():
        if lost:
            severity = lost / thresholds.LOST_PACKETS
            if total := packets.get(interface):
                severity = min(severity, lost / total / thresholds.LOST_PACKET_SHARE)
            text = f"{interface}: {short(lost)} packets a second are lost"
            yield Cause(severity, "packets", f"{short(lost)}/s", text, "KpodInterfaceDrops")


def _of_syscalls(rates: Rates) -> Iterator[Cause]:
    errors = rates.by_label(Input.SYSCALL_ERRORS)
    for syscall, calls in rates.by_label(Input.SYSCALLS).items():
        failed = errors.get(syscall, 0.0)
        if failed and calls and not waits_by_nature(syscall):
            share = failed / calls
            severity = min(calls / thresholds.SYSCALLS, share / thresholds.SYSCALL_ERROR_SHARE)
            text = f"{syscall}: {percent(share)} of its calls fail, {short(failed)} a second"
            yield Cause(severity, "errors", _amount(share), text, "KpodSyscallErrors")
    tasks = {syscall: number for syscall, number in (syscall_tasks(rates) or {}).items() if number}
    if not tasks:
        return
    most = max(tasks, key=lambda syscall: tasks[syscall])
    severity = sum(tasks.values()) / thresholds.SYSCALL_TASKS
    text = f"{most}: {short(tasks[most])} tasks in it on average"
    yield Cause(severity, "syscalls", short(tasks[most]), text, "KpodSyscallSlow")
    for syscall, number in tasks.items():
        if number <= thresholds.SLOW_SYSCALL_TASKS:
            continue
        observed = rates.observed(Input.SYSCALL_SECONDS, syscall)
        if observed and any(observed):
            slowest = quantile(observed, 0.99)
            severity = min(number / thresholds.SLOW_SYSCALL_TASKS, slowest / thresholds.SLOW_SYSCALL_SECONDS)
            text = f"{syscall}: one in a hundred calls takes {short(slowest)} s or longer"
            yield Cause(severity, "syscalls", f"{short(slowest)}s", text, "KpodSyscallSlow")


def short(value: float) -> str:
    """Write a number with few digits."""
    if 0 < value < 0.01:
        return "<0.01"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.{2 if value < 10 else 1}f}".rstrip("0").rstrip(".")


def _amount(share: float) -> str:
    return percent(share).replace(" ", "")


def percent(share: float) -> str:
    """Write a share in per cent."""
    return "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
