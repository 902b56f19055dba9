"""How near this process is to its memory limit: before the kernel kills it, new series are no more admitted.

The limit is that of the setting or, where there is none, the least `memory.max` of this process' cgroup and those above
it (Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files"). What is used is the resident memory, or the
cgroup's own count where the limit is the cgroup's: that has the kernel maps too; files in the page cache, which the
kernel drops first, are taken off.
"""

import os

from kpod_metrics.cgroup.keyed import flat, read_if_there, single
from kpod_metrics.cgroup.tree import Tree

STOP, RESUME = 0.85, 0.75
"""Shares of the limit at which new series are refused, and admitted again."""
SERIES_BYTES, CGROUP_BYTES = 600, 5000
"""What a series as the text format has them costs, once it was scraped, and a cgroup beside its series: measured,
185 MB at 265,000 and 5,000."""
FIRST_BYTES = 10 << 20
"""What the first cycles and scrapes cost beside that: buffers for pages, above all."""
_REUSABLE = 0.9
"""Share of what was needed at most: below it, what is needed now is a good deal less."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


def own_cgroup(root: str) -> str:
    """Return the path of this process' cgroup in the tree at `root`, a slash before it; "" where it is not seen."""
    walk = Tree(root)
    own = os.getpid()
    try:
        return next((f"/{directory.path}" for directory in walk.walk() if own in directory.pids), "")
    except OSError:
        return ""
    finally:
        walk.close()


class Headroom:
    """Tells whether there is memory for more series. A limit that is moved is followed."""

    def __init__(self, limit: int = 0, cgroup_root: str = "", proc_root: str = "/proc") -> None:
        """`limit` in bytes; 0: that of the own cgroup in the tree at `cgroup_root`."""
        self._set, self._root, self._proc = limit, cgroup_root, proc_root
        self._above: list[str] = []
        """The directories of the own cgroup and of those above it."""
        self._began = self._most = 0
        self.limit = 0
        """Bytes; 0: none."""
        self.cgroups = 0
        """How many there are."""
        self.used = 0
        """Bytes, when it was last looked at."""
        self.low = False
        """Whether there is no memory for more."""

    def open(self) -> None:
        """Find the own cgroup; before there are series."""
        if not self._set and self._root:
            path = own_cgroup(self._root)
            while path:
                self._above.append(self._root + path.rstrip("/"))
                path = path.rpartition("/")[0]
        self.look(0)
        self._began = self.used

    def look(self, series: int) -> bool:
        """Look how much is used with so many series, not all of which may have been written yet; return `low`."""
        limits = [(self._set, "")] if self._set else self._limits()
        if not limits:
            self.limit, self.low = 0, False
            return False
        self.limit, where = min(limits)
        try:
            self.used = self._charged(where) if where else self._resident()
        except OSError:  # out of descriptors: what was known holds
            return self.low
        needed = SERIES_BYTES * series + CGROUP_BYTES * self.cgroups
        self._most = max(self._most, needed)
        bound = self.limit * (RESUME if self.low else STOP)
        # What series that ended took is still resident, for malloc has holes now: the next ones have room there.
        self.low = self._began + FIRST_BYTES + needed > bound or (
            self.used > bound and needed >= _REUSABLE * self._most
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
