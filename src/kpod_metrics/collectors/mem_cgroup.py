"""Memory charged to each cgroup, from the memory controller: four files a container, five where the node has swap.

Without the controller one file is looked for and not found.
"""

from collections.abc import Iterable, Sequence

from kpod_metrics.cgroup.keyed import flat, read_if_there, single
from kpod_metrics.collectors.base import Environment
from kpod_metrics.collectors.per_group import FileCollector
from kpod_metrics.metrics import Row, Scope, Table, counter, gauge
from kpod_metrics.pods.model import Group

USAGE = Table(
    (
        gauge(
            "kpod_mem_cgroup_usage_bytes",
            "Memory charged to the container, page cache and kernel memory included.",
            "memory.current",
        ),
        gauge(
            "kpod_mem_cgroup_peak_bytes",
            "Most memory that was ever charged to the container at once.",
            "memory.peak",
            optional="from Linux 5.19 on",
        ),
        gauge(
            "kpod_mem_cgroup_cache_bytes",
            "Page cache charged to the container, tmpfs and shared memory included.",
            "file of memory.stat",
        ),
        gauge(
            "kpod_mem_cgroup_swap_bytes",
            "Memory of the container that is swapped out.",
            "memory.swap.current",
            optional="where the node has swap",
        ),
    )
)
KILLS = Table(
    (
        counter(
            "kpod_mem_oom_group_kills_total",
            "Times that all processes of a container were killed together for want of memory "
            "(kpod_mem_oom_kills_total counts the processes). "
            "One that ends the container is counted only if its cgroup is still there at the next read.",
            "oom_group_kill of memory.events",
            optional="from Linux 5.17 on",
        ),
    ),
    scope=Scope.POD,
    totals=True,
)


class MemCgroup(FileCollector):
    """Memory of each cgroup, and how often it was killed as a whole."""

    name = "mem_cgroup"
    description = "memory charged, page cache, swap"
    controller = "memory"

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Gauges of containers, and a counter of pods."""
        return (USAGE, KILLS)

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Two rows a cgroup."""
        if not self.has_controller():
            return []
        # The first line is the heading. Without a swap device memory.swap.current would be 0 for ever.
        has_swap = read_if_there(f"{self.environment.proc_root}/swaps").count(b"\n") > 1

        def read(group: Group) -> Iterable[Row]:
            path = group.path
            usage = single(self.read(f"{path}/memory.current"))
            if usage is None:
                return
            peak = single(self.read(f"{path}/memory.peak"))
            (cache,) = flat(self.read(f"{path}/memory.stat"), b"file")
            swap = single(self.read(f"{path}/memory.swap.current")) if has_swap else None
            yield Row(USAGE, group.id, (), (usage, peak, cache, swap))
            (kills,) = flat(self.read(f"{path}/memory.events"), b"oom_group_kill")
            if kills is not None:
                yield Row(KILLS, group.id, (), (kills,))

        return self.each(groups, read)
