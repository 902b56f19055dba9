"""The cgroup v2 tree: its mount point, its directories, and their processes."""

import errno
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from kpod_metrics.cgroup.keyed import decimal, flat, is_absent
from kpod_metrics.errors import RefusedError
from kpod_metrics.files import KeptFiles, read_bytes

log = logging.getLogger(__name__)

MAX_DEPTH = 64
"""Levels below the root. Three containers inside each other, of a user's service manager, have about 25."""
MAX_PATH_BYTES = 4000
"""Bytes of a directory's path: the kernel accepts 4,095, and the names of its files need some of them."""
MAX_CGROUPS = 10_000
"""In the whole tree. The owner of a delegated cgroup can create any number, and each costs the agent 5 KB."""
MAX_HELD = 1_000
"""Below one holder (see `Directory`). A kind node with 110 pods has about 500, a desktop's user manager about 100."""
SKIPPED = ("depth", "path", "number", "unreadable")
"""Why a walk skips a cgroup and everything below it."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_OCTAL = re.compile(r"\\([0-7]{3})")
_CONTAINER = re.compile(r"\.scope$|(?:^|[-:])[0-9a-f]{64}$|^lxc\.payload\.|^systemd-nspawn@")


def is_container(name: str) -> bool:
    """Whether the name of a directory is that of a container: root there may not be the host's administrator."""
    return _CONTAINER.search(name) is not None


@dataclass(frozen=True, slots=True)
class Directory:
    """One cgroup. `id` is the inode of its directory, which kernel programs see as the cgroup's id."""

    id: int
    path: str
    """Below the mount, without a leading slash; "" is the root."""
    pids: tuple[int, ...]
    delegated: bool = False
    """Whether it, or one above it, belongs to another user than the root: that user can create any cgroups in it."""
    holder: int = 0
    """Id of the outermost directory, of itself and those above it, that is delegated, a unit or a container: the
    processes in it may be able to create cgroups. 0: there is none."""


def unescape_mount(field: str) -> str:
    r"""Replace the octal escapes of a mountinfo field (`\\040` is a space): fs/proc_namespace.c, mangle()."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def find_root(proc_root: str = "/proc") -> str:
    """Return the mount point of the whole cgroup v2 tree, from /proc/self/mountinfo.

    A container with a cgroup namespace can have a mount of a subtree only. The root directory of the whole tree has
    inode 1. If the machine is a container (kind, k3d), its whole tree is a subtree: then the mount that begins highest
    above the own namespace (`/../..`) is used. Raises RefusedError if there is none.
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
        except (OSError, ValueError):  # ValueError: not a possible path
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
    """Whether a directory is the root of the hierarchy, so that all cgroups are below it."""
    return os.stat(root).st_ino == 1


class Tree:
    """Walks the tree repeatedly. For one thread at a time.

    If all cgroups of the last walk still exist, and the kernel counts no others (nr_descendants of cgroup.stat), a walk
    reads only their processes, which takes half of the CPU time. Else it lists a directory again only if its number of
    links changed or a child disappeared: a stat() takes 3.6 us, a listing 12 us. If directories have no links for
    their children (st_nlink is 1, as on btrfs; kernfs has them), it lists every directory each time.
    """

    def __init__(self, root: str, kept_files: int = 0, trusted: str = "") -> None:
        """`kept_files` is how many descriptors may stay open.

        `trusted` is a directory whose owner may create cgroups in it without limit, and which no directory above holds.
        """
        self._root, self._trusted = root, trusted
        self._files = KeptFiles(kept_files)
        self._listed: dict[str, tuple[int, list[tuple[str, int]]]] = {}
        """For each directory: its number of links when it was listed, and the names and inodes of its children."""
        self._known: dict[str, tuple[bytes, Directory, str]] = {}
        """Result of the last walk by path: the process list as bytes, the directory, and its full path. An unchanged
        directory is the same object in the next walk."""
        self._now: dict[str, tuple[bytes, Directory, str]] = {}
        self._links: dict[str, int] = {}
        """For each directory of the current walk: its number of links."""
        self._owners = (0, 0)
        """The owners of the root and of the trusted directory."""
        self._count: int | None = None
        """How many cgroups the kernel counts, if it says so."""
        self._held: Counter[int] = Counter()
        """How many cgroups the current walk found below each holder."""
        self.skipped = dict.fromkeys(SKIPPED, 0)
        """Cgroups that the last walk skipped, with everything below them, by reason."""
        self.skipped_below: dict[int, int] = {}
        """The same by the id of their holder."""
        self._skipping: dict[tuple[str, str], tuple[int, int]] = {}
        """For the current walk, by parent and reason: how many, and their holder."""

    def walk(self) -> list[Directory]:
        """Return all cgroups from the root down, parents first, and those below holders last.

        A cgroup that disappears during the walk is not returned. Cgroups below an unreadable one, and cgroups beyond
        the limits above, are counted in `skipped`: the owner of a delegated cgroup can create such cgroups, and the
        rest of the tree must not suffer. Raises OSError if the root cannot be read, and if descriptors or memory run
        out: cgroups that were not seen then may still exist.
        """
        unchanged = self._walk_known()
        if unchanged is not None:
            return unchanged
        listed, self._listed = self._listed, {}
        self._skipping = {}
        self._held.clear()
        status = os.stat(self._root)
        self._owners = status.st_uid, self._owner_of_trusted()
        self._links = {"": status.st_nlink}
        found = [self._root_directory(status.st_ino)]
        holders = []
        for directory in found:  # the list grows during the loop
            if directory.holder:
                holders.append(directory)
            else:
                found += self._below(directory, listed, MAX_CGROUPS - len(found))
        share = self._share(holders, MAX_CGROUPS - len(found))
        for directory in holders:
            room = min(share - self._held[directory.holder], MAX_CGROUPS - len(found))
            below = self._below(directory, listed, room)
            self._held[directory.holder] += len(below)
            found += below
            holders += below
        now, self._now = self._now, {}
        self._files.sweep({where for _, _, where in now.values()})
        self._known = {directory.path: now[directory.path] for directory in found if directory.path in now}
        self._report_skipped()
        return found

    def _root_directory(self, inode: int) -> Directory:
        text = self._read(self._root)
        directory = Directory(inode, "", _pids(text or b""))
        if text is not None:
            self._now[""] = (text, directory, self._root)
        return directory

    def _owner_of_trusted(self) -> int:
        try:
            return os.stat(f"{self._root}/{self._trusted}").st_uid
        except OSError:  # it does not exist yet
            return 0

    def _share(self, holders: list[Directory], room: int) -> int:
        """Return how many cgroups below each holder fit into `room`: large ones make room for all small ones."""
        if self._count is None or self._count < MAX_CGROUPS:
            return MAX_HELD
        sizes = [min(self._descendants(f"{self._root}/{holder.path}") or 0, MAX_HELD) for holder in holders]
        for smaller, size in enumerate(sorted(sizes)):
            share = room // (len(sizes) - smaller)
            if size > share:
                return share
            room -= size
        return MAX_HELD

    def _descendants(self, where: str) -> int | None:
        """Return the kernel's count of the cgroups below a directory; None if it is not known."""
        try:
            (count,) = flat(read_bytes(f"{where}/cgroup.stat"), b"nr_descendants")
        except OSError:
            return None
        return count

    def _skip(self, directory: Directory, reason: str, number: int) -> None:
        self._skipping[directory.path, reason] = (number, directory.holder)

    def _report_skipped(self) -> None:
        """Count the skipped cgroups; log them when it begins."""
        before, self.skipped = self.skipped, dict.fromkeys(SKIPPED, 0)
        self.skipped_below = {}
        for (_, reason), (number, holder) in self._skipping.items():
            self.skipped[reason] += number
            if holder and reason != "unreadable":
                self.skipped_below[holder] = self.skipped_below.get(holder, 0) + number
        for (path, reason), (number, _) in self._skipping.items():
            if not before[reason]:
                before[reason] = number
                log.warning("the walk skips cgroups (%s), among them %d below %.200r", reason, number, f"/{path}")

    def close(self) -> None:
        """Close the open files."""
        self._files.close()

    def _walk_known(self) -> list[Directory] | None:
        """Return the directories of the last walk, updated; None if there may be others, or one was removed."""
        try:
            (self._count,) = flat(self._files.read(self._root, "cgroup.stat"), b"nr_descendants")
        except OSError:
            self._count = None
        if self._skipping or self._count != len(self._known) - 1:
            return None
        for path, (before, directory, where) in self._known.items():
            text = self._read(where)
            # A descriptor that was kept is of the same directory, or the read would have failed.
            if text is None or not (self._files.keeps(where, "cgroup.procs") or self._is(where, directory.id)):
                self._listed.clear()  # another cgroup may have the same name now
                return None
            if text != before:
                self._known[path] = (text, replace(directory, pids=_pids(text)), where)
        return [directory for _, directory, _ in self._known.values()]

    @staticmethod
    def _is(where: str, inode: int) -> bool:
        try:
            return os.stat(where).st_ino == inode
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            return False

    def _below(
        self, directory: Directory, listed: dict[str, tuple[int, list[tuple[str, int]]]], room: int
    ) -> list[Directory]:
        """Return the children of a directory, at most `room`."""
        path = directory.path
        links = self._links.get(path, 2)
        if links == 2:
            return []  # its own name and "."
        where = f"{self._root}/{path}" if path else self._root
        if path.count("/") >= MAX_DEPTH - 1:
            self._skip(directory, "depth", links - 2)
            return []
        try:
            known = listed.get(path)
            names = known[1] if known is not None and known[0] == links != 1 else self._list(where, room)
        except OSError as error:
            if not path or error.errno in _EXHAUSTED:
                raise
            if not is_absent(error):
                self._skip(directory, "unreadable", 1)
            return []
        below = self._directories(where, directory, names, room)
        if None in below:
            # One was removed and another created, perhaps with the same name, as the number of links is the same.
            try:
                names = self._list(where, room)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    raise
            below = self._directories(where, directory, names, room)
        if len(names) <= room:  # else others may have a place in the next walk
            self._listed[path] = (links, names)
        return [child for child in below if child is not None]

    @staticmethod
    def _list(where: str, room: int) -> list[tuple[str, int]]:
        """Return the names and inodes of the children: if they are more than `room`, one more than that."""
        with os.scandir(where) as entries:
            below = ((entry.name, entry.inode()) for entry in entries if entry.is_dir(follow_symlinks=False))
            return list(islice(below, max(room, 0) + 1))

    def _directories(
        self, where: str, directory: Directory, names: list[tuple[str, int]], room: int
    ) -> list[Directory | None]:
        """Return the children with these names, None for a removed one."""
        above = f"{directory.path}/" if directory.path else ""
        if len(where) > MAX_PATH_BYTES // 8:  # a character has at most four bytes, a name at most 255
            fitting = [(name, inode) for name, inode in names if len(os.fsencode(f"{where}/{name}")) <= MAX_PATH_BYTES]
            if len(fitting) < len(names):
                self._skip(directory, "path", len(names) - len(fitting))
            names = fitting
        if len(names) > room:
            self._skip(directory, "number", max(len(names), self._links[directory.path] - 2) - max(room, 0))
            names = names[: max(room, 0)]
        return [self._directory(directory, name, above + name, f"{where}/{name}", inode) for name, inode in names]

    def _directory(self, above: Directory, name: str, path: str, where: str, inode: int) -> Directory | None:
        """Return one directory; None if it was removed, or replaced by another one."""
        text = self._read(where)
        if text is None:
            return None
        try:
            status = os.stat(where)
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            if is_absent(error):
                return None
            self._skipping[path, "unreadable"] = (1, above.holder)
            links, delegated = 2, True
        else:
            if status.st_ino != inode:
                return None
            links, delegated = status.st_nlink, above.delegated or status.st_uid != self._owners[0]
            if self._trusted and f"{path}/".startswith(f"{self._trusted}/"):
                delegated = path != self._trusted and (above.delegated or status.st_uid != self._owners[1])
        self._links[path] = links
        known = self._known.get(path)
        if known is None or known[1].id != inode or known[1].delegated != delegated:
            holds = (delegated or name.endswith(".service") or is_container(name)) and not self._is_above_trusted(path)
            known = (
                text,
                Directory(inode, path, _pids(text), delegated, above.holder or (inode if holds else 0)),
                where,
            )
        elif known[0] != text:
            known = (text, replace(known[1], pids=_pids(text)), where)
        self._now[path] = known
        return known[1]

    def _is_above_trusted(self, path: str) -> bool:
        return bool(self._trusted) and f"{self._trusted}/".startswith(f"{path}/")

    def _read(self, where: str) -> bytes | None:
        """Return a directory's list of processes; None if it was removed.

        The list is empty if it cannot be read: the owner of a cgroup can remove the right to read it.
        """
        try:
            return _read_procs(where, self._files)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            self._skipping[where[len(self._root) + 1 :], "unreadable"] = (1, 0)
            return b""


def _pids(text: bytes) -> tuple[int, ...]:
    """Return the processes of this PID namespace; the others are listed as 0."""
    try:
        return tuple([pid for pid in map(int, text.split()) if pid > 0])
    except ValueError:  # no kernel writes this
        return tuple([pid for pid in map(decimal, text.split()) if pid])


def _read_procs(directory: str, files: KeptFiles, name: str = "cgroup.procs") -> bytes | None:
    """Return the list of processes, None if the cgroup was removed; raises every other OSError.

    cgroup.procs of a threaded cgroup cannot be read (EOPNOTSUPP): cgroup.threads lists its threads.
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
    """Yield a root and the readable directories below it, level by level, at most MAX_CGROUPS."""
    found = [root]
    for path in found:
        yield path
        try:
            with os.scandir(path) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        found += below[: MAX_CGROUPS - len(found)]
