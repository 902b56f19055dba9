"""Every path on which data can be lost is counted, and what was read stays."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from kpod_metrics.collectors.kit import Collector, Environment
from kpod_metrics.collectors.run_queue import RunQueue
from kpod_metrics.collectors.syscall import Syscall
from kpod_metrics.features import BATCH, TASK_ITERATOR
from kpod_metrics.kernel.libbpf import KernelError
from tests.forced import needs
from tests.live.agents import Page, eventually, get, running_agent
from tests.live.harness import SCALE, Cgroup, Totals, go, more_threads, opened, proves, stop_point, switches

SWITCHES = "kpod_cpu_context_switches_total"
COUNT = "kpod_syscall_count_total"
ERRORS = "kpod_syscall_errors_total"
INTERVAL = 4
"""Seconds between two reads of a collector with a long interval."""


def failed_states(collector: Collector) -> int:
    """Tasks for whose state there was no room in the hash."""
    return next(map_.update_errors or 0 for map_ in collector.maps() if map_.name == "task_delay_by_address")


def test_evictions_are_counted_and_read_totals_stay(cgroup: Callable[[str], Cgroup]) -> None:
    """More cgroups than a map has room for: at least each entry that a read saw, and that is gone, is an eviction.

    Others are of cgroups of the machine that no read saw.
    """
    with opened(RunQueue(Environment(map_entries=16))) as collector:
        assert isinstance(collector, RunQueue)
        reader = collector.reader("run_queue")
        totals = Totals(collector)
        created: set[tuple[bytes, int]] = set()
        alive: set[tuple[bytes, int]] = set()
        counted: dict[Cgroup, float] = {}
        for number in range(40):
            owner = cgroup(f"many{number}")
            for _ in range(100):  # what else runs on the machine may evict it before it is read
                owner.run("sleep", "0.001")
                totals.read()
                # The same identities, taken from the reader's own snapshot of the map: (key, created_ns).
                alive = {(key, created_ns) for key, (_, created_ns, _) in reader._seen.items()}
                created |= alive
                if totals.number(owner, SWITCHES):
                    counted[owner] = totals.number(owner, SWITCHES)
                    break
        assert len(counted) == 40
        assert len(alive) <= 16
        assert reader.evictions >= len(created) - len(alive)
        assert reader.evictions >= 40 - 16
        for owner, before in counted.items():
            assert totals.number(owner, SWITCHES) >= before
        [health] = [map_ for map_ in collector.maps() if map_.name == "run_queue"]
        assert (health.evictions, health.capacity) == (reader.evictions, 16)


@pytest.mark.usefixtures("bpf_statistics")
def test_failed_updates_are_counted(cgroup: Callable[[str], Cgroup]) -> None:
    """A full map of task states: every further task is one failure, its switches count, its waits cannot.

    How many tasks are made the kernel tells by the runs of the program at their beginning: the count of /proc/stat is
    ahead of that.
    """
    owner = cgroup("a")
    off = frozenset({"task_storage", TASK_ITERATOR})
    with opened(RunQueue(Environment(map_entries=64, forced_off=off))) as collector:
        assert isinstance(collector, RunQueue)
        totals = Totals(collector).read()

        def made() -> int:
            return next(program.runs for program in collector.programs() if program.name == "new_task")

        def both() -> tuple[int, int]:
            """Tasks made and failures counted at one instant: others of the machine make tasks too."""
            while True:
                tasks, failures = made(), failed_states(collector)
                if made() == tasks:
                    return tasks, failures

        assert collector._loaded is not None
        held = collector._loaded.object.maps["task_delay_by_address"]
        with ExitStack() as staying:
            while True:
                # Others of the machine have places too: the next round, if one of those ended in this one.
                staying.enter_context(more_threads(64))
                full, (tasks, failures) = set(held.iterate()), both()
                for _ in range(20):
                    owner.run("true")
                tasks_after, failures_after = both()
                if len(full) == 64 and set(held.iterate()) == full:
                    break
            assert tasks_after - tasks >= 20
            assert failures_after - failures == tasks_after - tasks
        totals.read()
        assert totals.number(owner, SWITCHES) >= 20
        assert totals.histogram(owner, "kpod_cpu_runqueue_latency_seconds").count < totals.number(owner, SWITCHES)


@needs(TASK_ITERATOR)
def test_failed_updates_of_the_iterator_are_counted() -> None:
    """It finds more tasks than there is room for."""
    off = frozenset({"task_storage"})
    with more_threads(64), opened(RunQueue(Environment(map_entries=32, forced_off=off))) as collector:
        assert failed_states(collector) >= 32


@needs(BATCH)  # the read of which the middle is broken
def test_a_failed_and_a_late_read_lose_nothing(
    cgroup: Callable[[str], Cgroup],
    workload: Callable[[str], str],
    children: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A read that fails in its middle takes nothing as read; the next one has it all."""
    owner = cgroup("a")
    with opened(RunQueue(Environment())) as collector:
        assert isinstance(collector, RunQueue)
        totals = Totals(collector)
        process = owner.start(workload("hog"), "0", "1000")
        children.append(process)
        stop_point(process)
        time.sleep(0.05)
        totals.read()
        start = totals.number(owner, SWITCHES) - switches(process.pid)
        go(process)
        time.sleep(0.2)
        source = collector.reader("run_queue").map
        with monkeypatch.context() as patch:

            def broken(room: int) -> object:
                raise KernelError("batch lookup", errno.EINTR, [])

            patch.setattr(source, "lookup_batch", broken)
            with pytest.raises(KernelError, match="EINTR"):
                totals.read()
        failed_at = switches(process.pid)
        while switches(process.pid) < failed_at + 100:
            time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        stop_point(process)
        time.sleep(0.05)
        totals.read()
        assert totals.number(owner, SWITCHES) > 100
        assert totals.number(owner, SWITCHES) - switches(process.pid) == start


@proves(COUNT, ERRORS)
@pytest.mark.slow
def test_a_collector_that_reads_seldom_has_the_last_events_of_who_is_gone(
    tmp_path: Path,
    cgroup: Callable[[str], Cgroup],
    cgroup_root: str,
    workload: Callable[[str], str],
    children: list[subprocess.Popen[bytes]],
) -> None:
    """A cgroup goes long before the next read of its entry, and is without grace time: it is waited for."""
    owner, calls = cgroup("short"), 1000
    pod = str(owner.path.relative_to(cgroup_root))
    settings = ["--profile", "comprehensive", "--discovery", "cgroup", "--poll-interval", "1s"]
    settings += ["--grace-period", "0s", "--collector-deadline", "5s", "--syscalls", "read"]
    settings += ["--collectors-syscall-interval", f"{INTERVAL}s"]
    with running_agent(tmp_path / "agent.log", *settings) as (_, port):

        def numbers() -> list[float]:
            page = Page(get(f"http://127.0.0.1:{port}/metrics"))
            found = (page.find(name, pod=pod, syscall="read") for name in (COUNT, ERRORS))
            return [value for samples in found for value in samples.values()]

        first, process = (owner.start(workload("storm"), "0", str(number)) for number in (7, calls))
        children += [first, process]
        stop_point(process)
        stop_point(first)
        go(first)
        stop_point(first)
        # It is read, so that there is an entry of which only the growth is to come.
        eventually(lambda: sum(numbers()))
        time.sleep(1.5 * INTERVAL)
        count, errors = numbers()
        assert count >= errors >= 7
        go(process)
        stop_point(process)
        owner.destroy()
        # These are on one page, then the series end.
        eventually(lambda: numbers() == [count + calls, errors + calls])
        eventually(lambda: not numbers())


@proves(COUNT, ERRORS)
@pytest.mark.timeout(400)
@pytest.mark.slow
def test_fifty_million_events_read_every_10_ms(
    cgroup: Callable[[str], Cgroup], workload: Callable[[str], str], children: list[subprocess.Popen[bytes]]
) -> None:
    """Two CPUs at full rate in two cgroups and, half of it, in one that they share: no event is lost or read twice."""
    each = 12_500_000 // SCALE
    own = [cgroup("a"), cgroup("b")]
    shared = cgroup("shared")
    with opened(Syscall(Environment(syscalls=("read",)))) as collector:
        totals = Totals(collector)
        reads = 0
        for owners in (own, [shared, shared]):
            storms = [
                owner.start(workload("storm"), str(cpu % os.cpu_count()), str(each))  # type: ignore[operator]
                for cpu, owner in enumerate(owners)
            ]
            children += storms
            for storm in storms:
                stop_point(storm)
            totals.read()
            before = [totals.number(owner, COUNT, "read") for owner in owners]
            for storm in storms:
                go(storm)
            running = set(storms)
            while running:
                time.sleep(0.01)
                totals.read()
                reads += 1
                running -= {storm for storm in running if os.waitpid(storm.pid, os.WUNTRACED | os.WNOHANG)[0]}
            totals.read()
            counted = [totals.number(owner, COUNT, "read") for owner in owners]
            if owners is own:
                assert [now - then for now, then in zip(counted, before, strict=True)] == [each, each]
            else:
                assert counted[0] - before[0] == 2 * each
        for owner, true in ((own[0], each), (own[1], each), (shared, 2 * each)):
            assert totals.number(owner, ERRORS, "read") >= true
            assert totals.histogram(owner, "kpod_syscall_latency_seconds", "read").count == totals.number(
                owner, COUNT, "read"
            )
        assert reads > 100 // SCALE
        assert [map_.evictions for map_ in collector.maps() if map_.name == collector.name] == [0]
