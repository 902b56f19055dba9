"""Counts, errors and latency of the tracked syscalls, from `bpf/syscall.bpf.c`."""

import logging
import os
from collections.abc import Iterable, Sequence

from kpod_metrics.collectors.base import BpfCollector, Environment, Signal
from kpod_metrics.errors import UnavailableError
from kpod_metrics.kernel import libbpf, syscalls
from kpod_metrics.metrics import HistogramDelta, Label, Metric, Profile, Row, Table, counter, latency
from kpod_metrics.pods.model import Group

log = logging.getLogger(__name__)

COUNT = counter(
    "kpod_syscall_count_total",
    "Calls of a tracked syscall that ended, by a process of 64 or 32 bits. Those that seccomp refused are not there: "
    "the kernel tells nobody of their beginning.",
    "sys_enter to sys_exit",
    profile=Profile.COMPREHENSIVE,
    events=True,
)
ERRORS = counter(
    "kpod_syscall_errors_total",
    "Those that failed. One that a signal interrupted is counted, not as an error: the kernel restarts it, or makes "
    "it EINTR, only afterwards.",
    "sys_exit: ret from -4095 to -1, without the kernel's own ERESTART codes",
    profile=Profile.COMPREHENSIVE,
)
LATENCY = latency(
    "kpod_syscall_latency_seconds",
    "Time from a call's entry into the kernel to its end, waiting included.",
    "bpf_ktime_get_ns() from sys_enter to sys_exit",
    profile=Profile.COMPREHENSIVE,
    # Seven buckets: a container has them for each tracked syscall.
    exponents=(-20, -16, -12, -8, -4, 0, 6),
)
METRICS: tuple[Metric, ...] = (COUNT, ERRORS, LATENCY)


class Syscall(BpfCollector):
    """Tracked syscalls of each cgroup."""

    name = "syscall"
    description = "syscalls: count, errors, latency"
    metric_maps = ("syscall",)

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """One table, with the tracked names that this machine has; none where no name is set."""
        names = syscalls.track(environment.syscalls, os.uname().machine).names
        return (Table(METRICS, (Label("syscall", names),)),) if environment.syscalls else ()

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._machine = os.uname().machine
        self._tracked = syscalls.track(environment.syscalls, self._machine)

    def open(self) -> list[Signal]:
        """Say what is not tracked, then load and attach."""
        if not syscalls.supported(self._machine):
            raise UnavailableError(f"syscall numbers of {self._machine} are not known")
        if not self._tracked.names:
            raise UnavailableError("; ".join(self._tracked.remarks))
        for remark in self._tracked.remarks:
            log.warning("%s", remark)
        return super().open()

    def prepare(self, bpf: libbpf.Object) -> None:
        """Fill the tables by number."""
        bpf.set_rodata("begins", self._tracked.begins)
        bpf.set_rodata("ends", self._tracked.ends)

    def attach(self, bpf: libbpf.Object, links: list[libbpf.Link]) -> list[Signal]:
        """First the ends: a call is counted when both of its ends were seen."""
        self.attach_task_state(bpf, links, "task_syscall")
        ends, begins = bpf.programs["syscall_ends"], bpf.programs["syscall_begins"]
        links.append(ends.attach())
        links.append(begins.attach())
        return [Signal(METRICS, f"{begins.section}, {ends.section}")]

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """One row a cgroup and syscall; the calls are the observations."""
        reader = self.reader("syscall")
        (table,) = self.tables
        fields = reader.layout.fields
        errors, sum_ns, slots = (fields[name] for name in ("errors", "latency.sum_ns", "latency.slots"))
        names = self._tracked.names
        rows = []
        for delta in reader.read():
            cgroup_id, index, _ = delta.key
            first, calls = delta.array32(slots)
            rows.append(
                Row(
                    table,
                    cgroup_id,
                    (names[index],),
                    (sum(calls), delta.number(errors), HistogramDelta(calls, delta.number(sum_ns), first)),
                )
            )
        return rows
