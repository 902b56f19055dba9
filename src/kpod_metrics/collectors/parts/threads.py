"""Files of threads in /proc that are certainly of these threads, although the kernel uses their numbers again."""

import errno
import os

from kpod_metrics.files import read_bytes, read_short_lines
from kpod_metrics.kernel.tasks import TaskNamespaces

_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds of the unit of times in /proc/PID/stat."""
_STARTED = 22 - 3
"""The index of the time of the start, after the state: the third field, as man 5 proc counts them."""


class ThreadFolders:
    """Keeps folders of threads in /proc open: a folder stays with its thread, and fails when that has ended (ESRCH).

    So only a folder that is new needs a look at when its thread started. For one thread at a time.
    """

    def __init__(self, proc_root: str, limit: int) -> None:
        """At most `limit` folders stay open until the next cycle; others are opened for each read."""
        self._proc, self._limit = proc_root, limit
        self._before: dict[tuple[int, int], int] = {}
        self._kept: dict[tuple[int, int], int] = {}
        """Descriptors by number and start of the thread."""

    def begin(self) -> None:
        """Begin a cycle; close folders that were not used in the last one."""
        for folder in self._before.values():
            os.close(folder)
        self._before, self._kept = self._kept, {}

    def read_short_lines(self, task: TaskNamespaces, name: str, limit: int) -> tuple[bytes, bool]:
        """Return the lines of a file of a thread, as `files.read_short_lines` does.

        Raises ProcessLookupError if the thread has ended, also if another one has its number, and every other OSError.
        """
        key = task.pid, task.started
        folder = self._kept.get(key)
        if folder is None:
            folder = self._before.pop(key, None)
            if folder is None:
                folder = self._open(task)
            if len(self._kept) < self._limit:
                self._kept[key] = folder
        try:
            return read_short_lines(name, limit, folder)
        finally:
            if key not in self._kept:
                os.close(folder)

    def _open(self, task: TaskNamespaces) -> int:
        path = f"{self._proc}/{task.pid}"
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            # The process has any name, also one with parentheses. In task/ the kernel adds up no other threads.
            started = int(read_bytes(f"task/{task.pid}/stat", folder).rpartition(b") ")[2].split()[_STARTED])
            if started != task.started // _TICK:
                raise ProcessLookupError(errno.ESRCH, "another thread has its number", path)
        except BaseException:
            os.close(folder)
            raise
        return folder

    def close(self) -> None:
        """Close all folders."""
        self.begin()
        self.begin()
