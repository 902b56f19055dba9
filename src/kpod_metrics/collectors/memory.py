"""Memory charged to each cgroup, from the memory controller: four files a container, five where the node has swap.

Without the controller it tries to read one file.
"""

from collections.abc import Iterable, Sequence

from kpod_metrics.cgroup.keyed import flat, read_if_there, single
from kpod_metrics.collectors.kit import Environment, Question
from kpod_metrics.collectors.parts.per_group import FileCollector
from kpod_metrics.columns import Column, Shows
from kpod_metrics.metrics import Row, Table, gauge
from kpod_metrics.pods.model import Group

USAGE = Table(
    (
        gauge(
            "kpod_mem_cgroup_usage_bytes",
            "Memory charged to the container, page cache and kernel memory included.",
            "memory.current",
            advice=("Less kpod_mem_cgroup_cache_bytes it is what cannot be dropped: set the memory request by that."),
        ),
        gauge(
            "kpod_mem_cgroup_peak_bytes",
            "Most memory that was ever charged to the container at once.",
            "memory.peak",
            optional="from Linux 5.19 on",
            advice="Set the limit above it: what the container needed at its worst since its start.",
        ),
        gauge(
            "kpod_mem_cgroup_cache_bytes",
            "Page cache charged to the container, tmpfs and shared memory included.",
            "file of memory.stat",
            advice=(
                "Nothing, by itself: it is given back when memory is short. With major faults or "
                "memory pressure the limit leaves too little of it."
            ),
        ),
        gauge(
            "kpod_mem_cgroup_swap_bytes",
            "Memory of the container that is swapped out.",
            "memory.swap.current",
            optional="where the node has swap",
            advice=("Above 0 and growing: memory is short. Each page that is needed again is a major fault."),
        ),
        gauge(
            "kpod_mem_cgroup_limit_bytes",
            "Memory limit of the container: processes are killed where nothing more can be reclaimed below it.",
            "memory.max",
            optional="with a memory limit",
            advice="What usage is compared with: KpodMemoryNearLimit, KpodMemoryGrowsToLimit.",
        ),
    )
)


class Memory(FileCollector):
    """Memory of each cgroup."""

    name = "memory"
    description = "memory charged, page cache, swap"
    question = Question.MEMORY
    columns = (
        Column(
            "memory",
            "MEM B",
            "MEMORY_BYTES",
            "memory, page cache included",
            ("kpod_mem_cgroup_usage_bytes",),
            shows=Shows.LAST,
            place=120,
        ),
    )
    controller = "memory"

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """One table."""
        return (USAGE,)

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """One row a cgroup."""
        if not self.has_controller():
            return []
        # The first line is the heading. Without a swap device memory.swap.current would be 0 for ever.
        has_swap = read_if_there(f"{self.environment.proc_root}/swaps").count(b"\n") > 1

        def read(group: Group) -> Iterable[Row]:
            path = group.path
            usage = single(self.read(path, "memory.current"))
            if usage is None:
                return
            peak = single(self.read(path, "memory.peak"))
            (cache,) = flat(self.read(path, "memory.stat"), b"file")
            swap = single(self.read(path, "memory.swap.current")) if has_swap else None
            limit = single(self.read(path, "memory.max"))  # "max" where there is none
            yield Row(USAGE, group.id, (), (usage, peak, cache, swap, limit))

        return self.each(groups, read)
