"""From two pages to what each pod did between them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from kpod_metrics.histogram import SLOTS, quantile
from kpod_metrics.kernel.syscalls import waits_by_nature
from kpod_metrics.top.page import Native, decode

_CYCLE = "kpod_last_cycle_timestamp_seconds"
_INTERVAL = "kpod_poll_interval_seconds"
_UP = "kpod_collector_up"
_CPU = "kpod_cpu_usage_seconds_total"
_RUNQUEUE = "kpod_cpu_runqueue_latency_seconds"
_THROTTLED = "kpod_cpu_throttled_seconds_total"
_RETRANSMITS = "kpod_net_tcp_retransmits_total"
_BYTES = ("kpod_net_tcp_bytes_sent_total", "kpod_net_tcp_bytes_received_total")
_FAULTS = "kpod_mem_major_page_faults_total"
_CALLS = "kpod_syscall_count_total"
_ERRORS = "kpod_syscall_errors_total"
_CALL_TIME = "kpod_syscall_latency_seconds"
_DISK = ("kpod_disk_read_bytes_total", "kpod_disk_written_bytes_total")
_MEMORY = "kpod_mem_cgroup_usage_bytes"
_PRESSURE = {name: f"kpod_pressure_{name}_waiting_seconds_total" for name in ("cpu", "memory", "io")}

OF_PODS = frozenset(
    {_CPU, _RUNQUEUE, _THROTTLED, _RETRANSMITS, *_BYTES, _FAULTS, _CALLS, _ERRORS, _CALL_TIME, *_DISK, _MEMORY}
    | {*_PRESSURE.values()}
)
"""The metrics that are shown."""
_WANTED = OF_PODS | {_CYCLE, _INTERVAL, _UP}

RETRANSMIT_SECONDS = 0.2
"""What a retransmit is taken to cost: the least timeout that TCP has on Linux (TCP_RTO_MIN)."""
LEAST_SHARE = 0.01
"""Of the time: what waits for less is said to wait for nothing."""


class Pod(NamedTuple):
    """Whom a row is about."""

    namespace: str
    pod: str
    container: str


_Key = tuple[str, tuple[tuple[str, str], ...]]
"""A metric's name, and the labels of its own."""


@dataclass(frozen=True)
class Reading:
    """One cycle of the agent: running totals, as its page has them."""

    time: float
    """When the cycle ended, in Unix time."""
    interval: float
    """Seconds between two cycles, as set."""
    node: str
    off: tuple[str, ...]
    """Collectors that do not work."""
    values: dict[Pod, dict[_Key, float | Native]]


def read(page: bytes) -> Reading:
    """Read a page; raises ValueError for what is none of an agent's."""
    time = interval = math.nan
    node = ""
    off = []
    values: dict[Pod, dict[_Key, float | Native]] = {}
    for sample in decode(page, _WANTED):
        labels, value = sample.labels, sample.value
        if sample.name in OF_PODS:
            pod = Pod(*(labels.pop(name, "") for name in Pod._fields))
            node = labels.pop("node", "") or node
            values.setdefault(pod, {})[sample.name, tuple(labels.items())] = value
        elif not isinstance(value, Native):
            if sample.name == _CYCLE:
                time = value
            elif sample.name == _INTERVAL:
                interval = value
            elif not value:
                off.append(labels.get("collector", ""))
    if not math.isfinite(time):
        raise ValueError(f"no {_CYCLE} in it")
    return Reading(time, interval if math.isfinite(interval) else 0.0, node, tuple(off), values)


@dataclass(frozen=True)
class Row:
    """What one pod did, a second; None is what is not known of it.

    Times are seconds, shares are seconds a second, amounts are bytes.
    """

    pod: Pod
    cpu: float | None = None
    """CPUs in use."""
    runqueue_p99: float | None = None
    """Of the waits for a CPU."""
    runqueue: tuple[int, ...] = ()
    """Those waits by slot, since the cycle before."""
    runqueue_waits: float | None = None
    throttled: float | None = None
    retransmits: float | None = None
    network: float | None = None
    faults: float | None = None
    calls: float | None = None
    errors: float | None = None
    call_p99: float | None = None
    """Of the syscalls that do not wait for others by nature."""
    disk: float | None = None
    memory: float | None = None
    """Now."""
    pressure_cpu: float | None = None
    pressure_memory: float | None = None
    pressure_io: float | None = None
    waits_for: str = ""
    """What it waits for most; empty if for nothing."""
    waits: float = field(default=0.0)
    """The share of the time that it does, at most 1."""


def rows(before: Reading | None, now: Reading) -> list[Row]:
    """Return a row for each pod: rates since `before`, for those that were there already."""
    seconds = now.time - before.time if before else 0.0
    return [
        _row(pod, _Growth(before.values.get(pod) if before and seconds > 0 else None, values, seconds))
        for pod, values in now.values.items()
    ]


class _Growth:
    """What the totals of a pod grew by."""

    def __init__(self, before: dict[_Key, float | Native] | None, now: dict[_Key, float | Native], seconds: float):
        self._before, self._now, self.seconds = before, now, seconds

    def _of(self, name: str, chosen: Callable[[dict[str, str]], bool] | None) -> Iterable[float | Native]:
        """Return what each series of a metric grew by: one that is smaller now began anew."""
        if self._before is None:
            return
        for key, value in self._now.items():
            if key[0] != name or (chosen and not chosen(dict(key[1]))):
                continue
            was = self._before.get(key)
            if isinstance(value, Native):
                yield _since(value, was if isinstance(was, Native) else None)
            elif was is not None and not isinstance(was, Native):
                yield value - was if value >= was else value

    def rate(self, *names: str) -> float | None:
        """Return the growth a second of all series together; None where there are none."""
        grown = [by for name in names for by in self._of(name, None) if not isinstance(by, Native)]
        total = sum(grown) / self.seconds if grown else math.nan
        return total if math.isfinite(total) else None

    def histogram(self, name: str, chosen: Callable[[dict[str, str]], bool] | None = None) -> Native | None:
        """Return the observations of all series together; None where there are none."""
        grown = [by for by in self._of(name, chosen) if isinstance(by, Native)]
        if not grown:
            return None
        return Native(tuple(map(sum, zip(*(by.slots for by in grown), strict=True))), sum(by.sum for by in grown))

    def gauge(self, name: str) -> float | None:
        """Return what a metric is now."""
        value = self._now.get((name, ()))
        return value if isinstance(value, float) and math.isfinite(value) else None


def _since(now: Native, before: Native | None) -> Native:
    if before is None:
        return Native((0,) * SLOTS, 0.0)
    slots = tuple(one - other for one, other in zip(now.slots, before.slots, strict=True))
    return now if min(slots) < 0 else Native(slots, now.sum - before.sum)


def _p99(observed: Native | None) -> float | None:
    return quantile(observed.slots, 0.99) if observed and any(observed.slots) else None


def _row(pod: Pod, grown: _Growth) -> Row:
    runqueue = grown.histogram(_RUNQUEUE)
    throttled, retransmits = grown.rate(_THROTTLED), grown.rate(_RETRANSMITS)
    pressure = {name: grown.rate(metric) for name, metric in _PRESSURE.items()}
    waited = runqueue.sum / grown.seconds if runqueue else pressure["cpu"] or 0.0
    waits_for, waits = _most(waited, throttled or 0.0, pressure, retransmits or 0.0)
    return Row(
        pod,
        cpu=grown.rate(_CPU),
        runqueue_p99=_p99(runqueue),
        runqueue=runqueue.slots if runqueue else (),
        runqueue_waits=sum(runqueue.slots) / grown.seconds if runqueue else None,
        throttled=throttled,
        retransmits=retransmits,
        network=grown.rate(*_BYTES),
        faults=grown.rate(_FAULTS),
        calls=grown.rate(_CALLS),
        errors=grown.rate(_ERRORS),
        call_p99=_p99(grown.histogram(_CALL_TIME, lambda labels: not waits_by_nature(labels.get("syscall", "")))),
        disk=grown.rate(*_DISK),
        memory=grown.gauge(_MEMORY),
        pressure_cpu=pressure["cpu"],
        pressure_memory=pressure["memory"],
        pressure_io=pressure["io"],
        waits_for=waits_for,
        waits=waits,
    )


def _most(
    runqueue: float, throttled: float, pressure: dict[str, float | None], retransmits: float
) -> tuple[str, float]:
    """Return what takes the largest share of the time, and that share.

    The wait for a CPU has the throttled time in it, which is taken off. Waits of several tasks at once add up: none
    counts for more than the whole time.
    """
    throttled = min(1.0, throttled)
    shares = {
        "cpu": max(0.0, min(1.0, runqueue) - throttled),
        "throttled": throttled,
        "memory": min(1.0, pressure["memory"] or 0.0),
        "disk": min(1.0, pressure["io"] or 0.0),
        "network": min(1.0, retransmits * RETRANSMIT_SECONDS),
    }
    name = max(shares, key=lambda name: shares[name])
    return (name, shares[name]) if shares[name] >= LEAST_SHARE else ("", 0.0)
