"""What collectors that read files of each cgroup have in common."""

import errno
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from kpod_metrics.cgroup.keyed import is_absent, read_if_there
from kpod_metrics.collectors.kit import Collector, Environment, Signal
from kpod_metrics.files import KeptFiles
from kpod_metrics.metrics import Metric
from kpod_metrics.pods.model import Group

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")


class FileCollector(Collector):
    """A collector that reads cgroup after cgroup: one that cannot be read does not lose the others."""

    controller: ClassVar[str] = ""
    """The controller without which there is nothing to read."""

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._refused = False
        """Whether some cgroups could not be read in the last cycle."""
        self._files = KeptFiles(environment.kept_files)
        self._parsed: dict[str, dict[str, tuple[bytes, Any]]] = {}
        """By folder and name: the files that `parsed` was asked for, and what they said last."""
        self._given: dict[Hashable, object] = {}
        """What `is_news` was asked of in the last cycle."""
        self._giving: dict[Hashable, object] = {}
        """The same of this one."""
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

    def parsed(self, folder: str, name: str, parse: Callable[[bytes], _Found]) -> _Found:
        """Return what `parse` makes of `read`: the very object of the last cycle where the file says the same.

        Most of a node's cgroups did nothing since. A name is for one `parse`, and what that makes is not to be changed.
        """
        data = self.read(folder, name)
        files = self._parsed.setdefault(folder, {})
        known = files.get(name)
        if known is None or known[0] != data:
            known = files[name] = (data, parse(data))
        return known[1]

    def is_news(self, whose: Hashable, said: object) -> bool:
        """Whether what somebody's counters say has to be told: another thing than in the last cycle, or all of it.

        Most pods are idle most of the time, and to tell it costs as much as to read it. For callers of `each`.
        """
        self._giving[whose] = said
        return self.complete or self._given.get(whose) != said

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
        controllers = self.read(self.environment.cgroup_root, "cgroup.controllers")
        if not controllers or controller.encode() in controllers.split():
            return ""
        return f"there is no {controller} controller in this cgroup v2 tree"

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
        self._given, self._giving = self._giving, {}
        if groups != self._before:
            self._before = groups
            folders = {group.path for group in groups}
            self._files.sweep(folders)
            self._parsed = {folder: known for folder, known in self._parsed.items() if folder in folders}
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
