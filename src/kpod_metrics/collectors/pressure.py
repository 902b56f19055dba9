"""Time that tasks wait for CPU, memory and I/O, from pressure stall information: three files per container."""

from collections.abc import Iterable, Sequence

from kpod_metrics.cgroup import pressure
from kpod_metrics.collectors.kit import Environment, Question
from kpod_metrics.collectors.parts.per_group import FileCollector
from kpod_metrics.columns import Column, Unit
from kpod_metrics.metrics import Metric, Row, Table, counter
from kpod_metrics.pods.model import Group

_RESOURCES = {"cpu": "in the run queue", "memory": "for memory (reclaim, swap, refaults)", "io": "for I/O"}
_FILES = [f"{resource}.pressure" for resource in _RESOURCES]
_ADVICE = {
    "cpu": "Its rate is a share of time. kpod_cpu_runqueue_latency_seconds also shows how many tasks wait.",
    "memory": "Its rate is a share of time. Above a fifth: more memory, or a higher limit (KpodMemoryPressure).",
    "io": "Its rate is a share of time. If all tasks stall for more than half of the time, KpodDiskPressure fires.",
}


def _counters(resource: str, where: str) -> tuple[Metric, Metric]:
    return (
        counter(
            f"kpod_pressure_{resource}_waiting_seconds_total",
            f"Time in which at least one task waited {where}.",
            f"some total of {resource}.pressure",
            advice=_ADVICE[resource],
        ),
        counter(
            f"kpod_pressure_{resource}_stalled_seconds_total",
            f"Time in which all tasks that were not idle waited {where}.",
            f"full total of {resource}.pressure",
            advice=_ADVICE[resource],
        ),
    )


TABLE = Table(
    tuple(metric for resource, where in _RESOURCES.items() for metric in _counters(resource, where)), preexisting=True
)


class Pressure(FileCollector):
    """Pressure stall information of each cgroup."""

    name = "pressure"
    description = "pressure stall information (PSI) of CPU, memory, I/O"
    question = Question.DISK
    columns = tuple(
        Column(
            f"pressure_{resource}",
            f"PSI{resource[:3]}",
            f"PSI_{resource.upper()}_%",
            f"time in which at least one task waited {where}",
            (f"kpod_pressure_{resource}_waiting_seconds_total",),
            Unit.SHARE,
            place=place,
        )
        for place, (resource, where) in enumerate(_RESOURCES.items(), 130)
    )

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Yield one row per cgroup. If a file does not exist, or with psi=0, its values are None."""
        return self.each(groups, self._read)

    def _read(self, group: Group) -> Iterable[Row]:
        values = tuple(
            None if microseconds is None else microseconds / 1e6
            for file in _FILES
            for microseconds in pressure.totals(self.read(group.path, file))
        )
        if values.count(None) < len(values):
            yield Row(TABLE, group.id, (), values)
