"""Which pod, container or systemd unit a cgroup belongs to, by its path.

Path forms: the kubelet's cgroup drivers (pkg/kubelet/cm/cgroup_manager_linux.go: `kubepods.slice/...-pod<uid>.slice`
with the uid's dashes as underscores, or `kubepods/<qos>/pod<uid>`), and the runtimes' leaf directories
(`cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope`, or the bare id). Where the kubelet uses systemd
and containerd does not, one directory has both names (`...-pod<uid>.slice:cri-containerd:<id>`). Other parts before
these (a cgroup root, the container of a kind node) and after them (systemd, Docker, a cluster in a container) do not
matter: the outermost pod, and the outermost container in it, own everything below. Anybody can give a directory such a
name: `kubelet_tree.py` decides which ones count.

A UID is a UUID or, for a static pod, the MD5 hash of its file. If a static pod's file sets a UID of another form, its
cgroup does not count as a pod's.
"""

import re
from typing import NamedTuple

from kpod_metrics.bounds import clipped
from kpod_metrics.pods.model import Identity

_POD = re.compile(
    r"(?:^|-)pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$"
)
# CRI-O puts each container's monitor beside it (`crio-conmon-<id>.scope`): it belongs to the pod, not to the container.
_CONTAINER = re.compile(r"^(?![a-z]+-conmon-)(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?$")
_QOS = re.compile(r"(?:^|-)(?:burstable|besteffort)(?:\.slice)?$")
_KATA_OVERHEAD = "kata_overhead"
_UNIT = re.compile(r"\.(?:service|scope|slice|socket|mount|swap)$")
_SHORT = 12
"""Length of a container's short id, as runtimes print it."""


class Place(NamedTuple):
    """The pod and container that a path names, and where."""

    uid: str
    container: str
    """"" for the pod's own. The id of a sandbox (pause) looks like that of a container: only the pod's status
    distinguishes the two."""
    tree: str
    """The directory that has all pods of the kubelet."""
    pod: str
    """The pod's directory. If a runtime created the container's elsewhere: the directory of that one."""
    directory: str
    """The directory of the container, or of the pod: everything below it has the same ids."""
    apart: bool
    """Whether a runtime created it outside of the kubelet's tree."""


def place_of(path: str) -> Place | None:
    """Return what a path of the form that Kubernetes uses names, None for any other path."""
    names = path.split("/")
    parts = [(part, at) for at, name in enumerate(names) for part in name.split(":")]
    for number, (part, at) in enumerate(parts):
        if match := _POD.search(part):
            uid = match[1].replace("_", "-")
            container, end = next(
                ((found[1], below) for name, below in parts[number + 1 :] if (found := _CONTAINER.match(name))),
                ("", at),
            )
            mixed = ":" in names[at]
            overhead = names[0] == _KATA_OVERHEAD
            below_class = not mixed and at > 0 and _QOS.search(names[at - 1]) is not None
            return Place(
                uid,
                container,
                tree="/".join(names[overhead : at - below_class]),
                pod="/".join(names[: at if mixed else at + 1]),
                directory="/".join(names[: end + 1]),
                apart=mixed or overhead,
            )
    return None


def identity_of_path(path: str, place: Place | None = None, holder: str = "") -> Identity:
    """Name a cgroup without Kubernetes: by the ids of its pod, if it is a pod's, else by its unit or its path.

    `holder` is the path of its holder (see `Directory`), if that is above.
    """
    if place is not None:
        return Identity("", place.uid, place.container[:_SHORT])
    unit = _unit(path, holder)
    return Identity("system", clipped(unit), "") if unit else Identity("cgroup", clipped(path) or "/", "")


def _unit(path: str, holder: str) -> str:
    """Return the name of the innermost systemd unit of a path; "" if there is none.

    Unit names are unique below one service manager. Units of the system's manager have only slices above them. The
    manager of a user or of a container can have units with the same names: their names begin with the unit of the
    manager (`user@1000.service/app.slice/x.service`), or with the slice that was given to another user.
    """
    parts = path.split("/")
    units = [at for at, part in enumerate(parts) if _UNIT.search(part)]
    if not units:
        return ""
    begin = next((at for at, part in enumerate(parts) if not part.endswith(".slice")), units[-1])
    if begin < units[-1] and begin not in units:
        begin = 0  # the manager is in no unit: only the whole path is unique
    if holder:
        begin = min(begin, holder.count("/"))
    return "/".join(parts[min(begin, units[-1]) : units[-1] + 1])
