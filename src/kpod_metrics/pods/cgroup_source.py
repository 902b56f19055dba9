"""The source of pods without Kubernetes: every cgroup that holds processes, named after its path."""

from kpod_metrics.cgroup.tree import Tree
from kpod_metrics.pods.model import Group, Identity, Snapshot
from kpod_metrics.pods.paths import identity_of_path


class CgroupSource:
    """Walks the cgroup tree. A cgroup that has held processes once is reported until it is removed."""

    name = "cgroup"

    def __init__(self, root: str, kept_files: int = 0) -> None:
        """`kept_files` descriptors may be kept open."""
        self._root = root
        self._tree = Tree(root, kept_files)
        self._names: dict[str, Identity] = {}
        self._held: set[int] = set()
        self.connected = False
        self.relists = 0
        self.error = ""

    def refresh(self, active: frozenset[int] = frozenset()) -> Snapshot:
        """Return what is there now; `active` are ids with events: they hold processes, or did.

        Raises OSError where the tree cannot be read; `connected` and `relists` follow.
        """
        try:
            directories = self._tree.walk()
        except OSError as error:
            self.connected, self.error = False, f"{self._root}: {error.strerror}"
            raise
        if self.error:
            self.relists += 1
        self.connected, self.error = True, ""
        present = frozenset([directory.id for directory in directories])
        self._held &= present
        self._held.update([d.id for d in directories if d.pids or d.id in active])
        names = {d.path: self._names.get(d.path) or identity_of_path(d.path) for d in directories}
        self._names = names
        held = [d for d in directories if d.id in self._held]
        with_reported_below = self._ancestors([d.path for d in held])
        return Snapshot(
            identities={d.id: names[d.path] for d in directories},
            reported={d.id: names[d.path] for d in held},
            groups=tuple(
                [
                    Group(d.id, f"{self._root}/{d.path}", d.pids, names[d.path])
                    for d in held
                    if d.path and d.path not in with_reported_below
                ]
            ),
            present=present,
        )

    def close(self) -> None:
        """Close the kept files."""
        self._tree.close()

    @staticmethod
    def _ancestors(paths: list[str]) -> set[str]:
        """Every path that one of `paths` lies below: their files count a subtree that is reported by itself."""
        above: set[str] = set()
        for path in paths:
            while path:
                path = path.rpartition("/")[0]  # noqa: PLW2901
                if path in above:
                    break
                above.add(path)
        return above
