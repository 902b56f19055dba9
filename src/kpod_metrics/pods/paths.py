"""What a cgroup's path says about who made it: Kubernetes, systemd, or somebody else.

Path forms: the kubelet's cgroup drivers (pkg/kubelet/cm/cgroup_manager_linux.go: `kubepods.slice/...-pod<uid>.slice`
with the uid's dashes as underscores, or `kubepods/<qos>/pod<uid>`), and the runtimes' leaf directories
(`cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope`, or the bare id). Where the kubelet uses systemd
and containerd does not, both names are one directory (`...-pod<uid>.slice:cri-containerd:<id>`). What may come before
these (a cgroup root, the container that a node of kind is) and after (systemd, Docker, a whole cluster in a container)
does not count: the outermost pod, and the outermost container in it, own all that is below.

A UID is a UUID or, of a static pod, the MD5 of its file; a static pod's file that sets a UID of another form makes a
cgroup that is not taken for a pod's.
"""

import re

from kpod_metrics.pods.model import Identity

_POD = re.compile(
    r"(?:^|-)pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$"
)
# CRI-O keeps each container's monitor beside it (`crio-conmon-<id>.scope`): its work is the pod's, not the container's.
_CONTAINER = re.compile(r"^(?![a-z]+-conmon-)(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?$")
_UNIT = re.compile(r"\.(?:service|scope|slice|socket|mount|swap)$")
_SHORT = 12
"""Digits of a container's short id, as the runtimes print it."""


def kubernetes_ids(path: str) -> tuple[str, str] | None:
    """Return the pod UID and container id of a path that Kubernetes made, None for any other path.

    A path nested in a container has the container's ids; the container id of the pod's own cgroup is "". A sandbox
    (pause) has an id like a container's: only who knows the pod's containers can tell.
    """
    parts = re.split("[/:]", path)
    for at, part in enumerate(parts):
        if match := _POD.search(part):
            uid = match[1].replace("_", "-")
            container = next((found[1] for name in parts[at + 1 :] if (found := _CONTAINER.match(name))), "")
            return uid, container
    return None


def identity_of_path(path: str) -> Identity:
    """Name a cgroup by its path alone (`--discovery cgroup`)."""
    if ids := kubernetes_ids(path):
        uid, container = ids
        return Identity("", uid, container[:_SHORT])
    return Identity("system", unit, "") if (unit := _unit(path)) else Identity("cgroup", path or "/", "")


def _unit(path: str) -> str:
    """Return the name of the innermost systemd unit of a path; "" where there is none.

    A unit's name is its own below one service manager: the system's, whose units have nothing but slices above them. A
    user's manager, or one in a container, may have units of the same names: theirs begin with what the manager is in
    (`user@1000.service/app.slice/x.service`).
    """
    parts = path.split("/")
    units = [at for at, part in enumerate(parts) if _UNIT.search(part)]
    if not units:
        return ""
    begin = next((at for at, part in enumerate(parts) if not part.endswith(".slice")), units[-1])
    if begin < units[-1] and begin not in units:
        begin = 0  # no unit holds it: only the whole path is its own
    return "/".join(parts[min(begin, units[-1]) : units[-1] + 1])
