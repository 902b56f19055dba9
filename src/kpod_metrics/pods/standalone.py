"""Names without Kubernetes: every cgroup that holds processes is reported, named after its path."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from kpod_metrics.cgroup.tree import Directory
from kpod_metrics.pods.model import Group, Identity, Snapshot
from kpod_metrics.pods.paths import identity_of_path


class StandaloneNamer:
    """A cgroup that has held processes once is reported until it is removed.

    So is one that is made while we watch and has none below it, before its first process: its counters are there at 0.
    """

    name = "cgroup"
    connected = True
    relists = 0
    forgotten: Mapping[str, int] = MappingProxyType({})

    def __init__(self) -> None:
        self._names: dict[str, Identity] = {}
        self._held: set[int] = set()
        self._first: frozenset[int] | None = None
        """What was there at the first look."""
        self._before: tuple[Sequence[Directory], Snapshot] = ((), Snapshot())

    def snapshot(
        self, root: str, directories: Sequence[Directory], vanished: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        """Name every cgroup by its path; where nothing has changed, the snapshot is the one before."""
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
        # Their files count a subtree that is reported by itself.
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
        # What has vanished is in one snapshot only.
        self._before = ((), snapshot) if vanished else (directories, snapshot)
        return snapshot

    def problem(self) -> str:
        """Nothing can fail here."""
        return ""

    def start(self) -> None:
        """Nothing to begin."""

    def close(self) -> None:
        """Nothing to give back."""

    @staticmethod
    def _ancestors(paths: list[str]) -> set[str]:
        """Every path that one of `paths` lies below."""
        above: set[str] = set()
        for path in paths:
            while path:
                path = path.rpartition("/")[0]  # noqa: PLW2901
                if path in above:
                    break
                above.add(path)
        return above
