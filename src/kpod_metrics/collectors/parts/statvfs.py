"""statvfs() of many file systems, of which some may never answer (a server that is gone, a FUSE daemon that hangs).

The calls of a cycle are made by one helper thread, so that a cycle costs one hand-over however many there are. A call
that does not come back is left behind with its thread, and its device is not asked again until it does.

Such a thread does not keep the agent from ending, but for a case that nobody can help: a request that a FUSE daemon has
taken and does not answer is not interrupted even by SIGKILL (fs/fuse/dev.c, request_wait_answer), and the process stays
a zombie until the daemon ends.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from kpod_metrics.cgroup.mounts import FileSystem, Point
from kpod_metrics.kernel.openat2 import fstatvfs_below

log = logging.getLogger(__name__)

LIMIT = 0.5
"""Seconds that a cycle waits for its calls and, after the first that does not come back, for the rest of them."""
SKIPPED = ("symlink", "replaced", "hung", "refused")
"""Why a mount is skipped: a link in its path; another mount there, or none; no answer; another error."""
MOST_STUCK = 8
"""Threads that may hang. The last is kept for file systems of this machine: servers and daemons hang in numbers."""


@dataclass(slots=True, eq=False)
class Probe:
    """A file system to ask, and its answer: None if there is none this time."""

    system: FileSystem
    root: str
    """Directory that its mount points are below."""
    at: int = 0
    """Which of its mount points is asked: the first that is a directory."""
    answer: os.statvfs_result | OSError | None = None

    @property
    def point(self) -> Point:
        """The mount point that is asked."""
        return self.system.points[self.at]

    @property
    def path(self) -> str:
        """Where that is, for a log."""
        return f"{self.root}{self.point.path}"


@dataclass(eq=False)
class _Batch:
    probes: Sequence[Probe]
    done: "SimpleQueue[None]" = field(default_factory=SimpleQueue)
    at: int = 0
    """The probe that is asked now."""
    abandoned: bool = False


Ask = Callable[[str, str, int], os.statvfs_result]
"""What `fstatvfs_below` does: the root directory, the mount point, the number of the mount."""


class Statvfs:
    """Asks probes. For one thread at a time."""

    def __init__(self, statvfs: Ask = fstatvfs_below, limit: float = LIMIT) -> None:
        self._statvfs, self._limit = statvfs, limit
        self._lock = threading.Lock()
        """Of `abandoned`, `at` and `stuck`: what the threads tell each other."""
        self._jobs: SimpleQueue[_Batch | None] | None = None
        """Of the thread that waits for work, where there is one."""
        self.stuck: set[str] = set()
        """Devices that do not answer."""

    def ask(self, probes: Iterable[Probe]) -> None:
        """Fill in the answers; returns within twice the limit."""
        # What is likelier to hang comes last: then it holds up only its like.
        left = sorted(probes, key=lambda probe: not probe.system.local)
        for _ in range(2):
            room = MOST_STUCK - len(self.stuck)
            left = [
                probe
                for probe in left
                if probe.answer is None
                and probe.system.device not in self.stuck
                and room > (0 if probe.system.local else 1)
            ]
            if not left:
                return
            batch = _Batch(left)
            self._hand_over(batch)
            try:
                batch.done.get(timeout=self._limit)
            except Empty:
                self._abandon(batch)
            else:
                return

    def close(self) -> None:
        """End the thread that waits for work; one that hangs ends with its call, or with the process."""
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None

    def _hand_over(self, batch: _Batch) -> None:
        if self._jobs is None:
            self._jobs = SimpleQueue()
            threading.Thread(target=self._work, args=(self._jobs,), name="statvfs", daemon=True).start()
        self._jobs.put(batch)

    def _abandon(self, batch: _Batch) -> None:
        """Leave a thread to the call that it hangs in."""
        with self._lock:
            if batch.at == len(batch.probes):
                return  # it ended just now
            batch.abandoned = True
            probe = batch.probes[batch.at]
            self.stuck.add(probe.system.device)
            self._jobs = None
        log.warning(
            "file system %s at %s does not answer: left out until it does (%d such)",
            probe.system.device,
            probe.path,
            len(self.stuck),
        )

    def _work(self, jobs: "SimpleQueue[_Batch | None]") -> None:
        while (batch := jobs.get()) is not None:
            for probe in batch.probes:
                self._call(probe)
                with self._lock:
                    batch.at += 1
                    if batch.abandoned:
                        self.stuck.remove(probe.system.device)
                        break
            if batch.abandoned:
                log.info("file system %s answers again", probe.system.device)
                return
            batch.done.put(None)

    def _call(self, probe: Probe) -> None:
        answer: os.statvfs_result | OSError | None = None
        for at in range(len(probe.system.points)):
            probe.at = at
            try:
                answer = self._statvfs(probe.root, *probe.point)
            except OSError as error:
                answer = error
            if not isinstance(answer, NotADirectoryError):
                break
        probe.answer = answer
