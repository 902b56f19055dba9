"""Space of the file systems that a container sees, from mountinfo and statvfs().

One file a container and mount namespace, `/proc/PID/mountinfo`: read again when the kernel tells of a change there or,
where it cannot tell, in every cycle; and a statvfs() for each of its devices. One series a device: where it is mounted
several times, the shortest mount point names it. Devices that several mount namespaces of a container have at one path
are added up there, as the gauges of its cgroups are.

A mount point is looked up below the process' root directory alone (`kernel/openat2.py`): a mount whose path leads
elsewhere is skipped and counted.

Left out are file systems without data (procfs, cgroups, ...), what is below /proc, /sys and /dev, read-only tmpfs
(projected secrets), single files that are mounted (/etc/hosts), and what has no size. So is what comes with a part of
the host that a pod has mounted, and is another's there: what is mounted in the folders of container runtimes and in the
volumes of pods.
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
from kpod_metrics.collectors.parts.statvfs import LIMIT, SKIPPED, Ask, Probe, Statvfs
from kpod_metrics.errors import RefusedError, UnavailableError
from kpod_metrics.kernel import openat2, rights
from kpod_metrics.metrics import Label, Metric, Row, Table, gauge
from kpod_metrics.pods.model import Group, Identity

log = logging.getLogger(__name__)

TABLE = Table(
    (
        gauge(
            "kpod_fs_capacity_bytes",
            "Size of the file system mounted there.",
            "statvfs: f_blocks * f_frsize",
            advice="What the free space is a share of.",
        ),
        gauge(
            "kpod_fs_usage_bytes",
            "Bytes in use on the file system, by whomever: a container may share it with others.",
            "statvfs: (f_blocks - f_bfree) * f_frsize",
            advice="Its growth over days says when the volume is full.",
        ),
        gauge(
            "kpod_fs_available_bytes",
            "Bytes that a process without privileges can still write to the file system.",
            "statvfs: f_bavail * f_frsize",
            advice=(
                "Below a tenth: grow the volume or clean up (KpodFilesystemLow, "
                "KpodFilesystemFull); of the root: KpodNodeFilesystemLow."
            ),
        ),
    ),
    labels=(Label("mountpoint", per="mounted file system"),),
)


SYMLINK, REPLACED, HUNG, REFUSED = SKIPPED
_MOVED = frozenset({SYMLINK, REPLACED})


class _View(NamedTuple):
    """What one mount namespace looks like from one root directory."""

    namespace: int
    root: str | tuple[int, int]


class _Mounts(NamedTuple):
    """What a mountinfo file says; `changes` is as it was told before that was read, if it was."""

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
        statvfs: Ask = openat2.fstatvfs_below,
        limit: float = LIMIT,
    ) -> None:
        """`statvfs` is asked; `limit` is how long a cycle waits for one that hangs, in seconds."""
        super().__init__(environment, wanted)
        self._statvfs = Statvfs(statvfs, limit)
        self._mounts: dict[_View, _Mounts] = {}
        """The mountinfo files of the last cycle: they rarely change."""
        self._skipped = dict.fromkeys(SKIPPED, 0)
        self._failing: set[str] = set()
        """Devices whose statvfs() failed in the last cycle."""

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """One table."""
        return (TABLE,)

    def open(self) -> list[Signal]:
        """Raise UnavailableError where the mounts of (almost) no pod can be looked at, or none of them safely."""
        openat2.require()
        try:
            capabilities = rights.effective(self.environment.proc_root)
        except RefusedError:
            return super().open()
        # Without it, only those are seen that have the same user and no capability more (ptrace_may_access).
        if lacking := rights.lacking(capabilities, rights.CAP_SYS_PTRACE):
            raise UnavailableError(f"EPERM: this process lacks {lacking}")
        return super().open()

    def rights(self) -> frozenset[int]:
        """To look at other processes' mounts, and those that are below a private folder, where that was given."""
        return frozenset({rights.CAP_SYS_PTRACE, rights.CAP_DAC_READ_SEARCH})

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """One row a container and file system."""
        views = self.views()
        mounts: dict[_View, _Mounts] = {}
        probes: dict[tuple[_View, str], Probe] = {}
        shown: set[tuple[Identity, str]] = set()
        proc = self.environment.proc_root
        host = functools.cache(lambda: Host(read_if_there(f"{proc}/1/mountinfo")))

        def number(thread: int) -> int:
            told = views.get(thread) if views is not None else None
            return namespace_of(proc, "mnt", thread) if told is None else told.mount_namespace

        def look(group: Group) -> Iterable[tuple[int, Probe]]:
            for of, pid in self.namespaces(group.pids, number).items():
                told = views.get(pid) if views is not None else None
                if told is None:  # or it is no main thread
                    view, changes = _View(of, os.readlink(f"{proc}/{pid}/root")), None
                else:
                    view, changes = _View(of, told.root), told.mount_changes
                if view not in mounts:
                    mounts[view] = self._read(view, pid, changes, host)
                for system in mounts[view].systems:
                    if system.points and (group.identity, system.device) not in shown:
                        shown.add((group.identity, system.device))
                        key = (view, system.device)
                        if key not in probes:
                            probes[key] = Probe(system, f"{proc}/{pid}/root")
                        yield group.id, probes[key]

        mounted = self.each([group for group in groups if group.pids], look)
        self._mounts = mounts
        self._statvfs.ask(probes.values())
        self._tell_failures(probes.values())
        for (view, _), probe in probes.items():
            if (reason := self._why(probe)) is not None:
                self._skipped[reason] += 1
                if reason in _MOVED:
                    # To rename a folder above a mount is no change of the mounts, as the kernel tells of those.
                    mounts[view] = mounts[view]._replace(changes=None)
        rows = [Row(TABLE, owner, *sized) for owner, probe in mounted if (sized := _sizes(probe)) is not None]
        for probe in probes.values():
            if probe.at or isinstance(probe.answer, NotADirectoryError):
                _leave_files_out(probe)
        return rows

    @staticmethod
    def _why(probe: Probe) -> str | None:
        """Return why a mount was skipped; None for one that was not, or whose process has ended."""
        answer = probe.answer
        if answer is None:
            return HUNG
        if not isinstance(answer, OSError) or isinstance(answer, ProcessLookupError | NotADirectoryError):
            return None
        if isinstance(answer, openat2.ReplacedError):
            return REPLACED
        return SYMLINK if answer.errno == errno.ELOOP else REFUSED

    def _read(self, view: _View, pid: int, changes: int | None, host: Callable[[], Host]) -> _Mounts:
        """Read the mounts of a view, if they may have changed."""
        known = self._mounts.get(view)
        if known is not None and changes is not None and known.changes == changes:
            return known
        content = read_if_there(f"{self.environment.proc_root}/{pid}/mountinfo")
        if not content:
            changes = None  # the process has just ended: that says nothing of its mounts
        if known is not None and known.content == content:
            return known._replace(changes=changes)
        return _Mounts(changes, content, file_systems(content, host))

    def _tell_failures(self, probes: Iterable[Probe]) -> None:
        """Log each device that cannot be looked at, when that begins."""
        failing = set()
        for probe in probes:
            error = probe.answer
            if isinstance(error, OSError) and not is_absent(error) and self._why(probe) not in _MOVED:
                failing.add(probe.system.device)
                if probe.system.device not in self._failing:
                    log.warning("file system %s at %s is left out: %s", probe.system.device, probe.path, error)
        self._failing = failing

    def skipped(self) -> Mapping[str, int]:
        """Return the number of mounts that were skipped in all cycles, by the reason."""
        return self._skipped

    def close(self) -> None:
        """End the helper thread."""
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


def _leave_files_out(probe: Probe) -> None:
    """Do not ask again of mount points that were found to be single files."""
    if isinstance(probe.answer, NotADirectoryError):
        probe.system.points.clear()
    elif probe.answer is not None:
        del probe.system.points[: probe.at]
