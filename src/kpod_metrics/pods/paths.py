"""Which pod, container or systemd unit a cgroup belongs to, by its path.

Path forms: the kubelet's cgroup drivers (pkg/kubelet/cm/cgroup_manager_linux.go: `kubepods.slice/...-pod<uid>.slice`
with the uid's dashes as underscores, or `kubepods/<qos>/pod<uid>`), and the runtimes' leaf directories
(`cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope`, or the bare id). Where the kubelet uses systemd
and containerd does not, one directory has both names (`...-pod<uid>.slice:cri-containerd:<id>`). Other parts before
these (a cgroup root, the container of a kind node) and after them (systemd, Docker, a cluster in a container) do not
matter: the outermost pod, and the outermost container in it, own everything below.

A UID is a UUID or, for a static pod, the MD5 hash of its file. If a static pod's file sets a UID of another form, its
cgroup does not count as a pod's.
"""

import re

from kpod_metrics.pods.model import Identity

_POD = re.compile(
    r"(?:^|-)pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$"
)
# CRI-O puts each container's monitor beside it (`crio-conmon-<id>.scope`): it belongs to the pod, not to the container.
_CONTAINER = re.compile(r"^(?![a-z]+-conmon-)(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?$")
_UNIT = re.compile(r"\.(?:service|scope|slice|socket|mount|swap)$")
_SHORT = 12
"""Length of a container's short id, as runtimes print it."""


def kubernetes_ids(path: str) -> tuple[str, str] | None:
    """Return the pod UID and container id of a path that Kubernetes created, None for any other path.

    A path below a container has the ids of the container. The container id of the pod's own cgroup is "". The id of a
    sandbox (pause) looks like that of a container: only the pod's status distinguishes the two.
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
    """Return the name of the innermost systemd unit of a path; "" if there is none.

    Unit names are unique below one service manager. Units of the system's manager have only slices above them. The
    manager of a user or of a container can have units with the same names: their names begin with the unit of the
    manager (`user@1000.service/app.slice/x.service`).
    """
    parts = path.split("/")
    units = [at for at, part in enumerate(parts) if _UNIT.search(part)]
    if not units:
        return ""
    begin = next((at for at, part in enumerate(parts) if not part.endswith(".slice")), units[-1])
    if begin < units[-1] and begin not in units:
        begin = 0  # the manager is in no unit: only the whole path is unique
    return "/".join(parts[min(begin, units[-1]) : units[-1] + 1])
