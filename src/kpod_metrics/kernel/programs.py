"""The programs of one object in this kernel: load, attach, report their health, unload."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kpod_metrics.errors import UnavailableError
from kpod_metrics.kernel import libbpf, rights
from kpod_metrics.kernel.containers import Containers
from kpod_metrics.kernel.maps import Counter, CumulativeMap

OBJECTS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "bpf")
"""The folder to which the build hook writes the compiled objects."""

_CHUNK = 1 << 16
"""Bytes of the kernel's BTF to search at a time: it has some megabytes."""


def kernel_knows(name: str, sys_root: str = "/sys") -> bool:
    """Whether the kernel's BTF has a type, a member or a function of this name: for changes that nothing else shows.

    Raises OSError if the kernel has no BTF.
    """
    wanted, tail = b"\0" + name.encode() + b"\0", b""
    with open(os.path.join(sys_root, "kernel/btf/vmlinux"), "rb", buffering=0) as btf:
        while chunk := btf.read(_CHUNK):
            if wanted in tail + chunk:
                return True
            tail = chunk[-len(wanted) :]
    return False


@dataclass
class MapHealth:
    """State of one kernel map."""

    name: str
    memory_bytes: int | None
    """None if this process may not read it."""
    update_errors: int | None = None
    entries: int | None = None
    capacity: int | None = None
    evictions: int | None = None


@dataclass
class ProgramHealth:
    """Statistics of one kernel program; time and runs are 0 while kernel.bpf_stats_enabled is off."""

    name: str
    run_seconds: float
    runs: int
    missed: int | None
    """None if the kernel does not count it."""


class Programs:
    """An open object; the caller sets it up, loads it, and keeps each attachment in `links`."""

    def __init__(self, name: str, objects: str = OBJECTS, sys_root: str = "/sys", proc_root: str = "/proc") -> None:
        """Open `NAME.bpf.o`; raises UnavailableError with the reason if this machine cannot load programs."""
        btf = os.path.join(sys_root, "kernel/btf/vmlinux")
        if not os.path.exists(btf):
            raise UnavailableError(f"{btf} is missing: CO-RE needs a kernel with CONFIG_DEBUG_INFO_BTF")
        if lacking := rights.lacking_for_bpf(rights.effective(proc_root)):
            raise UnavailableError(f"EPERM: this process lacks {lacking}")
        if libbpf.is_refused():
            raise UnavailableError(
                "EPERM: bpf() is refused even with capabilities: by a seccomp profile (or kernel lockdown)"
            )
        self.object = libbpf.Object(os.path.join(objects, f"{name}.bpf.o"))
        self.links: list[libbpf.Link] = []
        self._containers: Containers | None = None
        self.readers: Mapping[str, CumulativeMap] = {}
        """Readers of its metric maps, by the map's name."""
        self.counters = {map_.of: Counter(map_) for map_ in self.object.maps.values() if map_.role == "counts"}
        """What happened to a map, by the name of the map or state."""

    def share(self, containers: Containers) -> None:
        """Use the same marks of containers as other objects; before load."""
        containers.join(self.object.maps["containers"])
        self._containers = containers

    def map_health(self) -> list[MapHealth]:
        """State of every map, with its failed updates if the programs count them."""
        found = []
        for map_ in self.object.maps.values():
            if map_.created and (self._containers is None or self._containers.is_counted_with(map_)):
                health = MapHealth(map_.name, map_.memory_bytes())
                if reader := self.readers.get(map_.name):
                    health.entries, health.evictions = reader.entries, reader.evictions
                    health.capacity, health.update_errors = map_.max_entries, reader.failures
                elif counter := self.counters.get(map_.of if map_.role == "hash" else map_.name):
                    health.update_errors = counter.read().failures
                found.append(health)
        return found

    def program_health(self) -> list[ProgramHealth]:
        """Statistics of every loaded program."""
        return [
            ProgramHealth(program.name, nanoseconds / 1e9, runs, missed)
            for program in self.object.programs.values()
            if program.loaded
            for nanoseconds, runs, missed in (program.statistics(),)
        ]

    def close(self) -> None:
        """Detach and unload; a second call does nothing."""
        while self.links:
            self.links.pop().close()
        if self._containers is not None:
            self._containers.leave(self.object.maps["containers"])
            self._containers = None
        self.object.close()


def attach_all(programs: Iterable[libbpf.Program], links: list[libbpf.Link]) -> None:
    """Attach those of the programs that are loaded, in this order; an iterator also runs once."""
    for program in programs:
        if program.loaded:
            link = program.attach()
            links.append(link)
            if program.is_iterator:
                link.run_iterator()


class OwnsBpfObject:
    """Mixin for the owner of a BPF object, which is in `_loaded`."""

    _loaded: Programs | None = None

    def maps(self) -> list[MapHealth]:
        """State of its maps, with failed updates if the programs count them; empty while nothing is loaded."""
        return [] if self._loaded is None else self._loaded.map_health()

    def programs(self) -> list[ProgramHealth]:
        """Statistics of every loaded program."""
        return [] if self._loaded is None else self._loaded.program_health()

    def close(self) -> None:
        """Detach and unload; also after `open` failed. A second call does nothing."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()
