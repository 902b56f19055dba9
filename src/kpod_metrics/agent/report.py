"""The agent's own metrics and problems."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kpod_metrics import health
from kpod_metrics.agent.attribution import Attribution
from kpod_metrics.agent.state import State
from kpod_metrics.errors import KpodError
from kpod_metrics.headroom import Headroom
from kpod_metrics.kernel.programs import MapHealth, ProgramHealth
from kpod_metrics.store import Store
from kpod_metrics.web.counts import Counts

if TYPE_CHECKING:
    from kpod_metrics.otlp.push import Exporter

log = logging.getLogger(__name__)


@dataclass
class Report:
    """Reads the parts of the agent, and changes none."""

    states: Sequence[State]
    attribution: Attribution
    headroom: Headroom
    exporter: "Exporter | None"
    interval: float
    """Seconds between two cycles."""
    http: Counts = field(default_factory=Counts)
    overflow: dict[str, int] = field(default_factory=dict)
    """0 for every metric that has a limit: increase() needs a counter's first value."""
    cycle_problem: str = ""
    """Why the last cycle failed; empty if it did not."""
    cycle_errors: int = 0
    kept_rights: str = ""
    """Why the agent could not drop capabilities; empty if it could."""

    def write(self, store: Store, seconds: float) -> None:
        """Set the agent's own metrics, after a cycle of this duration."""
        put = store.set
        snapshot, finder = self.attribution.snapshot, self.attribution.finder
        for state in self.states:
            self._write_collector(store, state)
        for metric, updates in (self.overflow | store.overflow).items():
            put(health.OVERFLOW, (metric,), (updates,))
        put(health.SOURCE, (finder.name,), (int(finder.connected), finder.relists))
        if finder.events is not None:
            self._write_kernel(store, finder.events.maps, finder.events.programs)
        if self.exporter is not None:
            put(health.OTLP, (), (self.exporter.sent, self.exporter.dropped, self.exporter.queued_bytes))
        pods = {identity.of_pod for identity in (*snapshot.reported.values(), *snapshot.kept)}
        counts = (self.cycle_errors, finder.errors, finder.refused_claims)
        put(health.CYCLE, (), (seconds, time.time(), len(pods), self.interval, *counts))
        forgotten = self.attribution.forgotten
        for what in health.FORGOTTEN_KINDS:
            put(health.FORGOTTEN, (what,), (forgotten.get(what, 0),))
        for reason, cgroups in finder.skipped.items():
            put(health.SKIPPED, (reason,), (cgroups,))
        for table, labels, values in health.http(self.http):
            put(table, labels, values)
        try:
            for table, labels, values in health.process():
                put(table, labels, values)
        except OSError as error:  # no free file descriptor: the last values stay
            log.error("%s", error)

    def _write_collector(self, store: Store, state: State) -> None:
        name, collector = (state.name,), state.collector
        lacks = (collector.unread_cgroups, collector.skipped_processes)
        store.set(health.COLLECTORS, name, (int(state.is_up), state.duration, state.errors, *lacks))
        if collector.uses_bpf:
            for reason, events in state.ownerless.unattributed.items():
                store.set(health.UNATTRIBUTED, (*name, reason), (events,))
            store.set(health.PENDING, name, (state.ownerless.pending(store),))
        if state.opened and not state.running:
            for reason, mounts in collector.skipped_mounts().items():
                store.set(health.MOUNTS_SKIPPED, (reason,), (mounts,))
            self._write_kernel(store, collector.maps, collector.programs)

    @staticmethod
    def _write_kernel(
        store: Store, maps: Callable[[], list[MapHealth]], programs: Callable[[], list[ProgramHealth]]
    ) -> None:
        """Set the metrics of kernel maps and programs; without free descriptors the last values stay."""
        try:
            for table, labels, values in health.kernel(maps(), programs()):
                store.set(table, labels, values)
        except (OSError, KpodError) as error:
            log.error("state of kernel maps: %s", error)

    def problems(self) -> list[str]:
        """Everything that fails, a line each."""
        lines = [line for state in self.states for line in state.problems()]
        if self.cycle_problem:
            lines.append(f"the last cycle failed, its page was not published: {self.cycle_problem}")
        if self.kept_rights:
            lines.append(self.kept_rights)
        finder = self.attribution.finder
        if problem := finder.problem():
            lines.append(f"source of pods ({finder.name}): {problem}")
        if self.headroom.low:
            lines.append(self.memory_problem())
        if self.exporter is not None and self.exporter.problem:
            lines.append(f"OTLP to {self.exporter.endpoint}: {self.exporter.problem}")
        return lines

    def memory_problem(self) -> str:
        """The consequence of low memory, for the log and `/readyz`."""
        return (
            f"memory: {self.headroom.used >> 20} of {self.headroom.limit >> 20} MiB are used, the rest is for what is "
            "there: no new series are admitted, what they would count is in the overflow series"
        )
