"""Names without Kubernetes: every cgroup with processes is reported under the name of its path."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from kpod_metrics.bounds import Ledger
from kpod_metrics.cgroup.tree import Directory
from kpod_metrics.pods.kubelet_tree import KubeletTree
from kpod_metrics.pods.model import Group, Identity, Snapshot
from kpod_metrics.pods.paths import identity_of_path

MAX_NAMED = 256
"""Cgroups with their own names below one holder (see `Directory`), each with all series of a pod. A desktop's user
manager has about 100."""
REMEMBERED = 30.0
"""Seconds for which a removed cgroup counts for that: so long its series may stay."""


class StandaloneNamer:
    """Reports every cgroup that has or had processes, until it is removed.

    A cgroup without children that is created after the first walk is reported before its first process, so that its
    counters start at 0. If a holder has more than `MAX_NAMED` cgroups, all of them count as the holder.
    """

    source = None
    forgotten: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self,
        tree: KubeletTree | None = None,
        exceeded: Ledger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`exceeded` counts the cgroups beyond the limit."""
        self.tree, self._exceeded, self._clock = tree or KubeletTree(), exceeded or Ledger(), clock
        self._names: dict[str, Identity] = {}
        """The name of each path, without the names of pods."""
        self._held: set[int] = set()
        self._first: frozenset[int] | None = None
        """The cgroups of the first walk."""
        self._named: dict[int, dict[str, float]] = {}
        """The cgroups below each holder that have or recently had their own names, and when they last existed."""
        self._folded: dict[int, int] = {}
        """The holders that count as one: how many of their cgroups were beyond the limit at most."""
        self._before: tuple[Sequence[Directory], Snapshot] = ((), Snapshot())

    @property
    def refused_claims(self) -> int:
        """How many cgroups outside of all pods had the ids of a pod."""
        return self.tree.refused

    def snapshot(
        self, root: str, directories: Sequence[Directory], vanished: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        """Name every cgroup by its path; returns the same snapshot as before if nothing changed."""
        before, snapshot = self._before
        if not vanished and active <= self._held and directories == before:
            return snapshot
        self.tree.look(directories)
        present = frozenset([directory.id for directory in directories])
        self._held &= present
        if self._first is None:
            self._first = present
        self._held.update([d.id for d in directories if d.pids or d.id in active])
        above = _ancestors([d.path for d in directories])
        held = [d for d in directories if d.id in self._held or not (d.id in self._first or d.path in above)]
        holders = {d.id: d.path for d in directories if d.id == d.holder}
        self._names = {
            d.path: self._names.get(d.path)
            or identity_of_path(d.path, holder="" if d.id == d.holder else holders.get(d.holder, ""))
            for d in directories
        }
        accounts = self._accounts(directories, held, holders)
        identities = {d.id: self._name(accounts[d.path]) for d in directories}
        outer = {*holders.values()}
        identities.update((id_, self._name_of_vanished(path, outer)) for id_, path in vanished.items())
        groups: dict[str, list[Directory]] = {accounts[d.path]: [] for d in held}
        for directory in directories:
            if directory.pids and accounts[directory.path] in groups:
                groups[accounts[directory.path]].append(directory)
        # Their files also count cgroups below them, which are reported too.
        with_reported_below = _ancestors([*groups])
        outer_ones = {d.path: d for d in directories if d.path in groups}
        snapshot = Snapshot(
            identities=identities,
            reported={d.id: identities[d.id] for d in held},
            groups=tuple(
                [
                    Group.of(outer_ones[path], root, populated, self._name(path))
                    for path, populated in groups.items()
                    if path and path not in with_reported_below
                ]
            ),
            present=present,
            holders=self.tree.levels(directories) | self._levels(directories, holders, accounts),
        )
        # Vanished cgroups are in one snapshot only.
        self._before = ((), snapshot) if vanished else (directories, snapshot)
        return snapshot

    def _name(self, path: str) -> Identity:
        place = self.tree.places.get(path)
        return self._names[path] if place is None else identity_of_path(path, place)

    def _accounts(
        self, directories: Sequence[Directory], held: Sequence[Directory], holders: Mapping[int, str]
    ) -> dict[str, str]:
        """Return for each cgroup the path of the one that it counts as: itself, its container, or its holder."""
        places = self.tree.places
        accounts = {}
        for directory in directories:
            path, holder = directory.path, holders.get(directory.holder, directory.path)
            place = places.get(path)
            if place is not None and place.container:
                accounts[path] = place.directory
            else:
                accounts[path] = holder if place is None and self._names[path] == self._names[holder] else path
        # Only root creates the cgroups of pods.
        self._fold(
            [d for d in held if d.id != d.holder and d.path not in places and accounts[d.path] == d.path], holders
        )
        for directory in directories:
            if directory.holder in self._folded and directory.path not in places:
                accounts[directory.path] = holders[directory.holder]
        return accounts

    def _fold(self, named: Sequence[Directory], holders: Mapping[int, str]) -> None:
        """Decide which holders have too many cgroups with their own names, and count those beyond the limit."""
        now = self._clock()
        self._named = {holder: self._named.get(holder, {}) for holder in holders}
        for directory in named:
            if directory.holder in self._named:
                self._named[directory.holder][directory.path] = now
        before, self._folded = self._folded, {}
        for holder, paths in self._named.items():
            for path in [path for path, last in paths.items() if now - last > REMEMBERED]:
                del paths[path]
            if len(paths) > (MAX_NAMED // 2 if holder in before else MAX_NAMED):
                most = before.get(holder, 0)
                self._folded[holder] = max(len(paths) - MAX_NAMED, most)
                if self._folded[holder] > most:
                    self._exceeded.add(holder, "cgroups", self._folded[holder] - most)

    def _name_of_vanished(self, path: str, holders: Collection[str]) -> Identity:
        """Name a removed cgroup: as its holder, if it was below one, so that it cannot make new names endlessly."""
        if place := self.tree.place_of_vanished(path):
            return identity_of_path(path, place)
        above = path
        outermost = ""
        while above := above.rpartition("/")[0]:
            outermost = above if above in holders else outermost
        return identity_of_path(outermost or path)

    def _levels(
        self, directories: Sequence[Directory], holders: Mapping[int, str], accounts: Mapping[str, str]
    ) -> dict[int, int]:
        """Return the holders that have cgroups, all of them with the holder's name.

        Not those without any: a service manager may begin in a container, and its units have their own names.
        """
        several = {d.holder for d in directories if accounts[d.path] != holders.get(d.holder, "")}
        have_some = {d.holder for d in directories if d.id != d.holder}
        return dict.fromkeys((holders.keys() & have_some) - several, 0)


def _ancestors(paths: list[str]) -> set[str]:
    """Return every path above one of `paths`."""
    above: set[str] = set()
    for path in paths:
        while path:
            path = path.rpartition("/")[0]  # noqa: PLW2901
            if path in above:
                break
            above.add(path)
    return above
