"""What a source of pods tells about this node."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol


class Identity(NamedTuple):
    """Whom a series is charged to: the three pod labels, and those that were chosen of the pod's own."""

    namespace: str
    pod: str
    container: str
    extra: tuple[str, ...] = ()
    """Values of the pod's labels that are metric labels too (setting `pod_labels`), in the order of the setting."""

    @property
    def of_pod(self) -> "Identity":
        """The pod as a whole: the same with an empty container."""
        return _of_pod(self) if self.container else self


@lru_cache(4096)  # asked for several times a cycle, of the same
def _of_pod(identity: Identity) -> Identity:
    return Identity(identity.namespace, identity.pod, "", identity.extra)


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup whose files are read. Collectors see in `identity` and `pod` only keys to tell pods apart."""

    id: int
    path: str
    """Absolute path of its directory."""
    pids: tuple[int, ...]
    identity: Identity
    pod: Identity = field(init=False)
    """Key of its pod."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pod", self.identity.of_pod)


class Workload(NamedTuple):
    """What Kubernetes tells of a pod beside its names."""

    pod: Identity
    owner_kind: str
    owner: str
    qos: str
    restarts: tuple[tuple[Identity, int], ...]
    """Of each container that was started."""


HOST, FILTERED, PENDING, UNRESOLVED = "host", "filtered", "pending", "unresolved"
"""Why a cgroup has no owner: no pod's by nature, a pod's that settings leave out, one not known yet, one that nobody
ever named."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is there now."""

    identities: Mapping[int, Identity] = field(default_factory=dict)
    """Every cgroup whose events have an owner, by cgroup id, reported yet or not; also some that are gone already."""
    reported: Mapping[int, Identity] = field(default_factory=dict)
    """The cgroups that have series from now on."""
    groups: tuple[Group, ...] = ()
    """The cgroups whose files are read."""
    present: frozenset[int] = frozenset()
    """Every cgroup id that exists, with or without an owner."""
    reasons: Mapping[int, str] = field(default_factory=dict)
    """Why the others have no owner."""
    kept: frozenset[Identity] = frozenset()
    """Containers whose series stay though they have no cgroup now: they will be started again."""
    workloads: tuple[Workload, ...] = ()
    """Of every pod with series, where there is Kubernetes."""


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod, of whatever kind: init, sidecar, application, ephemeral."""

    name: str
    ids: tuple[str, ...] = ()
    """Ids that it is known to have had, without the runtime's prefix, the newest last: a restart gives a new one."""
    restarts: int = 0
    ended: bool = False
    """Whether it has run to its end, and will not be started again."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node, as Kubernetes has it."""

    uid: str
    namespace: str
    name: str
    containers: tuple[Container, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    owner_kind: str = ""
    """What made it: a Deployment in place of its ReplicaSet; "Pod" for one that nothing owns."""
    owner: str = ""
    qos: str = ""
    """Guaranteed, Burstable or BestEffort."""
    cgroup_uid: str = ""
    """The UID in its cgroups' paths: a static pod's is the hash of its file."""
    created: str = ""
    """When it was made, as the API has it (RFC 3339, UTC); empty for a static pod in a kubelet's list."""
    terminating: bool = False
    """Whether it is being deleted."""


class PodSource(Protocol):
    """Where Kubernetes' pods come from. It works on a thread of its own; the agent asks it once a cycle."""

    name: str
    connected: bool
    relists: int
    """Times that all pods were listed anew after a fault."""
    deletions_lost: int
    """Deleted pods that made room for others before anybody polled."""

    def start(self) -> None:
        """Begin; returns at once."""

    def poll(self) -> tuple[Mapping[str, Pod], tuple[Pod, ...]]:
        """Return the pods by UID, and those that were deleted since the last call (so short a life is not missed).

        The mapping is not changed later. Waits for nothing.
        """

    def hurry(self) -> None:
        """A cgroup is there that no pod known so far explains: what is new is wanted soon."""

    def problem(self) -> str:
        """What does not work and since when, one line; empty while it works."""

    def close(self) -> None:
        """End; returns within a second."""
