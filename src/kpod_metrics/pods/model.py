"""What a source of pods tells about this node."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Identity(NamedTuple):
    """Whom a series is charged to: the three pod labels."""

    namespace: str
    pod: str
    container: str

    @property
    def of_pod(self) -> "Identity":
        """The pod as a whole: the same with an empty container."""
        return self if not self.container else Identity(self.namespace, self.pod, "")


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup whose files are read. Collectors see in `identity` and `pod` only keys to tell pods apart."""

    id: int
    path: str
    """Absolute path of its directory."""
    pids: tuple[int, ...]
    identity: Identity

    @property
    def pod(self) -> Identity:
        """Key of its pod."""
        return self.identity.of_pod


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is there now."""

    identities: dict[int, Identity] = field(default_factory=dict)
    """Every cgroup whose events have an owner, by cgroup id, reported yet or not."""
    reported: dict[int, Identity] = field(default_factory=dict)
    """The cgroups that have series from now on."""
    groups: tuple[Group, ...] = ()
    """The cgroups whose files are read."""
    present: frozenset[int] = frozenset()
    """Every cgroup id that exists, with or without an owner."""
