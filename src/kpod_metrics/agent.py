"""The agent: opens the collectors, runs the cycles, publishes a page after each.

A cycle: ask the source what is there, have every collector that is due read (a slow one holds up no other), wait for
them up to the deadline, add their rows to the store, render. A collector that is late is counted, and
its rows, being differences that were read once, are taken when they come: nothing is lost by being late.
"""

import logging
import os
import resource
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from kpod_metrics import collectors as collectors_package
from kpod_metrics import health
from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.collectors.base import Collector, Environment, Signal
from kpod_metrics.errors import KpodError, RefusedError
from kpod_metrics.exposition.pages import Published
from kpod_metrics.exposition.text import Renderer
from kpod_metrics.kernel import rights
from kpod_metrics.metrics import Metric, Profile, Row
from kpod_metrics.pods.cgroup_source import CgroupSource
from kpod_metrics.pods.model import Group, Identity
from kpod_metrics.pods.resolver import Resolver
from kpod_metrics.settings import Settings
from kpod_metrics.store import Store

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


def environment_of(settings: Settings, cgroup_root: str, forced_off: frozenset[str] = frozenset()) -> Environment:
    """What collectors need of the settings."""
    return Environment(
        cgroup_root=cgroup_root,
        proc_root=settings.proc_root,
        sys_root=settings.sys_root,
        map_entries=settings.bpf_map_entries,
        kept_files=kept_files(),
        syscalls=settings.syscalls,
        forced_off=forced_off,
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
    running: bool = False
    unattributed: dict[str, int] = field(default_factory=lambda: {"host": 0, "unresolved": 0})


@dataclass
class _Result:
    state: State
    rows: list[Row]
    duration: float
    error: Exception | None


PATIENCE = 0.05
"""Seconds without an answer after which one more thread takes on the collectors that still wait."""


class _Crew:
    """Daemon threads that run collectors: one after another on one thread as long as they answer promptly.

    Ten threads that take turns at the interpreter's lock cost a cycle of 100 pods 42 ms of CPU time, one 25 ms. When a
    collector is slow, another thread takes on the rest: it holds up neither the others nor the end of the process.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[State, Sequence[Group]]] = SimpleQueue()
        self.done: SimpleQueue[_Result] = SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    def add(self, state: State, groups: Sequence[Group]) -> None:
        """Have a collector read, when a thread gets to it."""
        self._jobs.put((state, groups))

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
                rows = list(state.collector.collect(groups))
            except Exception as caught:  # a collector's fault must take nothing else down
                error = caught
            with self._lock:
                self._idle += 1
            self.done.put(_Result(state, rows, time.perf_counter() - began, error))


class Agent:
    """Owns the collectors, the store and the published page."""

    def __init__(self, settings: Settings, cgroup_root: str, chosen: Sequence[Collector]) -> None:
        self.settings = settings
        self.source = CgroupSource(cgroup_root, kept_files())
        self._resolver = Resolver(settings.grace_period)
        self.states = [State(c, settings.collectors[c.name].interval) for c in chosen]
        self._store = Store((), frozenset())
        constant = {"node": settings.node_name} | ({"cluster": settings.cluster} if settings.cluster else {})
        self._renderer = Renderer(constant)
        self.published = Published()
        self._crew = _Crew()
        self._stop = threading.Event()
        self._active: set[int] = set()
        self._thread: threading.Thread | None = None
        self._started = 0.0
        self.last_cycle = 0.0
        """time.monotonic() at the end of the last cycle; 0 before the first."""

    def open(self) -> None:
        """Open the collectors; raises RefusedError if none of them can work."""
        for state in self.states:
            self._open(state)
        # What cannot be had is not exported at all: a 0 would say that nothing happened.
        had: frozenset[Metric] = health.METRICS.union(
            *(signal.metrics for state in self.states for signal in state.signals if not signal.problem)
        )
        tables = [*health.TABLES, *(table for state in self.states for table in state.collector.tables)]
        self._store = Store(tables, had, self.settings.series_limit)
        if not any(state.opened for state in self.states):
            self.close()
            reasons = dict.fromkeys(state.problem for state in self.states)
            raise RefusedError("nothing can be collected here: " + " | ".join(reasons or ["every collector is off"]))

    def _open(self, state: State) -> None:
        try:
            state.signals = state.collector.open()
        except (KpodError, OSError) as error:
            state.collector.close()
            state.problem = str(error)
            state.errors += 1
            log.error("collector %s is off: %s", state.collector.name, error)
            return
        state.opened = True
        for signal in state.signals:
            if signal.problem:
                names = ", ".join(metric.name for metric in signal.metrics)
                log.warning("collector %s: %s: %s", state.collector.name, names, signal.problem)

    def start(self) -> None:
        """Run cycles on a thread until `stop`."""
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="cycle", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """End the cycles and detach everything; a cycle that takes longer than `timeout` seconds is left behind."""
        self._stop.set()
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
        while not self._stop.is_set():
            try:
                self.cycle()
            except Exception:
                log.exception("cycle failed")
            # Fixed rate; a cycle that took longer than the interval skips the ones it missed.
            following = max(following + interval, time.monotonic())
            self._stop.wait(following - time.monotonic())

    def cycle(self) -> None:
        """Run one cycle to its published page."""
        began = time.perf_counter()
        self._discover()
        self._start_due(self._resolver.snapshot.groups)
        results = self._gather(self.settings.deadline)
        unknown = {row.owner for result in results for row in result.rows if self._resolver.resolve(row.owner) is None}
        active = {row.owner for result in results if result.state.collector.uses_bpf for row in result.rows}
        # A cgroup made after this cycle's walk may have events already; one without processes now had some.
        if unknown or active - self._resolver.snapshot.reported.keys():
            self._active |= active
            self._discover()
        reported = set(self._resolver.snapshot.reported.values())
        self._store.discover(reported)
        for result in results:
            self._merge(result)
        for state in self.states:
            if state.opened and not state.running:
                state.collector.forget(self._resolver.is_gone)
        self._health(len({identity.of_pod for identity in reported}), time.perf_counter() - began)
        self.published.publish(self._renderer.render(self._store))
        self._expire()
        self.last_cycle = time.monotonic()

    def _discover(self) -> None:
        try:
            self._resolver.update(self.source.refresh(frozenset(self._active)))
        except OSError as error:
            # The last snapshot stands: what ran a moment ago most likely still does.
            log.error("source of pods: %s", self.source.error or error)
        self._active &= self._resolver.snapshot.present

    def _start_due(self, groups: Sequence[Group]) -> None:
        now = time.monotonic()
        for state in self.states:
            if state.opened and not state.running and now >= state.due:
                state.due = now + state.interval
                state.running = True
                self._crew.add(state, groups)

    def _gather(self, deadline: float) -> list[_Result]:
        """Collect results until all started collectors answered or the deadline passed."""
        results = []
        end = time.monotonic() + deadline
        fresh = [state for state in self.states if state.running and not state.problem.startswith(_LATE)]
        done = self._crew.done
        self._crew.help()
        while not done.empty() or any(state.running for state in fresh):
            left = end - time.monotonic()
            if left <= 0:
                break
            try:
                result = done.get(timeout=min(left, PATIENCE))
            except Empty:
                self._crew.help()
                continue
            result.state.running = False
            results.append(result)
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
            state.errors += 1
            state.problem = f"{type(result.error).__name__}: {result.error}"
            log.error("collector %s: %s", state.collector.name, state.problem, exc_info=_unexpected(result.error))
            return
        state.problem = ""
        for row in result.rows:
            identity = self._resolver.resolve(row.owner)
            if identity is None:
                state.unattributed["unresolved"] += _events(row)
            else:
                self._store.put(row.table, identity, row.labels, row.values, (row.owner, row.source))

    def _health(self, pods: int, duration: float) -> None:
        put = self._store.set
        self._store.clear(health.PROGRAMS)  # their run statistics come and go
        for state in self.states:
            name = (state.collector.name,)
            up = state.opened and not state.problem
            put(health.COLLECTORS, name, (int(up), state.duration, state.errors))
            if state.collector.uses_bpf:
                for reason, events in state.unattributed.items():
                    put(health.UNATTRIBUTED, (*name, reason), (events,))
            if state.opened and not state.running:
                for table, labels, values in health.kernel(state.collector.maps(), state.collector.programs()):
                    put(table, labels, values)
        for metric, updates in self._store.overflow.items():
            put(health.OVERFLOW, (metric,), (updates,))
        put(health.SOURCE, (self.source.name,), (int(self.source.connected), self.source.relists))
        put(health.CYCLE, (), (duration, time.time(), pods))
        for table, labels, values in health.process():
            put(table, labels, values)

    def _expire(self) -> None:
        """Drop what is kept of cgroups that are gone; a page with their last values is out."""
        self._resolver.expire()
        keep: set[Identity] = self._resolver.identities()
        self._store.retain(keep)
        self._store.forget_owners(self._resolver.is_gone)

    def problems(self) -> list[str]:
        """What does not work, a line each."""
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
        if self.last_cycle and not self.source.connected:
            lines.append(f"source of pods: {self.source.error}")
        return lines

    def missed_cycles(self) -> bool:
        """Whether three cycles were missed."""
        since = self.last_cycle or self._started
        return bool(since) and time.monotonic() - since > max(3 * self.settings.poll_interval, 1.0)


_LATE = "late: no answer within its"


def _unexpected(error: Exception) -> bool:
    """Whether an error is a defect, and so worth its traceback."""
    return not isinstance(error, KpodError | OSError)


def _events(row: Row) -> int:
    """The events in a row that has no owner."""
    return sum(
        value
        for metric, value in zip(row.table.metrics, row.values, strict=True)
        if metric.events and isinstance(value, int)
    )


def build(settings: Settings) -> Agent:
    """Make an agent from settings; raises SettingError or RefusedError."""
    root = settings.cgroup_root or find_root(settings.proc_root)
    chosen = select(settings, environment_of(settings, root))
    uses_bpf = any(collector.uses_bpf for collector in chosen)
    # Root without these capabilities goes on with its files; anyone else most likely forgot sudo.
    if uses_bpf and os.geteuid() and not rights.may_use_bpf(rights.effective(settings.proc_root)):
        raise RefusedError(
            f"uid {os.geteuid()} may not load BPF programs: run as root, or with CAP_BPF and CAP_PERFMON"
        )
    return Agent(settings, root, chosen)
