"""The cycle: find cgroups and pods, collect, attribute, store, publish.

Every collector that is due reads; a slow one does not block the others. The cycle waits for results until the deadline,
puts their rows into the store, and renders a page. A late collector is counted, and its rows are used when they arrive:
they are running totals, so nothing is lost.

Between two cycles the agent looks once per second for new cgroups and for new names. Then it publishes a page with the
new series at 0, and the last cycle's values of all others.
"""

import gc
import logging
import threading
import time
from collections.abc import Sequence

from kpod_metrics import bounds, health
from kpod_metrics.agent.attribution import Attribution
from kpod_metrics.agent.exporter import exporter_of
from kpod_metrics.agent.process import give_up_rights, needed
from kpod_metrics.agent.report import Report
from kpod_metrics.agent.state import State, read_by_all
from kpod_metrics.agent.workers import Result, Workers
from kpod_metrics.collectors.kit import Collector
from kpod_metrics.diagnosis.rates import RATED
from kpod_metrics.errors import RefusedError, described, is_unexpected
from kpod_metrics.exposition.page import Renderer
from kpod_metrics.exposition.pages import Published
from kpod_metrics.exposition.recent import Recent
from kpod_metrics.headroom import Headroom
from kpod_metrics.limits import Limits
from kpod_metrics.metrics import Metric, label_of
from kpod_metrics.pods import info
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import Group, Identity, Snapshot
from kpod_metrics.settings import Settings
from kpod_metrics.store import Store

log = logging.getLogger(__name__)

_CYCLES_TO_FULL_COLLECTION = 100
"""A connection leaves 150 objects in reference cycles, and its page with them: 64 KB at 80 cgroups. With the
interpreter's own thresholds that was 16 MB after 300 scrapes. A collection of young objects takes a millisecond."""
_LOOK_INTERVAL = 1.0
"""Seconds between two looks for new cgroups."""


class Agent:
    """Owns the collectors, the store and the published page."""

    def __init__(self, settings: Settings, source: Finder, chosen: Sequence[Collector]) -> None:
        self.settings = settings
        self.source = source
        self.attribution = Attribution(source, settings.grace_period)
        self.states = [State(c, settings.collectors[c.name].interval) for c in chosen]
        self._store = Store((), frozenset())
        constant = {"node": settings.node_name} | ({"cluster": settings.cluster} if settings.cluster else {})
        extra = [label_of(key) for key in settings.pod_labels]
        self._renderer = Renderer(constant, extra, classic=settings.classic_histograms)
        self.published = Published()
        paces = [s.interval for s in self.states if any(m.name in RATED for m in s.collector.wanted)]
        self.recent = Recent(max([settings.poll_interval, *paces]))
        self._exceeded = source.exceeded
        self.headroom = Headroom(settings.memory_limit, source.root, settings.proc_root)
        self._exporter = exporter_of(settings, self.published)
        self._report = Report(self.states, self.attribution, self.headroom, self._exporter, settings.poll_interval)
        self.http = self._report.http
        self._workers: Workers[State] = Workers()
        self._stop = threading.Event()
        self._discovered: Snapshot | None = None
        """The last snapshot whose containers were created in the store."""
        self._thread: threading.Thread | None = None
        self._keeps_gone = False
        """Whether the store keeps series of vanished pods for another page."""
        self._told_low = False
        self._started = 0.0
        self.last_cycle = 0.0
        """time.monotonic() at the end of the last cycle; 0 before the first."""

    def open(self, *, give_up: bool = False) -> None:
        """Open the collectors; raises RefusedError if none of them can work.

        With `give_up` the process then drops the capabilities that it needs no more, before it starts threads: only for
        a process that is the agent alone.
        """
        for state in self.states:
            state.open()
        of_kubernetes = info.TABLES if self.settings.discovery != "cgroup" else ()
        available: frozenset[Metric] = health.METRICS.union(
            bounds.EXCEEDED.metrics,
            *(table.metrics for table in of_kubernetes),
            *(state.metrics for state in self.states),
        )
        tables = [
            *health.TABLES,
            bounds.EXCEEDED,
            *of_kubernetes,
            *(table for state in self.states for table in state.collector.tables),
        ]
        settings = self.settings
        limits = Limits(
            settings.series_limit,
            settings.series_limit_total,
            settings.pod_series_limit,
            settings.pod_label_bytes_limit,
            self.headroom.look,
        )
        self._store = Store(tables, available, limits, self._exceeded.add)
        self.headroom.open()
        self._report.overflow = dict.fromkeys(sorted(metric.name for metric in available - health.METRICS), 0)
        if not any(state.opened for state in self.states):
            self.close()
            reasons = dict.fromkeys(state.problem for state in self.states)
            raise RefusedError("nothing can be collected here: " + " | ".join(reasons or ["every collector is off"]))
        for state in self.states:
            for line in state.problems():
                log.error("%s", line)
        self.source.open()
        if give_up:
            self._report.kept_rights = give_up_rights(needed(self.states, self.settings))
        self.source.start()

    def start(self) -> None:
        """Run cycles on a thread until `stop`."""
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="cycle", daemon=True)
        self._thread.start()
        if self._exporter is not None:
            self._exporter.start()

    def stop(self, timeout: float = 0.7) -> None:
        """Stop the cycles and detach everything; a cycle gets `timeout` seconds to end."""
        self._stop.set()
        if self._exporter is not None:
            self._exporter.stop()
        if self._thread is not None:
            self._thread.join(timeout)
        self.close()

    def close(self) -> None:
        """Detach all programs; a collector whose read hangs stays open until the process ends."""
        for state in self.states:
            if state.opened and not state.running:
                state.collector.close()
                state.opened = False
        self.source.close()

    def _run(self) -> None:
        interval = self.settings.poll_interval
        following = time.monotonic()
        cycles = 0
        while not self._stop.is_set():
            connected = self.source.connected
            try:
                self.cycle()
                self._report.cycle_problem = ""
            except Exception as error:
                self._report.cycle_problem = described(error)
                self._report.cycle_errors += 1
                log.exception("cycle failed")
            cycles += 1
            gc.collect(2 if cycles % _CYCLES_TO_FULL_COLLECTION == 0 else 1)
            # A fixed rate: a cycle that takes longer than the interval skips the ones that it missed.
            following = max(following + interval, time.monotonic())
            if self._wait(following, connected):
                following = time.monotonic()

    def _wait(self, until: float, connected: bool) -> bool:
        """Wait for the next cycle, and publish new containers meanwhile; return whether a cycle is due at once.

        `connected`: whether the source of pods was connected when the last cycle began.
        """
        while not self._stop.wait(max(0.0, min(_LOOK_INTERVAL, until - time.monotonic()))):
            if time.monotonic() >= until:
                return False
            try:
                if not connected and self.source.connected:
                    return True  # the source is connected: for the first time, or again
                if self.source.has_news() or (connected and self.attribution.waits_for_names):
                    self._publish_new()
            except Exception as error:
                log.error("news could not be taken: %s", error, exc_info=is_unexpected(error))
        return False

    def _publish_new(self) -> None:
        """Publish the series of new containers, at 0 or with the rows that were held for them."""
        if self._look():
            self._charge_known()
            self.published.publish(self._renderer.render(self._store))

    def cycle(self) -> None:
        """Run one cycle to its published page."""
        began = time.perf_counter()
        self._store.rise()
        self._store.look_for_room()
        self._look()
        started = self._start_due(self._groups())
        results = self._workers.gather(self.settings.deadline, started)
        for result in results:
            result.whose.running = False
        for state in started:
            if state.running:
                state.late(self.settings.deadline)
        self.attribution.look_for(
            {row.owner for result in results if result.whose.collector.uses_bpf for row in result.rows}
        )
        self._charge_known()
        for result in results:
            self._take(result)
        self._charge_exceeded()
        for state in self.states:
            if state.opened and not state.running:
                try:
                    state.collector.forget(self.attribution.is_gone)
                    state.collector.make_room(self.source.below)
                    self.attribution.charge(state.collector.late_rows(), self._store, state)
                    # Not earlier: if the collector returned a row again, it would count as the first of its counter.
                    self._store.forget(state.collector.tables, self.attribution.is_gone, self.attribution.has_pod)
                except Exception as error:
                    state.failed(error)
        self._report.write(self._store, time.perf_counter() - began)
        page = self._renderer.render(self._store)
        self.published.publish(page)
        self.recent.note(page)
        self._expire()
        if self.headroom.low and not self._told_low:
            log.error("%s", self._report.memory_problem())
        self._told_low = self.headroom.low
        self.last_cycle = time.monotonic()

    def _look(self) -> bool:
        """Take a snapshot; return whether it has new owners."""
        found = self.attribution.look()
        self.headroom.cgroups = len(self.attribution.snapshot.present)
        return found

    def _discover(self) -> None:
        """Create the counters of new containers at 0, up to the limits."""
        snapshot = self.attribution.snapshot
        if snapshot is not self._discovered:
            self._store.discover(dict.fromkeys(snapshot.reported.values()))
            self._discovered = None if self.headroom.low else snapshot  # try again: there may be memory later

    def _groups(self) -> Sequence[Group]:
        """The cgroups to read files of: without memory for new series, only those that have series."""
        self._discover()
        groups = self.attribution.snapshot.groups
        if not self.headroom.low:
            return groups
        return [group for group in groups if self._store.has(group.identity)]

    def _charge_known(self) -> None:
        """Put into the store: counters of new containers, and held rows whose owner is known now."""
        self._discover()
        for state in self.states:
            self.attribution.charge(state.ownerless.release(self.attribution.is_pending), self._store, state)
        for table in info.TABLES:
            self._store.begin_cycle(table)
        for identity, row in info.rows(self.attribution.snapshot.workloads):
            self._store.put(row, identity)

    def _start_due(self, groups: Sequence[Group]) -> list[State]:
        """Start the reads of the collectors that are due; return these."""
        started, now = [], time.monotonic()
        for state in self.states:
            if state.opened and not state.running and now >= state.due:
                # Cycles are never exactly on time: the nearest one is right.
                state.due = now + state.interval - self.settings.poll_interval / 2
                state.started = now
                state.groups = groups
                state.running = True
                self._workers.add(state, lambda collector=state.collector: collector.collect(groups))  # type: ignore[misc]
                started.append(state)
        return started

    def _take(self, result: Result[State]) -> None:
        """Put the rows of one read into the store."""
        state = result.whose
        state.duration = result.seconds
        for table in state.collector.tables:
            self._store.begin_cycle(table)
        if result.error is not None:
            state.failed(result.error)
            return
        state.problem = ""
        state.read = state.started
        self.attribution.charge(result.rows, self._store, state)
        self._store.end_read(state.collector.tables, state.groups, state.collector.unread)

    def _charge_exceeded(self) -> None:
        """Put into the store who went over a limit of its own."""
        for row in self._exceeded.rows():
            owner = self.attribution.owner(row.owner)
            if isinstance(owner, Identity):
                self._store.put(row, owner)
        self._exceeded.forget(self.attribution.is_gone)
        self._store.forget((bounds.EXCEEDED,), self.attribution.is_gone, self.attribution.has_pod)

    def _expire(self) -> None:
        """Drop the series of vanished pods; a page with their last values is published."""
        if self.attribution.expire(read_by_all(self.states)) or self._keeps_gone:
            self._keeps_gone = self._store.retain(self.attribution.owners())
            self._discovered = None  # there may be room now

    def problems(self) -> list[str]:
        """Everything that fails, a line each."""
        return self._report.problems()

    def missed_cycles(self) -> bool:
        """Whether three cycles were missed."""
        since = self.last_cycle or self._started
        return bool(since) and time.monotonic() - since > max(3 * self.settings.poll_interval, 1.0)
