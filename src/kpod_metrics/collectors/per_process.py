"""What collectors that look at the processes of each cgroup have in common."""

import errno
import os
from collections.abc import Mapping
from dataclasses import replace

from kpod_metrics.cgroup.processes import HIDDEN, others_are_hidden
from kpod_metrics.collectors.base import Environment, Signal
from kpod_metrics.collectors.per_group import FileCollector
from kpod_metrics.errors import UnavailableError
from kpod_metrics.kernel.programs import MapHealth, ProgramHealth
from kpod_metrics.kernel.tasks import Tasks, View
from kpod_metrics.metrics import Metric

ITERATOR = "task_iterator"
"""The kernel feature, for `Environment.forced_off`: without it each process is looked at in /proc."""


class ProcessCollector(FileCollector):
    """A collector that asks in which namespaces processes are: of the kernel all at once or, where it cannot, /proc."""

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._tasks = Tasks(environment.objects, environment.sys_root, environment.proc_root)

    def open(self) -> list[Signal]:
        """Raise UnavailableError where no process of any pod is seen."""
        if others_are_hidden(self.environment.cgroup_root):
            raise UnavailableError(HIDDEN)
        signals = super().open()
        if ITERATOR not in self.environment.forced_off:
            try:
                self._tasks.open()
            except (UnavailableError, OSError):
                self._tasks.close()
        for signal in signals:
            signal.hook += "; namespaces by iter/task" if self._tasks.is_open else "; namespaces by /proc"
        return signals

    def views(self) -> Mapping[int, View] | None:
        """Return what every process sees, by PID; None where the kernel cannot tell of all at once."""
        return self._tasks.look() if self._tasks.is_open else None

    def maps(self) -> list[MapHealth]:
        """State of its kernel map."""
        return [replace(map_, name=f"{self.name}_{map_.name}") for map_ in self._tasks.maps()]

    def programs(self) -> list[ProgramHealth]:
        """State of its kernel program."""
        return [replace(program, name=f"{self.name}_{program.name}") for program in self._tasks.programs()]

    def close(self) -> None:
        """Unload, and close the kept files."""
        self._tasks.close()
        super().close()


def seen(views: Mapping[int, View], pid: int) -> View:
    """Return the view of a process; raises ProcessLookupError for one that has ended, as its files would."""
    view = views.get(pid)
    if view is None:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return view
