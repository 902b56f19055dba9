"""File systems that a process sees: `/proc/PID/mountinfo` (Documentation/filesystems/proc.rst, section 3.5)."""

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
        "autofs",  # to look at it can be to mount what it stands for
        *("ramfs", "rootfs"),  # without a limit, and the kernel tells no usage
        *("squashfs", "iso9660", "erofs", "cramfs"),  # images, full by construction
    }
)
"""Kinds of file system that hold no data, or none whose amount says anything."""

_IN_KERNEL = frozenset({"tmpfs", "overlay", "btrfs", "zfs", "bcachefs"})
"""Kinds that no device number shows to be on this machine, though they are."""

_NOT_A_CONTAINERS = ("/proc", "/sys", "/dev")

_OF_ANOTHER = re.compile(
    r"/(?:var/lib/(?:kubelet|docker|containerd|containers|rancher|k0s)|run/(?:containerd|containers|crio|docker|k3s))"
    r"/[^/]+/."
    r"|/pods/[^/]+/volume(?:s|-subpaths)/."
)
"""Where on the host runtimes keep the files of one container each, and kubelets the volumes of one pod each."""


class Point(NamedTuple):
    """Where a file system is mounted."""

    path: str
    mount: int
    """The number of the mount that a lookup of the path ends in."""


@dataclass(slots=True)
class FileSystem:
    """One file system, as one process sees it."""

    device: str
    """MAJ:MIN."""
    local: bool
    """Whether it is on this machine: an answer that does not come is likelier of a server or a FUSE daemon."""
    points: list[Point]
    """Where it is mounted, shortest path first. Some may be single files, which mountinfo does not tell."""


@dataclass(slots=True)
class _Mount:
    id: int
    parent: int
    device: str
    root: str
    """Which directory of the file system is mounted."""
    point: str
    kind: str
    left_out: bool


class Host:
    """Where a directory is on the host, from the mounts of its first process."""

    def __init__(self, mountinfo: bytes) -> None:
        mounts = [mount for mount in _tree(mountinfo)[0] if not _OF_ANOTHER.search(mount.point)]
        self._mounts = sorted(mounts, key=lambda mount: len(mount.root), reverse=True)

    def path(self, device: str, directory: str) -> str | None:
        """Return the host's path of a directory of a device; None where that is nowhere on the host."""
        for mount in self._mounts:
            root = mount.root.rstrip("/")
            if mount.device == device and (directory + "/").startswith(root + "/"):
                return _joined(mount.point, directory[len(root) :])
        return None


def file_systems(mountinfo: bytes, host: Callable[[], Host] | None = None) -> list[FileSystem]:
    """Return the file systems with data that can be reached, in the order in which they are first mounted.

    Where `host` is given, those are left out that come with a part of the host and are other containers' there. It is
    called for a process only that may have such a part.
    """
    mounts, below = _tree(mountinfo)
    by_id = {mount.id: mount for mount in mounts}
    found: dict[str, FileSystem] = {}
    for mount in mounts:
        if mount.left_out or _seen_at(mount.point, below) is not mount:
            continue
        if host is not None and _is_another_s(mount, by_id.get(mount.parent), host):
            continue
        place = Point(mount.point, mount.id)
        if (known := found.get(mount.device)) is not None:
            known.points.append(place)
        else:
            kind, anonymous = mount.kind, mount.device.startswith("0:")
            local = kind in _IN_KERNEL or not (anonymous or kind.startswith("fuse"))
            found[mount.device] = FileSystem(mount.device, local, [place])
    for system in found.values():
        system.points.sort(key=lambda point: len(point.path))
    return list(found.values())


def _is_another_s(mount: _Mount, parent: _Mount | None, host: Callable[[], Host]) -> bool:
    """Whether a mount is in a directory of the host's that is another container's, or another pod's volume.

    What is mounted in a directory that the container was given by itself (its root, its volumes) is its own, wherever
    on the host that is.
    """
    if parent is None or parent is mount or (parent.point == "/" and not _OF_ANOTHER.search(mount.point)):
        return False
    above = host().path(parent.device, parent.root)
    if above is None or _OF_ANOTHER.search(above):
        return False
    return _OF_ANOTHER.search(_joined(above, mount.point[len(parent.point.rstrip("/")) :])) is not None


def _joined(directory: str, below: str) -> str:
    """Return a path; `below` is empty or begins with a slash."""
    return directory.rstrip("/") + below or "/"


_Below = dict[tuple[int | None, str], _Mount]
"""Mounts by the mount that they are mounted in (None: none that this process sees) and where."""


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
            # Secrets and other files that the kubelet projects: as large as what is in them.
            or (kind == "tmpfs" and read_only)
            or any(point == top or point.startswith(f"{top}/") for top in _NOT_A_CONTAINERS)
        )
        root = unescape_mount(os.fsdecode(fields[3]))
        mounts.append(_Mount(id_, parent_id, os.fsdecode(fields[2]), root, point, kind, left_out))
    below: _Below = {}
    for mount in mounts:
        # The first mount of all is its own parent.
        seen = mount.parent in ids and mount.parent != mount.id
        below[mount.parent if seen else None, mount.point] = mount
    return mounts, below


def _seen_at(point: str, below: _Below) -> _Mount | None:
    """Return the mount that the path lookup of a mount point ends in: others may be hidden below a later one.

    Not so at the root directory: a lookup begins in it, and what is mounted over it is not reached by any path.
    """
    seen = below.get((None, "/"))
    if point == "/":
        return seen
    for prefix in (*(point[:at] for at, letter in enumerate(point) if letter == "/" and at), point):
        while (over := below.get((seen.id if seen else None, prefix))) is not None:
            seen = over
    return seen
