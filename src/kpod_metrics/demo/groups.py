"""The cgroups of the workloads: made, filled, emptied and removed."""

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import time

from kpod_metrics.demo.catalogue import WORKLOADS
from kpod_metrics.errors import RefusedError

PREFIX = "kpod-demo-"
_CONTROLLERS = ("cpu", "io", "memory")
_KILL_TIMEOUT = 5.0
"""Seconds in which the kernel must remove killed processes."""
_NUMBERS = itertools.count()
"""Numbers of the demos in one process."""


class Workloads:
    """All workloads that this machine supports, from `start` to `close`; a context manager calls both."""

    def __init__(self, root: str, directory: str = "/var/tmp") -> None:
        """`root` is the mount of the cgroup v2 tree; `directory` is on the disk that the workloads use."""
        self._root, self._directory = root, directory
        number = next(_NUMBERS)
        self.name = f"{PREFIX}{os.getpid()}" + (f"-{number}" if number else "")
        self._top = f"{root}/{self.name}"
        self._lock = -1
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.controllers = self._inherited()
        self.chosen = tuple(work for work in WORKLOADS if not work.needs or work.needs in self.controllers)
        self.left_out = tuple(work for work in WORKLOADS if work not in self.chosen)

    def __enter__(self) -> "Workloads":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Remove the cgroups of earlier demos, make those of this one and start all; raises RefusedError."""
        remove_left_behind(self._root)
        try:
            os.mkdir(self._top)
            # The lock ends with this process: another demo that gets it knows that the cgroups are unused.
            self._lock = os.open(self._top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for controller in self.controllers:
                _write(f"{self._top}/cgroup.subtree_control", f"+{controller}")
            for work in self.chosen:
                os.mkdir(f"{self._top}/{work.name}")
                for file, value in work.limits:
                    # Without swap there is no file for its limit.
                    with contextlib.suppress(FileNotFoundError):
                        _write(f"{self._top}/{work.name}/{file}", value)
        except OSError as error:
            raise RefusedError(f"cannot make cgroups below {self._root}: {error.strerror} ({error.filename})") from None
        for name in (work.name for work in self.chosen):
            # -P: no module of the current directory is imported.
            command = [sys.executable, "-P", "-m", "kpod_metrics.demo.work", name]
            command += [f"{self._top}/{name}", str(os.getpid()), self._directory]
            self._processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def ended(self) -> list[str]:
        """Return the workloads that have ended, although none should."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def close(self) -> None:
        """Kill all and remove their cgroups."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        _remove(self._top)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _inherited(self) -> tuple[str, ...]:
        """Return the controllers that a cgroup below the root has; a demo enables no others."""
        try:
            with open(f"{self._root}/cgroup.subtree_control", encoding="ascii") as file:
                there = file.read().split()
        except OSError:
            there = []
        return tuple(controller for controller in _CONTROLLERS if controller in there)


def remove_left_behind(root: str) -> None:
    """Remove the cgroups of demos that were killed: those without a lock."""
    for name in os.listdir(root):
        if not name.startswith(PREFIX):
            continue
        with contextlib.suppress(OSError):
            lock = os.open(f"{root}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(f"{root}/{name}")
            finally:
                os.close(lock)


def _remove(top: str) -> None:
    """Kill all processes in and below a cgroup, and remove it. After a timeout, it is left to the next demo."""
    end = time.monotonic() + _KILL_TIMEOUT
    while os.path.isdir(top):
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                with open(f"{directory}/cgroup.procs", encoding="ascii") as procs:
                    pids = procs.read().split()
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                os.rmdir(directory)
        if time.monotonic() > end:
            return
        time.sleep(0.01)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
