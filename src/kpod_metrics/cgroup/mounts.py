"""The file systems of a process, from `/proc/PID/mountinfo` (Documentation/filesystems/proc.rst, section 3.5)."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kpod_metrics.cgroup.keyed import decimal
from kpod_metrics.cgroup.tree import unescape_mount

_NO_DATA = frozenset(
    {
        *("proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "bpf", "tracefs", "debugfs"),
        *("securityfs", "selinuxfs", "nsfs", "hugetlbfs", "binfmt_misc", "configfs", "fusectl", "pstore", "efivarfs"),
        *("rpc_pipefs", "nfsd"),
        "autofs",  # an access can trigger a mount
        *("ramfs", "rootfs"),  # without a size limit, and the kernel reports no usage
        *("squashfs", "iso9660", "erofs", "cramfs"),  # read-only images, always full
    }
)
"""Types of file systems without data, or whose usage has no meaning."""

_SYSTEM_FOLDERS = ("/proc", "/sys", "/dev")

_PRIVATE_FOLDERS = re.compile(
    r"/(?:var/lib/(?:kubelet|docker|containerd|containers|rancher|k0s)|run/(?:containerd|containers|crio|docker|k3s))"
    r"/[^/]+/."
    r"|/pods/[^/]+/volume(?:s|-subpaths)/."
)
"""Folders of the host in which runtimes keep the files of one container, and kubelets the volumes of one pod."""


class Point(NamedTuple):
    """Where a file system is mounted."""

    path: str
    mount: int
    """The id of the mount that a lookup of the path ends in."""


@dataclass(slots=True)
class FileSystem:
    """One file system in the mount namespace of a process."""

    device: str
    """MAJ:MIN."""
    points: list[Point]
    """Its mount points, the shortest path first. Some can be single files, which mountinfo does not show."""


@dataclass(slots=True)
class _Mount:
    id: int
    parent: int
    device: str
    root: str
    """The directory of the file system that is mounted."""
    point: str
    kind: str
    left_out: bool


class Host:
    """Finds the path of a directory on the host, by the mounts of the host's first process."""

    def __init__(self, mountinfo: bytes) -> None:
        mounts = [mount for mount in _tree(mountinfo)[0] if not _PRIVATE_FOLDERS.search(mount.point)]
        self._mounts = sorted(mounts, key=lambda mount: len(mount.root), reverse=True)

    def path(self, device: str, directory: str) -> str | None:
        """Return the host's path of a directory of a device; None if it is not mounted on the host."""
        for mount in self._mounts:
            root = mount.root.rstrip("/")
            if mount.device == device and (directory + "/").startswith(root + "/"):
                return _joined(mount.point, directory[len(root) :])
        return None


def file_systems(mountinfo: bytes, host: Callable[[], Host] | None = None) -> list[FileSystem]:
    """Return the reachable file systems with data, in the order of their first mount.

    If the process sees a part of the host's tree, `host` is called, and file systems that belong to other containers
    there are excluded.
    """
    mounts, below = _tree(mountinfo)
    by_id = {mount.id: mount for mount in mounts}
    found: dict[str, FileSystem] = {}
    for mount in mounts:
        if mount.left_out or _seen_at(mount.point, below) is not mount:
            continue
        if host is not None and _is_of_another_container(mount, by_id.get(mount.parent), host):
            continue
        place = Point(mount.point, mount.id)
        if (known := found.get(mount.device)) is not None:
            known.points.append(place)
        else:
            found[mount.device] = FileSystem(mount.device, [place])
    for system in found.values():
        system.points.sort(key=lambda point: len(point.path))
    return list(found.values())


def _is_of_another_container(mount: _Mount, parent: _Mount | None, host: Callable[[], Host]) -> bool:
    """Whether a mount is in a directory of the host that belongs to another container, or is another pod's volume.

    Mounts in the container's own directories (its root, its volumes) belong to it, wherever they are on the host.
    """
    if parent is None or parent is mount or (parent.point == "/" and not _PRIVATE_FOLDERS.search(mount.point)):
        return False
    above = host().path(parent.device, parent.root)
    if above is None or _PRIVATE_FOLDERS.search(above):
        return False
    return _PRIVATE_FOLDERS.search(_joined(above, mount.point[len(parent.point.rstrip("/")) :])) is not None


def _joined(directory: str, below: str) -> str:
    """Return a path; `below` is empty or begins with a slash."""
    return directory.rstrip("/") + below or "/"


_Below = dict[tuple[int | None, str], _Mount]
"""Mounts by their parent mount (None: not visible to this process) and mount point."""


def _tree(mountinfo: bytes) -> tuple[list[_Mount], _Below]:
    ids: set[int] = set()
    mounts = []
    for line in mountinfo.split(b"\n")[:-1]:
        head, separator, tail = line.partition(b" - ")
        fields, super_fields = head.split(b" "), tail.split(b" ")
        if not separator or len(fields) < 6 or len(super_fields) < 3:
            continue
        id_, parent_id = decimal(fields[0]), decimal(fields[1])
        if id_ is None or parent_id is None or id_ in ids:
            continue
        ids.add(id_)
        kind = os.fsdecode(super_fields[0])
        point = unescape_mount(os.fsdecode(fields[4]))
        read_only = fields[5].split(b",")[0] == b"ro" or super_fields[2].split(b",")[0] == b"ro"
        left_out = (
            kind in _NO_DATA
            # Secrets and other files that the kubelet projects: they are always full.
            or (kind == "tmpfs" and read_only)
            or any(point == top or point.startswith(f"{top}/") for top in _SYSTEM_FOLDERS)
        )
        root = unescape_mount(os.fsdecode(fields[3]))
        mounts.append(_Mount(id_, parent_id, os.fsdecode(fields[2]), root, point, kind, left_out))
    below: _Below = {}
    for mount in mounts:
        # The root mount is its own parent.
        seen = mount.parent in ids and mount.parent != mount.id
        below[mount.parent if seen else None, mount.point] = mount
    return mounts, below


def _seen_at(point: str, below: _Below) -> _Mount | None:
    """Return the mount that the lookup of a mount point ends in: a later mount can hide earlier ones.

    At the root directory it cannot: a lookup starts there, and no path reaches a mount over it.
    """
    seen = below.get((None, "/"))
    if point == "/":
        return seen
    for prefix in (*(point[:at] for at, letter in enumerate(point) if letter == "/" and at), point):
        while (over := below.get((seen.id if seen else None, prefix))) is not None:
            seen = over
    return seen
