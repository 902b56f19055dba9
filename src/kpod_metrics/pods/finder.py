"""What runs here, found by walking the cgroup tree and named by what is known of it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.cgroup.tree import Directory, Tree, is_whole
from kpod_metrics.errors import UnavailableError, described
from kpod_metrics.pods.model import Snapshot

CAPACITY = 10_000
"""Cgroups below the root that are gone and remembered, where the root is a part of the hierarchy."""

log = logging.getLogger(__name__)


class Namer(Protocol):
    """Gives cgroups their owners."""

    @property
    def name(self) -> str:
        """Where it has the names from."""

    @property
    def connected(self) -> bool:
        """Whether what it knows is up to date."""

    @property
    def relists(self) -> int:
        """Times that all was listed anew after a fault."""

    @property
    def forgotten(self) -> Mapping[str, int]:
        """What had to make room in its tables, by kind."""

    def snapshot(
        self, root: str, directories: Sequence[Directory], vanished: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        """Name what is there (`directories`, parents first) and what has come and gone since (`vanished`: id to path).

        `active` are ids with events: they hold processes, or did.
        """

    def problem(self) -> str:
        """What does not work, one line; empty while it works."""

    def start(self) -> None:
        """Begin to find out; returns at once."""

    def close(self) -> None:
        """Give everything back."""


class Finder:
    """Walks the tree, and follows the kernel's word of cgroups that are made between two walks."""

    def __init__(self, root: str, namer: Namer, kept_files: int = 0, events: CgroupEvents | None = None) -> None:
        """`kept_files` descriptors may be kept open; `events` tells of new cgroups where the kernel can."""
        self.root, self._namer = root, namer
        self._tree = Tree(root, kept_files)
        self.events = events
        self._made: dict[int, str] = {}
        self._hears = False
        """Whether the kernel tells of new cgroups."""
        self._part: bool | None = None
        """Whether the root is a part of the hierarchy; not known before the first look."""
        self._newest = 0
        """The newest cgroup of the first look, where the root is a part: the kernel numbers them in their order."""
        self._below: dict[int, None] = {}
        """Where the root is a part: all that were ever seen below it, the last that were there at the end."""
        self._forgotten = 0
        """How many of these had to go."""
        self._relists = 0
        self.error = ""
        """Why the last refresh failed; empty where it worked."""
        self.errors = 0
        """Times that it failed."""

    @property
    def forgotten(self) -> Mapping[str, int]:
        """What had to make room in tables, by kind."""
        return {**self._namer.forgotten, "outside": self._forgotten}

    @property
    def skipped(self) -> Mapping[str, int]:
        """Cgroups that the last walk left out with all that is below them, by reason."""
        return self._tree.skipped

    @property
    def name(self) -> str:
        """The source of names."""
        return self._namer.name

    @property
    def connected(self) -> bool:
        """Whether both the tree and the source of names answer."""
        return not self.error and self._namer.connected

    @property
    def relists(self) -> int:
        """Times that all was listed anew after a fault."""
        return self._relists + self._namer.relists

    def open(self) -> None:
        """Listen to the kernel."""
        if self.events is not None:
            try:
                self.events.open()
                self._hears = True
            except UnavailableError as error:
                self.events.close()
                log.warning("cgroups that come and go between two cycles are not seen: %s", error)

    def start(self) -> None:
        """Start the source of names, which may have a thread."""
        self._namer.start()

    def has_news(self) -> bool:
        """Whether cgroups were made since the last refresh, as far as the kernel tells."""
        if self.events is not None:
            self._made.update(self.events.take())
        return bool(self._made)

    def refresh(self, active: frozenset[int] = frozenset()) -> Snapshot:
        """Return what is there now; `active` are ids with events.

        Raises OSError where the tree cannot be read.
        """
        try:
            found = self._look(active)
        except Exception as error:
            self.fail(error)
            raise
        if self.error:
            self._relists += 1
        self.error = ""
        return found

    def fail(self, error: Exception) -> None:
        """Take note that what is there is not known, and why."""
        self.errors += 1
        self.error = f"{self.root}: {error.strerror}" if isinstance(error, OSError) else described(error)

    def _look(self, active: frozenset[int]) -> Snapshot:
        # First what was made, then what is there: nothing falls between the two.
        self.has_news()
        directories = self._tree.walk()
        if self._part is None:
            self._part = not is_whole(self.root)
            self._newest = max(directory.id for directory in directories)
        if self._part:
            self._remember([*self._made, *(directory.id for directory in directories)], len(directories))
        vanished = self._made
        if vanished:
            vanished = dict(vanished)
            for directory in directories:
                vanished.pop(directory.id, None)
        found = self._namer.snapshot(self.root, directories, vanished, active)
        self._made = {}
        return found

    def _remember(self, ids: Sequence[int], there: int) -> None:
        for id_ in ids:
            self._below.pop(id_, None)
            self._below[id_] = None
        while len(self._below) > there + CAPACITY:
            del self._below[next(iter(self._below))]
            self._forgotten += 1

    def is_outside(self, cgroup: int) -> bool:
        """Whether a cgroup lies outside of the root: it was never seen or told below it.

        To be asked after a refresh that followed its events. Where the kernel does not tell of new cgroups, one that is
        newer than the first look may have come and gone below the root: it is not said to be outside.
        """
        return bool(
            self._part
            and cgroup not in self._below
            and cgroup not in self._made
            and (self._hears or cgroup <= self._newest)
        )

    def problem(self) -> str:
        """What does not work, one line; empty while it works."""
        return self.error or self._namer.problem()

    def close(self) -> None:
        """Close the kept files, and end what it listens to."""
        self._tree.close()
        if self.events is not None:
            self.events.close()
        self._namer.close()
