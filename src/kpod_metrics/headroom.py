"""Stops admitting new series before the agent reaches its memory limit.

The limit is the setting or, without it, the lowest `memory.max` of this process' cgroup and the cgroups above it
(Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files"). Usage is the resident memory or, for the limit of a
cgroup, the cgroup's own count, which includes the kernel maps, without the page cache, which the kernel frees first.
"""

import os

from kpod_metrics.cgroup.keyed import flat, read_if_there, single
from kpod_metrics.cgroup.tree import Tree

STOP, RESUME = 0.85, 0.75
"""Shares of the limit above which new series are refused, and below which they are admitted again."""
SERIES_BYTES, CGROUP_BYTES = 600, 5000
"""Cost of a series as counted in the text format, after a scrape, and of a cgroup without its series: measured, 185 MB
with 265,000 series and 5,000 cgroups."""
FIRST_BYTES = 10 << 20
"""Additional cost of the first cycles and scrapes, mostly buffers for pages."""
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
        self.low = False
        """Whether there is no memory for more series."""

    def open(self) -> None:
        """Find the own cgroup; called before there are series."""
        if not self._set and self._root:
            path = own_cgroup(self._root)
            while path:
                self._above.append(self._root + path.rstrip("/"))
                path = path.rpartition("/")[0]
        self.look(0)
        self._began = self.used

    def look(self, series: int) -> bool:
        """Check the memory with so many series, some of which may never have been written; return `low`."""
        limits = [(self._set, "")] if self._set else self._limits()
        if not limits:
            self.limit, self.low = 0, False
            return False
        self.limit, where = min(limits)
        try:
            self.used = self._charged(where) if where else self._resident()
        except OSError:  # no descriptors: keep the last answer
            return self.low
        needed = SERIES_BYTES * series + CGROUP_BYTES * self.cgroups
        self._most_needed = max(self._most_needed, needed)
        bound = self.limit * (RESUME if self.low else STOP)
        # The memory of ended series stays resident as free space in the heap, and new series can use it.
        self.low = self._began + FIRST_BYTES + needed > bound or (
            self.used > bound and needed >= _REUSABLE * self._most_needed
        )
        return self.low

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
