"""Which cgroups are pods': those in the tree of the kubelet, each pod and container at one place.

Any user who may create cgroups can name one like a pod's. So a name counts only in the tree of one kubelet. Either the
settings name that tree, or it is learned from where the pods' directories are. For this only directories count that
belong to root, like all directories above them, and are not in `user.slice`: no delegated user can create one, however
many others it creates. The trees on the host come before those in containers (kind nodes), in which root may create
cgroups too. If the pods are known, the tree must have a known one. Between equal trees the number of pods decides, then
the depth, then the order of the walk. A learned tree stays until it has no pods.
"""

from collections.abc import Collection, Mapping, Sequence

from kpod_metrics.bounds import Ledger
from kpod_metrics.cgroup.tree import Directory, is_container
from kpod_metrics.pods.paths import Place, place_of


class KubeletTree:
    """Finds the kubelet's tree, and the place of each pod and container in it."""

    def __init__(self, root: str = "", exceeded: Ledger | None = None) -> None:
        """`root` is the directory below which the kubelet's tree is, with a leading slash; "": it is learned.

        `exceeded` counts the cgroups in a container that have the ids of another pod.
        """
        self._exceeded = exceeded or Ledger()
        self._is_set = bool(root)
        self.root: str | None = root.strip("/") if root else None
        """The kubelet's tree; None if it is not known yet."""
        self.places: Mapping[str, Place] = {}
        """Pods and containers by path, of every directory of the last look that belongs to one."""
        self.refused = 0
        """Cgroups outside of all pods that had the ids of a pod."""
        self._parsed: dict[str, tuple[Place | None, Place | None]] = {}
        self._delegated: frozenset[str] = frozenset()
        self._owners: dict[tuple[str, str], str] = {}
        """The directory of each pod (with the container "") and container."""
        self._claimants: set[int] = set()
        """The cgroups that were counted because they claim ids."""
        self._before: tuple[Sequence[Directory], Collection[str] | None] = ((), None)

    def look(self, directories: Sequence[Directory], known: Collection[str] | None = None) -> None:
        """Take the directories that exist; `known` are the UIDs of the node's pods, if a source knows them."""
        if directories == self._before[0] and known is self._before[1]:
            return
        self._before = (directories, known)
        self._parsed = {d.path: self._parsed.get(d.path) or _parse(d.path) for d in directories}
        self._delegated = frozenset([d.path for d in directories if d.delegated])
        found = [(d, place) for d in directories if (place := self._parsed[d.path][0]) is not None]
        if not self._is_set:
            self._learn([place for _, place in found if self._is_trusted(place)], known)
        in_tree = {place.uid for _, place in found if self._covers(place.tree)}
        accepted = [(d, place) for d, place in found if self._accepts(place, in_tree)]
        self._choose(accepted)
        self.places = {d.path: place for d, place in accepted if self._owns(place)}
        self._count_claims(found)

    def place_of_vanished(self, path: str) -> Place | None:
        """Return the place of a cgroup that was created and removed since the last look."""
        place = place_of(path)
        if place is None or not self._accepts(place, {uid for uid, _ in self._owners}) or not self._owns(place):
            return None
        return place

    def _is_trusted(self, place: Place) -> bool:
        """Whether only root could create the directory of the pod: who owns a directory can create others in it."""
        at = place.pod
        while self._delegated and at:
            if at in self._delegated:
                return False
            at = at.rpartition("/")[0]
        return self._is_set or "user.slice" not in place.pod.split("/")

    def _covers(self, tree: str) -> bool:
        """Whether a directory that has pods is the kubelet's."""
        return tree == self.root or (self._is_set and f"{tree}/".startswith(f"{self.root}/" if self.root else ""))

    def _accepts(self, place: Place, in_tree: Collection[str]) -> bool:
        if not self._is_trusted(place):
            return False
        if self.root is None or self._covers(place.tree):
            return True
        return place.apart and place.uid in in_tree and not _is_in_container(place.pod)

    def _learn(self, places: Sequence[Place], known: Collection[str] | None) -> None:
        trees: dict[str, set[str]] = {}
        for place in places:
            if not place.apart:
                trees.setdefault(place.tree, set()).add(place.uid)
        ranks = {}
        for tree, uids in trees.items():
            certain = len(uids if known is None else uids.intersection(known))
            ranks[tree] = (bool(certain), not _is_in_container(tree), tree == self.root, certain, -tree.count("/"))
        best = max(ranks, key=lambda tree: ranks[tree], default=None)
        self.root = best if best is not None and ranks[best][0] else None

    def _choose(self, accepted: Sequence[tuple[Directory, Place]]) -> None:
        """Choose the directory of each pod and container: the one of the last look, else the oldest one."""
        ranks: dict[tuple[str, str], tuple[bool, int]] = {}
        owners: dict[tuple[str, str], str] = {}

        def choose(ids: tuple[str, str], path: str, directory: Directory) -> None:
            rank = (path != self._owners.get(ids), directory.id)
            if ids not in ranks or rank < ranks[ids]:
                ranks[ids], owners[ids] = rank, path

        for directory, place in accepted:
            if not place.apart:
                choose((place.uid, ""), place.pod, directory)
        for directory, place in accepted:
            if place.container and (place.apart or owners[place.uid, ""] == place.pod):
                choose((place.uid, place.container), place.directory, directory)
        self._owners = owners

    def _owns(self, place: Place) -> bool:
        """Whether no other directory is that of the same pod or container."""
        pod, own = (place.uid, ""), (place.uid, place.container)
        return (place.apart or self._owners.get(pod, place.pod) == place.pod) and (
            not place.container or self._owners.get(own, place.directory) == place.directory
        )

    def _count_claims(self, found: Sequence[tuple[Directory, Place]]) -> None:
        pods = {uid for uid, _ in self._owners}
        ids = {d.path: d.id for d, _ in found}
        claimants = set()
        for directory, place in found:
            path = directory.path
            inner = self._parsed[path][1]
            if path not in self.places:
                if path == place.directory and place.uid in pods:
                    claimants.add(directory.id)
                    self.refused += directory.id not in self._claimants
            elif inner is not None and inner.uid != place.uid and inner.uid in pods:
                claimants.add(directory.id)
                if directory.id not in self._claimants:
                    self._exceeded.add(ids[place.directory], "claims")
        self._claimants = claimants

    def levels(self, directories: Sequence[Directory]) -> dict[int, int]:
        """Return how many levels above containers a directory is: their own have 0, pods' 1, those of pods 2."""
        levels = {}
        above = set()
        for directory in directories:
            place = self.places.get(directory.path)
            if place is not None and directory.path == place.directory:
                levels[directory.id] = 0 if place.container else 1
                if not place.container:
                    above.add(place.pod.rpartition("/")[0])
        return levels | {d.id: 2 for d in directories if d.path in above}


def _parse(path: str) -> tuple[Place | None, Place | None]:
    """Return the place that a path names, and the one that its part below a container names, if it is that itself."""
    place = place_of(path)
    if place is None or not place.container or path == place.directory:
        return place, None
    below = path[len(place.directory) + 1 :]
    inner = place_of(below)
    return place, inner if inner is not None and inner.directory == below else None


def _is_in_container(path: str) -> bool:
    return any(map(is_container, path.split("/")))
