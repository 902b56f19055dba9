"""GPUs of DRM drivers (amdgpu, i915, xe, ...): their clients, and the use by each since the last cycle.

The kernel has no list of clients. They are found through the descriptors of processes, in `/proc/PID/fd`. To keep this
cheap, it reads nothing if there is no render node, and no processes of a container without /dev/dri. It lists the
descriptors of a process only if their number changed (the size of the directory, since 6.2: f1f1f2569901), and in every
tenth cycle. A pod can have a million descriptors: each has its own share of every cycle.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import NoneType
from typing import NamedTuple

from kpod_metrics.cgroup import drm
from kpod_metrics.cgroup.keyed import is_absent, read_if_there
from kpod_metrics.cgroup.mounts import FileSystem, Point
from kpod_metrics.cgroup.processes import alive
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.parts.statvfs import Probe, Statvfs
from kpod_metrics.kernel.openat2 import open_below
from kpod_metrics.pods.model import Group, Identity

RELIST_CYCLES = 10
"""Cycles after which the descriptors of a process are listed even if their number is the same."""

MAX_PROCESSES, MAX_LISTED, MAX_READ = 1024, 8192, 256
"""Processes of a pod, descriptors that are listed and statistics that are read per cycle: 25 ms. A pod that trains on
eight GPUs has some hundred processes with a hundred descriptors each, of which one or two are of a GPU."""

_EXISTS = os.statvfs_result((0,) * 10)
_WITHOUT_STATISTICS = frozenset({"nvidia"})
"""Drivers with render nodes but without client statistics; for nvidia, NVML has them."""


class Use(NamedTuple):
    """A container's use of a GPU."""

    ratio: float | None
    memory: int | None


class _Descriptors(NamedTuple):
    """The DRM descriptors of one process."""

    state: tuple[int, int, int]
    """Inode, time and size of its directory of descriptors. They differ for a later process with the same PID."""
    names: list[str]
    """One descriptor per client."""
    relist_at: int
    """The cycle in which they are listed again."""


class _Reading(NamedTuple):
    """A client's statistics, and the time of the read."""

    at_ns: int
    client: drm.DrmClient


@dataclass
class _Share:
    """What is left of a pod's share of the cycle."""

    processes: int = MAX_PROCESSES
    listed: int = MAX_LISTED
    read: int = MAX_READ
    over: int = 0
    """Processes with descriptors beyond it."""


@dataclass
class _Total:
    """The sum of all clients of a container on one GPU."""

    ratios: dict[str, float] = field(default_factory=dict)
    own: int = 0
    shared: int = 0
    has_memory: bool = False


class Drm:
    """Finds the clients, and computes differences of their counters."""

    def __init__(self, environment: Environment, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`clock` returns nanoseconds."""
        self._exceeded = environment.exceeded
        self._proc = environment.proc_root
        self._class = f"{environment.sys_root}/class/drm"
        self._clock = clock
        self._devices: frozenset[str] = frozenset()
        """The devices of the last search; clients of other devices are ignored."""
        self._cycle = 0
        self._descriptors: dict[int, _Descriptors] = {}
        self._shares: dict[Identity, _Share] = {}
        self._lookups = Statvfs(_look)
        self._seeing: set[int] = set()
        """Groups whose processes can see DRM nodes."""
        self._before: dict[tuple[str, int], tuple[int, _Reading]] = {}
        """Cgroup and last read of each client, by device and client id."""

    def devices(self) -> dict[str, str]:
        """Return the GPUs with a render node, and their drivers; makes one system call if there are none."""
        try:
            nodes = [name for name in os.listdir(self._class) if name.startswith("renderD")]
        except FileNotFoundError:
            return {}
        found = {}
        for node in nodes:
            driver = _target(f"{self._class}/{node}/device/driver")
            if driver not in _WITHOUT_STATISTICS:
                found[self._device(node)] = driver
        self._devices = frozenset(found)
        return found

    def _device(self, node: str) -> str:
        """Return the device of a node: its PCI address, or its name on another bus."""
        return os.path.basename(os.path.realpath(f"{self._class}/{node}/device"))

    def clients(self, group: Group) -> Iterable[tuple[Group, str, _Reading]]:
        """Yield the clients of a cgroup's processes, with their GPUs; raises OSError if they cannot be read."""
        if group.id not in self._seeing:
            return
        share = self._shares.setdefault(group.pod, _Share())
        pids = group.pids[: share.processes]
        share.processes -= len(pids)
        share.over = len(group.pids) - len(pids)
        for pid in pids:
            try:
                yield from ((group, device, reading) for device, reading in self._of_process(pid, share))
            except OSError as error:
                if not is_absent(error):
                    raise
        if share.over:
            self._exceeded.add(group.id, "descriptors", share.over)

    def _with_nodes(self, groups: Iterable[Group]) -> set[int]:
        """Return the groups whose processes can see DRM nodes: a container sees only those that it may use.

        The lookup of the path may never return, like statvfs() of a mount.
        """
        probes = []
        for group in groups:
            for pid in group.pids[:MAX_PROCESSES]:
                try:
                    root = f"{self._proc}/{alive(self._proc, pid)}/root"
                except OSError:
                    continue
                probes.append(Probe(FileSystem(str(group.id), [Point("/dev/dri", 0)]), root, group))
                break
        self._lookups.read(probes)
        for probe in probes:
            if probe.answer is None and self._lookups.is_suspect(probe.pod):
                self._exceeded.add(probe.group.id, "hung_mounts")
        # A path that cannot be looked up (it contains a link): the descriptors say whether there are clients.
        absent = (NoneType, FileNotFoundError, NotADirectoryError, ProcessLookupError)
        return {probe.group.id for probe in probes if not isinstance(probe.answer, absent)}

    def _of_process(self, pid: int, share: _Share) -> list[tuple[str, _Reading]]:
        folder = f"{self._proc}/{pid}/fd"
        status = os.stat(folder)
        if not status.st_size and (thread := alive(self._proc, pid)) != pid:
            return self._of_process(thread, share)  # the main thread has ended and has no descriptors
        state = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._descriptors.get(pid)
        if known is None or known.state != state or not status.st_size or self._cycle >= known.relist_at:
            if not share.listed:
                share.over += 1
                return []  # it has its turn in another cycle
            # Spread over the cycles, so that not all processes are listed in the same one.
            first = known is None or known.state != state
            relist_at = self._cycle + (1 + pid % RELIST_CYCLES if first else RELIST_CYCLES)
            names, listed = _node_descriptors(folder, share.listed)
            if listed > share.listed:
                share.over += 1
            share.listed = max(0, share.listed - listed)
            known = _Descriptors(state, names, relist_at)
        found: dict[tuple[str, int], tuple[str, str, _Reading]] = {}
        for descriptor in known.names:
            if not share.read:
                share.over += 1
                break
            share.read -= 1
            data = read_if_there(f"{self._proc}/{pid}/fdinfo/{descriptor}")
            client = drm.client(data)
            if client is None:
                continue
            device = client.device or self._device(_target(f"{folder}/{descriptor}"))
            if device in self._devices:
                found.setdefault((device, client.id), (descriptor, device, _Reading(self._clock(), client)))
        self._descriptors[pid] = known._replace(names=[descriptor for descriptor, _, _ in found.values()])
        return [(device, reading) for _, device, reading in found.values()]

    def uses(self, read: Iterable[tuple[Group, str, _Reading]]) -> Mapping[tuple[Group, str], Use]:
        """Return the use since the last cycle, by container (one of its cgroups) and GPU; ends the cycle.

        If processes of several cgroups have the same client, it belongs to the cgroup in which it was found first.
        """
        now: dict[tuple[str, int], tuple[Group, _Reading]] = {}
        for group, device, reading in read:
            key = (device, reading.client.id)
            before = self._before.get(key)
            if key not in now or (before is not None and before[0] == group.id):
                now[key] = (group, reading)
        totals: dict[tuple[object, str], tuple[Group, _Total]] = {}
        for key, (group, reading) in now.items():
            _, total = totals.setdefault((group.identity, key[0]), (group, _Total()))
            known = self._before.get(key)
            _add(total, known[1] if known is not None else None, reading)
        self._before = {
            key: (group.id, _with_highest(self._before[key][1], reading) if key in self._before else reading)
            for key, (group, reading) in now.items()
        }
        return {(group, device): _use(total) for (_, device), (group, total) in totals.items()}

    def next_cycle(self, groups: Sequence[Group]) -> None:
        """Begin a cycle: forget processes that ended."""
        self._cycle += 1
        self._shares = {}
        self._seeing = self._with_nodes(groups)
        there = {pid for group in groups for pid in group.pids}
        self._descriptors = {pid: known for pid, known in self._descriptors.items() if pid in there}

    def close(self) -> None:
        """Stop the helper thread."""
        self._lookups.close()

    def forget_all(self) -> None:
        """Forget everything: there is no GPU now."""
        self._descriptors, self._before = {}, {}


def _look(root: str, point: str, mount: int, reached: Callable[[str], object]) -> os.statvfs_result:
    """Raise OSError unless a path exists below a root directory."""
    top = os.open(root, os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(open_below(top, point))
    finally:
        os.close(top)
    return _EXISTS


def _node_descriptors(folder: str, room: int) -> tuple[list[str], int]:
    """Return the descriptors of DRM nodes among the first `room` ones, and how many there are (at most room + 1).

    It reads the target of their links: accessing the files could block.
    """
    found, listed = [], 0
    with os.scandir(folder) as entries:
        for listed, entry in enumerate(islice(entries, room + 1), 1):
            try:
                if listed <= room and "/dri/" in os.readlink(entry.path):
                    found.append(entry.name)
            except FileNotFoundError:
                continue  # it was closed
    return found, listed


def _target(link: str) -> str:
    """Return the name of a link's target; empty if there is none."""
    try:
        return os.path.basename(os.readlink(link))
    except FileNotFoundError:
        return ""


def _add(total: _Total, before: _Reading | None, now: _Reading) -> None:
    """Add one client: its memory, and the share of time in which each class of engines worked for it."""
    memory = now.client.memory()
    if memory is not None:
        total.own += memory[0]
        # Every client counts a shared buffer: use the largest value, as the container has it only once.
        total.shared = max(total.shared, memory[1])
        total.has_memory = True
    if before is None:
        return  # the start of the client is unknown
    for name, engine in now.client.engines.items():
        ratio = _ratio(before.client.engines.get(name), engine, now.at_ns - before.at_ns)
        if ratio is not None:
            total.ratios[name] = total.ratios.get(name, 0.0) + ratio


def _ratio(before: drm.Engine | None, now: drm.Engine, elapsed_ns: int) -> float | None:
    """Return the share of time in which a class of engines worked for a client; None if it is unknown."""
    if now.busy_ns is not None:
        if elapsed_ns <= 0:
            return None
        known = 0 if before is None or before.busy_ns is None else before.busy_ns  # amdgpu omits values of 0
        return max(0, now.busy_ns - known) / (elapsed_ns * now.capacity)
    if now.cycles is None or now.total_cycles is None:
        return None
    if before is None or before.cycles is None or before.total_cycles is None:
        return None
    elapsed = now.total_cycles - before.total_cycles
    # A clock with fewer than 64 bits can wrap: then this interval is lost.
    return max(0, now.cycles - before.cycles) / (elapsed * now.capacity) if elapsed > 0 else None


def _with_highest(before: _Reading, now: _Reading) -> _Reading:
    """Keep the larger value of each counter: it may decrease, and later catch up (drm-usage-stats.rst)."""
    for name, engine in now.client.engines.items():
        old = before.client.engines.get(name)
        if old is None:
            continue
        if engine.busy_ns is not None and old.busy_ns is not None:
            engine.busy_ns = max(engine.busy_ns, old.busy_ns)
        if engine.cycles is not None and old.cycles is not None:
            engine.cycles = max(engine.cycles, old.cycles)
    return now


def _use(total: _Total) -> Use:
    """Return the use: a GPU is as busy as its busiest class of engines. Limited to 1, as reads are not simultaneous."""
    ratio = min(1.0, max(total.ratios.values())) if total.ratios else None
    return Use(ratio, total.own + total.shared if total.has_memory else None)
