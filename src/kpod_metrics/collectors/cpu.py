"""CPU time and throttling, from `cpu.stat`: one file per container.

Without the cpu controller, the file has only the usage.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kpod_metrics.cgroup.keyed import flat
from kpod_metrics.collectors.kit import Environment, Question, Signal
from kpod_metrics.collectors.parts.per_group import FileCollector
from kpod_metrics.columns import Column, Unit
from kpod_metrics.metrics import Row, Table, counter
from kpod_metrics.pods.model import Group

_LIMITED = "with a CPU limit"

TABLE = Table(
    (
        counter(
            "kpod_cpu_usage_seconds_total",
            "CPU time used, in user and kernel mode.",
            "usage_usec of cpu.stat",
            advice="Its rate is the number of CPUs in use. Use it to set the CPU request.",
        ),
        counter(
            "kpod_cpu_throttled_seconds_total",
            "Time in which the CPU limit kept tasks from running, summed over CPUs.",
            "throttled_usec of cpu.stat",
            optional=_LIMITED,
            advice=(
                "Can grow while CPUs are idle: raise or remove the CPU limit, and keep the request (KpodCpuThrottled)."
            ),
        ),
        counter(
            "kpod_cpu_throttled_periods_total",
            "Periods in which the CPU limit was reached.",
            "nr_throttled of cpu.stat",
            optional=_LIMITED,
            advice="Divide by kpod_cpu_periods_total. Above a quarter KpodCpuThrottled fires.",
        ),
        counter(
            "kpod_cpu_periods_total",
            "Periods of the CPU limit in which tasks were ready to run.",
            "nr_periods of cpu.stat",
            optional=_LIMITED,
            advice="The divisor for kpod_cpu_throttled_periods_total. Absent: there is no CPU limit.",
        ),
    ),
    preexisting=True,
)


class Cpu(FileCollector):
    """CPU time of each cgroup, and its throttling."""

    name = "cpu"
    description = "CPU time, throttling"
    question = Question.CPU
    columns = (
        Column(
            "cpu", "CPU%", "CPU_%", "CPU time, 100 is one CPU", ("kpod_cpu_usage_seconds_total",), Unit.SHARE, place=10
        ),
        Column(
            "throttled",
            "THROT%",
            "THROTTLED_%",
            "time in which the CPU limit throttled tasks",
            ("kpod_cpu_throttled_seconds_total",),
            Unit.SHARE,
            place=40,
        ),
    )

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def open(self) -> list[Signal]:
        """Without the cpu controller, report only the throttling metrics as absent: cpu.stat always has the usage."""
        signals = []
        for signal in super().open():
            throttling = tuple(metric for metric in signal.metrics if metric.optional)
            others = tuple(metric for metric in signal.metrics if not metric.optional)
            signals += [replace(signal, metrics=others)] if others else []
            signals += [replace(signal, metrics=throttling, absent=self.missing("cpu"))] if throttling else []
        return signals

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Yield one row per cgroup."""
        return self.each(groups, self._read)

    def _read(self, group: Group) -> Iterable[Row]:
        stat = self.read(group.path, "cpu.stat")
        usage, periods = flat(stat, b"usage_usec", b"nr_periods")
        if usage is None:
            return
        # The kernel counts periods only if there is a limit, from its first use on.
        throttled, throttled_periods = flat(stat, b"throttled_usec", b"nr_throttled") if periods else (None, None)
        yield Row(TABLE, group.id, (), (usage / 1e6, _seconds(throttled), throttled_periods, periods or None))


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6
