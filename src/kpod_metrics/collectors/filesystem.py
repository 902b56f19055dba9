"""Space of the file systems of a container, from mountinfo and statvfs().

It reads `/proc/PID/mountinfo` once per container and mount namespace, and again when the kernel reports a change, or in
every cycle if the kernel cannot report one. Then it calls statvfs() for each device. A device has one series: if it is
mounted several times, the shortest mount point is the label. Devices with the same path in several mount namespaces of
a container are added together, like the gauges of its cgroups.

A mount point is looked up only below the process' root directory (`kernel/openat2.py`). It skips and
counts a mount whose path leads elsewhere.

It excludes file systems without data (procfs, cgroups, ...), everything below /proc, /sys and /dev, read-only tmpfs
(projected secrets), mounted single files (/etc/hosts), and file systems without a size. If a pod mounts a part of the
host, it excludes the mounts of other containers in it (in the folders of container runtimes, and in volumes of pods).
"""

import errno
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from kpod_metrics.cgroup.keyed import is_absent, read_if_there
from kpod_metrics.cgroup.mounts import FileSystem, Host, file_systems
from kpod_metrics.collectors.kit import Environment, Question, Signal
from kpod_metrics.collectors.parts.per_process import ProcessCollector, namespace_of
from kpod_metrics.collectors.parts.statvfs import SKIPPED, TIMEOUT, Probe, Statvfs, StatvfsCall
from kpod_metrics.errors import RefusedError, UnavailableError
from kpod_metrics.kernel import openat2, rights
from kpod_metrics.metrics import Label, Metric, Row, Table, gauge
from kpod_metrics.pods.model import Group, Identity

log = logging.getLogger(__name__)

TABLE = Table(
    (
        gauge(
            "kpod_fs_capacity_bytes",
            "Size of the file system.",
            "statvfs: f_blocks * f_frsize",
            advice="Divide kpod_fs_available_bytes by it to get the free share.",
        ),
        gauge(
            "kpod_fs_usage_bytes",
            "Bytes in use on the file system. Other containers can share the file system.",
            "statvfs: (f_blocks - f_bfree) * f_frsize",
            advice="Its growth over days shows when the volume will be full.",
        ),
        gauge(
            "kpod_fs_available_bytes",
            "Bytes that unprivileged processes can still write to the file system.",
            "statvfs: f_bavail * f_frsize",
            advice=(
                "Below a tenth: enlarge the volume or remove files (KpodFilesystemLow, KpodFilesystemFull). For the "
                "root file system: KpodNodeFilesystemLow."
            ),
        ),
    ),
    labels=(Label("mountpoint", per="mounted file system"),),
)


SYMLINK, REPLACED, HUNG, REFUSED = SKIPPED
_MOVED = frozenset({SYMLINK, REPLACED})


class _Root(NamedTuple):
    """A root directory in a mount namespace: its processes have the same mountinfo."""

    namespace: int
    directory: str | tuple[int, int]


class _Mounts(NamedTuple):
    """The content of a mountinfo file; `changes` is the kernel's counter of changes before the read, if known."""

    changes: int | None
    content: bytes
    systems: list[FileSystem]


class Filesystem(ProcessCollector):
    """Capacity, usage and free space of the file systems of each container."""

    name = "filesystem"
    description = "capacity, used and available space of file systems"
    question = Question.DISK

    def __init__(
        self,
        environment: Environment,
        wanted: frozenset[Metric] | None = None,
        *,
        statvfs: StatvfsCall = openat2.fstatvfs_below,
        timeout: float = TIMEOUT,
    ) -> None:
        """A cycle waits `timeout` seconds for a `statvfs` that hangs."""
        super().__init__(environment, wanted)
        self._statvfs = Statvfs(statvfs, timeout)
        self._mounts: dict[_Root, _Mounts] = {}
        """The mountinfo files of the last cycle, because they rarely change."""
        self._skipped = dict.fromkeys(SKIPPED, 0)
        self._failing: set[Identity] = set()
        """Pods of which a statvfs() failed in the last cycle."""

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def open(self) -> list[Signal]:
        """Raise UnavailableError if the mounts of most pods cannot be read, or not safely."""
        openat2.require()
        try:
            capabilities = rights.effective(self.environment.proc_root)
        except RefusedError:
            return super().open()
        # Without it, only processes of the same user without more capabilities can be read (ptrace_may_access).
        if lacking := rights.lacking(capabilities, rights.CAP_SYS_PTRACE):
            raise UnavailableError(f"EPERM: this process lacks {lacking}")
        return super().open()

    def rights(self) -> frozenset[int]:
        """Return the rights to read the mounts of other processes, also those below private folders."""
        return frozenset({rights.CAP_SYS_PTRACE, rights.CAP_DAC_READ_SEARCH})

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Yield one row per container and file system."""
        tasks = self.snapshot()
        mounts: dict[_Root, _Mounts] = {}
        probes: dict[tuple[_Root, str], Probe] = {}
        shown: set[tuple[Identity, str]] = set()
        proc = self.environment.proc_root
        host = functools.cache(lambda: Host(read_if_there(f"{proc}/1/mountinfo")))

        def namespace(thread: int) -> int:
            known = tasks.get(thread) if tasks is not None else None
            return namespace_of(proc, "mnt", thread) if known is None else known.mount_namespace

        def mounted_in(group: Group) -> Iterable[tuple[int, Probe]]:
            for of, pid in self.namespaces(group.pids, namespace).items():
                known = tasks.get(pid) if tasks is not None else None
                if known is None:  # no snapshot, or not a main thread
                    root, changes = _Root(of, os.readlink(f"{proc}/{pid}/root")), None
                else:
                    root, changes = _Root(of, known.root), known.mount_changes
                if root not in mounts:
                    mounts[root] = self._read(root, pid, changes, host)
                for system in mounts[root].systems:
                    if system.points and (group.identity, system.device) not in shown:
                        shown.add((group.identity, system.device))
                        key = (root, system.device)
                        if key not in probes:
                            probes[key] = Probe(system, f"{proc}/{pid}/root", group)
                        yield group.id, probes[key]

        mounted = self.each([group for group in groups if group.pids], mounted_in)
        self._mounts = mounts
        self._statvfs.read(probes.values())
        self._log_failures(probes.values())
        for owner, probe in mounted:
            if probe.answer is None and not self._statvfs.hangs(probe):
                self.unread.add(owner)
        for (root, _), probe in probes.items():
            if (reason := self._skip_reason(probe)) is not None:
                self._skipped[reason] += 1
                if reason == HUNG and self._statvfs.is_suspect(probe.pod):
                    self.exceeded(probe.group.id, "hung_mounts")
                if reason in _MOVED:
                    # The kernel does not report a renamed folder above a mount as a change of the mounts.
                    mounts[root] = mounts[root]._replace(changes=None)
        rows = [Row(TABLE, owner, *sized) for owner, probe in mounted if (sized := _sizes(probe)) is not None]
        for probe in probes.values():
            if probe.at or isinstance(probe.answer, NotADirectoryError):
                _exclude_files(probe)
        return rows

    @staticmethod
    def _skip_reason(probe: Probe) -> str | None:
        """Return why a mount was skipped; None if it was not, or if its process ended."""
        answer = probe.answer
        if answer is None:
            return HUNG
        if not isinstance(answer, OSError) or isinstance(answer, ProcessLookupError | NotADirectoryError):
            return None
        if isinstance(answer, openat2.ReplacedError):
            return REPLACED
        return SYMLINK if answer.errno == errno.ELOOP else REFUSED

    def _read(self, root: _Root, pid: int, changes: int | None, host: Callable[[], Host]) -> _Mounts:
        """Read the mounts below a root directory, if they may have changed."""
        known = self._mounts.get(root)
        if known is not None and changes is not None and known.changes == changes:
            return known
        content = read_if_there(f"{self.environment.proc_root}/{pid}/mountinfo")
        if not content:
            changes = None  # the process has just ended: its mounts are unknown
        if known is not None and known.content == content:
            return known._replace(changes=changes)
        return _Mounts(changes, content, file_systems(content, host))

    def _log_failures(self, probes: Iterable[Probe]) -> None:
        """Log one device of each pod, when it begins to fail: a pod can have thousands that fail."""
        failing: set[Identity] = set()
        for probe in probes:
            error = probe.answer
            if isinstance(error, OSError) and not is_absent(error) and self._skip_reason(probe) not in _MOVED:
                if probe.pod not in self._failing | failing:
                    log.warning("file system %s at %s is skipped: %s", probe.system.device, probe.path, error)
                failing.add(probe.pod)
        self._failing = failing

    def skipped_mounts(self) -> Mapping[str, int]:
        """Return how many mounts were skipped in all cycles, by reason."""
        return self._skipped

    def close(self) -> None:
        """Stop the helper thread."""
        self._statvfs.close()
        super().close()


def _sizes(probe: Probe) -> tuple[tuple[str], tuple[int, int, int]] | None:
    """Return the label and the values of a file system; None if it did not answer, or has no size."""
    answer = probe.answer
    if not isinstance(answer, os.statvfs_result) or not answer.f_blocks:
        return None
    unit = answer.f_frsize
    sizes = answer.f_blocks * unit, (answer.f_blocks - answer.f_bfree) * unit, answer.f_bavail * unit
    return (probe.point.path,), sizes


def _exclude_files(probe: Probe) -> None:
    """Exclude mount points that turned out to be single files."""
    if isinstance(probe.answer, NotADirectoryError):
        probe.system.points.clear()
    elif probe.answer is not None:
        del probe.system.points[: probe.at]
