"""statvfs() of many file systems. Some may never answer (a lost file server, a FUSE daemon that hangs).

One helper thread makes all calls of a cycle. If a call does not return, the thread stays in it, another one is
started, and this device is not read again until the call returns.

Such a thread does not delay the end of the agent, with one exception: even SIGKILL cannot interrupt a request that a
FUSE daemon has read but does not answer (fs/fuse/dev.c, request_wait_answer). Then the process stays a zombie until the
daemon ends.
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

TIMEOUT = 0.5
"""Seconds for which a cycle waits for its calls and, after one that hangs, again for the rest."""
SKIPPED = ("symlink", "replaced", "hung", "refused")
"""Why a mount is skipped: a link in its path; another mount or none there; no answer; another error."""
MAX_STUCK = 8
"""Maximum number of threads that hang. One is reserved for local file systems: remote ones often hang together."""


@dataclass(slots=True, eq=False)
class Probe:
    """A file system to read, and its answer; None until it answers."""

    system: FileSystem
    root: str
    """The directory above its mount points."""
    at: int = 0
    """Index of the mount point that is used: the first that is a directory."""
    answer: os.statvfs_result | OSError | None = None

    @property
    def point(self) -> Point:
        """The mount point that is used."""
        return self.system.points[self.at]

    @property
    def path(self) -> str:
        """Its path, for the log."""
        return f"{self.root}{self.point.path}"


@dataclass(eq=False)
class _Batch:
    probes: Sequence[Probe]
    done: "SimpleQueue[None]" = field(default_factory=SimpleQueue)
    at: int = 0
    """Index of the current probe."""
    abandoned: bool = False


StatvfsCall = Callable[[str, str, int], os.statvfs_result]
"""Signature of `fstatvfs_below`: root directory, mount point, mount id."""


class Statvfs:
    """Fills in the answers of probes. For one thread at a time."""

    def __init__(self, statvfs: StatvfsCall = fstatvfs_below, timeout: float = TIMEOUT) -> None:
        self._statvfs, self._timeout = statvfs, timeout
        self._lock = threading.Lock()
        """Protects `abandoned`, `at` and `stuck`."""
        self._jobs: SimpleQueue[_Batch | None] | None = None
        """The queue of the idle thread, if there is one."""
        self.stuck: set[str] = set()
        """Devices that do not answer."""

    def read(self, probes: Iterable[Probe]) -> None:
        """Fill in the answers; returns within twice the timeout."""
        # Remote file systems last: they are more likely to hang, and then do not delay local ones.
        left = sorted(probes, key=lambda probe: not probe.system.local)
        for _ in range(2):
            room = MAX_STUCK - len(self.stuck)
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
                batch.done.get(timeout=self._timeout)
            except Empty:
                self._abandon(batch)
            else:
                return

    def close(self) -> None:
        """Stop the idle thread. A thread that hangs ends with its call, or with the process."""
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None

    def _hand_over(self, batch: _Batch) -> None:
        if self._jobs is None:
            self._jobs = SimpleQueue()
            threading.Thread(target=self._work, args=(self._jobs,), name="statvfs", daemon=True).start()
        self._jobs.put(batch)

    def _abandon(self, batch: _Batch) -> None:
        """Abandon a thread that hangs in a call."""
        with self._lock:
            if batch.at == len(batch.probes):
                return  # it ended just now
            batch.abandoned = True
            probe = batch.probes[batch.at]
            self.stuck.add(probe.system.device)
            self._jobs = None
        log.warning(
            "file system %s at %s does not answer: skipped until it does (%d such)",
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
