"""Counts, errors and latency of the tracked syscalls, from `bpf/syscall.bpf.c`."""

import logging
import os
from collections.abc import Iterable

from kpod_metrics.collectors.kit import BpfCollector, Environment, Question, Signal
from kpod_metrics.columns import Column, Shows, Unit
from kpod_metrics.errors import UnavailableError
from kpod_metrics.features import BATCH, TASK_ITERATOR, TASK_STORAGE, TASK_TABLE, TP_BTF, UNPREEMPTED
from kpod_metrics.kernel import libbpf, syscalls
from kpod_metrics.kernel.maps import Entry
from kpod_metrics.kernel.programs import ProgramHealth, attach_all, kernel_knows
from kpod_metrics.metrics import Label, Metric, Profile, Row, Table, counter, latency

log = logging.getLogger(__name__)

COUNT = counter(
    "kpod_syscall_count_total",
    "Completed calls of a tracked syscall, by 64-bit and 32-bit processes. Without calls that seccomp refused: the "
    "kernel does not report their entry.",
    "sys_enter to sys_exit",
    profile=Profile.COMPREHENSIVE,
    events=True,
    wraps=True,
    advice="Very many small reads or writes: buffer them. Divide kpod_syscall_errors_total by it.",
)
ERRORS = counter(
    "kpod_syscall_errors_total",
    "Calls of a tracked syscall that failed. A call that a signal interrupted is no error: the kernel decides later "
    "whether it restarts the call or returns EINTR.",
    "sys_exit: ret from -4095 to -1, without the kernel's own ERESTART codes",
    profile=Profile.COMPREHENSIVE,
    advice="If more than half of the calls fail, KpodSyscallErrors fires; the runbook explains how to find the error.",
)
LATENCY = latency(
    "kpod_syscall_latency_seconds",
    "Time from the entry of a call into the kernel to its end, including waits.",
    "bpf_ktime_get_ns() from sys_enter to sys_exit",
    profile=Profile.COMPREHENSIVE,
    # Only seven buckets, because a container has them for each tracked syscall.
    exponents=(-20, -16, -12, -8, -4, 0, 6),
    advice=(
        "The rate of its sum is the average number of tasks in the call. Slow fsync or write: KpodSyscallSlow. A slow "
        "read, futex or epoll_wait is normal: waiting is its purpose."
    ),
)
METRICS: tuple[Metric, ...] = (COUNT, ERRORS, LATENCY)

_PREEMPTED = "trace_call_bpf_faultable"
"""A function of the kernels that preempt programs at syscalls: bpf/syscall.bpf.c says more."""
_HOOKS = ("syscall_ends", "syscall_begins")
"""The first copy of the program at each end of a syscall."""


class Syscall(BpfCollector):
    """Tracked syscalls of each cgroup."""

    name = "syscall"
    description = "count, errors, latency of syscalls"
    question = Question.SYSCALLS
    columns = (
        Column("calls", "CALLS/s", "SYSCALLS/S", "tracked syscalls", ("kpod_syscall_count_total",), place=80),
        Column("errors", "ERR/s", "SYSCALL_ERRORS/S", "failed ones", ("kpod_syscall_errors_total",), place=90),
        Column(
            "call_p99",
            "CALL-99",
            "SYSCALL_P99_MS",
            "99th percentile of syscalls, without those whose purpose is to wait (read, epoll_wait, ...)",
            ("kpod_syscall_latency_seconds",),
            Unit.SECONDS,
            Shows.P99,
            chosen=rf"(?!({syscalls.WAITING})$).*",
            place=100,
        ),
    )
    features = (TP_BTF, TASK_STORAGE, TASK_TABLE, TASK_ITERATOR, BATCH, UNPREEMPTED)
    extras = (TASK_TABLE,)

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table, with the tracked names that this machine has; none if no name is set."""
        names = syscalls.track(environment.syscalls, os.uname().machine).names
        return (Table(METRICS, (Label("syscall", names, per="tracked syscall"),)),) if environment.syscalls else ()

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._machine = os.uname().machine
        self._tracked = syscalls.track(environment.syscalls, self._machine)

    def open(self) -> list[Signal]:
        """Log the syscalls that are not tracked, then load and attach."""
        if not syscalls.supported(self._machine):
            raise UnavailableError(f"syscall numbers of {self._machine} are not known")
        if not self._tracked.names:
            raise UnavailableError("; ".join(self._tracked.remarks))
        for remark in self._tracked.remarks:
            log.warning("%s", remark)
        return super().open()

    def prepare(self, bpf: libbpf.Object) -> None:
        """Fill the tables by number; load one program at each end, if one is enough."""
        bpf.set_rodata("begins", self._tracked.begins)
        bpf.set_rodata("ends", self._tracked.ends)
        if kernel_knows(_PREEMPTED, self.environment.sys_root):
            if UNPREEMPTED in self._required():
                raise UnavailableError(f"{UNPREEMPTED}: this kernel has {_PREEMPTED} (7.2)")
            self.without.add(UNPREEMPTED)
        if UNPREEMPTED not in self.without:
            for hook in _HOOKS:
                for program in self._copies(bpf, hook)[1:]:
                    program.disable_autoload()

    @staticmethod
    def _copies(bpf: libbpf.Object, hook: str) -> list[libbpf.Program]:
        """Return the copies of the program at one end of a syscall."""
        return [program for program in bpf.programs.values() if (program.role, program.of) == ("copy", hook)]

    def attach(self, bpf: libbpf.Object, links: list[libbpf.Link]) -> list[Signal]:
        """Attach first the programs at the end: a call counts if both programs ran."""
        ends, begins = ([program for program in self._copies(bpf, hook) if program.loaded] for hook in _HOOKS)
        attach_all((*ends, *begins), links)
        times = f", {len(ends)} times each" if len(ends) > 1 else ""
        return [Signal(METRICS, f"{begins[0].hook}, {ends[0].hook}{times}")]

    def programs(self) -> list[ProgramHealth]:
        """Return statistics of every program; an event is lost only if the last of several copies missed it."""
        found = super().programs()
        last = {(program := self._loaded_program(health.name)).of: program.name for health in found}
        for health in found:
            program = self._loaded_program(health.name)
            if program.role == "copy" and last[program.of] != program.name:
                health.missed = 0
        return found

    def rows(self, entry: Entry) -> Iterable[Row]:
        """Yield one row per cgroup and syscall."""
        cgroup_id, index = entry.key
        latency = entry.histogram("latency")
        values = latency.count, entry.number("errors"), latency
        yield Row(self.tables[0], cgroup_id, (self._tracked.names[index],), values, entry.epoch)
