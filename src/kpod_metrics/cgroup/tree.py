"""The cgroup v2 tree: where it is mounted, what directories it has, what processes are in them."""

import errno
import os
import re
from dataclasses import dataclass

from kpod_metrics.cgroup.keyed import flat, number
from kpod_metrics.errors import RefusedError
from kpod_metrics.files import KeptFiles, read_bytes

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Directory:
    """One cgroup. `id` is the inode of its directory, which is what the kernel programs call the cgroup's id."""

    id: int
    path: str
    """Below the mount, without a leading slash; "" is the root."""
    pids: tuple[int, ...]


def unescape_mount(field: str) -> str:
    r"""Undo the octal escapes of a mountinfo field (`\\040` is a space): fs/proc_namespace.c, mangle()."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def find_root(proc_root: str = "/proc") -> str:
    """Return the mount point of the whole cgroup v2 tree, from /proc/self/mountinfo.

    A container with a cgroup namespace may have a mount of a subtree only: the whole tree is the mount whose root
    directory is inode 1. Where the machine is a container itself (kind, k3d), all of its tree is a subtree too: then
    the mount is taken that begins furthest above the own namespace (`/../..`). Raises RefusedError where there is none.
    """
    partial = []
    above: dict[int, str] = {}
    path = os.path.join(proc_root, "self/mountinfo")
    try:
        lines = os.fsdecode(read_bytes(path)).split("\n")
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}; --proc-root names the host's /proc") from None
    for line in lines:
        head, _, tail = line.partition(" - ")
        if not tail.startswith("cgroup2 "):
            continue
        fields = head.split(" ")
        if len(fields) < 6:
            continue
        mount = unescape_mount(fields[4])
        try:
            if os.stat(mount).st_ino == 1:
                return mount
        except (OSError, ValueError):  # ValueError: what cannot be a path
            continue
        partial.append(mount)
        if fields[3].startswith("/.."):
            above.setdefault(fields[3].count(".."), mount)
    if above:
        return above[max(above)]
    if partial:
        raise RefusedError(
            f"cgroup2 is mounted at {partial[0]}, but only a part of its tree is seen there (a cgroup namespace): "
            "mount the host's /sys/fs/cgroup into the container and name it with --cgroup-root"
        )
    raise RefusedError("no cgroup2 mount in /proc/self/mountinfo: mount one, or name it with --cgroup-root")


def path_of_root(root: str, proc_root: str = "/proc") -> str:
    """Return a root's path from that of the hierarchy, with a slash at the end; "" for the whole tree.

    "" also where the whole tree is mounted nowhere, so that it cannot be known.
    """
    try:
        mount = find_root(proc_root)
    except RefusedError:
        return ""
    return f"{root.removeprefix(mount).strip('/')}/" if root.startswith(f"{mount}/") else ""


class Tree:
    """Walks the tree again and again. For one thread at a time.

    Where all that were there last time still are, and the kernel counts no more (nr_descendants of cgroup.stat), only
    their processes are looked at: half of the CPU time. Else, what is below a directory is listed anew only if its
    number of links has changed or one of those that were there is gone: measured, 3.6 us for the stat() and 12 us for
    the listing. Where directories have no links for their children (st_nlink is 1, as on btrfs; kernfs has them) each
    is listed every time.
    """

    def __init__(self, root: str, kept_files: int = 0) -> None:
        """`kept_files` descriptors may be kept open."""
        self._root = root
        self._files = KeptFiles(kept_files)
        self._listed: dict[str, tuple[int, list[tuple[str, int]]]] = {}
        """For each directory its links when it was listed, and the names and inodes below."""
        self._known: dict[str, tuple[bytes, Directory, str]] = {}
        """What the last walk found, by path, with the list of processes as it was read and where that is: what has not
        changed is the same object in the next."""
        self._now: dict[str, tuple[bytes, Directory, str]] = {}

    def walk(self) -> list[Directory]:
        """Return every cgroup from the root down, parents before children.

        A cgroup that disappears meanwhile is left out; OSError if the root itself cannot be read, or where descriptors
        or memory run out: what was not seen then has not gone.
        """
        again = self._look_again()
        if again is not None:
            return again
        found: list[Directory] = []
        listed, self._listed = self._listed, {}
        inode = os.stat(self._root).st_ino
        self._add(self._directory("", self._root, inode) or Directory(inode, "", ()), listed, found)
        now, self._now = self._now, {}
        self._files.sweep({where for _, _, where in now.values()})
        self._known = {directory.path: now[directory.path] for directory in found if directory.path in now}
        return found

    def close(self) -> None:
        """Close the kept files."""
        self._files.close()

    def _look_again(self) -> list[Directory] | None:
        """Return the directories of the last walk as they are now; None where they may not be all, or one is gone."""
        try:
            (count,) = flat(self._files.read(self._root, "cgroup.stat"), b"nr_descendants")
        except OSError:
            return None
        if count != len(self._known) - 1:
            return None
        for path, (before, directory, where) in self._known.items():
            text = self._read(where, directory.id)
            if text is None:
                self._listed.clear()  # another may be there under the same name
                return None
            if text != before:
                self._known[path] = (text, Directory(directory.id, path, _pids(text)), where)
        return [directory for _, directory, _ in self._known.values()]

    def _add(
        self, directory: Directory, listed: dict[str, tuple[int, list[tuple[str, int]]]], found: list[Directory]
    ) -> None:
        """Add a directory and what is below it."""
        found.append(directory)
        path = directory.path
        where = f"{self._root}/{path}" if path else self._root
        try:
            links = os.stat(where).st_nlink
            if links == 2:
                return  # its own name and "."
            known = listed.get(path)
            names = known[1] if known is not None and known[0] == links != 1 else self._list(where)
        except OSError as error:
            if not path or error.errno in _EXHAUSTED:
                raise
            return
        below = self._below(where, path, names)
        if None in below:
            # One went and, the number being the same, another came; maybe under the same name.
            try:
                names = self._list(where)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    raise
            below = self._below(where, path, names)
        self._listed[path] = (links, names)
        for child in below:
            if child is not None:
                self._add(child, listed, found)

    @staticmethod
    def _list(where: str) -> list[tuple[str, int]]:
        with os.scandir(where) as entries:
            return [(entry.name, entry.inode()) for entry in entries if entry.is_dir(follow_symlinks=False)]

    def _below(self, where: str, path: str, names: list[tuple[str, int]]) -> list[Directory | None]:
        """Return the directories of these names, None in the place of one that is gone."""
        above = f"{path}/" if path else ""
        return [self._directory(above + name, f"{where}/{name}", inode) for name, inode in names]

    def _directory(self, path: str, where: str, inode: int) -> Directory | None:
        """Return one directory; None where it is gone."""
        text = self._read(where, inode)
        if text is None:
            return None
        known = self._known.get(path)
        if known is None or known[0] != text or known[1].id != inode:
            known = (text, Directory(inode, path, _pids(text)), where)
        self._now[path] = known
        return known[1]

    def _read(self, where: str, inode: int) -> bytes | None:
        """Return a directory's list of processes; None where it is gone, or another one is there in its place."""
        text = _read_procs(where, self._files)
        # Where a descriptor is kept, a read of it would have told.
        if text is not None and not self._files.keeps(where, "cgroup.procs"):
            try:
                if os.stat(where).st_ino != inode:
                    return None
            except FileNotFoundError:
                return None
        return text


def read_pids(directory: str, files: KeptFiles) -> tuple[int, ...] | None:
    """Return the processes of one cgroup, without those that it cannot name (pid 0); None where it is gone.

    Raises OSError where descriptors or memory run out.
    cgroup.procs of a threaded cgroup cannot be read (EOPNOTSUPP): its threads are named by cgroup.threads.
    """
    text = _read_procs(directory, files)
    return None if text is None else _pids(text)


def _pids(text: bytes) -> tuple[int, ...]:
    try:
        return tuple([pid for pid in map(int, text.split()) if pid > 0])
    except ValueError:  # no kernel writes it
        return tuple([pid for pid in map(number, text.split()) if pid])


def _read_procs(directory: str, files: KeptFiles) -> bytes | None:
    for name in ("cgroup.procs", "cgroup.threads"):
        try:
            return files.read(directory, name, records=True)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENODEV}:
                return None
            if error.errno in _EXHAUSTED:
                raise
    return b""
