"""Stops admitting new series before the agent reaches its memory limit: first most of those that pods decide, then all.

The limit is the setting or, without it, the lowest `memory.max` of this process' cgroup and the cgroups above it
(Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files"). Usage is the resident memory or, for the limit of a
cgroup, the cgroup's own count, which includes the kernel maps, without the page cache, which the kernel frees first.
"""

import os

from kpod_metrics.cgroup.keyed import flat, read_if_there, single
from kpod_metrics.cgroup.tree import Tree
from kpod_metrics.limits import Room

STOP, RESUME = 0.85, 0.75
"""Shares of the limit above which new owners have no series, and below which they have some again."""
STOP_OPEN, RESUME_OPEN = 0.75, 0.7
"""The same for most series that pods decide by their interfaces, devices and mounts. What is between is for new pods:
at 64 MiB the 91 series of 120 pods."""
CGROUP_BYTES = 5000
"""Cost of a cgroup without its series: measured, 185 MB with 265,000 series and 5,000 cgroups."""
FIRST_BYTES = 10 << 20
"""Additional cost of the first cycles and scrapes, mostly buffers for pages: measured, up to 7.5 MB with 100 pods."""
_REUSABLE = 0.9
"""If less than this share of the maximum ever needed is needed now, freed memory can be used again."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


def own_cgroup(root: str) -> str:
    """Return the path of this process' cgroup below `root`, with a leading slash; "" if it is not found."""
    walk = Tree(root)
    own = os.getpid()
    try:
        return next((f"/{directory.path}" for directory in walk.walk() if own in directory.pids), "")
    except OSError:
        return ""
    finally:
        walk.close()


class Headroom:
    """Tells whether there is memory for more series. It reads the limit again each time."""

    def __init__(self, limit: int = 0, cgroup_root: str = "", proc_root: str = "/proc") -> None:
        """`limit` is in bytes; 0: the limit of the own cgroup in the tree at `cgroup_root`."""
        self._set, self._root, self._proc = limit, cgroup_root, proc_root
        self._above: list[str] = []
        """The directories of the own cgroup and the cgroups above it."""
        self._began = self._most_needed = 0
        self.limit = 0
        """Bytes; 0: no limit."""
        self.cgroups = 0
        """Number of cgroups on the node."""
        self.used = 0
        """Bytes in use at the last check."""
        self.room = Room.ALL
        """Which new series there is memory for."""

    @property
    def low(self) -> bool:
        """Whether there is no memory for new owners."""
        return self.room is Room.NONE

    def open(self) -> None:
        """Find the own cgroup; called before there are series."""
        if not self._set and self._root:
            path = own_cgroup(self._root)
            while path:
                self._above.append(self._root + path.rstrip("/"))
                path = path.rpartition("/")[0]
        self.look(0)
        self._began = self.used

    def look(self, needed: int) -> Room:
        """Check the memory if the series need so much, some of which may never have been written."""
        limits = [(self._set, "")] if self._set else self._limits()
        if not limits:
            self.limit, self.room = 0, Room.ALL
            return self.room
        self.limit, where = min(limits)
        try:
            self.used = self._charged(where) if where else self._resident()
        except OSError:  # no descriptors: keep the last answer
            return self.room
        needed += CGROUP_BYTES * self.cgroups
        self._most_needed = max(self._most_needed, needed)
        if self._is_above(needed, RESUME if self.room is Room.NONE else STOP):
            self.room = Room.NONE
        elif self._is_above(needed, RESUME_OPEN if self.room < Room.ALL else STOP_OPEN):
            self.room = Room.LITTLE
        else:
            self.room = Room.ALL
        return self.room

    def _is_above(self, needed: int, share: float) -> bool:
        """Whether a share of the limit is in use, or will be."""
        bound = share * self.limit
        # The memory of ended series stays resident as free space in the heap, and new series can use it.
        return self._began + FIRST_BYTES + needed > bound or (
            self.used > bound and needed >= _REUSABLE * self._most_needed
        )

    def _limits(self) -> list[tuple[int, str]]:
        found = []
        for directory in self._above:
            try:
                limit = single(read_if_there(f"{directory}/memory.max"))
            except OSError:
                continue
            if limit is not None:
                found.append((limit, directory))
        return found

    def _resident(self) -> int:
        return int(read_if_there(f"{self._proc}/self/statm").split()[1]) * _PAGE

    @staticmethod
    def _charged(directory: str) -> int:
        current = single(read_if_there(f"{directory}/memory.current")) or 0
        [cached] = flat(read_if_there(f"{directory}/memory.stat"), b"inactive_file")
        return current - (cached or 0)
