"""Tells the kernel programs which cgroups are containers, by the map `containers` (bpf/containers.bpf.h).

Programs charge cgroups below a container to the entry of the container, so that one that creates many cgroups does not
fill the maps.
"""

import threading
from collections.abc import Iterable, Mapping, Set

from kpod_metrics.kernel.libbpf import KernelError, Map

REMOVED = 1024
"""Marks of removed cgroups that stay, the newest ones. Sockets of the cgroups in a container can outlive it by minutes
(`tcp_fin_timeout`, `tcp_orphan_retries`): without its mark each of these cgroups would take an entry."""


class Containers:
    """The one map that all objects share: each open object has a descriptor of it, and it ends with the last one."""

    def __init__(self) -> None:
        self._maps: list[Map] = []
        self._marked: dict[int, int] = {}
        """The marks of cgroups that exist, as the agent wrote them."""
        self._removed: dict[int, None] = {}
        """Removed cgroups that still have a mark, the oldest first."""
        self._lock = threading.Lock()

    def join(self, map_: Map) -> None:
        """Share the map of an object, before the object is loaded."""
        with self._lock:
            if self._maps:
                map_.reuse(self._maps[0])
            self._maps.append(map_)

    def leave(self, map_: Map) -> None:
        """Stop to use the map of an object, before the object is closed."""
        with self._lock:
            self._maps.remove(map_)
            if not self._maps:
                self._marked.clear()
                self._removed.clear()

    def is_counted_with(self, map_: Map) -> bool:
        """Whether to report a map of an object: the shared one is reported with one object."""
        return map_ not in self._maps[1:]

    def mark(self, levels: Mapping[int, int], present: Set[int], created: Iterable[int] = ()) -> None:
        """Set what is marked: by cgroup id, how many levels above a container it is.

        `present` are all cgroups that exist, `created` those that were created since the last call: the kernel may have
        marked them itself (bpf/cgroups.bpf.c). Raises KernelError, after it has tried all: a container without a mark
        has an entry for each of its cgroups.
        """
        with self._lock:
            if self._maps:
                self._unmark({*self._marked, *created} - levels.keys(), present)
                self._write({id_: level for id_, level in levels.items() if self._marked.get(id_) != level})

    def _unmark(self, unwanted: Set[int], present: Set[int]) -> None:
        map_ = self._maps[0]
        for cgroup in sorted(unwanted):  # in the order of their creation
            key = cgroup.to_bytes(8, "little")
            if cgroup in present:
                map_.delete(key)
            elif cgroup in self._marked or map_.lookup(key) is not None:
                self._removed[cgroup] = None
            self._marked.pop(cgroup, None)
        while len(self._removed) > REMOVED:
            oldest = next(iter(self._removed))
            map_.delete(oldest.to_bytes(8, "little"))
            del self._removed[oldest]

    def _write(self, levels: Mapping[int, int]) -> None:
        refused: KernelError | None = None
        for cgroup, level in levels.items():
            try:
                self._maps[0].update(cgroup.to_bytes(8, "little"), level.to_bytes(4, "little"))
            except KernelError as error:
                refused = refused or error
            else:
                self._marked[cgroup] = level
        if refused is not None:
            raise refused
