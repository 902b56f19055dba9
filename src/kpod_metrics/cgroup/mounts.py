"""The file systems of a process, from `/proc/PID/mountinfo` (Documentation/filesystems/proc.rst, section 3.5)."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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

_NUMBER = re.compile(r"[0-9]{1,20}")

_SYSTEM_FOLDERS = ("/proc/", "/sys/", "/dev/")

MAX_POINTS = 64
"""Mount points of a device that are kept, the shortest ones. A container has five single files of its node's disk."""

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
    """Its shortest mount points, the shortest one first. Some can be single files, which mountinfo does not show."""


@dataclass(slots=True)
class _Mount:
    id: str
    parent: str
    device: str
    root: str
    """The directory of the file system that is mounted."""
    point: str
    left_out: bool


class Host:
    """Finds the path of a directory on the host, by the mounts of the host's first process."""

    def __init__(self, mountinfo: bytes) -> None:
        self._mounts: dict[str, list[_Mount]] = {}
        for mount in _mounts(mountinfo).values():
            if not _PRIVATE_FOLDERS.search(mount.point):
                self._mounts.setdefault(mount.device, []).append(mount)
        for mounts in self._mounts.values():
            mounts.sort(key=lambda mount: len(mount.root), reverse=True)

    def path(self, device: str, directory: str) -> str | None:
        """Return the host's path of a directory of a device; None if it is not mounted on the host."""
        for mount in self._mounts.get(device, ()):
            root = mount.root.rstrip("/")
            if (directory + "/").startswith(root + "/"):
                return _joined(mount.point, directory[len(root) :])
        return None


def file_systems(mountinfo: bytes, host: Callable[[], Host] | None = None) -> list[FileSystem]:
    """Return the reachable file systems with data, in the order of their first mount.

    If the process sees a part of the host's tree, `host` is called, and file systems that belong to other containers
    there are excluded. The time that it takes grows with the length of `mountinfo`, whatever that contains.
    """
    mounts = _mounts(mountinfo)
    reachable = _reachable(mounts)
    found: dict[str, FileSystem] = {}
    for mount in mounts.values():
        if mount.left_out or mount.id not in reachable:
            continue
        if host is not None and _is_of_another_container(mount, mounts.get(mount.parent), host):
            continue
        place = Point(mount.point, int(mount.id))
        if (known := found.get(mount.device)) is not None:
            known.points.append(place)
        else:
            found[mount.device] = FileSystem(mount.device, [place])
    for system in found.values():
        system.points.sort(key=lambda point: len(point.path))
        del system.points[MAX_POINTS:]
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


def _mounts(mountinfo: bytes) -> dict[str, _Mount]:
    """Return the mounts by id."""
    mounts: dict[str, _Mount] = {}
    for line in os.fsdecode(mountinfo).split("\n")[:-1]:
        head, _, tail = line.partition(" - ")
        try:
            id_, parent, device, root, point, options, *_ = head.split(" ", 6)
            kind, _, super_options = tail.split(" ", 2)
        except ValueError:
            continue
        if id_ in mounts or not _NUMBER.fullmatch(id_):
            continue
        if "\\" in line:
            root, point = unescape_mount(root), unescape_mount(point)
        left_out = (
            kind in _NO_DATA
            # Secrets and other files that the kubelet projects: they are always full.
            or (kind == "tmpfs" and (_is_read_only(options) or _is_read_only(super_options)))
            or f"{point}/".startswith(_SYSTEM_FOLDERS)
        )
        mounts[id_] = _Mount(id_, parent, device, root, point, left_out)
    return mounts


def _is_read_only(options: str) -> bool:
    return options == "ro" or options.startswith("ro,")


def _reachable(mounts: dict[str, _Mount]) -> set[str]:
    """Return the ids of the mounts in which a lookup of their own mount point ends: later mounts can hide them.

    It follows the tree of mounts from the root directory down. Nothing hides that one: a lookup starts there, and no
    path reaches a mount over it.
    """
    below: dict[str, dict[str, _Mount]] = {}
    for mount in mounts.values():
        # The root mount is its own parent. The parent of others can be outside of the process' root directory.
        parent = mount.parent if mount.parent in mounts and mount.parent != mount.id else ""
        below.setdefault(parent, {})[mount.point] = mount
    root = below.get("", {}).get("/")
    found = set() if root is None else {root.id}
    above = [("", "/") if root is None else (root.id, "/")]
    for parent, point in above:  # the list grows during the loop
        if (children := below.get(parent)) is None:
            continue
        for mount in _uncovered(children, point.rstrip("/") + "/"):
            above.append((mount.id, mount.point))
            if mount.id not in below or mount.point not in below[mount.id]:
                found.add(mount.id)
    return found


def _uncovered(mounts: dict[str, _Mount], above: str) -> list[_Mount]:
    """Return the mounts below a folder that are not below another one of them."""
    found, covering = [], None
    # With a slash at the end, everything below a folder follows it at once: "/a-b/" is before "/a/", "/a/b/" after it.
    folders = {f"{point}/": mount for point, mount in mounts.items() if point != "/"}
    for folder in sorted(folders):
        if folder.startswith(above) and (covering is None or not folder.startswith(covering)):
            covering = folder
            found.append(folders[folder])
    return found
