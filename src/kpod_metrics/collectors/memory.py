"""Memory charged to each cgroup, from the memory controller: four files per container, five if the node has swap.

Without the controller, a cycle reads one file.
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
            "Memory charged to the container, with page cache and kernel memory.",
            "memory.current",
            advice="Subtract kpod_mem_cgroup_cache_bytes to get the memory that the kernel cannot free: request that.",
        ),
        gauge(
            "kpod_mem_cgroup_peak_bytes",
            "Maximum memory charged to the container since its start.",
            "memory.peak",
            optional="from Linux 5.19 on",
            advice="Set the memory limit above it.",
        ),
        gauge(
            "kpod_mem_cgroup_cache_bytes",
            "Page cache charged to the container, with tmpfs and shared memory.",
            "file of memory.stat",
            advice=(
                "Usually no problem: the kernel frees it when memory is short. With major faults or memory pressure, "
                "the limit is too low for it."
            ),
        ),
        gauge(
            "kpod_mem_cgroup_swap_bytes",
            "Memory of the container in swap.",
            "memory.swap.current",
            optional="on nodes with swap",
            advice="Grows: memory is short. The next access to a page in swap is a major fault.",
        ),
        gauge(
            "kpod_mem_cgroup_limit_bytes",
            "Memory limit of the container. The OOM killer kills a process if usage cannot be kept below it.",
            "memory.max",
            optional="with a memory limit",
            advice="Compare the usage with it (KpodMemoryNearLimit, KpodMemoryGrowsToLimit).",
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
        """Return one table."""
        return (USAGE,)

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Yield one row per cgroup."""
        if not self.has_controller():
            return []
        # The first line is the heading. Without a swap device memory.swap.current is always 0.
        has_swap = read_if_there(f"{self.environment.proc_root}/swaps").count(b"\n") > 1

        def read(group: Group) -> Iterable[Row]:
            path = group.path
            usage = single(self.read(path, "memory.current"))
            if usage is None:
                return
            peak = single(self.read(path, "memory.peak"))
            (cache,) = flat(self.read(path, "memory.stat"), b"file")
            swap = single(self.read(path, "memory.swap.current")) if has_swap else None
            limit = single(self.read(path, "memory.max"))  # "max" if there is none
            yield Row(USAGE, group.id, (), (usage, peak, cache, swap, limit))

        return self.each(groups, read)
