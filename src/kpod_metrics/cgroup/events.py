"""New cgroups, reported by the kernel through `bpf/cgroups.bpf.c`: also those that end before the tree is walked."""

import os
import struct

from kpod_metrics.cgroup.tree import is_whole
from kpod_metrics.kernel.containers import Containers
from kpod_metrics.kernel.programs import OBJECTS, OwnsBpfObject, Programs

_HEAD = struct.Struct("=QQ")


class CgroupEvents(OwnsBpfObject):
    """Reports the id and path of every cgroup created since it was opened; for one thread at a time.

    It has no thread: the kernel stores the records in a ring buffer. A `take` costs 0.1 ms, and 1.6 us per cgroup. A
    record in the ring of 512 KiB has the path and up to 32 more bytes. So there is room for 2,427 containers with
    kubelet, containerd and systemd (paths of 191 bytes), or for 923 pods with a sandbox and one container. If more are
    created between two calls of `take`, the newest are lost, and counted as `update_errors` of the ring. Half the size
    would be too small for 1,000 pods a minute and a cycle of 30 seconds (284,000 bytes).

    A cgroup below a marked container is not reported, so that no container can fill the ring: its events are charged
    to the container. Removed cgroups are not reported: a walk of the tree shows them, and the kernel does not use an id
    again.
    """

    ring_bytes = 0
    """Size of the ring, which libbpf rounds up to a power of two of pages; 0: as compiled."""

    def __init__(
        self,
        objects: str = OBJECTS,
        sys_root: str = "/sys",
        proc_root: str = "/proc",
        root: str = "",
        containers: Containers | None = None,
    ) -> None:
        """Only cgroups below the directory `root` are reported, with paths relative to it; "": all of them.

        `containers` are the marks that the collectors' programs use: new pods and containers are marked there at once.
        """
        self._where = (objects, sys_root, proc_root)
        self.containers = containers or Containers()
        """What the kernel programs know, also those of the collectors."""
        self._root = root
        self._path_at = 0
        self._part = False

    def open(self) -> None:
        """Load and attach, before the first walk; raises UnavailableError if the kernel cannot do this."""
        self._loaded = loaded = Programs("cgroups", *self._where)
        bpf = loaded.object
        if self.ring_bytes:
            bpf.maps["new_cgroups"].max_entries = self.ring_bytes
        self._part = bool(self._root) and not is_whole(self._root)
        if self._part:
            bpf.set_rodata("root_id", os.stat(self._root).st_ino.to_bytes(8, "little"))
        loaded.share(self.containers)
        bpf.load()
        # A ring buffer has no type for its records; this map has. The path is the last field.
        record = bpf.maps["new_cgroup_record"]
        self._path_at = record.value_size - record.value_layout.fields["path"].count
        loaded.links.append(bpf.programs["cgroup_created"].attach())

    def take(self) -> list[tuple[int, str]]:
        """Return ids and paths of the v2 cgroups created since the last call, in order; does not block.

        A path is as in `tree.Directory`, independent of cgroup namespaces. The kernel cuts it after 1,023 bytes from
        the root of the hierarchy. An id is the inode of the directory. The cgroup may already be removed. A cgroup
        created during a walk is in the walk, in the next call, or in both. The result is empty before `open` and after
        `close`. Raises KernelError if the ring cannot be read (no memory, no descriptors); the records stay.
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
