"""What each pod of this node waits for: the figures and causes that the page shows."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from kpod_metrics.diagnosis.causes import Cause, causes, syscall_tasks, throttled_share
from kpod_metrics.diagnosis.rates import Input, Labels, Rates, Value
from kpod_metrics.exposition.recent import Comparison
from kpod_metrics.metrics import Scope
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import OVERFLOW


@dataclass(slots=True)
class Waits:
    """Shares are 0 to 1, rates per second; None is not known: not collected, or no earlier cycle."""

    namespace: str
    pod: str
    runqueue: float | None
    """Average number of tasks in the run queue, throttled ones included."""
    throttled: float | None
    """Share of the periods of a CPU limit in which it throttled tasks; of the worst container."""
    retransmits: float | None
    faults: float | None
    syscalls: float | None
    """Average number of tasks in syscalls whose purpose is not to wait."""
    io: float | None
    """Share of the time in which all tasks of a container wait for I/O; of the worst container."""
    memory: float | None
    """Share of the time in which at least one task waits for memory; of the worst container."""
    causes: list[Cause] = field(default_factory=list)
    """The worst first."""

    @property
    def severity(self) -> float:
        """Severity of the worst cause."""
        return self.causes[0].severity if self.causes else 0.0


def rates(compared: Comparison) -> dict[Identity, Rates]:
    """Return the rates of every container that has series."""
    now: dict[Identity, dict[str, dict[Labels, Value]]] = defaultdict(lambda: defaultdict(dict))
    before: dict[Identity, dict[str, dict[Labels, Value]]] = defaultdict(lambda: defaultdict(dict))
    for family in compared.page.families:
        if family.table.scope is not Scope.AGENT:
            for sample in family.samples:
                now[sample.series.identity][family.metric.name][sample.series.labels] = sample.value
    for name, values in compared.before.items():
        for series, value in values.items():
            before[series.identity][name][series.labels] = value
    now.pop(OVERFLOW, None)
    return {identity: Rates(before.get(identity, {}), totals, compared.seconds) for identity, totals in now.items()}


def pods(containers: Mapping[Identity, Rates]) -> list[Waits]:
    """Return the pods of these containers, the worst first."""
    by_pod: dict[Identity, list[Rates]] = {}
    for identity, found in containers.items():
        by_pod.setdefault(identity.of_pod, []).append(found)
    waits = [_of_pod(identity, found) for identity, found in by_pod.items()]
    return sorted(waits, key=lambda pod: (-pod.severity, -(pod.runqueue or 0.0), pod.namespace, pod.pod))


def _of_pod(identity: Identity, containers: list[Rates]) -> Waits:
    def each(name: Input) -> list[float]:
        return [rate for found in containers if (rate := found.rate(name)) is not None]

    def total(name: Input) -> float | None:
        return sum(known) if (known := each(name)) else None

    tasks = [tasks for found in containers if (tasks := syscall_tasks(found)) is not None]
    return Waits(
        identity.namespace,
        identity.pod,
        runqueue=total(Input.RUNQUEUE_WAIT),
        throttled=max((share for found in containers if (share := throttled_share(found)) is not None), default=None),
        retransmits=total(Input.RETRANSMITS),
        faults=total(Input.MAJOR_FAULTS),
        syscalls=sum(number for one in tasks for number in one.values()) if tasks else None,
        io=max(each(Input.IO_STALLED), default=None),
        memory=max(each(Input.MEMORY_WAITING), default=None),
        causes=causes(containers),
    )
