"""Finds the cgroups of this node by a walk of the tree, and has them named."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from kpod_metrics.bounds import Ledger
from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.cgroup.tree import Directory, Tree, is_whole
from kpod_metrics.errors import UnavailableError, described
from kpod_metrics.kernel.libbpf import KernelError
from kpod_metrics.pods.model import Snapshot
from kpod_metrics.pods.source import Source

CAPACITY = 10_000
"""Removed cgroups below the root that are remembered, if the root is only a part of the hierarchy."""

log = logging.getLogger(__name__)


class Namer(Protocol):
    """Names the owners of cgroups."""

    @property
    def source(self) -> Source | None:
        """The source of pods; None if the names come from the cgroups' paths."""

    @property
    def forgotten(self) -> Mapping[str, int]:
        """How many entries its full tables dropped, by kind."""

    @property
    def refused_claims(self) -> int:
        """How many cgroups outside of all pods had the ids of a pod."""

    def snapshot(
        self, root: str, directories: Sequence[Directory], vanished: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        """Name the cgroups that exist (`directories`, parents first) and those created and removed since (`vanished`).

        `vanished` has paths by id. `active` are the ids of cgroups with events: they have or had processes.
        """


class Finder:
    """Walks the tree, and learns from the kernel about cgroups that are created between two walks."""

    def __init__(
        self,
        root: str,
        namer: Namer,
        kept_files: int = 0,
        events: CgroupEvents | None = None,
        exceeded: Ledger | None = None,
        *,
        trusted: str = "",
    ) -> None:
        """`kept_files` is how many descriptors may stay open; `events` reports new cgroups, if the kernel can.

        `exceeded` counts who went over a limit of its own. `trusted`: see `Tree`.
        """
        self.exceeded = exceeded or Ledger()
        self.root, self._namer, self._source = root, namer, namer.source
        self._tree = Tree(root, kept_files, trusted)
        self._skipped_below: dict[int, int] = {}
        """Skipped cgroups by holder, as they were counted."""
        self.events = events
        self._made: dict[int, str] = {}
        self._snapshot = Snapshot()
        self._levels: Mapping[int, int] = {}
        """What the kernel programs know of containers: as `Snapshot.holders`."""
        self._refused = False
        """Whether they do not know all."""
        self.below: dict[int, int] = {}
        """The cgroups that have no entries of their own: they are below the container with this id."""
        self._hears = False
        """Whether the kernel reports new cgroups."""
        self._part: bool | None = None
        """Whether the root is only a part of the hierarchy; None before the first walk."""
        self._newest = 0
        """If the root is a part: the newest cgroup of the first walk. Newer cgroups have higher ids."""
        self._below: dict[int, None] = {}
        """If the root is a part: all cgroups that were ever seen below it, the most recently seen ones last."""
        self._forgotten = 0
        """How many of these were dropped."""
        self._relists = 0
        self.error = ""
        """Why the last refresh failed; empty if it did not."""
        self.errors = 0
        """How many refreshes failed."""

    @property
    def forgotten(self) -> Mapping[str, int]:
        """How many entries full tables dropped, by kind."""
        return {**self._namer.forgotten, "outside": self._forgotten}

    @property
    def skipped(self) -> Mapping[str, int]:
        """Cgroups that the last walk skipped, with everything below them, by reason."""
        return self._tree.skipped

    @property
    def refused_claims(self) -> int:
        """How many cgroups outside of all pods had the ids of a pod."""
        return self._namer.refused_claims

    @property
    def name(self) -> str:
        """The source of names."""
        return self._source.name if self._source else "cgroup"

    @property
    def connected(self) -> bool:
        """Whether both the tree and the source of names work."""
        return not self.error and (self._source is None or self._source.connected)

    @property
    def relists(self) -> int:
        """How often everything was listed again after a failure."""
        return self._relists + (self._source.relists if self._source else 0)

    def open(self) -> None:
        """Start to receive the kernel's reports of new cgroups."""
        if self.events is not None:
            try:
                self.events.open()
                self._hears = True
            except UnavailableError as error:
                self.events.close()
                log.warning("cgroups that start and end between two cycles are not seen: %s", error)

    def start(self) -> None:
        """Start the source of names, which may have a thread."""
        if self._source:
            self._source.start()

    def has_news(self) -> bool:
        """Whether the kernel reported new cgroups since the last refresh."""
        if self.events is not None:
            self._made.update(self.events.take())
        return bool(self._made)

    def refresh(self, active: frozenset[int] = frozenset()) -> Snapshot:
        """Return the cgroups that exist now; `active` are the ids of cgroups with events.

        Raises OSError if the tree cannot be read.
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
        """Record a failed refresh and its reason."""
        self.errors += 1
        self.error = f"{self.root}: {error.strerror}" if isinstance(error, OSError) else described(error)

    def _look(self, active: frozenset[int]) -> Snapshot:
        # First the new cgroups, then the walk: a cgroup is in one of the two at least.
        self.has_news()
        directories = self._tree.walk()
        for holder, cgroups in self._tree.skipped_below.items():
            if (more := cgroups - self._skipped_below.get(holder, 0)) > 0:
                self.exceeded.add(holder, "cgroups", more)
        self._skipped_below = dict(self._tree.skipped_below)
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
        self._mark(directories, found)
        self._made = {}
        return found

    def _mark(self, directories: Sequence[Directory], found: Snapshot) -> None:
        """Tell the kernel programs which cgroups are containers. A refused mark costs entries in the maps, no event.

        A cgroup that is the only one below its container has an entry of its own: CRI-O with crun has all processes in
        one, and the entry of a cgroup itself is found faster than that of a container above it.
        """
        if found is not self._snapshot:
            self._snapshot = found
            self.below = _below(directories, found.holders)
            of_each = Counter(self.below.values())
            only = [id_ for id_, container in self.below.items() if of_each[container] == 1]
            self._levels = {**found.holders, **dict.fromkeys(only, 0)}
            for id_ in only:
                del self.below[id_]
        elif not self._made and not self._refused:
            return
        if self.events is None:
            return
        try:
            self.events.containers.mark(self._levels, found.present, self._made)
        except KernelError as error:
            if not self._refused:
                log.warning("not every container has a mark: its cgroups have entries of their own: %s", error)
            self._refused = True
        else:
            self._refused = False

    def _remember(self, ids: Sequence[int], there: int) -> None:
        for id_ in ids:
            self._below.pop(id_, None)
            self._below[id_] = None
        while len(self._below) > there + CAPACITY:
            del self._below[next(iter(self._below))]
            self._forgotten += 1

    def is_outside(self, cgroup: int) -> bool:
        """Whether a cgroup is outside of the root: it was never seen or reported below it.

        Call this after a refresh that followed its events. If the kernel does not report new cgroups, a cgroup newer
        than the first walk may have existed below the root for a short time, so it does not count as outside.
        """
        return bool(
            self._part
            and cgroup not in self._below
            and cgroup not in self._made
            and (self._hears or cgroup <= self._newest)
        )

    def problem(self) -> str:
        """The current problem, in one line; empty if there is none."""
        return self.error or (self._source.problem() if self._source else "")

    def close(self) -> None:
        """Close the open files, and stop receiving reports."""
        self._tree.close()
        if self.events is not None:
            self.events.close()
        if self._source:
            self._source.close()


def _below(directories: Sequence[Directory], holders: Mapping[int, int]) -> dict[int, int]:
    """Return the id of its container for each cgroup below one. Parents come first in `directories`."""
    containers: dict[str, int] = {}
    found = {}
    for directory in directories:
        container = containers.get(directory.path.rpartition("/")[0])
        if container is not None:
            containers[directory.path] = found[directory.id] = container
        elif holders.get(directory.id) == 0:
            containers[directory.path] = directory.id
    return found
