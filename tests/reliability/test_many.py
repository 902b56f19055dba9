"""Thousands of cgroups, tens of thousands of threads, every map full."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kpod_metrics.collectors.base import BpfCollector, Environment
from kpod_metrics.collectors.cpu_sched import CpuSched
from kpod_metrics.collectors.memory import Memory
from kpod_metrics.collectors.net_tcp import NetTcp
from kpod_metrics.collectors.syscall import Syscall
from tests.live.agents import eventually
from tests.live.harness import Cgroup, Totals, go, opened, stop_point, switches
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
    parent, busy = cgroup("herd"), cgroup("busy")
    name = str(parent.path.relative_to(cgroup_root))
    log = tmp_path / "agent.log"
    limits = ("--series-limit", "10000000", "--series-limit-total", "10000000", "--poll-interval", "500ms")
    with fast_agent(log, *limits) as (_, port):
        worker = busy.start(workload("hog"), "0", "1000")
        children.append(worker)
        stop_point(worker)
        before = switches_of(cycles_later(port), busy, cgroup_root) - switches(worker.pid)
        command = [workload("herd"), str(parent.path), str(CGROUPS), "g"]
        herd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        children.append(herd)
        assert herd.stdout is not None
        assert herd.stdin is not None
        assert herd.stdout.readline() == b"ready\n"
        go(worker)
        wanted = {f"{name}/g{number}" for number in range(CGROUPS)}

        def missing() -> set[str]:
            return wanted - {dict(labels)["pod"] for labels in scrape(port).find(SWITCHES)}

        eventually(lambda: not missing(), 60)
        eventually(lambda: switches(worker.pid) > 200)
        worker.send_signal(15 + 4)  # SIGSTOP
        stop_point(worker)
        page = cycles_later(port, 2, 60)
        assert switches_of(page, busy, cgroup_root) - switches(worker.pid) == before
        assert page.sum("kpod_bpf_map_evictions_total") == 0
        lost = page.sum("kpod_bpf_map_update_errors_total", map="new_cgroups")
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
        f"{CGROUPS:,} cgroups with a process each come at once, and go",
        1,
        f"all had series, none was evicted or folded, a busy one beside them was exact; {memory:.0f} MiB "
        f"resident, a cycle of {took:.1f} s; all series were gone afterwards",
        f"{lost:.0f} new cgroups were not told by the kernel's ring, which was full: a walk found them; "
        f"{unresolved:.0f} events of some that were gone by then are counted as unresolved",
    )


@pytest.mark.slow
@pytest.mark.parametrize("without", [frozenset[str](), frozenset({"task_storage"})], ids=["storage", "hash"])
def test_many_threads(
    without: frozenset[str],
    cgroup: MakeCgroup,
    workload: Callable[[str], str],
    children: Children,
    tell: Callable[..., None],
) -> None:
    """Each thread's switches are counted, its last one included, and no state of it stays."""
    owner = cgroup("threads")
    with opened(CpuSched(Environment(forced_off=without))) as collector:
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
        f"{THREADS:,} threads come and go, 200 at a time, state in {'a hash' if without else 'task storage'}",
        1,
        f"{true + THREADS:,} switches, {counted - true:.0f} more were counted: of threads that had left the kernel's "
        "own books; no state of a task could not be made",
        "nothing",
    )


SERVE = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()) as one, server.accept()[0] as other:
        one.sendall(b"x" * 1000)
        other.recv(1000, socket.MSG_WAITALL)
"""
ROOM, OWNERS = 16, 40


@pytest.mark.parametrize("kind", [CpuSched, NetTcp, Memory, Syscall])
@pytest.mark.long
def test_every_map_at_capacity(
    kind: type[BpfCollector],
    cgroup: MakeCgroup,
    workload: Callable[[str], str],
    tell: Callable[..., None],
    on_disk: Path,
) -> None:
    """More cgroups than a map has room for, all with events between two reads, and then one after another."""
    environment = Environment(map_entries=ROOM, syscalls=("read",))
    with opened(kind(environment)) as collector:
        assert isinstance(collector, BpfCollector)
        totals = Totals(collector)
        for number in range(OWNERS):
            owner = cgroup(f"o{number}")
            if kind is Memory:
                drop = os.open(on_disk, os.O_RDONLY)
                os.posix_fadvise(drop, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(drop)
            owner.run(sys.executable, "-c", SERVE + f"\nopen({str(on_disk)!r}, 'rb').read()\n")
            if number >= OWNERS // 2:
                totals.read()
        totals.read()
        assert all(value >= 0 for value in totals.numbers.values())
        found = {map_.name: map_ for map_ in collector.maps() if map_.name in collector.metric_maps}
        assert found
        for name, health in found.items():
            assert health.entries is not None
            assert health.entries <= ROOM
            assert health.capacity == ROOM
            if kind is not Memory:  # whose events (major faults) each cgroup need not have
                assert health.evictions, name
        evictions = sum(health.evictions or 0 for health in found.values())
    tell(
        "Faults",
        f"{', '.join(sorted(found))}: {OWNERS} cgroups in a map of {ROOM}",
        OWNERS,
        f"what was read stayed; {evictions} evictions were counted",
        "of an evicted entry, what came after its last read: counted in `kpod_bpf_map_evictions_total`",
    )
