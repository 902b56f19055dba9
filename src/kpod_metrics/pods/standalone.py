"""Names without Kubernetes: every cgroup with processes is reported under the name of its path."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from kpod_metrics.cgroup.tree import Directory
from kpod_metrics.pods.model import Group, Identity, Snapshot
from kpod_metrics.pods.paths import identity_of_path


class StandaloneNamer:
    """Reports every cgroup that has or had processes, until it is removed.

    A cgroup without children that is created after the first walk is reported before its first process, so that its
    counters start at 0.
    """

    source = None
    forgotten: Mapping[str, int] = MappingProxyType({})

    def __init__(self) -> None:
        self._names: dict[str, Identity] = {}
        self._held: set[int] = set()
        self._first: frozenset[int] | None = None
        """The cgroups of the first walk."""
        self._before: tuple[Sequence[Directory], Snapshot] = ((), Snapshot())

    def snapshot(
        self, root: str, directories: Sequence[Directory], vanished: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        """Name every cgroup by its path; returns the same snapshot as before if nothing changed."""
        before, snapshot = self._before
        if not vanished and active <= self._held and directories == before:
            return snapshot
        present = frozenset([directory.id for directory in directories])
        self._held &= present
        if self._first is None:
            self._first = present
        self._held.update([d.id for d in directories if d.pids or d.id in active])
        above = self._ancestors([d.path for d in directories])
        names = {d.path: self._names.get(d.path) or identity_of_path(d.path) for d in directories}
        self._names = names
        held = [d for d in directories if d.id in self._held or not (d.id in self._first or d.path in above)]
        # Their files also count cgroups below them, which are reported too.
        with_reported_below = self._ancestors([d.path for d in held])
        identities = {d.id: names[d.path] for d in directories}
        identities.update((id_, identity_of_path(path)) for id_, path in vanished.items())
        snapshot = Snapshot(
            identities=identities,
            reported={d.id: names[d.path] for d in held},
            groups=tuple(
                [
                    Group(d.id, f"{root}/{d.path}", d.pids, names[d.path])
                    for d in held
                    if d.path and d.path not in with_reported_below
                ]
            ),
            present=present,
        )
        # Vanished cgroups are in one snapshot only.
        self._before = ((), snapshot) if vanished else (directories, snapshot)
        return snapshot

    @staticmethod
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
