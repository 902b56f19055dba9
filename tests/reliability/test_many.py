"""Thousands of cgroups, tens of thousands of threads, every map full."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Semaphore, Thread

import pytest

from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import BpfCollector, Environment
from kpod_metrics.collectors.net_tcp import NetTcp
from kpod_metrics.collectors.run_queue import RunQueue
from kpod_metrics.collectors.syscall import Syscall
from kpod_metrics.features import SOCKET_STORAGE, TASK_STORAGE, TASK_TABLE
from tests.forced import needs
from tests.live.agents import Page, eventually
from tests.live.harness import Cgroup, Totals, go, opened, stop_point, switches
from tests.live.workloads import events_of
from tests.reliability.agents import SWITCHES, cycles_later, fast_agent, no_defects, scrape, switches_of

MakeCgroup = Callable[[str], Cgroup]
Children = list[subprocess.Popen[bytes]]
CGROUPS = 5000
THREADS = 50_000


@pytest.mark.long
@pytest.mark.timeout(300)
def test_many_cgroups(
    tmp_path: Path,
    cgroup: MakeCgroup,
    cgroup_root: str,
    workload: Callable[[str], str],
    children: Children,
    tell: Callable[..., None],
) -> None:
    parent = cgroup("herd")
    name = str(parent.path.relative_to(cgroup_root))
    log = tmp_path / "agent.log"
    limits = ("--series-limit", "10000000", "--series-limit-total", "10000000", "--poll-interval", "500ms")
    busy = [cgroup("busy")]

    def work(owners: Iterable[Cgroup]) -> list[subprocess.Popen[bytes]]:
        """Start a workload in each, which stops itself before its first event."""
        started = [owner.start(workload("hog"), "0", "1000") for owner in owners]
        children.extend(started)
        for one in started:
            stop_point(one)
        return started

    def errors(page: Page) -> list[float]:
        """Switches exported more than the kernel counts, of each that works: from what was before it began."""
        pairs = zip(busy, workers, strict=True)
        return [switches_of(page, owner, cgroup_root) - switches(one.pid) for owner, one in pairs]

    with fast_agent(log, *limits) as (_, port):
        workers = work(busy)
        before = errors(cycles_later(port))
        command = [workload("herd"), str(parent.path), str(CGROUPS), "g"]
        herd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        children.append(herd)
        assert herd.stdout is not None
        assert herd.stdin is not None
        go(workers[0])
        assert herd.stdout.readline() == b"ready\n"
        wanted = {f"{name}/g{number}" for number in range(CGROUPS)}

        def missing() -> set[str]:
            return wanted - {dict(labels)["pod"] for labels in scrape(port).find(SWITCHES)}

        eventually(lambda: not missing(), 60)
        # Some of the many, the others of which sleep.
        few = [Cgroup(parent.path / f"g{number}") for number in range(0, CGROUPS, CGROUPS // 10)]
        workers += work(few)
        busy += few
        before += errors(cycles_later(port))[1:]
        for worker in workers[1:]:
            go(worker)
        eventually(lambda: all(switches(worker.pid) > 200 for worker in workers), 60)
        for worker in workers:
            worker.send_signal(signal.SIGSTOP)
            stop_point(worker)
        page = cycles_later(port, 2, 60)
        assert errors(page) == before
        assert page.sum("kpod_bpf_map_evictions_total") == 0
        lost = page.sum("kpod_bpf_map_update_errors_total", map="new_cgroups")
        assert page.sum("kpod_bpf_map_update_errors_total") == lost
        unresolved = page.sum("kpod_unattributed_events_total", reason="unresolved")
        assert lost or not unresolved
        assert page.sum("kpod_series_overflow_total") == 0
        memory = page.sum("process_resident_memory_bytes") / (1 << 20)
        took = page.sum("kpod_collection_cycle_seconds")
        herd.stdin.close()
        herd.wait()
        for directory in list(parent.path.iterdir()):
            if directory.is_dir():
                Cgroup(directory).destroy()
        eventually(lambda: missing() == wanted, 60)
    no_defects(log)
    tell(
        "Faults",
        f"{CGROUPS:,} cgroups with one process each start at once, and end",
        1,
        f"all had series, and none was evicted; {len(few)} active ones were exact, and one beside them too; "
        f"{memory:.0f} MiB resident, a cycle of {took:.1f} s; all series ended afterwards",
        f"{lost:.0f} new cgroups were not reported by the kernel's ring, which was full: a walk found them; "
        f"{unresolved:.0f} events of cgroups that ended before count as unresolved",
    )


@pytest.mark.parametrize(
    ("place", "without"),
    [("a table", frozenset[str]()), ("task storage", frozenset({TASK_TABLE})), ("a hash", frozenset({"task_storage"}))],
)
def test_many_threads(
    place: str,
    without: frozenset[str],
    cgroup: MakeCgroup,
    workload: Callable[[str], str],
    children: Children,
    tell: Callable[..., None],
) -> None:
    """Each thread's switches are counted, its last one included, and no state of it stays."""
    owner = cgroup("threads")
    with opened(RunQueue(Environment(forced_off=without))) as collector:
        process = owner.start(workload("threads"), str(THREADS), "200", stdout=subprocess.PIPE)
        children.append(process)
        assert process.stdout is not None
        stop_point(process)
        totals = Totals(collector).read()
        start = totals.number(owner, SWITCHES) - switches(process.pid)
        go(process)
        stop_point(process)
        true = int(process.stdout.readline())
        time.sleep(0.05)
        totals.read()
        # A thread's last switch, in which it leaves for good, is not in what the kernel adds up of the dead, nor is one
        # before that, should it be preempted then; the last of the process, in which it stops, came after it was asked.
        counted = totals.number(owner, SWITCHES) - start - THREADS - 1
        assert true > 100
        assert 0 <= counted - true <= THREADS / 1000
        assert [one.update_errors for one in collector.maps() if one.update_errors is not None] == [0, 0]
    tell(
        "Faults",
        f"{THREADS:,} threads start and end, 200 at a time, state in {place}",
        1,
        f"{true + THREADS:,} switches, and {counted - true:.0f} more of threads that the kernel's own figures no "
        "longer had; the state of every task could be created",
        "nothing",
    )


def make_events(owner: Cgroup, collector: str, on_disk: Path) -> None:
    """Have a process in a cgroup make 100 of each of a collector's events."""
    owner.run(sys.executable, "-m", "tests.live.workloads", collector, "100", str(on_disk))


QUICK = ("run_queue",)
"""Those that are tried with every change."""


def counting() -> Iterator[object]:
    """The collectors with a BPF program whose events can be made on every machine."""
    for name, kind in registered().items():
        if issubclass(kind, BpfCollector) and (events := events_of(name)):
            needed = {feature for event in events.values() for feature in event.needs}
            marks = [needs(*sorted(needed)), *([] if name in QUICK else [pytest.mark.slow])]
            yield pytest.param(kind, marks=marks, id=name)


ROOM, OWNERS = 16, 30


@pytest.mark.parametrize("kind", list(counting()))
def test_every_map_at_capacity(
    kind: type[BpfCollector], request: pytest.FixtureRequest, tell: Callable[..., None], on_disk: Path
) -> None:
    """More cgroups than a map has room for, all with events between two reads, and then one after another."""
    cgroup: MakeCgroup = request.getfixturevalue("limited" if kind.controller else "cgroup")
    with opened(kind(Environment(map_entries=ROOM, syscalls=("read",)))) as collector:
        assert isinstance(collector, BpfCollector)
        totals = Totals(collector)
        before: dict[tuple[int, str, tuple[str, ...]], float] = {}
        for number in range(OWNERS):
            make_events(cgroup(f"o{number}"), kind.name, on_disk)
            if number >= OWNERS // 2:
                totals.read()
                assert all(totals.numbers[key] >= value for key, value in before.items())
                before = dict(totals.numbers)
        found = {map_.name: map_ for map_ in collector.maps() if map_.name in collector.metric_maps}
        assert found.keys() == set(collector.metric_maps)
        for name, health in found.items():
            assert health.entries is not None
            assert health.entries <= ROOM
            assert health.capacity == ROOM
            assert health.evictions, name
        evictions = sum(health.evictions or 0 for health in found.values())
    tell(
        "Faults",
        f"{', '.join(sorted(found))}: {OWNERS} cgroups in a map of {ROOM}",
        OWNERS,
        f"totals that were read stayed; {evictions} evictions were counted",
        "events of evicted entries after their last read: counted in `kpod_bpf_map_evictions_total`",
    )


CROWD = 32


@contextmanager
def crowd() -> Iterator[Callable[[], None]]:
    """Threads that wait for a byte each, by TCP; what is given has all of them read one, and wait for the next."""

    def read(client: socket.socket, done: Semaphore) -> None:
        while os.read(client.fileno(), 1):
            done.release()

    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=CROWD))
        done = Semaphore(0)
        ends = []
        for _ in range(CROWD):
            client = stack.enter_context(socket.create_connection(server.getsockname()))
            ends.append(stack.enter_context(server.accept()[0]))
            thread = Thread(target=read, args=(client, done))
            thread.start()
            stack.callback(thread.join)
            stack.callback(ends[-1].close)  # before that

        def stir() -> None:
            for end in ends:
                end.send(b"x")
            for _ in ends:
                assert done.acquire(timeout=10)

        yield stir


@pytest.mark.parametrize(
    ("kind", "state", "lost"),
    [
        (RunQueue, "task_delay_by_address", "the waits of tasks without state, not their switches"),
        (Syscall, "task_syscall_by_address", "the calls of tasks without state"),
        (NetTcp, "tcp_sockets_by_address", "the traffic of sockets without state"),
    ],
    ids=["task_delay", "task_syscall", "tcp_sockets"],
)
def test_every_state_at_capacity(
    kind: type[BpfCollector], state: str, lost: str, cgroup: MakeCgroup, tell: Callable[..., None], on_disk: Path
) -> None:
    """More tasks and sockets than the hash has room for that stands in for their storage: each failure is counted."""
    owner = cgroup("late")
    environment = Environment(
        map_entries=ROOM, syscalls=("read",), forced_off=frozenset((SOCKET_STORAGE, TASK_STORAGE))
    )

    def failures() -> int:
        return next(map_.update_errors or 0 for map_ in collector.maps() if map_.name == state)

    # First the collector: of older tasks it has states only where there is the iterator.
    with opened(kind(environment)) as collector, crowd() as stir:
        totals = Totals(collector)
        stir()
        stir()
        before = failures()
        make_events(owner, kind.name, on_disk)
        totals.read()
        failed = failures() - before
        assert before
        assert failed
        if kind is RunQueue:
            assert totals.histogram(owner, "kpod_cpu_runqueue_latency_seconds").count < totals.number(owner, SWITCHES)
        if kind is Syscall:
            assert totals.number(owner, "kpod_syscall_count_total", "read") + failed >= 100
        if kind is NetTcp:
            assert totals.number(owner, "kpod_net_tcp_bytes_sent_total") <= 1000
    tell(
        "Faults",
        f"{state}: at least {CROWD} tasks with one connection each, in a hash of {ROOM}",
        CROWD,
        f"{before + failed} states could not be created, and were counted; everything else continued",
        f"{lost}: counted in `kpod_bpf_map_update_errors_total`",
    )
