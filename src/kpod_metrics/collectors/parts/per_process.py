"""Base of collectors that read the namespaces of each cgroup's processes."""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import TypeVar

from kpod_metrics.cgroup.processes import HIDDEN, MAX_PROBED, distinct, others_are_hidden
from kpod_metrics.collectors.kit import Signal
from kpod_metrics.collectors.parts.per_group import FileCollector
from kpod_metrics.errors import UnavailableError
from kpod_metrics.features import TASK_ITERATOR
from kpod_metrics.kernel.programs import MapHealth, ProgramHealth
from kpod_metrics.kernel.tasks import Snapshot, TaskNamespaces
from kpod_metrics.pods.model import Group

MAX_NAMESPACES = 64
"""Namespaces of one kind that are read for a pod. A container has one; a pod that runs containers one for each."""

_Key = TypeVar("_Key")


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

    def snapshot(self) -> Snapshot | None:
        """Return the namespaces of all threads; None if the kernel has no iterator for them."""
        tasks = self.environment.tasks
        return tasks.snapshot(self) if tasks.is_open(self) else None

    def distinct(
        self, group: Group, tasks: Snapshot, key: Callable[[TaskNamespaces], _Key], known: set[_Key], limit: str
    ) -> dict[_Key, TaskNamespaces]:
        """Return the namespaces of a group's threads (by `key`), each with a thread in it.

        `known` has those of the pod, in this cycle: at most MAX_NAMESPACES, those of the oldest threads first. So a pod
        that creates many cannot displace those that it had. The others are counted under `limit`.
        """
        threads = tasks.of(group.id, *group.below)
        found: dict[_Key, TaskNamespaces] = {}
        for task in threads:
            found.setdefault(key(task), task)
        if len(known) + len(found) <= MAX_NAMESPACES:
            known.update(found)
            return found
        for task in sorted(threads, key=attrgetter("started")):
            if len(known) < MAX_NAMESPACES:
                known.add(key(task))
        if over := len(found.keys() - known):
            self.exceeded(group.id, limit, over)
        return {of: task for of, task in found.items() if of in known}

    def distinct_in_proc(self, pids: Sequence[int], of: Callable[[int], _Key]) -> dict[_Key, int]:
        """Return the namespaces of a cgroup's processes (by `of`), each with a thread in it, from /proc.

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
