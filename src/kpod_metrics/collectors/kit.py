"""The base of collectors. A collector declares tables of metrics, and returns rows of them once a cycle."""

import abc
import enum
import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from kpod_metrics.bounds import Ledger
from kpod_metrics.cgroup.keyed import read_if_there, without_controller
from kpod_metrics.columns import Column
from kpod_metrics.errors import UnavailableError
from kpod_metrics.features import BATCH, SOCKET_STORAGE, TASK_STORAGE, TASK_TABLE, TP_BTF, with_dependent, with_needed
from kpod_metrics.kernel import libbpf
from kpod_metrics.kernel.containers import Containers
from kpod_metrics.kernel.maps import CumulativeMap, Entry, map_entries
from kpod_metrics.kernel.programs import OBJECTS, MapHealth, OwnsBpfObject, ProgramHealth, Programs, attach_all
from kpod_metrics.kernel.tasks import SharedTasks
from kpod_metrics.metrics import Metric, Row, Table
from kpod_metrics.pods.model import Group

_STORAGES = {libbpf.SK_STORAGE: SOCKET_STORAGE, libbpf.TASK_STORAGE: TASK_STORAGE}
"""The kernel feature that a map of this type needs."""
_STATE_ROLES = {"end", "table"}
"""Roles of the programs that keep the state of tasks (bpf/state.bpf.h)."""
_PROGRAM = re.compile(r"prog '(\w+)'")
"""How libbpf names the program that the kernel refused."""


@dataclass(frozen=True)
class Environment:
    """The paths of this machine's files, and the settings that collectors use."""

    cgroup_root: str = "/sys/fs/cgroup"
    proc_root: str = "/proc"
    sys_root: str = "/sys"
    objects: str = OBJECTS
    map_entries: int = 0
    """Capacity of each metric map; 0: by the number of CPUs."""
    kept_files: int = 0
    """Descriptors that one reader of cgroup files may keep open."""
    syscalls: tuple[str, ...] = ()
    forced_off: frozenset[str] = frozenset()
    """Kernel features (of `features.FEATURES`) that are not used, to behave as on other kernels."""
    forced_on: frozenset[str] = frozenset()
    """Kernel features without a fallback: if the kernel refuses one, the metrics that use it are off."""
    tasks: SharedTasks = field(init=False, compare=False)
    """The namespaces of all processes, for collectors that ask for them."""
    containers: Containers = field(init=False, compare=False, default_factory=Containers)
    """The containers that the kernel programs know."""
    exceeded: Ledger = field(init=False, compare=False, default_factory=Ledger)
    """Who went over a limit of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", SharedTasks(self.objects, self.sys_root, self.proc_root))


@dataclass
class Signal:
    """How a signal is obtained on this machine, for `check`: the chosen hook, or the reason why there is none."""

    metrics: tuple[Metric, ...]
    hook: str
    problem: str = ""
    """The reason for a failure."""
    absent: str = ""
    """The missing device or controller, which is no failure."""


class Question(enum.Enum):
    """Questions about a slow pod. Each has a row on the dashboard of a pod, with the metrics of its collectors."""

    CPU = "Is it short of CPU time?"
    MEMORY = "Is it short of memory?"
    DISK = "Is it waiting for a disk?"
    NETWORK = "Is it the network?"
    GPU = "Is it the GPU?"
    SYSCALLS = "Is it in syscalls?"


class Collector(abc.ABC):
    """Base of all collectors. `open`, `collect` and `close` are called one at a time, not always by one thread."""

    registry: ClassVar[dict[str, type["Collector"]]] = {}
    name: ClassVar[str]
    description: ClassVar[str]
    """Its measurements in a few words, for `check` and the tables of the docs."""
    question: ClassVar[Question]
    """The question that its metrics answer: their row on the pod's dashboard."""
    page: ClassVar[str] = ""
    """The page of the docs about it, if there is one."""
    device: ClassVar[str] = ""
    """A device that few machines have; without it, the collector collects nothing."""
    controller: ClassVar[str] = ""
    """The controller that the cgroups need; without it, the collector collects nothing."""
    columns: ClassVar[tuple[Column, ...]] = ()
    """Its columns in `top`."""
    uses_bpf: ClassVar[bool] = False
    features: ClassVar[tuple[str, ...]] = ()
    """The kernel features that it uses if the kernel has them."""
    unread_cgroups = 0
    """Cgroups that exist but could not be read, over all reads."""
    skipped_processes = 0
    """Processes whose namespaces were not read, over all reads: only the first ones of a cgroup are."""

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            if cls.name in Collector.registry:
                raise TypeError(f"two collectors are named {cls.name}")
            if missing := {"description", "question"} - {known for base in cls.__mro__ for known in vars(base)}:
                raise TypeError(f"collector {cls.name} declares no {' and no '.join(sorted(missing))}")
            Collector.registry[cls.name] = cls

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        """`wanted` are the metrics to collect; None: all of them."""
        self.environment = environment
        self.tables = self.declare(environment)
        every = frozenset(metric for table in self.tables for metric in table.metrics)
        self.wanted = every if wanted is None else every & wanted
        self.unread: set[int] = set()
        """The cgroup ids that the last read passed over: their series stay as they are."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics to collect, in the order of the tables."""
        return tuple(metric for table in self.tables for metric in table.metrics if metric in self.wanted)

    @classmethod
    @abc.abstractmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return its tables; they may depend on settings (the tracked syscalls)."""

    def open(self) -> list[Signal]:
        """Prepare, and return how each signal is obtained; raises UnavailableError if it can collect nothing."""
        return [Signal(self.metrics, "file")]

    @abc.abstractmethod
    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Return this cycle's rows; `groups` are the cgroups whose files are to be read."""

    def exceeded(self, owner: int, limit: str, times: int = 1) -> None:
        """Count that a cgroup went over a limit of its own (one of `bounds.LIMITS`)."""
        self.environment.exceeded.add(owner, limit, times)

    def forget(self, gone: Callable[[int], bool]) -> None:  # noqa: B027
        """Drop the data of cgroup ids that are `gone`, after their last values were read; by default, there is none."""

    def make_room(self, containers: Mapping[int, int]) -> None:  # noqa: B027
        """Make room in full tables. `containers` has the container of each cgroup below one, by id."""

    def late_rows(self) -> Sequence[Row]:
        """Return rows with events that happened between the last read and `forget` or `make_room`."""
        return ()

    def close(self) -> None:  # noqa: B027
        """Free everything; also called after `open` failed."""

    def rights(self) -> frozenset[int]:
        """Capabilities that it needs after `open`; the agent drops all others (and keeps those for BPF itself)."""
        return frozenset()

    def skipped_mounts(self) -> Mapping[str, int]:
        """Return how many mounts it has skipped, by reason."""
        return {}

    def maps(self) -> list[MapHealth]:
        """Return the state of its kernel maps."""
        return []

    def programs(self) -> list[ProgramHealth]:
        """Return the state of its kernel programs."""
        return []


class BpfCollector(OwnsBpfObject, Collector):
    """A collector with kernel programs: `NAME.bpf.o` has its programs and its metric maps.

    A subclass sets the object up in `prepare`, and chooses the hooks in `attach`.
    """

    uses_bpf = True
    metric_maps: ClassVar[tuple[str, ...]]
    """The maps of running totals; by default, the map that is named after the collector."""
    extras: ClassVar[tuple[str, ...]] = ()
    """Features with their own programs: if a load fails, they are given up first."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "metric_maps" not in cls.__dict__:
            cls.metric_maps = (cls.name,)

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self.without: set[str] = set()
        """Kernel features that are missing or forced off; known after `open`."""

    def prepare(self, bpf: libbpf.Object) -> None:
        """Before load: set read-only data, disable programs and maps."""

    def attach(self, bpf: libbpf.Object, links: list[libbpf.Link]) -> list[Signal]:
        """Attach the programs, in an order in which none misses an event; add each link to `links`."""
        programs = [program for program in bpf.programs.values() if program.loaded and program.role not in _STATE_ROLES]
        attach_all(programs, links)
        return [Signal(self.metrics, ", ".join(program.hook for program in programs))]

    def open(self) -> list[Signal]:
        """Load and attach; without the features that the kernel refuses.

        Only a load shows whether a program may use a kind of storage: the type of task storage exists two releases
        before tracing programs may use it.
        """
        self.without = set(with_dependent(self.environment.forced_off))
        if self.controller and (absent := without_controller(self.controller, self._controllers())):
            return [Signal(self.metrics, "", absent=absent)]
        first: libbpf.KernelError | None = None
        while True:
            try:
                return self._open()
            except libbpf.KernelError as refused:
                first = first or refused
                untried = self._untried(refused)
                if not untried:
                    # The last refusal is about a required feature: all others have been given up.
                    raise (refused if self._required() else first) from None
                self.close()
                self.without |= with_dependent(untried[:1])
            except (LookupError, ValueError, StopIteration) as error:
                # A map, variable or field is missing or different: the file is damaged, or of another version.
                what = f"{self.name}.bpf.o is not the object that belongs to this agent"
                raise UnavailableError(f"{what}: {type(error).__name__}: {error}") from error

    def _open(self) -> list[Signal]:
        where = self.environment
        self._loaded = loaded = Programs(self.name, where.objects, where.sys_root, where.proc_root)
        bpf = loaded.object
        entries = self.environment.map_entries or map_entries(libbpf.possible_cpus())
        for name in self.metric_maps:
            bpf.maps[name].max_entries = entries
        loaded.share(where.containers)
        self._choose_types(bpf)
        self._choose_storage(bpf)
        self.prepare(bpf)
        for program in bpf.programs.values():
            if program.section in self.without:
                program.disable_autoload()
        if lacking := sorted(self._required() & self.without):
            raise UnavailableError(f"{', '.join(lacking)}: required (kernel_features_on), but not used here")
        bpf.load()
        # First the program that removes tasks that end, then those that add tasks: new ones, then existing ones.
        for_state = [program for program in bpf.programs.values() if program.role in _STATE_ROLES]
        attach_all(sorted(for_state, key=lambda program: (program.is_iterator, program.role)), loaded.links)
        signals = self.attach(bpf, loaded.links)
        loaded.readers = {
            name: CumulativeMap(bpf.maps[name], loaded.counters[name], batch=BATCH not in self.without)
            for name in self.metric_maps
        }
        if BATCH in self._required():
            self._require_batch()
        if not all(reader.has_batch() for reader in loaded.readers.values()):
            self.without.add(BATCH)
        for signal in signals:
            if signal.hook:
                signal.hook = "; ".join((signal.hook, *self._choices(bpf)))
        return signals

    def _required(self) -> frozenset[str]:
        """Return its features without a fallback (`forced_on`)."""
        return with_needed(self.environment.forced_on) & frozenset(self.features)

    def _require_batch(self) -> None:
        """Raise UnavailableError if a metric map cannot be read with one call."""
        assert self._loaded is not None
        for reader in self._loaded.readers.values():
            try:
                reader.map.lookup_batch(1)
            except libbpf.KernelError as refused:
                raise UnavailableError(str(refused)) from None

    def _untried(self, refused: libbpf.KernelError) -> list[str]:
        """Return the features to give up next: the iterator that was refused, the extras, storage, typed arguments.

        The kernel returns EINVAL if a kind of storage is missing.
        """
        if self._loaded is None:
            return []
        storages = self._storages(self._loaded.object) if refused.errno == errno.EINVAL else ()
        given_up = self.without | self._required()
        wanted = (*self._refused_iterator(refused), *self.extras, *storages, TP_BTF)
        return [feature for feature in wanted if feature in self.features and feature not in given_up]

    def _refused_iterator(self, refused: libbpf.KernelError) -> list[str]:
        """Return the feature of the program that the kernel refused to load, attach or run, if it is an iterator."""
        assert self._loaded is not None
        named = [match[1] for line in refused.log if (match := _PROGRAM.search(line))]
        program = self._loaded.object.programs.get(named[-1]) if named else None
        section = program.section if program is not None else str(refused).partition(":")[0]
        return [section] if section.startswith("iter/") and section in self.features else []

    def _choose_types(self, bpf: libbpf.Object) -> None:
        """Use tp_btf (typed arguments) or, if the kernel refuses it, raw tracepoints, which cannot use storage."""
        untyped = TP_BTF in self.without
        for program in [program for program in bpf.programs.values() if program.is_raw_tracepoint]:
            bpf.set_rodata("kpod_untyped", bytes([untyped]))
            if not untyped:
                program.load_as_tp_btf()

    def _choose_storage(self, bpf: libbpf.Object) -> None:
        """Keep the state of tasks and sockets in their storage or, if the kernel has none, in a hash by address."""
        for feature in self._storages(bpf):
            bpf.set_rodata(f"kpod_no_{feature}", bytes([feature in self.without]))
        for hash_ in [map_ for map_ in bpf.maps.values() if map_.role == "hash"]:
            if self.environment.map_entries:
                hash_.max_entries = self.environment.map_entries
            if storage := bpf.maps.get(hash_.of):
                unused = storage if _STORAGES[storage.type] in self.without else hash_
                unused.disable_autocreate()
        if TASK_STORAGE in self._storages(bpf):
            bpf.set_rodata("kpod_task_table", bytes([self._has_table()]))
            if not self._has_table():
                for table in [map_ for map_ in bpf.maps.values() if map_.role == "table"]:
                    table.disable_autocreate()
                needless = {"table"} if TASK_STORAGE in self.without else _STATE_ROLES
                for program in [program for program in bpf.programs.values() if program.role in needless]:
                    program.disable_autoload()

    @staticmethod
    def _storages(bpf: libbpf.Object) -> list[str]:
        """Return the kinds of storage that the object can use for state."""
        return [_STORAGES[map_.type] for map_ in bpf.maps.values() if map_.type in _STORAGES]

    def _has_table(self) -> bool:
        """Whether the state of tasks is in a table, with task storage for those that find no place there."""
        return TASK_TABLE not in self.without

    def _choices(self, bpf: libbpf.Object) -> list[str]:
        """Return the choices that were made, for `check`."""
        choices = [
            f"state in {'a hash by address' if storage in self.without else storage.replace('_', ' ')}"
            for storage in self._storages(bpf)
        ]
        if TASK_STORAGE in self._storages(bpf) and self._has_table():
            choices = ["state in a table or task storage"]
        if BATCH in self.without:
            choices.append("read key by key")
        return choices

    def programs(self) -> list[ProgramHealth]:
        """Return statistics of every loaded program. A missed run for the table is harmless: storage has the state."""
        found = super().programs()
        for program in found:
            if self._loaded_program(program.name).role == "table":
                program.missed = 0
        return found

    def _loaded_program(self, name: str) -> libbpf.Program:
        """Return a program of the object; after `open`."""
        assert self._loaded is not None
        return self._loaded.object.programs[name]

    def reader(self, name: str) -> CumulativeMap:
        """Return the reader of a metric map; after `open`."""
        assert self._loaded is not None
        return self._loaded.readers[name]

    def _readers(self) -> Iterable[CumulativeMap]:
        """Return the readers of all metric maps; there are none if this machine lacks the controller."""
        return self._loaded.readers.values() if self._loaded is not None else ()

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Return the rows of every entry of the metric maps."""
        return [row for reader in self._readers() for row in reader.read(self.rows)]

    @abc.abstractmethod
    def rows(self, entry: Entry) -> Iterable[Row]:
        """Return the rows of one entry of a metric map."""

    def forget(self, gone: Callable[[int], bool]) -> None:
        """Delete the entries of cgroups that are gone; a key's first field is its cgroup id."""
        for reader in self._readers():
            reader.forget(lambda key: gone(key[0]))

    def make_room(self, containers: Mapping[int, int]) -> None:
        """Delete entries of the containers with most from crowded maps, and count them as over a limit."""
        for reader in self._readers():
            if reader.is_crowded():
                for container, entries in reader.make_room(containers).items():
                    self.exceeded(container, "map_entries", entries)

    def late_rows(self) -> Sequence[Row]:
        """Return the last rows of entries that were deleted."""
        return [row for reader in self._readers() for row in reader.take_late()]

    def _controllers(self) -> bytes:
        return read_if_there(os.path.join(self.environment.cgroup_root, "cgroup.controllers"))
