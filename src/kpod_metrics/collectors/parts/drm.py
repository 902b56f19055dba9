"""GPUs of DRM drivers (amdgpu, i915, xe, ...): whose clients are open, and what each of them used since the last cycle.

There is no list of clients: they are found through the descriptors of processes, in `/proc/PID/fd`. What keeps that
cheap: nothing is looked at without a render node; of a container whose /dev/dri is missing, no process; and of a
process, its descriptors only when their number has changed (the directory's size, since 6.2: f1f1f2569901), or every
tenth cycle.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kpod_metrics.cgroup import drm
from kpod_metrics.cgroup.keyed import is_absent, read_if_there
from kpod_metrics.cgroup.processes import alive
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.kernel.openat2 import open_below
from kpod_metrics.pods.model import Group

AGAIN = 10
"""Cycles after which the descriptors of a process are listed though their number is the same."""

_NO_COUNTS = frozenset({"nvidia"})
"""Drivers with render nodes whose clients are told of elsewhere."""


class Use(NamedTuple):
    """What a container has of a GPU."""

    ratio: float | None
    memory: int | None


class _Held(NamedTuple):
    """What was found of one process."""

    state: tuple[int, int, int]
    """Inode, time and size of its directory of descriptors: another process with its number has another."""
    descriptors: list[str]
    """One for each client."""
    until: int
    """The cycle in which they are listed again in any case."""


class _Seen(NamedTuple):
    """One client at one read."""

    at_ns: int
    client: drm.DrmClient


@dataclass
class _Total:
    """What all clients of one container add up to, for one GPU."""

    ratios: dict[str, float] = field(default_factory=dict)
    own: int = 0
    shared: int = 0
    has_memory: bool = False


class Drm:
    """Finds the clients, and takes differences of what their drivers count."""

    def __init__(self, environment: Environment, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`clock` tells nanoseconds."""
        self._proc = environment.proc_root
        self._class = f"{environment.sys_root}/class/drm"
        self._clock = clock
        self._devices: frozenset[str] = frozenset()
        """Those found last: clients of others are left out."""
        self._cycle = 0
        self._held: dict[int, _Held] = {}
        self._before: dict[tuple[str, int], tuple[int, _Seen]] = {}
        """Of each client, by device and id: its cgroup and what was read in the last cycle."""

    def devices(self) -> dict[str, str]:
        """Return the GPUs that have a render node, with their drivers; one system call where there are none."""
        try:
            nodes = [name for name in os.listdir(self._class) if name.startswith("renderD")]
        except FileNotFoundError:
            return {}
        found = {}
        for node in nodes:
            driver = _target(f"{self._class}/{node}/device/driver")
            if driver not in _NO_COUNTS:
                found[self._device(node)] = driver
        self._devices = frozenset(found)
        return found

    def _device(self, node: str) -> str:
        """Return the device of a node: its PCI address, or its name on another bus."""
        return os.path.basename(os.path.realpath(f"{self._class}/{node}/device"))

    def clients(self, group: Group) -> Iterable[tuple[Group, str, _Seen]]:
        """Yield each client that processes of a cgroup hold, with its GPU; raises OSError where they are hidden."""
        if not self._has_nodes(group.pids):
            return
        for pid in group.pids:
            try:
                yield from ((group, device, seen) for device, seen in self._of_process(pid))
            except OSError as error:
                if not is_absent(error):
                    raise

    def _has_nodes(self, pids: Sequence[int]) -> bool:
        """Whether the first process that is still there may see any DRM node: a container has those it was given."""
        for pid in pids:
            try:
                root = os.open(f"{self._proc}/{alive(self._proc, pid)}/root", os.O_PATH | os.O_CLOEXEC)
            except (FileNotFoundError, ProcessLookupError):
                continue
            try:
                os.close(open_below(root, "/dev/dri"))
            except (FileNotFoundError, NotADirectoryError):
                return False
            except OSError:
                return True  # not to be looked up from here, as with a link in the path: the descriptors say it
            finally:
                os.close(root)
            return True
        return False

    def _of_process(self, pid: int) -> list[tuple[str, _Seen]]:
        folder = f"{self._proc}/{pid}/fd"
        status = os.stat(folder)
        if not status.st_size and (thread := alive(self._proc, pid)) != pid:
            return self._of_process(thread)  # the main thread has ended, and with it its descriptors
        state = (status.st_ino, status.st_mtime_ns, status.st_size)
        held = self._held.get(pid)
        if held is None or held.state != state or not status.st_size or self._cycle >= held.until:
            # Spread over the cycles, so that not all of them are due in one.
            first = held is None or held.state != state
            until = self._cycle + (1 + pid % AGAIN if first else AGAIN)
            held = _Held(state, _nodes(folder), until)
        found: dict[tuple[str, int], tuple[str, str, _Seen]] = {}
        for descriptor in held.descriptors:
            data = read_if_there(f"{self._proc}/{pid}/fdinfo/{descriptor}")
            seen = drm.client(data)
            if seen is None:
                continue
            device = seen.device or self._device(_target(f"{folder}/{descriptor}"))
            if device in self._devices:
                found.setdefault((device, seen.id), (descriptor, device, _Seen(self._clock(), seen)))
        self._held[pid] = held._replace(descriptors=[descriptor for descriptor, _, _ in found.values()])
        return [(device, seen) for _, device, seen in found.values()]

    def uses(self, read: Iterable[tuple[Group, str, _Seen]]) -> Mapping[tuple[Group, str], Use]:
        """Return what containers used since the last cycle, by one of their cgroups and by GPU; ends the cycle.

        A client that processes of several cgroups hold is charged to the one it was first found in, while that has it.
        """
        now: dict[tuple[str, int], tuple[Group, _Seen]] = {}
        for group, device, seen in read:
            key = (device, seen.client.id)
            before = self._before.get(key)
            if key not in now or (before is not None and before[0] == group.id):
                now[key] = (group, seen)
        totals: dict[tuple[object, str], tuple[Group, _Total]] = {}
        for key, (group, seen) in now.items():
            _, total = totals.setdefault((group.identity, key[0]), (group, _Total()))
            known = self._before.get(key)
            _add(total, known[1] if known is not None else None, seen)
        self._before = {
            key: (group.id, _highest(self._before[key][1], seen) if key in self._before else seen)
            for key, (group, seen) in now.items()
        }
        return {(group, device): _use(total) for (_, device), (group, total) in totals.items()}

    def next_cycle(self, groups: Sequence[Group]) -> None:
        """Begin a cycle: forget processes that are gone."""
        self._cycle += 1
        there = {pid for group in groups for pid in group.pids}
        self._held = {pid: held for pid, held in self._held.items() if pid in there}

    def forget_all(self) -> None:
        """Drop all that is kept: there is no GPU now."""
        self._held, self._before = {}, {}


def _nodes(folder: str) -> list[str]:
    """Return the descriptors that are DRM nodes, by where their links lead: a look at the files might wait for them."""
    found = []
    for name in os.listdir(folder):
        try:
            if "/dri/" in os.readlink(f"{folder}/{name}"):
                found.append(name)
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def _target(link: str) -> str:
    """Return the name of what a link leads to; empty where there is none."""
    try:
        return os.path.basename(os.readlink(link))
    except FileNotFoundError:
        return ""


def _add(total: _Total, before: _Seen | None, now: _Seen) -> None:
    """Add one client: its memory, and the share of time that each class of engines worked for it."""
    memory = now.client.memory()
    if memory is not None:
        total.own += memory[0]
        # A buffer that clients share is counted by each: once for the container, so far as can be told.
        total.shared = max(total.shared, memory[1])
        total.has_memory = True
    if before is None:
        return  # since when it is there is not known
    for name, engine in now.client.engines.items():
        ratio = _ratio(before.client.engines.get(name), engine, now.at_ns - before.at_ns)
        if ratio is not None:
            total.ratios[name] = total.ratios.get(name, 0.0) + ratio


def _ratio(before: drm.Engine | None, now: drm.Engine, elapsed_ns: int) -> float | None:
    """The share of an interval that the engines of a class worked for a client; None where that is not told."""
    if now.busy_ns is not None:
        if elapsed_ns <= 0:
            return None
        known = 0 if before is None or before.busy_ns is None else before.busy_ns  # amdgpu leaves out what is 0
        return max(0, now.busy_ns - known) / (elapsed_ns * now.capacity)
    if now.cycles is None or now.total_cycles is None:
        return None
    if before is None or before.cycles is None or before.total_cycles is None:
        return None
    passed = now.total_cycles - before.total_cycles
    # The clock wraps where it has fewer than 64 bits: that interval is lost.
    return max(0, now.cycles - before.cycles) / (passed * now.capacity) if passed > 0 else None


def _highest(before: _Seen, now: _Seen) -> _Seen:
    """Keep the greater of two counts: a driver may step back, and is to catch up (drm-usage-stats.rst)."""
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
    """A GPU is as busy as its busiest class of engines; never more than whole, as reads are not simultaneous."""
    ratio = min(1.0, max(total.ratios.values())) if total.ratios else None
    return Use(ratio, total.own + total.shared if total.has_memory else None)
