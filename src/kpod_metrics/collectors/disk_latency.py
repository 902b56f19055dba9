"""Latency of block I/O, from `bpf/disk_latency.bpf.c`."""

from collections.abc import Iterable

from kpod_metrics.collectors.kit import BpfCollector, Environment, Question
from kpod_metrics.features import BATCH, TP_BTF
from kpod_metrics.kernel.maps import Entry
from kpod_metrics.metrics import Label, Row, Table, latency

OPERATIONS = ("read", "write")
"""Indexed by `enum operation`."""
TABLE = Table(
    (
        latency(
            "kpod_disk_io_latency_seconds",
            "Time from the creation of a block request to its completion, in the queue and on the device. "
            "A write is charged to the container that wrote the data, also if the kernel writes it back later.",
            "block_rq_complete: bpf_ktime_get_ns() - request.start_time_ns, of the blkcg of its bio",
            # From 61 us to 1 s in steps of four: there are two operations.
            exponents=(-14, -12, -10, -8, -6, -4, -2, 0),
            advice=(
                "The rate of its sum is the average number of requests in progress. High with few operations: the "
                "device is slow, or other pods fill its queue. High with many: the volume's limit (KpodDiskPressure)."
            ),
        ),
    ),
    (Label("operation", OPERATIONS),),
)


class DiskLatency(BpfCollector):
    """Latency of the block requests of each cgroup."""

    name = "disk_latency"
    description = "latency of block I/O"
    question = Question.DISK
    controller = "io"
    features = (TP_BTF, BATCH)

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def rows(self, entry: Entry) -> Iterable[Row]:
        """Yield one row per cgroup and operation."""
        cgroup_id, operation = entry.key
        yield Row(TABLE, cgroup_id, (OPERATIONS[operation],), (entry.histogram("latency"),), entry.epoch)
