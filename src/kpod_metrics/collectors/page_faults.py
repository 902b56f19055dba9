"""Major page faults, from `bpf/page_faults.bpf.c` or from memory.stat if perf events are not permitted."""

import logging
import os
from collections.abc import Iterable, Sequence

from kpod_metrics.cgroup.keyed import flat, is_absent
from kpod_metrics.collectors.kit import BpfCollector, Environment, Question, Signal
from kpod_metrics.columns import Column
from kpod_metrics.errors import UnavailableError
from kpod_metrics.features import BATCH, PERF_EVENT
from kpod_metrics.files import read_bytes
from kpod_metrics.kernel import libbpf, perf, rights
from kpod_metrics.kernel.maps import Entry
from kpod_metrics.metrics import Metric, Row, Table, counter
from kpod_metrics.pods.model import Group

log = logging.getLogger(__name__)

MAJOR_FAULTS = counter(
    "kpod_mem_major_page_faults_total",
    "Page faults that waited for the disk.",
    "perf event PERF_COUNT_SW_PAGE_FAULTS_MAJ, else pgmajfault in memory.stat",
    events=True,
    advice="More than 100 a second for minutes: more memory, or read() instead of mmap() (KpodMajorFaultStorm).",
)
TABLE = Table((MAJOR_FAULTS,))


class PageFaults(BpfCollector):
    """Major page faults of each cgroup."""

    name = "page_faults"
    description = "major page faults"
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
    features = (BATCH, PERF_EVENT)

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._events: dict[int, libbpf.Link] = {}
        """The perf event of each CPU."""
        self._program: libbpf.Program | None = None
        """Counts the events; None if memory.stat is read."""
        self._signal = Signal((MAJOR_FAULTS,), "perf_event PAGE_FAULTS_MAJ")

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def prepare(self, bpf: libbpf.Object) -> None:
        """Without perf events, do not load the program."""
        if PERF_EVENT in self.without:
            bpf.programs["major_fault"].disable_autoload()

    def attach(self, bpf: libbpf.Object, links: list[libbpf.Link]) -> list[Signal]:
        """Attach to a perf event on each CPU that is online, or read files if that is refused."""
        self._program = bpf.programs["major_fault"]
        self._signal = Signal((MAJOR_FAULTS,), "perf_event PAGE_FAULTS_MAJ")
        try:
            if PERF_EVENT in self.without:
                raise UnavailableError("perf_event_open is switched off")
            self._follow_cpus()
        except UnavailableError as refused:
            self._program = None
            self.without.add(PERF_EVENT)
            if PERF_EVENT in self._required():
                raise UnavailableError(str(refused)) from None
            if b"memory" not in self._controllers().split():
                raise UnavailableError(f"{refused}; and there is no memory controller's memory.stat to read") from None
            self._signal.hook = f"memory.stat pgmajfault ({refused})"
        return [self._signal]

    def _follow_cpus(self) -> None:
        """Keep one event open on each CPU that is online. The event of a CPU ends when the CPU goes offline."""
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
        """Open events on new CPUs if the remaining capabilities allow it, otherwise report the problem."""
        try:
            self._follow_cpus()
        except UnavailableError as refused:
            problem = f"not counted on a CPU that came online later, until a restart: {refused}"
            if not self._signal.problem:
                log.error("%s: %s", MAJOR_FAULTS.name, problem)
            self._signal.problem = problem
        else:
            self._signal.problem = ""

    def rights(self) -> frozenset[int]:
        """Return the right to open events on new CPUs. A few kernels need CAP_SYS_ADMIN for it: that is too much."""
        return frozenset() if self._program is None else frozenset({rights.CAP_PERFMON})

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Yield one row per cgroup."""
        if self._program is None:
            return self._read_files(groups)
        self._follow_later_cpus()
        return super().collect(groups)

    def rows(self, entry: Entry) -> Iterable[Row]:
        """Yield one row per cgroup."""
        yield Row(TABLE, entry.key[0], (), (entry.number("major"),), entry.epoch)

    def _read_files(self, groups: Sequence[Group]) -> Iterable[Row]:
        for group in groups:
            try:
                stat = read_bytes(os.path.join(group.path, "memory.stat"))
            except OSError as error:
                self.unread_cgroups += not is_absent(error)
                continue
            (faults,) = flat(stat, b"pgmajfault")
            if faults is not None:
                yield Row(TABLE, group.id, (), (faults,))

    def close(self) -> None:
        """Detach from every CPU too."""
        while self._events:
            self._events.popitem()[1].close()
        self._program = None
        super().close()
