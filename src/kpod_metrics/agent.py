"""The agent: opens the collectors, runs the cycles, publishes a page after each.

A cycle: find out what is there, have every collector that is due read (a slow one holds up no other), wait for
them up to the deadline, add their rows to the store, render. A collector that is late is counted, and
its rows, being differences that were read once, are taken when they come: nothing is lost by being late.

Between two cycles the agent looks once a second whether there are new cgroups, or names for those that had none; then
it publishes a page with their series at 0, and the last cycle's values of all others.
"""

import ctypes
import gc
import logging
import os
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from kpod_metrics import collectors as collectors_package
from kpod_metrics import health
from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.cgroup.processes import HIDDEN, others_are_hidden
from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.collectors.base import Collector, Environment, Signal
from kpod_metrics.errors import KpodError, RefusedError, SettingError, described, is_unexpected
from kpod_metrics.exposition.page import Renderer
from kpod_metrics.exposition.pages import Published
from kpod_metrics.exposition.recent import RATED, Recent
from kpod_metrics.files import read_bytes
from kpod_metrics.headroom import Headroom
from kpod_metrics.kernel import libbpf, rights
from kpod_metrics.kernel.programs import MapHealth, ProgramHealth
from kpod_metrics.metrics import Metric, Profile, Row, label_of, sum_of
from kpod_metrics.pods import info
from kpod_metrics.pods.cluster import ClusterNaming, Filter
from kpod_metrics.pods.discovery import kubernetes_source
from kpod_metrics.pods.finder import Finder, Naming
from kpod_metrics.pods.model import FILTERED, HOST, PENDING, UNRESOLVED, Group, Identity, Snapshot
from kpod_metrics.pods.resolver import Resolver
from kpod_metrics.pods.standalone import StandaloneNaming
from kpod_metrics.selector import parse as parse_selector
from kpod_metrics.settings import Settings
from kpod_metrics.store import Store
from kpod_metrics.web.counts import Counts

if TYPE_CHECKING:
    from kpod_metrics.otlp.push import Exporter

log = logging.getLogger(__name__)


READERS = 6
"""Readers of cgroup files that keep descriptors: the walk, and the collectors of files."""
MOST_KEPT = 10_000
SPARE_FILES = 512
"""Descriptors that are left for all else: connections, maps, programs."""


def kept_files() -> int:
    """How many descriptors each reader of cgroup files may keep, by the limit that this process has."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_KEPT if limit == resource.RLIM_INFINITY else min(max(0, limit - SPARE_FILES) // READERS, MOST_KEPT)


def environment_of(settings: Settings, cgroup_root: str) -> Environment:
    """What collectors need of the settings."""
    return Environment(
        cgroup_root=cgroup_root,
        proc_root=settings.proc_root,
        sys_root=settings.sys_root,
        map_entries=settings.bpf_map_entries,
        kept_files=kept_files(),
        syscalls=settings.syscalls,
        forced_off=frozenset(settings.kernel_features_off),
        forced_on=frozenset(settings.kernel_features_on),
    )


def select(settings: Settings, environment: Environment) -> list[Collector]:
    """Return the collectors that the profile and the switches leave on, each with the metrics wanted of it.

    `custom` has the collectors that are switched on, and those whole.
    """
    ceiling = Profile[settings.profile.upper()] if settings.profile != "custom" else None
    chosen = []
    for name, kind in collectors_package.registered().items():
        switch = settings.collectors[name].enabled if name in settings.collectors else None
        if switch is False:
            continue
        collector = kind(environment)
        every = collector.wanted
        collector.wanted = frozenset(m for m in every if ceiling is not None and m.profile <= ceiling)
        if switch and not collector.wanted:
            collector.wanted = every
        if collector.wanted:
            chosen.append(collector)
    return chosen


@dataclass
class State:
    """What the agent knows of one collector."""

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
    """When it was last asked, by the monotonic clock."""
    read: float = 0.0
    """When the last read began that came to its end."""
    running: bool = False
    told: bool = False
    """Whether all that the last read told was taken."""
    unattributed: dict[str, int] = field(default_factory=lambda: dict.fromkeys((HOST, FILTERED, UNRESOLVED), 0))
    held: dict[int, dict[tuple[Any, ...], Row]] = field(default_factory=dict)
    """By cgroup id: what it counted of cgroups whose pod is not known yet, one row for each table and labels."""

    def hold(self, row: Row) -> None:
        """Keep a row until its owner is known."""
        mine = self.held.setdefault(row.owner, {})
        key = (row.table, row.labels, row.source)
        if key in mine:
            row = row._replace(values=list(map(sum_of, mine[key].values, row.values)))
        mine[key] = row


@dataclass
class _Result:
    state: State
    rows: list[Row]
    duration: float
    error: Exception | None


_CYCLES_TO_FULL_COLLECTION = 100
"""A connection leaves 150 objects in reference cycles, and its page with them: 64 KB at 80 cgroups. Left to the
interpreter's own thresholds they took 16 MB after 300 scrapes; the young ones alone are collected in a millisecond."""
_NEWS = 1.0
"""Seconds between two looks for new cgroups."""
PATIENCE = 0.05
"""Seconds without an answer after which one more thread takes on the collectors that still wait."""


class _Crew:
    """Daemon threads that run collectors: one after another on one thread as long as they answer promptly.

    Ten threads that take turns at the interpreter's lock cost a cycle of 100 pods 42 ms of CPU time, one 25 ms. When a
    collector is slow, another thread takes on the rest: it holds up neither the others nor the end of the process.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[State, Sequence[Group]]] = SimpleQueue()
        self._done: deque[_Result] = deque()
        self._all_done: SimpleQueue[None] = SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    def add(self, state: State, groups: Sequence[Group]) -> None:
        """Have a collector read, when a thread gets to it."""
        self._jobs.put((state, groups))

    def take(self) -> list[_Result]:
        """Return the results that are there."""
        return [self._done.popleft() for _ in range(len(self._done))]

    def wait(self, seconds: float) -> bool:
        """Wait until no job waits; return False after that many seconds.

        To be woken by each result, and to wait for the interpreter's lock each time, would hold up who reads.
        """
        try:
            self._all_done.get(timeout=seconds)
        except Empty:
            return False
        return True

    def help(self) -> None:
        """Where jobs wait and no thread does, start one more."""
        with self._lock:
            if self._jobs.empty() or self._idle:
                return
            self._idle += 1
        threading.Thread(target=self._run, name="collect", daemon=True).start()

    def _run(self) -> None:
        while True:
            state, groups = self._jobs.get()
            with self._lock:
                self._idle -= 1
            began = time.perf_counter()
            error: Exception | None = None
            rows: list[Row] = []
            try:
                rows = _rows(state.collector.collect(groups))
            except Exception as caught:  # a collector's fault must take nothing else down
                error = caught
            with self._lock:
                self._idle += 1
            self._done.append(_Result(state, rows, time.perf_counter() - began, error))
            if self._jobs.empty():
                self._all_done.put(None)


def _rows(found: Iterable[Any]) -> list[Row]:
    """Read a collector's rows; raises TypeError for what is none."""
    rows = list(found)
    # All at once: they are right but for a defect.
    if not ({*map(type, rows)} <= {Row} and {*map(type, map(_OWNER, rows))} <= {int}):
        for row in rows:
            if not isinstance(row, Row) or not isinstance(row.owner, int):
                raise TypeError(f"a collector gave {row!r} for a row")
    return rows


_OWNER = attrgetter("owner")


class Agent:
    """Owns the collectors, the store and the published page."""

    def __init__(self, settings: Settings, source: Finder, chosen: Sequence[Collector]) -> None:
        self.settings = settings
        self.source = source
        self._resolver = Resolver(settings.grace_period)
        self.states = [State(c, settings.collectors[c.name].interval) for c in chosen]
        self._store = Store((), frozenset())
        self._overflow: dict[str, int] = {}
        """0 for every metric that may be over the limit, to be seen to grow."""
        constant = {"node": settings.node_name} | ({"cluster": settings.cluster} if settings.cluster else {})
        extra = [label_of(key) for key in settings.pod_labels]
        self._renderer = Renderer(constant, extra, classic=settings.classic_histograms)
        self.published = Published()
        paces = [s.interval for s in self.states if any(m.name in RATED for m in s.collector.wanted)]
        self.recent = Recent(max([settings.poll_interval, *paces]))
        self.http = Counts()
        self._exporter = exporter_of(settings, self.published)
        self.headroom = Headroom(settings.memory_limit, source.root, settings.proc_root)
        self._crew = _Crew()
        self._stop = threading.Event()
        self._active: set[int] = set()
        self._outside: set[int] = set()
        """Of the last cycle's cgroups with events, those that are known to be outside of the root."""
        self._expired_at = 0
        """The resolver's `changes` when all that is gone was last dropped."""
        self._reported: Snapshot | None = None
        """The snapshot whose containers the store has."""
        self._thread: threading.Thread | None = None
        self._told_low = False
        self._blind = False
        """Whether the last look at what is there failed: what is not known may be known when there is one again."""
        self._started = 0.0
        self.last_cycle = 0.0
        """time.monotonic() at the end of the last cycle; 0 before the first."""
        self._cycle_problem = ""
        """Why the last cycle did not come to its end; empty where it did."""
        self._cycle_errors = 0
        self._kept = ""
        """Why rights that are not needed could not be given up; empty where they were."""

    def open(self, *, give_up: bool = False) -> None:
        """Open the collectors; raises RefusedError if none of them can work.

        With `give_up` the process has, once all is attached and before it has threads, no rights left but those that
        running takes: for a process that is the agent's own.
        """
        for state in self.states:
            self._open(state)
        # What cannot be had is not exported at all: a 0 would say that nothing happened.
        of_kubernetes = info.TABLES if self.settings.discovery != "cgroup" else ()
        had: frozenset[Metric] = health.METRICS.union(
            *(table.metrics for table in of_kubernetes),
            *(signal.metrics for state in self.states for signal in state.signals if not signal.problem),
        )
        tables = [*health.TABLES, *of_kubernetes, *(table for state in self.states for table in state.collector.tables)]
        self._store = Store(
            tables, had, self.settings.series_limit, self.settings.series_limit_total, self.headroom.look
        )
        self.headroom.open()
        self._overflow = dict.fromkeys(sorted(metric.name for metric in had - health.METRICS), 0)
        if not any(state.opened for state in self.states):
            self.close()
            reasons = dict.fromkeys(state.problem for state in self.states)
            raise RefusedError("nothing can be collected here: " + " | ".join(reasons or ["every collector is off"]))
        for line in self._collector_problems():
            log.error("%s", line)
        self.source.open()
        if give_up:
            self._give_up()
        self.source.start()

    def needed(self) -> int:
        """Capabilities that running takes, as a bit mask: what is attached stays so without any."""
        needed = set().union(*(state.collector.rights() for state in self.states if state.opened))
        settings = self.settings
        if settings.discovery != "cgroup" or settings.web_config_file:
            needed.add(rights.CAP_DAC_READ_SEARCH)  # a kubeconfig, a key of another user's, read again
        if any(state.opened and state.collector.uses_bpf for state in self.states) and needs_bpf(settings.proc_root):
            needed.add(rights.CAP_BPF)
        had = rights.effective()
        if any(one in needed and not had & 1 << one for one in (rights.CAP_BPF, rights.CAP_PERFMON)):
            needed.add(rights.CAP_SYS_ADMIN)  # which stands for both
        return rights.mask(*needed)

    def _give_up(self) -> None:
        try:
            rights.give_up_all_but(self.needed())
        except (KpodError, OSError) as error:
            self._kept = (
                f"rights that are not needed are kept: {error.strerror if isinstance(error, OSError) else error}"
            )
            log.error("%s", self._kept)

    def _open(self, state: State) -> None:
        try:
            state.signals = state.collector.open()
        except Exception as error:  # as in `_Crew`
            state.collector.close()
            state.problem = described(error)
            state.errors += 1
            if is_unexpected(error):
                log.error("collector %s: %s", state.collector.name, state.problem, exc_info=True)
            return
        state.opened = True

    def start(self) -> None:
        """Run cycles on a thread until `stop`."""
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="cycle", daemon=True)
        self._thread.start()
        if self._exporter is not None:
            self._exporter.start()

    def stop(self, timeout: float = 0.7) -> None:
        """End the cycles and detach everything; a cycle that takes longer than `timeout` seconds is left behind."""
        self._stop.set()
        if self._exporter is not None:
            self._exporter.stop()
        if self._thread is not None:
            self._thread.join(timeout)
        self.close()

    def close(self) -> None:
        """Detach all programs. A collector whose read still hangs is left to the end of the process."""
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
            try:
                self.cycle()
                self._cycle_problem = ""
            except Exception as error:
                self._cycle_problem = described(error)
                self._cycle_errors += 1
                log.exception("cycle failed")
            cycles += 1
            gc.collect(2 if cycles % _CYCLES_TO_FULL_COLLECTION == 0 else 1)
            # Fixed rate; a cycle that took longer than the interval skips the ones it missed.
            following = max(following + interval, time.monotonic())
            if self._wait(following):
                following = time.monotonic()

    def _wait(self, until: float) -> bool:
        """Wait for the next cycle, and look for news meanwhile; return whether they call for a cycle at once."""
        connected = self.source.connected
        while not self._stop.wait(max(0.0, min(_NEWS, until - time.monotonic()))):
            if time.monotonic() >= until:
                return False
            try:
                if not connected and self.source.connected:
                    return True  # the first pods that it names, or those that came while it was away
                if self.source.has_news() or (connected and PENDING in self._resolver.snapshot.reasons.values()):
                    self._notice()
            except Exception as error:
                log.error("news could not be taken: %s", error, exc_info=is_unexpected(error))
        return False

    def _notice(self) -> None:
        """Have the series of new containers on the page, at 0 or with what was held back for them."""
        before = self._resolver.identities()
        self._discover()
        if self._resolver.identities() - before:
            self._report()
            self.published.publish(self._renderer.render(self._store))

    def cycle(self) -> None:
        """Run one cycle to its published page."""
        began = time.perf_counter()
        self._store.look_for_room()
        self._discover()
        self._start_due(self._groups())
        results = self._gather(self.settings.deadline)
        active = {row.owner for result in results if result.state.collector.uses_bpf for row in result.rows}
        snapshot = self._resolver.snapshot
        # One without processes now had some, if it has events.
        idle = {id_ for id_ in active - snapshot.reported.keys() - self._active if id_ in snapshot.identities}
        # A cgroup made after this cycle's walk may have events already.
        if idle or not all(map(self._resolver.knows, active - self._outside)):
            self._active |= idle
            self._discover()
        self._outside = {id_ for id_ in active if not self._resolver.knows(id_) and self.source.is_outside(id_)}
        self._report()
        for result in results:
            self._merge(result)
        for state in self.states:
            if state.opened and not state.running:
                try:
                    state.collector.forget(self._resolver.is_gone, self._resolver.has_pod)
                except Exception as error:
                    self._failed(state, error)
        self._health(time.perf_counter() - began)
        page = self._renderer.render(self._store)
        self.published.publish(page)
        self.recent.note(page)
        self._expire()
        if self.headroom.low and not self._told_low:
            log.error("%s", self._memory_problem())
        self._told_low = self.headroom.low
        self.last_cycle = time.monotonic()

    def _admit(self) -> None:
        """Have the counters of new containers at 0, as far as there is room."""
        snapshot = self._resolver.snapshot
        if snapshot is not self._reported:
            self._store.discover(dict.fromkeys(snapshot.reported.values()))
            self._reported = None if self.headroom.low else snapshot  # then there may be room the next time

    def _groups(self) -> Sequence[Group]:
        """The cgroups whose files are read: without memory for more series, those that have some."""
        snapshot = self._resolver.snapshot
        self._admit()
        if not self.headroom.low:
            return snapshot.groups
        return [group for group in snapshot.groups if self._store.has(group.identity)]

    def _discover(self) -> None:
        try:
            self._resolver.update(self.source.refresh(frozenset(self._active)))
            self._blind = False
        except Exception as error:
            self._blind = True
            if not self.source.error:
                self.source.fail(error)
            # The last snapshot stands: what ran a moment ago most likely still does.
            log.error("source of pods: %s", self.source.error, exc_info=is_unexpected(error))
        self._active &= self._resolver.snapshot.present
        self.headroom.cgroups = len(self._resolver.snapshot.present)

    def _report(self) -> None:
        """Bring the store up to date with what is there: new containers at 0, what was held back of those named now."""
        snapshot = self._resolver.snapshot
        self._admit()
        for state in self.states:
            for owner in [owner for owner in state.held if not self._is_pending(owner)]:
                self._charge_all(state, state.held.pop(owner).values())
        for table in info.TABLES:
            self._store.begin_cycle(table)
        for identity, row in info.rows(snapshot.workloads):
            self._store.put(row.table, identity, row.labels, row.values, (row.owner, row.source))

    def _start_due(self, groups: Sequence[Group]) -> None:
        now = time.monotonic()
        for state in self.states:
            if state.opened and not state.running and now >= state.due:
                # No cycle comes to the dot: the one nearest to the time is it.
                state.due = now + state.interval - self.settings.poll_interval / 2
                state.started = now
                state.running = True
                # All again after a read that came to nothing, or where a series was dropped or folded rows have room.
                took_all = self._store.took_all(state.collector.tables)
                state.collector.complete, state.told = not (state.told and took_all), False
                self._crew.add(state, groups)

    def _gather(self, deadline: float) -> list[_Result]:
        """Collect results until all started collectors answered or the deadline passed."""
        results: list[_Result] = []
        end = time.monotonic() + deadline
        fresh = [state for state in self.states if state.running and not state.problem.startswith(_LATE)]
        self._crew.help()
        woken = True
        while True:
            taken = self._crew.take()
            for result in taken:
                result.state.running = False
            results += taken
            left = end - time.monotonic()
            if left <= 0 or not any(state.running for state in fresh):
                break
            if not woken and not taken:
                self._crew.help()
            woken = self._crew.wait(min(left, PATIENCE))
        for state in fresh:
            if state.running:
                state.errors += 1
                state.problem = f"{_LATE} {deadline:g} s deadline"
                log.error("collector %s is %s", state.collector.name, state.problem)
        return results

    def _merge(self, result: _Result) -> None:
        state = result.state
        state.duration = result.duration
        for table in state.collector.tables:
            self._store.begin_cycle(table)
        if result.error is not None:
            self._failed(state, result.error)
            return
        state.problem = ""
        state.read = state.started
        state.told = self._charge_all(state, result.rows)

    def _charge_all(self, state: State, rows: Iterable[Row]) -> bool:
        """Charge rows; return whether all were taken.

        One that is not of its table is the collector's failure, and the others are as good as ever.
        """
        refused: Exception | None = None
        known, put = self._resolver.snapshot.identities, self._store.put
        for row in rows:
            try:
                table, owner, labels, values, source = row
                # Most are in the snapshot: that saves two calls.
                identity = known.get(owner) or self._resolver.resolve(owner)
                if identity is None:
                    self._hold_or_count(state, row)
                else:
                    put(table, identity, labels, values, (owner, source))
            except Exception as error:
                refused = refused or error
        if refused is not None:
            self._failed(state, refused)
        return refused is None

    @staticmethod
    def _failed(state: State, error: Exception) -> None:
        """Count and tell a collector's failure."""
        state.errors += 1
        state.problem = f"{type(error).__name__}: {error}"
        shown = (type(error), error, error.__traceback__) if is_unexpected(error) else None
        log.error("collector %s: %s", state.collector.name, state.problem, exc_info=shown)

    def _hold_or_count(self, state: State, row: Row) -> None:
        """Hold a row back whose pod may still be told, or add it to the events that are nobody's."""
        if self._is_pending(row.owner):
            state.hold(row)
        else:
            reason = self._resolver.reason(row.owner)
            if reason == UNRESOLVED and self.source.is_outside(row.owner):
                reason = HOST
            state.unattributed[reason] += _events(row)

    def _is_pending(self, owner: int) -> bool:
        """Whether it may still be told whose a cgroup is."""
        return self._resolver.reason(owner) == PENDING or (self._blind and not self._resolver.knows(owner))

    def _health(self, duration: float) -> None:
        put = self._store.set
        pods = {i.of_pod for i in (*self._resolver.snapshot.reported.values(), *self._resolver.snapshot.kept)}
        for state in self.states:
            name = (state.collector.name,)
            up = state.opened and not (state.problem or any(signal.problem for signal in state.signals))
            put(health.COLLECTORS, name, (int(up), state.duration, state.errors))
            put(health.UNREAD, name, (state.collector.unread, state.collector.not_looked_at))
            if state.collector.uses_bpf:
                for reason, events in state.unattributed.items():
                    put(health.UNATTRIBUTED, (*name, reason), (events,))
                held = sum(_events(row) for rows in state.held.values() for row in rows.values())
                put(health.PENDING, name, (held,))
            if state.opened and not state.running:
                for reason, mounts in state.collector.skipped().items():
                    put(health.MOUNTS_SKIPPED, (reason,), (mounts,))
                self._put_health(state.collector.maps, state.collector.programs)
        for metric, updates in (self._overflow | self._store.overflow).items():
            put(health.OVERFLOW, (metric,), (updates,))
        put(health.SOURCE, (self.source.name,), (int(self.source.connected), self.source.relists))
        if self.source.events is not None:
            self._put_health(self.source.events.maps, self.source.events.programs)
        if self._exporter is not None:
            counts = (self._exporter.sent, self._exporter.dropped, self._exporter.queued_bytes)
            put(health.OTLP, (), counts)
        put(health.CYCLE, (), (duration, time.time(), len(pods), self.settings.poll_interval, self._cycle_errors))
        put(health.DISCOVERY, (), (self.source.errors,))
        forgotten = {"cgroup": self._resolver.forgotten, **self.source.forgotten}
        for what in health.FORGOTTEN_KINDS:
            put(health.FORGOTTEN, (what,), (forgotten.get(what, 0),))
        for reason, cgroups in self.source.skipped.items():
            put(health.SKIPPED, (reason,), (cgroups,))
        for table, labels, values in health.http(self.http):
            put(table, labels, values)
        try:
            for table, labels, values in health.process():
                put(table, labels, values)
        except OSError as error:  # out of descriptors: the last values stand
            log.error("%s", error)

    def _put_health(self, maps: Callable[[], list[MapHealth]], programs: Callable[[], list[ProgramHealth]]) -> None:
        """Set what is known of kernel maps and programs; out of descriptors, the last values stand."""
        try:
            for table, labels, values in health.kernel(maps(), programs()):
                self._store.set(table, labels, values)
        except (OSError, KpodError) as error:
            log.error("state of kernel maps: %s", error)

    def _expire(self) -> None:
        """Drop what is kept of cgroups that are gone; a page with their last values is out."""
        self._resolver.expire(self._read_by_all())
        if self._resolver.changes == self._expired_at:
            return
        self._expired_at = self._resolver.changes
        keep: set[Identity] = self._resolver.identities()
        self._store.retain(keep)
        self._reported = None  # there may be room now for who had none
        self._store.forget_owners(self._resolver.is_gone)

    def _read_by_all(self) -> float:
        """When the oldest of the kernel collectors' last reads began: what they count comes once an interval, or late.

        One that has not come to its end for `_OVERDUE` seconds is not waited for.
        """
        now = time.monotonic()
        opened = [state for state in self.states if state.opened and state.collector.uses_bpf]
        return min((max(state.read, now - state.interval - _OVERDUE) for state in opened), default=now)

    def problems(self) -> list[str]:
        """What does not work, a line each."""
        lines = self._collector_problems()
        if self._cycle_problem:
            lines.append(f"the last cycle failed, its page was not published: {self._cycle_problem}")
        if self._kept:
            lines.append(self._kept)
        if problem := self.source.problem():
            lines.append(f"source of pods ({self.source.name}): {problem}")
        if self.headroom.low:
            lines.append(self._memory_problem())
        if self._exporter is not None and self._exporter.problem:
            lines.append(f"OTLP to {self._exporter.endpoint}: {self._exporter.problem}")
        return lines

    def _memory_problem(self) -> str:
        return (
            f"memory: {self.headroom.used >> 20} of {self.headroom.limit >> 20} MiB are used, the rest is for what is "
            "there: no new series are admitted, what they would count is in the overflow series"
        )

    def _collector_problems(self) -> list[str]:
        lines = [
            f"collector {state.collector.name} is {'failing' if state.opened else 'off'}: {state.problem}"
            for state in self.states
            if state.problem
        ]
        for state in self.states:
            lines += [
                f"{', '.join(metric.name for metric in signal.metrics)}: {signal.problem}"
                for signal in state.signals
                if signal.problem
            ]
        return lines

    def missed_cycles(self) -> bool:
        """Whether three cycles were missed."""
        since = self.last_cycle or self._started
        return bool(since) and time.monotonic() - since > max(3 * self.settings.poll_interval, 1.0)


_LATE = "late: no answer within its"
_OVERDUE = 60.0
"""Seconds for which the events of cgroups that are gone are waited for beyond their collector's interval."""


def _events(row: Row) -> int:
    """The events in a row that has no owner."""
    return sum(
        value
        for metric, value in zip(row.table.metrics, row.values, strict=True)
        if metric.events and isinstance(value, int)
    )


def needs_bpf(proc_root: str) -> bool:
    """Whether this kernel takes CAP_BPF to read a map, or run an iterator, that one has.

    Before 5.19 (c8644cd0efe7) kernel.unprivileged_bpf_disabled refuses all of bpf() without it. Where that is off it
    may be on later, and the kernel cannot be asked.
    """
    try:
        setting = read_bytes(os.path.join(proc_root, "sys/kernel/unprivileged_bpf_disabled")).strip()
    except OSError:
        setting = b""
    if setting == b"0":
        return True
    return not rights.without((rights.CAP_BPF, rights.CAP_SYS_ADMIN), lambda: not libbpf.is_refused())


_MALLOPT = {"M_TRIM_THRESHOLD": -1, "M_MMAP_THRESHOLD": -3, "M_ARENA_MAX": -8}
"""Numbers of malloc.h."""


def tune_process() -> None:
    """Set up memory of this process for an agent; before it has threads.

    The C library has one pool for all threads, which take turns, and gives freed memory back from 1 MiB on, so that a
    cycle's larger buffers are not mapped anew each time: mallopt(3). Measured at 100 pods: 40 MB resident; from 64 KiB
    on it was 0.7 MB less, and 185 page faults a cycle, 1 ms of CPU time. The interpreter does not look for reference
    cycles among what was imported, nor each time that a cycle's rows have come: they have none.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        for parameter, value in (("M_ARENA_MAX", 1), ("M_TRIM_THRESHOLD", 1 << 20), ("M_MMAP_THRESHOLD", 4 << 20)):
            libc.mallopt(_MALLOPT[parameter], value)
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def build(settings: Settings) -> Agent:
    """Make an agent from settings; raises SettingError or RefusedError."""
    root = settings.cgroup_root or find_root(settings.proc_root)
    if settings.discovery == "cgroup" and others_are_hidden(root):
        raise RefusedError(HIDDEN)
    chosen = select(settings, environment_of(settings, root))
    uses_bpf = any(collector.uses_bpf for collector in chosen)
    # Root without these capabilities goes on with its files; anyone else most likely forgot sudo.
    if uses_bpf and os.geteuid() and not rights.may_use_bpf(rights.effective(settings.proc_root)):
        raise RefusedError(
            f"uid {os.geteuid()} may not load BPF programs: run as root, or with CAP_BPF and CAP_PERFMON"
        )
    events = CgroupEvents(sys_root=settings.sys_root, proc_root=settings.proc_root, root=root)
    return Agent(settings, Finder(root, naming_of(settings), kept_files(), events), chosen)


def exporter_of(settings: Settings, published: Published) -> "Exporter | None":
    """Return what pushes by OTLP, where that is on; raises SettingError."""
    if settings.otlp_key and not settings.otlp_certificate:
        raise SettingError(f"otlp_key: {settings.otlp_key!r} is not accepted; accepted: with otlp_certificate only")
    if not settings.otlp_endpoint:
        return None
    from kpod_metrics.otlp.push import Exporter  # noqa: PLC0415 - its HTTP client costs memory

    return Exporter(settings, lambda: published.page, health.STARTED_NS)


def naming_of(settings: Settings) -> Naming:
    """Return what names cgroups; raises SettingError or RefusedError, where it cannot be known how to reach it."""
    if settings.discovery == "cgroup":
        return StandaloneNaming()
    wanted = Filter(
        frozenset(settings.namespaces),
        frozenset(settings.exclude_namespaces),
        parse_selector(settings.pod_selector),
        settings.pod_labels,
    )
    return ClusterNaming(kubernetes_source(settings), wanted, settings.grace_period)
