"""New cgroups as the kernel makes them, from `bpf/cgroups.bpf.c`: also those that are gone when the tree is walked."""

import os

from kpod_metrics.kernel.programs import OBJECTS, Loads, Programs


class CgroupEvents(Loads):
    """Tells the id and path of every cgroup made since it was opened; for one thread at a time.

    It has no thread of its own: the kernel keeps the news. An empty `take` costs 0.1 ms, each cgroup in it 1.6 us.
    A record in the ring of 512 KiB takes its path and up to 24 bytes: there is room for 2,520 containers of a kubelet
    and a containerd with systemd (paths of 191 bytes), or for 963 pods of a sandbox and one container. When more are
    made between two calls of `take` the newest are lost, and counted as `update_errors` of the ring. Half the size
    would not hold what 1,000 pods a minute make in a cycle of 30 seconds (272,000 bytes).

    Cgroups that are removed are not told: a walk of the tree shows it, and an id is not used again.
    """

    def __init__(
        self, objects: str = OBJECTS, sys_root: str = "/sys", proc_root: str = "/proc", ring_bytes: int = 0
    ) -> None:
        """`ring_bytes` is the ring's size, which libbpf rounds up to a power of two of pages; 0: as compiled."""
        self._where = (objects, sys_root, proc_root)
        self._ring_bytes = ring_bytes
        self._path_at = 0

    def open(self) -> None:
        """Load and attach, before the first walk of the tree; raises UnavailableError where the kernel cannot tell."""
        self._loaded = loaded = Programs("cgroups", *self._where)
        bpf = loaded.object
        if self._ring_bytes:
            bpf.maps["new_cgroups"].max_entries = self._ring_bytes
        bpf.load()
        record = bpf.maps["new_cgroup_record"]  # of the record's type, which a ring does not name; the path is last
        self._path_at = record.value_size - record.value_layout.fields["path"].count
        loaded.links.append(bpf.programs["cgroup_made"].attach())

    def take(self) -> list[tuple[int, str]]:
        """Return the ids and paths of the v2 cgroups made since the last call, in their order; waits for nothing.

        A path is as in `tree.Directory` of the whole tree, in whatever cgroup namespace it was made or is read; after
        1,023 bytes the kernel cuts it off. An id is the inode of the directory. The cgroup may be gone by now. What is
        made while the tree is walked is in the walk, or in the next call, or in both. Empty before `open` and after
        `close`; KernelError where the ring cannot be read (out of memory, out of descriptors): it is there next time.
        """
        if self._loaded is None or not self._loaded.links:
            return []
        ring, at = self._loaded.object.maps["new_cgroups"], self._path_at
        return [
            (int.from_bytes(record[:at], "little"), os.fsdecode(record[at:-1]).removeprefix("/"))
            for record in ring.take_records()
        ]
