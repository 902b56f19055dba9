"""The tables of mounts (`/proc/PID/mountinfo`) of all pods: each read once per change, within limits of its pod.

A pod can have a hundred thousand mounts, and change them at any time. So a pod with long tables is read less often, and
they have a limit together.
"""

import errno
from collections.abc import Callable
from typing import NamedTuple

from kpod_metrics.cgroup.keyed import lines_if_there
from kpod_metrics.cgroup.mounts import FileSystem, Host, file_systems
from kpod_metrics.pods.model import Group, Identity

TABLE_BYTES = 256 << 10
"""Bytes of the tables of one pod: 25 ms of CPU time. A container has 10 KB, a pod that has all mounts of a node with 50
pods about as much as this. The kernel lists the oldest mounts first."""
CYCLE_BYTES = 16 << 10
"""Bytes of a pod's tables that are read per cycle, on average: a pod with more waits that many cycles."""
_HOST_BYTES = 16 << 20
"""Bytes of the host's table, which belongs to no pod."""


class Root(NamedTuple):
    """A root directory in a mount namespace: its processes have the same mountinfo."""

    namespace: int
    directory: str | tuple[int, int]


class _Table(NamedTuple):
    changes: int | None
    """The kernel's counter of changes before the read, if known."""
    size: int
    content: int
    """Hash of the content."""
    systems: list[FileSystem]


class MountTables:
    """Reads them, and keeps those of the last cycle: they rarely change."""

    def __init__(self, proc_root: str, exceeded: Callable[[int, str], None], namespace: Callable[[int], int]) -> None:
        """`exceeded` counts a cgroup id and a limit; `namespace` returns the mount namespace of a thread."""
        self._proc, self._exceeded, self._namespace = proc_root, exceeded, namespace
        self._before: dict[Root, _Table] = {}
        self._now: dict[Root, _Table] = {}
        self._cycle = 0
        self._due: dict[Identity, int] = {}
        """The cycle in which a pod's tables may be read again, for pods that had much to read."""
        self._read: dict[Identity, int] = {}
        """Bytes of each pod's tables that were read in this cycle."""
        self._held: dict[Identity, int] = {}
        """Bytes of each pod's tables in this cycle."""
        self._host = Host(b"")
        self._host_content = hash(b"")
        self._host_cycle = 0
        """The cycle in which the host's table was read."""

    def begin(self) -> None:
        """Begin a cycle; forget tables that were not used in the last one."""
        self._before, self._now = self._now, {}
        self._cycle += 1
        for pod, size in self._read.items():
            self._due[pod] = self._cycle + size // CYCLE_BYTES
        self._due = {pod: due for pod, due in self._due.items() if due > self._cycle}
        self._read, self._held = {}, {}

    def systems(self, root: Root, thread: int, changes: int | None, group: Group) -> list[FileSystem] | None:
        """Return the file systems below a root directory; None if its table is not read in this cycle.

        Raises OSError if the table cannot be read. `changes` is the kernel's counter, if known.
        """
        table = self._now.get(root)
        if table is None:
            table = self._table(root, thread, changes, group)
            if table is None:
                return None
            self._now[root] = table
            self._held[group.pod] = self._held.get(group.pod, 0) + table.size
        return table.systems

    def read_again(self, root: Root) -> None:
        """Read a table again in the next cycle, although the kernel reports no change."""
        self._now[root] = self._now[root]._replace(changes=None)

    def _table(self, root: Root, thread: int, changes: int | None, group: Group) -> _Table | None:
        known = self._before.get(root)
        room = TABLE_BYTES - self._held.get(group.pod, 0)
        if known is not None and known.size > room:
            known = None
        if known is not None and changes is not None and known.changes == changes:
            return known
        if room <= 0 or group.pod in self._due:
            if known is None or changes is not None:
                self._exceeded(group.id, "mountinfo")
            return known
        content, complete = lines_if_there(f"{self._proc}/{thread}/mountinfo", room)
        if not complete:
            self._exceeded(group.id, "mountinfo")
        if not content:
            changes = None  # the process has just ended: its mounts are unknown
        self._read[group.pod] = self._read.get(group.pod, 0) + len(content)
        digest = hash(content)
        if known is not None and known.content == digest:
            return known._replace(changes=changes)
        if content and self._namespace(thread) != root.namespace:
            raise ProcessLookupError(errno.ESRCH, f"process {thread} ended, and another one has its number")
        return _Table(changes, len(content), digest, file_systems(content, self._host_now))

    def _host_now(self) -> Host:
        """Return the host's mounts; read once a cycle, if needed."""
        if self._host_cycle != self._cycle:
            self._host_cycle = self._cycle
            content, _ = lines_if_there(f"{self._proc}/1/mountinfo", _HOST_BYTES)
            if hash(content) != self._host_content:
                self._host, self._host_content = Host(content), hash(content)
        return self._host
