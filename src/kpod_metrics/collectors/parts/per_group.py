"""What collectors that read files of each cgroup have in common."""

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from kpod_metrics.cgroup.keyed import is_absent, read_if_there
from kpod_metrics.collectors.kit import Collector, Environment, Signal, without_controller
from kpod_metrics.files import KeptFiles
from kpod_metrics.metrics import Metric
from kpod_metrics.pods.model import Group

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")


class FileCollector(Collector):
    """A collector that reads cgroup after cgroup: one that cannot be read does not lose the others."""

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._refused = False
        """Whether some cgroups could not be read in the last cycle."""
        self._files = KeptFiles(environment.kept_files)
        self._before: Sequence[Group] = ()
        """The groups of the last cycle."""

    def read(self, folder: str, name: str) -> bytes:
        """Return the content of a cgroup's file, nothing where it is absent; raises any other OSError."""
        try:
            return self._files.read(folder, name)
        except OSError as error:
            if not is_absent(error):
                raise
            # Where a cgroup was removed, another of that name may be there by now.
            return read_if_there(f"{folder}/{name}") if error.errno == errno.ENODEV else b""

    def open(self) -> list[Signal]:
        """Say so where the controller is not in this tree: it may be with version 1, or not in the kernel."""
        signals = super().open()
        if not self.has_controller():
            for signal in signals:
                signal.absent = self.missing(self.controller)
        return signals

    def has_controller(self) -> bool:
        """Whether the tree has the controller; without it none of its files is there, and looking for them costs."""
        return not self.controller or not self.missing(self.controller)

    def missing(self, controller: str) -> str:
        """Return why what a controller counts is not there; empty where the tree has the controller."""
        return without_controller(controller, self.read(self.environment.cgroup_root, "cgroup.controllers"))

    def close(self) -> None:
        """Close the kept files."""
        self._files.close()

    def each(self, groups: Sequence[Group], read: Callable[[Group], Iterable[_Found]]) -> list[_Found]:
        """Return what `read` gives for all groups.

        A cgroup or process that is gone is skipped. Any other failure is logged when it begins, and raised if it is
        that of every group: only then is there nothing to export.
        """
        found: list[_Found] = []
        refused: list[tuple[Group, OSError]] = []
        for group in groups:
            try:
                found += read(group)
            except OSError as error:
                if not is_absent(error):
                    refused.append((group, error))
        self.unread += len(refused)
        if groups != self._before:
            self._before = groups
            self._files.sweep({group.path for group in groups})
        if refused and len(refused) == len(groups):
            raise refused[0][1]
        if refused and not self._refused:
            first, why = refused[0]
            log.warning(
                "collector %s: %d of %d cgroups cannot be read, among them %s: %s",
                self.name,
                len(refused),
                len(groups),
                first.path,
                why,
            )
        self._refused = bool(refused)
        return found
