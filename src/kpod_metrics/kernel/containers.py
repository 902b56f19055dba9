"""Tells the kernel programs which cgroups are containers, by the map `containers` (bpf/containers.bpf.h).

Programs charge cgroups below a container to the entry of the container, so that one that creates many cgroups does not
fill the maps.
"""

import threading
from collections.abc import Mapping, Set

from kpod_metrics.kernel.libbpf import KernelError, Map


class Containers:
    """The one map that all objects share: each open object has a descriptor of it, and it ends with the last one."""

    def __init__(self) -> None:
        self._maps: list[Map] = []
        self._marked: dict[int, int] = {}
        """What is in the map, as far as the agent wrote it."""
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
                self._marked = {}

    def mark(self, levels: Mapping[int, int], created: Set[int] = frozenset()) -> None:
        """Set what is marked: by cgroup id, how many levels above a container it is.

        `created` are cgroups that were created since the last call: the kernel may have marked them itself
        (bpf/cgroups.bpf.c). Raises KernelError, after it has tried all: a container without a mark is only charged by
        its cgroups.
        """
        refused: KernelError | None = None
        with self._lock:
            if not self._maps:
                return
            map_ = self._maps[0]
            for cgroup in (self._marked.keys() | created) - levels.keys():
                map_.delete(cgroup.to_bytes(8, "little"))
                self._marked.pop(cgroup, None)
            for cgroup, level in levels.items():
                if self._marked.get(cgroup) != level:
                    try:
                        map_.update(cgroup.to_bytes(8, "little"), level.to_bytes(4, "little"))
                    except KernelError as error:
                        refused = refused or error
                    else:
                        self._marked[cgroup] = level
        if refused is not None:
            raise refused
