"""The types that describe the pods of this node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from kpod_metrics.cgroup.tree import Directory


class Identity(NamedTuple):
    """The owner of a series: the three labels of a pod, and the values of the chosen pod labels."""

    namespace: str
    pod: str
    container: str
    extra: tuple[str, ...] = ()
    """Values of the pod labels that become metric labels (setting `pod_labels`), in the order of the setting."""

    @property
    def of_pod(self) -> "Identity":
        """The pod as a whole: the same with an empty container."""
        return _of_pod(self) if self.container else self


@lru_cache(4096)  # called several times per cycle with the same arguments
def _of_pod(identity: Identity) -> Identity:
    return Identity(identity.namespace, identity.pod, "", identity.extra)


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup whose files are read. Collectors use `identity` and `pod` only as keys."""

    id: int
    path: str
    """Absolute path of its directory."""
    pids: tuple[int, ...]
    """Its processes, and those of the cgroups below it that have no group of their own."""
    identity: Identity
    below: tuple[int, ...] = ()
    """The ids of these cgroups, if they have processes."""
    pod: Identity = field(init=False)
    """Key of its pod: the identity with an empty container."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pod", self.identity.of_pod)

    @classmethod
    def of(cls, directory: Directory, root: str, populated: Sequence[Directory], identity: Identity) -> "Group":
        """Return the group of a directory; `populated` are those with processes that belong to it, itself included."""
        pids = tuple([pid for one in populated for pid in one.pids])
        below = tuple([one.id for one in populated if one.id != directory.id])
        return cls(directory.id, f"{root}/{directory.path}", pids, identity, below)


class Workload(NamedTuple):
    """What Kubernetes reports about a pod, apart from its names."""

    pod: Identity
    owner_kind: str
    owner: str
    qos: str
    restarts: tuple[tuple[Identity, int], ...]
    """How often each started container was restarted."""


HOST, FILTERED, PENDING, UNRESOLVED = "host", "filtered", "pending", "unresolved"
"""Why a cgroup has no owner: it belongs to no pod, the settings exclude its pod, its pod is not known yet, or its pod
never became known."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cgroups and pods that exist now."""

    identities: Mapping[int, Identity] = field(default_factory=dict)
    """Owner by cgroup id, of every cgroup that has one, also of some cgroups that were removed already."""
    reported: Mapping[int, Identity] = field(default_factory=dict)
    """The cgroups that have series, also before their first event."""
    groups: tuple[Group, ...] = ()
    """The cgroups whose files are read."""
    present: frozenset[int] = frozenset()
    """The ids of all existing cgroups, with or without an owner."""
    holders: Mapping[int, int] = field(default_factory=dict)
    """By cgroup id, how many levels of directories are above those below which everything has the same owner, whatever
    is created there: 0 for these themselves, such as a container's, 1 for a pod's, 2 for one that has pods."""
    reasons: Mapping[int, str] = field(default_factory=dict)
    """Why the other cgroups have no owner, by cgroup id."""
    kept: frozenset[Identity] = frozenset()
    """Containers without a cgroup whose series stay, because Kubernetes will restart them."""
    workloads: tuple[Workload, ...] = ()
    """One for each pod with series, if the pods come from Kubernetes."""


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod: init, sidecar, application or ephemeral."""

    name: str
    ids: tuple[str, ...] = ()
    """Ids that it is known to have had, without the runtime's prefix, the newest last: a restart gives a new one."""
    restarts: int = 0
    ended: bool = False
    """Whether it has run to its end, and will not be started again."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node."""

    uid: str
    namespace: str
    name: str
    containers: tuple[Container, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    owner_kind: str = ""
    """Kind of its controller: a Deployment instead of its ReplicaSet; "Pod" if it has none."""
    owner: str = ""
    qos: str = ""
    """Guaranteed, Burstable or BestEffort."""
    cgroup_uid: str = ""
    """The UID in the paths of its cgroups: for a static pod the hash of its file."""
    created: str = ""
    """Time of its creation (RFC 3339, UTC); empty for a static pod in a kubelet's list."""
    terminating: bool = False
    """Whether it is being deleted."""
    ended: bool = False
    """Whether it succeeded or failed, and will never run again."""
