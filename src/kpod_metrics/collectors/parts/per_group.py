"""Base of collectors that read files of each cgroup."""

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from kpod_metrics.cgroup.keyed import is_absent, read_if_there, without_controller
from kpod_metrics.collectors.kit import Collector, Environment, Signal
from kpod_metrics.files import KeptFiles
from kpod_metrics.metrics import Metric
from kpod_metrics.pods.model import Group

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")


class FileCollector(Collector):
    """A collector that reads one cgroup after the other. An unreadable cgroup does not affect the others."""

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._refused = False
        """Whether a cgroup could not be read in the last cycle."""
        self._files = KeptFiles(environment.kept_files)
        self._before: Sequence[Group] = ()
        """The groups of the last cycle."""

    def read(self, folder: str, name: str) -> bytes:
        """Return the content of a cgroup's file, empty if it does not exist; raises every other OSError."""
        try:
            return self._files.read(folder, name)
        except OSError as error:
            if not is_absent(error):
                raise
            # If the cgroup was removed, another one can have its name now.
            return read_if_there(f"{folder}/{name}") if error.errno == errno.ENODEV else b""

    def open(self) -> list[Signal]:
        """Report the metrics as absent if this tree does not have the controller: cgroup v1 may have it."""
        signals = super().open()
        if not self.has_controller():
            for signal in signals:
                signal.absent = self.missing(self.controller)
        return signals

    def has_controller(self) -> bool:
        """Whether the tree has the controller. Without it its files do not exist, and opening them would cost time."""
        return not self.controller or not self.missing(self.controller)

    def missing(self, controller: str) -> str:
        """Return why a controller's metrics are absent; empty if the tree has the controller."""
        return without_controller(controller, self.read(self.environment.cgroup_root, "cgroup.controllers"))

    def close(self) -> None:
        """Close the open files."""
        self._files.close()

    def each(self, groups: Sequence[Group], read: Callable[[Group], Iterable[_Found]]) -> list[_Found]:
        """Return the results of `read` for all groups.

        Cgroups and processes that ended are skipped. Other failures are logged once, and raised if no group can be
        read.
        """
        found: list[_Found] = []
        refused: list[tuple[Group, OSError]] = []
        for group in groups:
            try:
                found += read(group)
            except OSError as error:
                if not is_absent(error):
                    refused.append((group, error))
        self.unread_cgroups += len(refused)
        self.unread = {group.id for group, _ in refused}
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
