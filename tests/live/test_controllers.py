"""What the cpu, io and memory controllers count, against known workloads on a real disk, and CPUs that come and go."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kpod_metrics import agent as agents
from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.cpu import TABLE as CPU
from kpod_metrics.collectors.cpu import Cpu
from kpod_metrics.collectors.disk import TABLE as DISK
from kpod_metrics.collectors.disk import Disk
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.memory import USAGE, Memory
from kpod_metrics.collectors.page_faults import MAJOR_FAULTS, PageFaults
from kpod_metrics.collectors.run_queue import RunQueue
from kpod_metrics.metrics import Profile, Scope
from kpod_metrics.pods.model import Group, Identity
from kpod_metrics.reference import declared, profile_series
from kpod_metrics.settings import load
from tests.live.harness import ONLY_THERE, Cgroup, Totals, go, opened, proves, stop_point, swapping_to

MIB = 1 << 20
Limited = Callable[..., Cgroup]
Process = subprocess.Popen[bytes]


def group(cgroup: Cgroup) -> Group:
    return Group(cgroup.id, str(cgroup.path), cgroup.pids, Identity("test", cgroup.path.name, ""))


@proves(*(metric.name for metric in CPU.metrics))
def test_throttling(limited: Limited, workload: Callable[[str], str], children: list[Process]) -> None:
    """One that always wants a CPU and may have a fifth of one waits the rest; one without a limit has no throttling."""
    a, b = limited("a", cpu_max="20000 100000"), limited("b")
    children += [owner.start(workload("hog"), "0") for owner in (a, b)]
    for process in children:
        stop_point(process)
    usage, throttled, throttled_periods, periods = (metric.name for metric in CPU.metrics)
    with opened(Cpu(Environment())) as collector, opened(RunQueue(Environment())) as sched:
        totals, waits = Totals(collector), Totals(sched)
        totals.read([group(a), group(b)])
        waits.read()
        start = {name: totals.number(a, name) for name in (usage, throttled, throttled_periods, periods)}
        go(children[0])
        began = time.monotonic()
        time.sleep(2.0)
        children[0].send_signal(signal.SIGSTOP)
        stop_point(children[0])
        wall = time.monotonic() - began
        waits.read()
        stat = a.path / "cpu.stat"
        for _ in range(100):  # periods are counted on until one has passed in which nothing ran
            said = stat.read_text()
            totals.read([group(a), group(b)])
            if said == stat.read_text():
                break
            time.sleep(0.05)
        grown = {name: totals.number(a, name) - before for name, before in start.items()}
        lines = dict(line.split() for line in said.splitlines())
        assert totals.number(a, throttled) == int(lines["throttled_usec"]) / 1e6
        assert totals.number(a, periods) == int(lines["nr_periods"])
        assert totals.number(a, throttled_periods) == int(lines["nr_throttled"])
        assert 0.7 * wall / 0.1 <= grown[periods] <= wall / 0.1 + 2
        assert 0.7 * grown[periods] <= grown[throttled_periods] <= grown[periods]
        assert 0.1 * wall <= grown[usage] <= 0.35 * wall
        assert grown[usage] + grown[throttled] == pytest.approx(wall, rel=0.25)
        # Run-queue latency includes the throttled time, as its help says.
        waited = waits.histogram(a, "kpod_cpu_runqueue_latency_seconds").sum_ns / 1e9
        assert waited >= 0.7 * grown[throttled]
        assert (b.id, throttled, ()) not in totals.numbers


@proves(*(metric.name for metric in DISK.metrics))
def test_bytes_and_operations_on_a_disk(limited: Limited, disk: str) -> None:
    """Past the page cache: known numbers of known sizes, in both directions; two cycles."""
    a, b = limited("a"), limited("b")
    read, written, reads, writes = (metric.name for metric in DISK.metrics)
    device = os.path.basename(disk)
    with opened(Disk(Environment())) as collector:
        totals = Totals(collector)
        for done in (1, 2):
            a.run("dd", "if=/dev/zero", f"of={disk}", "bs=64K", "count=19", "oflag=direct", "status=none")
            a.run("dd", f"if={disk}", "of=/dev/null", "bs=16K", "count=7", "iflag=direct", "status=none")
            totals.read([group(a), group(b)])
            assert totals.number(a, written, device) == 19 * 65536 * done
            assert totals.number(a, writes, device) == 19 * done
            assert totals.number(a, read, device) == 7 * 16384 * done
            assert totals.number(a, reads, device) == 7 * done
        assert not [key for key in totals.numbers if key[0] == b.id]


@proves("kpod_mem_cgroup_limit_bytes")
def test_memory_limit(limited: Limited) -> None:
    """As set and as changed; a cgroup without one has no series."""
    a, b = limited("a", memory_max=24 * MIB), limited("b")
    (limit,) = (metric.name for metric in USAGE.metrics if "limit" in metric.name)
    with opened(Memory(Environment())) as collector:
        totals = Totals(collector).read([group(a), group(b)])
        assert totals.number(a, limit) == 24 * MIB
        assert (b.id, limit, ()) not in totals.numbers
        (a.path / "memory.max").write_text(f"{40 * MIB}\n")
        assert totals.read([group(a), group(b)]).number(a, limit) == 40 * MIB


@proves("kpod_mem_cgroup_usage_bytes", "kpod_mem_cgroup_peak_bytes", "kpod_mem_cgroup_cache_bytes", within="2 MiB")
def test_memory(limited: Limited, workload: Callable[[str], str], children: list[Process], on_disk: Path) -> None:
    """Memory that a process holds, a file of 4 MiB read beside it, and the most there was when it has gone."""
    a, b = limited("a"), limited("b")
    children.append(a.start(workload("glutton"), "20"))
    stop_point(children[0])
    usage, peak, cache, swap = (metric.name for metric in USAGE.metrics[:4])
    with opened(Memory(Environment())) as collector:
        totals = Totals(collector).read([group(a), group(b)])
        base = totals.number(a, usage)
        assert (b.id, usage, ()) in totals.numbers
        go(children[0])
        stop_point(children[0])
        with on_disk.open("rb") as file:  # the process that reads a page into the cache is charged for it
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        a.run("cat", str(on_disk), stdin=subprocess.DEVNULL)
        charged = [int((a.path / "memory.current").read_text())]
        totals.read([group(a), group(b)])
        charged.append(int((a.path / "memory.current").read_text()))
        assert 4 * MIB <= totals.number(a, cache) <= 5 * MIB
        held = 20 * MIB + totals.number(a, cache)
        assert totals.number(a, usage) - base == pytest.approx(held, abs=2 * MIB)
        assert min(charged) <= totals.number(a, usage) <= max(charged)
        children[0].kill()
        children[0].wait()
        totals.read([group(a), group(b)])
        assert totals.number(a, usage) <= held - 20 * MIB + base + 2 * MIB
        if (a.path / "memory.peak").exists():
            assert totals.number(a, peak) == pytest.approx(held + base, abs=2 * MIB)
        else:
            assert (a.id, peak, ()) not in totals.numbers  # before 5.19
        assert (a.id, swap, ()) not in totals.numbers  # there is no swap device


@proves("kpod_mem_cgroup_swap_bytes", within="1 MiB")
def test_swap(limited: Limited, workload: Callable[[str], str], children: list[Process], disk: str) -> None:
    """More than the cgroup may hold in memory, against what the kernel says of the process itself."""
    (swap,) = (metric.name for metric in USAGE.metrics if "swap" in metric.name)
    a, b = limited("a", memory_max=24 * MIB), limited("b")
    process = a.start(workload("glutton"), "60")
    children.append(process)
    stop_point(process)
    with opened(Memory(Environment())) as collector:
        totals = Totals(collector)
        with swapping_to(disk):
            for _ in range(2):
                go(process)
                stop_point(process)
                time.sleep(0.2)
                totals.read([group(a), group(b)])
                status = Path(f"/proc/{process.pid}/status").read_text()
                (true,) = (int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmSwap"))
                assert true >= 35 * MIB
                # A page that was read back stays swapped out too until the kernel wants its place.
                assert true - MIB <= totals.number(a, swap) <= 61 * MIB
                assert totals.number(a, swap) == int((a.path / "memory.swap.current").read_text())
                assert totals.number(b, swap) == 0
            process.kill()
            process.wait()


@proves(MAJOR_FAULTS.name)
def test_major_faults_of_swapped_memory(
    limited: Limited, workload: Callable[[str], str], children: list[Process], disk: str
) -> None:
    """Each page that comes back from swap is one, against the kernel's own count of the process."""
    a = limited("a", memory_max=24 * MIB)
    process = a.start(workload("glutton"), "60")
    children.append(process)

    def true() -> int:
        return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[9])

    stop_point(process)
    with opened(PageFaults(Environment())) as collector, swapping_to(disk):
        totals = Totals(collector).read()
        start = totals.number(a, MAJOR_FAULTS.name) - true()
        for _ in range(2):
            go(process)
            stop_point(process)
            assert totals.read().number(a, MAJOR_FAULTS.name) - true() == start
        assert true() > 1000
        process.kill()
        process.wait()


@contextmanager
def offline(cpu: int) -> Iterator[Callable[[], None]]:
    """Take a CPU away; what is yielded brings it back."""
    switch = Path(f"/sys/devices/system/cpu/cpu{cpu}/online")
    if not switch.exists():
        pytest.skip(f"CPU {cpu} cannot be taken offline here: {ONLY_THERE}")
    switch.write_text("0")
    try:
        yield lambda: (switch.write_text("1"), None)[1]
    finally:
        switch.write_text("1")


@proves(MAJOR_FAULTS.name)
def test_major_faults_while_a_cpu_comes_and_goes(
    limited: Limited, workload: Callable[[str], str], children: list[Process], on_disk: Path
) -> None:
    """Exact with both CPUs, with one, and with both again: on the one that was away too."""
    a = limited("a")
    process = a.start(workload("faults"), str(on_disk), "203", stdout=subprocess.PIPE)
    children.append(process)
    stop_point(process)
    true = 0

    def fault(cpu: int) -> None:
        nonlocal true
        os.sched_setaffinity(process.pid, {cpu})
        go(process)
        stop_point(process)
        assert process.stdout is not None
        true += int(process.stdout.readline())

    with opened(PageFaults(Environment())) as collector:
        totals = Totals(collector).read()
        start = totals.number(a, MAJOR_FAULTS.name)
        fault(1)
        os.sched_setaffinity(process.pid, {0, 1})
        with offline(1) as online:
            fault(0)
            totals.read()
            fault(0)
            online()
            totals.read()
            fault(1)
            fault(0)
            totals.read()
        assert true == 5 * 203
        assert totals.number(a, MAJOR_FAULTS.name) - start == true


def test_faults_from_files_are_within_the_kernels_batches(
    limited: Limited, workload: Callable[[str], str], children: list[Process], on_disk: Path
) -> None:
    """Where no perf event may be opened: memory.stat, which the kernel brings up to date in batches."""
    a = limited("a")
    process = a.start(workload("faults"), str(on_disk), "500", stdout=subprocess.PIPE)
    children.append(process)
    stop_point(process)
    with opened(PageFaults(Environment(forced_off=frozenset({"perf_event"})))) as collector:
        totals = Totals(collector).read([group(a)])
        start = totals.number(a, MAJOR_FAULTS.name)
        true = 0
        for _ in range(2):
            go(process)
            stop_point(process)
            assert process.stdout is not None
            true += int(process.stdout.readline())
            time.sleep(2.2)  # it brings all of them up to date every 2 s, since 5.13 or so
            totals.read([group(a)])
            missing = true - (totals.number(a, MAJOR_FAULTS.name) - start)
            assert 0 <= missing <= 64 * (os.cpu_count() or 1)


def test_the_only_tree_is_v2() -> None:
    """A host without v1 beside it, as distributions have been since about 2021."""
    if "LIVE_DISK" not in os.environ:
        pytest.skip(f"needs its own machine: {ONLY_THERE}")
    kinds = {line.split()[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
    assert "cgroup" not in kinds
    assert find_root() == "/sys/fs/cgroup"
    assert set(Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()) >= {"cpu", "io", "memory", "pids"}
    command = [sys.executable, "-m", "kpod_metrics", "check", "--discovery", "cgroup", "--profile", "comprehensive"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout
    assert {line.split()[1] for line in done.stdout.splitlines() if line.startswith("n/a ")} <= {"gpu", "kernel"}


ALONE = """
import os, subprocess, sys
for command in ("ip link add eth0 type veth peer name up0", "ip link set up0 netns 1", "ip link set eth0 up"):
    subprocess.run(command.split(), check=True)
print("ready", flush=True)
sys.stdin.readline()
"""
"""Has a network namespace with one interface beside the loopback, which carries nothing."""


@pytest.mark.parametrize("profile", list(Profile), ids=lambda profile: profile.name.lower())
def test_series_of_a_container_are_as_many_as_the_docs_say(
    limited: Limited, disk: str, children: list[Process], cgroup_root: str, profile: Profile
) -> None:
    """What a page has of one, against the declarations: each name, and the number of series, counted in both ways."""
    container = limited("container", memory_max=64 * MIB, cpu_max="50000 100000")
    command = ("unshare", "-n", sys.executable, "-c", ALONE)
    process = container.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    children.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    container.run("dd", "if=/dev/zero", f"of={disk}", "bs=64K", "count=1", "oflag=direct", "status=none")
    asked = {"listen": "127.0.0.1:0", "discovery": "cgroup", "profile": profile.name.lower()}
    agent = agents.build(load(asked, {}, None, list(registered()))[0])
    try:
        agent.open()
        agent.cycle()
        page = agent.published.get("text/plain; version=0.0.4; charset=utf-8", False).decode()
    finally:
        agent.stop()
    pod = f'pod="{container.path.relative_to(cgroup_root)}"'
    lines = [line for line in page.splitlines() if pod in line]
    names = [line.partition("{")[0] for line in lines]

    def things(label: str) -> int:
        return len({match[1] for line in lines if (match := re.search(rf'{label}="([^"]*)"', line))})

    tables = [(t, m) for _, t, m in declared() if t.scope is not Scope.AGENT and not t.sparse]
    declared_ones = {m.name for _, m in tables if m.profile <= profile}
    # Kubernetes tells the first two; no machine here has a GPU.
    absent = {"kpod_pod_info", "kpod_container_restarts", "kpod_gpu_memory_used_bytes", "kpod_gpu_utilization_ratio"}
    if Path("/proc/swaps").read_text().count("\n") < 2:
        absent.add("kpod_mem_cgroup_swap_bytes")
    if not (container.path / "memory.peak").exists():
        absent.add("kpod_mem_cgroup_peak_bytes")
    if "full" not in (container.path / "cpu.pressure").read_text():  # there since 5.13
        absent.add("kpod_pressure_cpu_stalled_seconds_total")
    absent &= declared_ones
    assert {re.sub(r"_seconds_(bucket|sum|count)$", "_seconds", name) for name in names} == declared_ones - absent
    # "A further device adds 4, an interface 8, a mount 3": a machine has more than one mount.
    more = 4 * max(0, things("device") - 1) + 8 * max(0, things("interface") - 1) + 3 * max(0, things("mountpoint") - 1)
    assert len(names) == profile_series(profile, native=False, optional=True) + more - len(absent)
    native = [name for name in names if not name.endswith(("_seconds_bucket", "_seconds_sum"))]
    assert len(native) == profile_series(profile, native=True, optional=True) + more - len(absent)
