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
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from kpod_metrics.cgroup.keyed import is_absent
from kpod_metrics.collectors.kit import Environment, Question, Signal
from kpod_metrics.collectors.parts.mount_tables import MountTables, Root
from kpod_metrics.collectors.parts.per_process import ProcessCollector, namespace_of
from kpod_metrics.collectors.parts.statvfs import SKIPPED, TIMEOUT, Probe, Statvfs, StatvfsCall
from kpod_metrics.errors import RefusedError, UnavailableError
from kpod_metrics.kernel import openat2, rights
from kpod_metrics.kernel.tasks import TaskNamespaces
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


MAX_FILE_SYSTEMS = 256
"""File systems of one pod that are read, the first ones of its tables of mounts: 3 ms. Most containers have three."""
SYMLINK, REPLACED, HUNG, REFUSED = SKIPPED
_MOVED = frozenset({SYMLINK, REPLACED})


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
        self._namespace = partial(namespace_of, environment.proc_root, "mnt")
        self._tables = MountTables(environment.proc_root, self.exceeded, self._namespace)
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
        self._tables.begin()
        probes: dict[tuple[Root, str], Probe] = {}
        shown: set[tuple[Identity, str]] = set()
        proc = self.environment.proc_root
        late: set[int] = set()
        number: Counter[Identity] = Counter()
        known: dict[Identity, set[Root]] = {}

        def roots(group: Group) -> Iterable[tuple[Root, int, int | None]]:
            """The mount namespaces and root directories of a cgroup, each with a thread and the kernel's counter."""
            if tasks is None:
                for namespace, pid in self.distinct_in_proc(group.pids, self._namespace).items():
                    yield Root(namespace, os.readlink(f"{proc}/{pid}/root")), pid, None
                return
            of_pod = known.setdefault(group.pod, set())
            for root, task in self.distinct(group, tasks, _root, of_pod, "mount_namespaces").items():
                yield root, task.pid, task.mount_changes

        def mounted_in(group: Group) -> Iterable[tuple[int, Probe]]:
            for root, pid, changes in roots(group):
                systems = self._tables.systems(root, pid, changes, group)
                if systems is None:
                    late.add(group.id)
                for system in systems or ():
                    if system.points and (group.identity, system.device) not in shown:
                        if number[group.pod] == MAX_FILE_SYSTEMS:
                            self.exceeded(group.id, "file_systems")
                            break
                        number[group.pod] += 1
                        shown.add((group.identity, system.device))
                        key = (root, system.device)
                        if key not in probes:
                            probes[key] = Probe(system, f"{proc}/{pid}/root", group)
                        yield group.id, probes[key]

        mounted = self.each([group for group in groups if group.pids], mounted_in)
        self.unread |= late
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
                    self._tables.read_again(root)
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


def _root(task: TaskNamespaces) -> Root:
    return Root(task.mount_namespace, task.root)


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
