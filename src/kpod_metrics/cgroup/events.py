"""New cgroups as the kernel makes them, from `bpf/cgroups.bpf.c`: also those that are gone when the tree is walked."""

import os
import struct

from kpod_metrics.cgroup.tree import is_whole
from kpod_metrics.kernel.programs import OBJECTS, OwnsBpfObject, Programs

_HEAD = struct.Struct("=QQ")


class CgroupEvents(OwnsBpfObject):
    """Tells the id and path of every cgroup made since it was opened; for one thread at a time.

    It has no thread of its own: the kernel keeps the news. An empty `take` costs 0.1 ms, each cgroup in it 1.6 us.
    A record in the ring of 512 KiB takes its path and up to 32 bytes: there is room for 2,427 containers of a kubelet
    and a containerd with systemd (paths of 191 bytes), or for 923 pods of a sandbox and one container. When more are
    made between two calls of `take` the newest are lost, and counted as `update_errors` of the ring. Half the size
    would not hold what 1,000 pods a minute make in a cycle of 30 seconds (284,000 bytes).

    Cgroups that are removed are not told: a walk of the tree shows it, and an id is not used again.
    """

    def __init__(
        self,
        objects: str = OBJECTS,
        sys_root: str = "/sys",
        proc_root: str = "/proc",
        ring_bytes: int = 0,
        root: str = "",
    ) -> None:
        """`ring_bytes` is the ring's size, which libbpf rounds up to a power of two of pages; 0: as compiled.

        `root` is the directory that paths begin at; only cgroups below it are reported. Empty: the hierarchy's.
        """
        self._where = (objects, sys_root, proc_root)
        self._root = root
        self._ring_bytes = ring_bytes
        self._path_at = 0
        self._part = False

    def open(self) -> None:
        """Load and attach, before the first walk of the tree; raises UnavailableError where the kernel cannot tell."""
        self._loaded = loaded = Programs("cgroups", *self._where)
        bpf = loaded.object
        if self._ring_bytes:
            bpf.maps["new_cgroups"].max_entries = self._ring_bytes
        self._part = bool(self._root) and not is_whole(self._root)
        if self._part:
            bpf.set_rodata("root_id", os.stat(self._root).st_ino.to_bytes(8, "little"))
        bpf.load()
        record = bpf.maps["new_cgroup_record"]  # of the record's type, which a ring does not name; the path is last
        self._path_at = record.value_size - record.value_layout.fields["path"].count
        loaded.links.append(bpf.programs["cgroup_created"].attach())

    def take(self) -> list[tuple[int, str]]:
        """Return the ids and paths of the v2 cgroups made since the last call, in their order; waits for nothing.

        A path is as in `tree.Directory`, in whatever cgroup namespace it was made or is read; after 1,023 bytes from
        the root of the hierarchy the kernel cuts it off. An id is the inode of the directory. The cgroup may be gone by
        now. What is made while the tree is walked is in the walk, or in the next call, or in both. Empty before `open`
        and after `close`; KernelError where the ring cannot be read (out of memory, out of descriptors): it is there
        next time.
        """
        if self._loaded is None or not self._loaded.links:
            return []
        ring, at = self._loaded.object.maps["new_cgroups"], self._path_at
        found = []
        for record in ring.take_records():
            id_, levels = _HEAD.unpack_from(record)
            path = os.fsdecode(record[at:-1]).removeprefix("/")
            if not self._part:
                found.append((id_, path))
            elif levels:
                found.append((id_, "/".join(path.split("/")[-levels:])))
        return found
