"""The state of one collector."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kpod_metrics.agent.attribution import Ownerless
from kpod_metrics.collectors.kit import Collector, Signal
from kpod_metrics.errors import described, is_unexpected
from kpod_metrics.metrics import Metric
from kpod_metrics.pods.model import Group

log = logging.getLogger(__name__)

_OVERDUE = 60.0
"""Seconds beyond its interval after which a read no longer delays the dropping of vanished cgroups."""
_LATE = "late: no answer within its"


@dataclass(eq=False)
class State:
    """One collector: whether it works, when it reads, and its events without an owner."""

    collector: Collector
    interval: float
    signals: list[Signal] = field(default_factory=list)
    problem: str = ""
    """Why it is off, failing or late; empty while it works."""
    opened: bool = False
    errors: int = 0
    duration: float = 0.0
    due: float = 0.0
    started: float = 0.0
    """Start of its last read, by the monotonic clock."""
    groups: Sequence[Group] = ()
    """The cgroups of its last read."""
    read: float = 0.0
    """Start of its last completed read."""
    running: bool = False
    ownerless: Ownerless = field(default_factory=Ownerless)

    @property
    def name(self) -> str:
        """The collector's name."""
        return self.collector.name

    @property
    def is_late(self) -> bool:
        """Whether its read is running beyond the deadline of a cycle."""
        return self.running and self.problem.startswith(_LATE)

    @property
    def is_up(self) -> bool:
        """Whether it works, with all its signals."""
        return self.opened and not (self.problem or any(signal.problem for signal in self.signals))

    @property
    def metrics(self) -> set[Metric]:
        """The metrics that this machine has. The others are not exported: a 0 would mean that nothing happened."""
        # File collectors see it if a controller appears later.
        return {
            metric
            for signal in self.signals
            if not signal.problem and not (signal.absent and self.collector.uses_bpf)
            for metric in signal.metrics
        }

    def open(self) -> None:
        """Open the collector; an error becomes its problem, and affects no other."""
        try:
            self.signals = self.collector.open()
        except Exception as error:
            self.collector.close()
            self.problem = described(error)
            self.errors += 1
            if is_unexpected(error):
                log.error("collector %s: %s", self.name, self.problem, exc_info=True)
            return
        self.opened = True

    def late(self, deadline: float) -> None:
        """Count and log a read that did not end within the deadline, in seconds."""
        self.errors += 1
        self.problem = f"{_LATE} {deadline:g} s deadline"
        log.error("collector %s is %s", self.name, self.problem)

    def failed(self, error: Exception) -> None:
        """Count and log a failure."""
        self.errors += 1
        self.problem = f"{type(error).__name__}: {error}"
        shown = (type(error), error, error.__traceback__) if is_unexpected(error) else None
        log.error("collector %s: %s", self.name, self.problem, exc_info=shown)

    def problems(self) -> list[str]:
        """Everything that fails, a line each."""
        lines = (
            [f"collector {self.name} is {'failing' if self.opened else 'off'}: {self.problem}"] if self.problem else []
        )
        return lines + [
            f"{', '.join(metric.name for metric in signal.metrics)}: {signal.problem}"
            for signal in self.signals
            if signal.problem
        ]


def read_by_all(states: Sequence[State]) -> float:
    """Return the start of the oldest last read of the BPF collectors, by the monotonic clock.

    Everything that they counted before is in the store. A read that does not end within `_OVERDUE` seconds is ignored.
    """
    now = time.monotonic()
    opened = [state for state in states if state.opened and state.collector.uses_bpf]
    return min((max(state.read, now - state.interval - _OVERDUE) for state in opened), default=now)
