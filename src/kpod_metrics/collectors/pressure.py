"""Time that tasks wait for CPU, memory and I/O, from pressure stall information: three files per container."""

from collections.abc import Iterable, Sequence
from itertools import chain

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

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._rows: dict[int, tuple[list[bytes], Row]] = {}
        """The files and the row of each cgroup in the last cycle."""

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Yield one row per cgroup. If a file does not exist, or with psi=0, its values are None."""
        # Most cgroups are idle: what did not change is not parsed again.
        before, self._rows = self._rows, {}

        def read(group: Group) -> Iterable[Row]:
            contents = [self.read(group.path, file) for file in _FILES]
            known = before.get(group.id)
            if known is None or known[0] != contents:
                found = chain.from_iterable(map(pressure.totals, contents))
                values = tuple([None if microseconds is None else microseconds / 1e6 for microseconds in found])
                known = contents, Row(TABLE, group.id, (), values)
            self._rows[group.id] = known
            if any(value is not None for value in known[1].values):
                yield known[1]

        return self.each(groups, read)
