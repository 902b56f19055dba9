"""OOM kills and major page faults, from `bpf/memory.bpf.c`."""

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from kpod_metrics.cgroup.keyed import flat, is_absent
from kpod_metrics.collectors.kit import BpfCollector, Environment, Question, Signal
from kpod_metrics.columns import Column
from kpod_metrics.errors import UnavailableError
from kpod_metrics.features import BATCH, PERF_EVENT, TP_BTF
from kpod_metrics.files import read_bytes
from kpod_metrics.kernel import libbpf, perf, rights
from kpod_metrics.kernel.maps import Entry
from kpod_metrics.kernel.programs import attach_all
from kpod_metrics.metrics import Metric, Profile, Row, Scope, Table, counter
from kpod_metrics.pods.model import Group

log = logging.getLogger(__name__)

OOM_KILLS = counter(
    "kpod_mem_oom_kills_total",
    "Processes that the kernel killed for want of memory.",
    "mark_victim or, where that does not tell of the task, the exit of one whose signal_struct.oom_mm is set",
    profile=Profile.MINIMAL,
    events=True,
    advice=("Each is KpodOomKill: find out whether the pod's limit or the node's memory was used up."),
)
MAJOR_FAULTS = counter(
    "kpod_mem_major_page_faults_total",
    "Page faults that had to wait for a disk.",
    "perf event PERF_COUNT_SW_PAGE_FAULTS_MAJ, else pgmajfault in memory.stat",
    events=True,
    advice=("More than 100 a second that go on: more memory, or reads that are not page faults (KpodMajorFaultStorm)."),
)
_EMPTY = 8
"""Instructions of a program that does nothing, with room."""
KILLS = Table((OOM_KILLS,))
FAULTS = Table((MAJOR_FAULTS,))
GROUP_KILLS = counter(
    "kpod_mem_oom_group_kills_total",
    "Times that all processes of a container, or of the pod, were killed together for want of memory "
    "(kpod_mem_oom_kills_total counts the processes).",
    "a victim, as above, below a mem_cgroup.oom_group; as oom_group_kill of memory.events (5.17)",
    advice=(
        "As kpod_mem_oom_kills_total. memory.oom.group is set, of the container or of its pod. Where it is set above "
        "the cgroup whose limit was hit, the kernel kills one process alone, and it counts here all the same."
    ),
)
GROUPS = Table((GROUP_KILLS,), scope=Scope.POD)


class Memory(BpfCollector):
    """OOM kills and major page faults of each cgroup."""

    name = "memory"
    description = "OOM kills, major page faults"
    question = Question.MEMORY
    columns = (
        Column(
            "faults",
            "MAJFL/s",
            "MAJOR_FAULTS/S",
            "page faults that waited for the disk",
            ("kpod_mem_major_page_faults_total",),
            place=70,
        ),
    )
    metric_maps = ("memory",)
    features = (TP_BTF, BATCH, PERF_EVENT)

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._program: libbpf.Program | None = None
        self._events: dict[int, libbpf.Link] = {}
        self._faults: Signal | None = None
        self._from_files = False
        """Whether faults are read from memory.stat: where no perf event may be opened."""

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Of containers, and of pods."""
        return (KILLS, FAULTS, GROUPS)

    def prepare(self, bpf: libbpf.Object) -> None:
        """Without the metric or the event, leave its program out."""
        if MAJOR_FAULTS not in self.wanted or PERF_EVENT in self.without:
            bpf.programs["major_fault"].disable_autoload()

    def attach(self, bpf: libbpf.Object, links: list[libbpf.Link]) -> list[Signal]:
        """Attach to what tells of victims, and to a perf event on each CPU that is up."""
        signals = []
        if exits := tuple(metric for metric in (OOM_KILLS, GROUP_KILLS) if metric in self.wanted):
            hooks = [bpf.programs[name] for name in ("victim_chosen", "process_exits")]
            # Of the one that this kernel does not need nothing is left but its end.
            hooks = [hook for hook in hooks if hook.instructions() > _EMPTY] or hooks
            attach_all(hooks, links)
            signals.append(Signal(exits, " or ".join(hook.hook for hook in hooks)))
        if MAJOR_FAULTS in self.wanted:
            self._program = bpf.programs["major_fault"]
            self._faults = self._attach_faults()
            signals.append(self._faults)
        return signals

    def _attach_faults(self) -> Signal:
        hook = "perf_event PAGE_FAULTS_MAJ"
        try:
            if PERF_EVENT in self.without:
                raise UnavailableError("perf_event_open is switched off")
            self._follow_cpus()
        except UnavailableError as refused:
            self._program = None
            self.without.add(PERF_EVENT)
            if PERF_EVENT in self._required():
                return Signal((MAJOR_FAULTS,), "", str(refused))
            controllers = b""
            with suppress(OSError):
                controllers = read_bytes(os.path.join(self.environment.cgroup_root, "cgroup.controllers"))
            if b"memory" not in controllers.split():
                return Signal(
                    (MAJOR_FAULTS,), "", f"{refused}; and there is no memory controller's memory.stat to read"
                )
            self._from_files = True
            hook = f"memory.stat pgmajfault ({refused})"
        return Signal((MAJOR_FAULTS,), hook)

    def _follow_cpus(self) -> None:
        """Have one event on each CPU that is up: one that went down takes its event with it."""
        assert self._program is not None
        online = perf.online_cpus(self.environment.sys_root)
        for cpu in self._events.keys() - online:
            self._events.pop(cpu).close()
        for cpu in online - self._events.keys():
            fd = perf.open_software_event(perf.SW_PAGE_FAULTS_MAJ, cpu)
            try:
                self._events[cpu] = self._program.attach_perf_event(fd, f"perf_event on CPU {cpu}")
            except UnavailableError:
                os.close(fd)
                raise

    def _follow_later_cpus(self) -> None:
        """Follow them as far as the rights that are left allow, and say where not: what was opened counts on."""
        assert self._faults is not None
        try:
            self._follow_cpus()
        except UnavailableError as refused:
            problem = f"not counted on a CPU that came up later, until a restart: {refused}"
            if not self._faults.problem:
                log.error("%s: %s", MAJOR_FAULTS.name, problem)
            self._faults.problem = problem
        else:
            self._faults.problem = ""

    def rights(self) -> frozenset[int]:
        """To open an event on a CPU that comes up later; CAP_SYS_ADMIN, which a few kernels ask for, is too much."""
        return frozenset() if self._program is None else frozenset({rights.CAP_PERFMON})

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """One row a cgroup; where faults come from files, they have rows of their own."""
        if self._program is not None:
            self._follow_later_cpus()
        rows = super().collect(groups)
        return [*rows, *self._read_faults(groups)] if self._from_files else rows

    def rows(self, entry: Entry) -> Iterable[Row]:
        """Rows of the container, and of the pod."""
        owner, epoch = entry.key[0], entry.epoch
        yield Row(KILLS, owner, (), (entry.number("oom_kills"),), epoch)
        yield Row(GROUPS, owner, (), (entry.number("group_kills"),), epoch)
        if not self._from_files:
            yield Row(FAULTS, owner, (), (entry.number("major_faults"),), epoch)

    def _read_faults(self, groups: Sequence[Group]) -> Iterable[Row]:
        for group in groups:
            try:
                stat = read_bytes(os.path.join(group.path, "memory.stat"))
            except OSError as error:
                self.unread += not is_absent(error)
                continue
            (faults,) = flat(stat, b"pgmajfault")
            if faults is not None:
                yield Row(FAULTS, group.id, (), (faults,))

    def close(self) -> None:
        """Detach from every CPU too."""
        while self._events:
            self._events.popitem()[1].close()
        self._program, self._from_files = None, False
        super().close()
