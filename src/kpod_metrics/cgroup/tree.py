"""The cgroup v2 tree: where it is mounted, what directories it has, what processes are in them."""

import errno
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kpod_metrics.cgroup.keyed import decimal, flat, is_absent
from kpod_metrics.errors import RefusedError
from kpod_metrics.files import KeptFiles, read_bytes

log = logging.getLogger(__name__)

MAX_DEPTH = 64
"""Levels below the root. A container in a container in a container of a user's has about 25."""
MAX_PATH_BYTES = 4000
"""Bytes of a directory's path: the kernel takes 4,095, and the names of the files in it need some."""
MAX_CGROUPS = 10_000
"""Of the whole tree. The owner of a delegated cgroup may make any number, and each costs the agent 5 KB."""
SKIPPED = ("depth", "path", "number", "unreadable")
"""Why a walk leaves out a cgroup and all that is below it."""

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


def is_whole(root: str) -> bool:
    """Whether a directory is the root of the hierarchy: below any other, only a part of all cgroups is seen."""
    return os.stat(root).st_ino == 1


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
        self.skipped = dict.fromkeys(SKIPPED, 0)
        """Cgroups that the last walk left out with all that is below them, by reason."""
        self._left_out: dict[tuple[str, str], int] = {}
        """The same of this walk, by the cgroup that they are below and the reason."""

    def walk(self) -> list[Directory]:
        """Return every cgroup from the root down, level by level: what lies deep cannot crowd out what does not.

        A cgroup that disappears meanwhile is left out. So is what is below one that cannot be read, and what is beyond
        the bounds above: that is counted in `skipped`, for an owner of a delegated cgroup can make it, and the rest of
        the tree is not touched by it. OSError if the root itself cannot be read, or where descriptors or memory run
        out: what was not seen then has not gone.
        """
        again = self._look_again()
        if again is not None:
            return again
        listed, self._listed = self._listed, {}
        self._left_out = {}
        inode = os.stat(self._root).st_ino
        found = [self._directory("", self._root, inode) or Directory(inode, "", ())]
        for directory in found:  # which grows meanwhile
            found += self._below(directory, listed, MAX_CGROUPS - len(found))
        now, self._now = self._now, {}
        self._files.sweep({where for _, _, where in now.values()})
        self._known = {directory.path: now[directory.path] for directory in found if directory.path in now}
        self._tell_left_out()
        return found

    def _tell_left_out(self) -> None:
        """Count what was left out; log it when it begins."""
        before, self.skipped = self.skipped, dict.fromkeys(SKIPPED, 0)
        for (_, reason), number_ in self._left_out.items():
            self.skipped[reason] += number_
        for (path, reason), number_ in self._left_out.items():
            if not before[reason]:
                before[reason] = number_
                log.warning(
                    "cgroups are left out of the walk (%s), among them %d below %.200r", reason, number_, f"/{path}"
                )

    def close(self) -> None:
        """Close the kept files."""
        self._files.close()

    def _look_again(self) -> list[Directory] | None:
        """Return the directories of the last walk as they are now; None where they may not be all, or one is gone."""
        if self._left_out:
            return None
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

    def _below(
        self, directory: Directory, listed: dict[str, tuple[int, list[tuple[str, int]]]], room: int
    ) -> list[Directory]:
        """Return the directories right below one, as many as there is room for."""
        path = directory.path
        where = f"{self._root}/{path}" if path else self._root
        try:
            links = os.stat(where).st_nlink
            if links == 2:
                return []  # its own name and "."
            known = listed.get(path)
            names = known[1] if known is not None and known[0] == links != 1 else self._list(where)
        except OSError as error:
            if not path or error.errno in _EXHAUSTED:
                raise
            if not is_absent(error):
                self._left_out[path, "unreadable"] = 1
            return []
        below = self._directories(where, path, names, room)
        if None in below:
            # One went and, the number being the same, another came; maybe under the same name.
            try:
                names = self._list(where)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    raise
            below = self._directories(where, path, names, room)
        self._listed[path] = (links, names)
        return [child for child in below if child is not None]

    @staticmethod
    def _list(where: str) -> list[tuple[str, int]]:
        with os.scandir(where) as entries:
            return [(entry.name, entry.inode()) for entry in entries if entry.is_dir(follow_symlinks=False)]

    def _directories(self, where: str, path: str, names: list[tuple[str, int]], room: int) -> list[Directory | None]:
        """Return the directories of these names, None in the place of one that is gone."""
        above = f"{path}/" if path else ""
        if above.count("/") >= MAX_DEPTH:
            self._left_out[path, "depth"] = len(names)
            return []
        if len(where) > MAX_PATH_BYTES // 8:  # no letter has more than four bytes, no name more than 255
            fitting = [(name, inode) for name, inode in names if len(os.fsencode(f"{where}/{name}")) <= MAX_PATH_BYTES]
            if len(fitting) < len(names):
                self._left_out[path, "path"] = len(names) - len(fitting)
            names = fitting
        if len(names) > room:
            self._left_out[path, "number"] = len(names) - room
            names = names[:room]
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
        """Return a directory's list of processes; None where it is gone, or another one is there in its place.

        Nothing where it cannot be read: who owns a cgroup may take everybody's right to.
        """
        try:
            text = _read_procs(where, self._files)
            # Where a descriptor is kept, a read of it would have told.
            if text is None or self._files.keeps(where, "cgroup.procs"):
                return text
            return text if os.stat(where).st_ino == inode else None
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            self._left_out[where[len(self._root) + 1 :], "unreadable"] = 1
            return b""


def _pids(text: bytes) -> tuple[int, ...]:
    """Return the processes that have a number here: one of another pid namespace is listed as 0."""
    try:
        return tuple([pid for pid in map(int, text.split()) if pid > 0])
    except ValueError:  # no kernel writes it
        return tuple([pid for pid in map(decimal, text.split()) if pid])


def _read_procs(directory: str, files: KeptFiles, name: str = "cgroup.procs") -> bytes | None:
    """Return the list of processes, None where the cgroup is gone; raises any other OSError.

    cgroup.procs of a threaded cgroup cannot be read (EOPNOTSUPP): its threads are named by cgroup.threads.
    """
    try:
        return files.read(directory, name, records=True)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV}:
            return None
        if error.errno in _EXHAUSTED or name == "cgroup.threads":
            raise
    return _read_procs(directory, files, "cgroup.threads")


def paths(root: str) -> Iterator[str]:
    """Yield a root and the directories below it that can be listed, level by level, no more than a walk takes."""
    found = [root]
    for path in found:
        yield path
        try:
            with os.scandir(path) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        found += below[: MAX_CGROUPS - len(found)]
