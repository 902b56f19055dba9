"""Base of collectors that read the namespaces of each cgroup's processes."""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from kpod_metrics.cgroup.processes import HIDDEN, MAX_PROBED, distinct, others_are_hidden
from kpod_metrics.collectors.kit import Signal
from kpod_metrics.collectors.parts.per_group import FileCollector
from kpod_metrics.errors import UnavailableError
from kpod_metrics.features import TASK_ITERATOR
from kpod_metrics.kernel.programs import MapHealth, ProgramHealth
from kpod_metrics.kernel.tasks import TaskNamespaces


class ProcessCollector(FileCollector):
    """A collector that needs the namespaces of processes: from a kernel iterator for all at once, or from /proc."""

    features = (TASK_ITERATOR,)

    def open(self) -> list[Signal]:
        """Raise UnavailableError if the processes of pods are not visible."""
        if others_are_hidden(self.environment.cgroup_root):
            raise UnavailableError(HIDDEN)
        signals = super().open()
        if TASK_ITERATOR in self.environment.forced_on:
            self.environment.tasks.open(self)
        elif TASK_ITERATOR not in self.environment.forced_off:
            with suppress(UnavailableError, OSError):
                self.environment.tasks.open(self)
        for signal in signals:
            signal.hook += f"; namespaces by {'iter/task' if self.environment.tasks.is_open(self) else '/proc'}"
        return signals

    def snapshot(self) -> Mapping[int, TaskNamespaces] | None:
        """Return the namespaces of all processes by PID; None if the kernel has no iterator for them."""
        tasks = self.environment.tasks
        return tasks.snapshot(self) if tasks.is_open(self) else None

    def namespaces(self, pids: Sequence[int], of: Callable[[int], int]) -> dict[int, int]:
        """Return the namespaces of a cgroup's processes (by `of`), each with a thread in it.

        Processes beyond the first MAX_PROBED are counted in `skipped_processes`.
        """
        self.skipped_processes += max(0, len(pids) - MAX_PROBED)
        return distinct(pids, of, self.environment.proc_root)

    def maps(self) -> list[MapHealth]:
        """Return the state of the kernel map."""
        return self.environment.tasks.maps(self)

    def programs(self) -> list[ProgramHealth]:
        """Return the state of the kernel program."""
        return self.environment.tasks.programs(self)

    def close(self) -> None:
        """Release the shared program, and close the open files."""
        self.environment.tasks.close(self)
        super().close()


def namespace_of(proc: str, kind: str, thread: int) -> int:
    """Return the id of a thread's namespace ("mnt" or "net"); raises OSError."""
    target = os.readlink(f"{proc}/{thread}/ns/{kind}")
    try:
        return int(target[len(kind) + 2 : -1])
    except ValueError:
        raise OSError(errno.EINVAL, f"{target!r} is not a namespace") from None
