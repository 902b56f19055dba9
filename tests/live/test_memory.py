"""Major faults against rusage, OOM kills against a real OOM killer."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.memory import MAJOR_FAULTS, OOM_KILLS, Memory
from kpod_metrics.features import PERF_EVENT
from kpod_metrics.pods.model import Group, Identity
from tests.forced import needs
from tests.live.harness import Cgroup, Totals, go, opened, proves, stop_point

FAULTS = MAJOR_FAULTS.name
KILLS = OOM_KILLS.name


@needs(PERF_EVENT)
@proves(FAULTS)
def test_major_faults_equal_rusage(
    cgroup: Callable[[str], Cgroup],
    workload: Callable[[str], str],
    children: list[subprocess.Popen[bytes]],
    on_disk: Path,
) -> None:
    """Known pages in A and in B, twice; C has none."""
    a, b, c = cgroup("a"), cgroup("b"), cgroup("c")
    with opened(Memory(Environment())) as collector:
        totals = Totals(collector)
        pages = {a: 307, b: 101}
        runs = {
            owner: owner.start(workload("faults"), str(on_disk), str(count), stdout=subprocess.PIPE)
            for owner, count in pages.items()
        }
        children += runs.values()
        for process in runs.values():
            stop_point(process)
        totals.read()
        start = {owner: totals.number(owner, FAULTS) for owner in runs}
        true = dict.fromkeys(runs, 0)
        for _ in range(2):
            for owner, process in runs.items():
                go(process)
                stop_point(process)
                assert process.stdout is not None
                true[owner] += int(process.stdout.readline())
            totals.read()
            for owner in runs:
                assert true[owner] > 0
                assert totals.number(owner, FAULTS) - start[owner] == true[owner]
        assert true[a] == 2 * pages[a]
        assert totals.number(c, FAULTS) == 0


@pytest.fixture
def limited() -> Iterator[Cgroup]:
    """A memory limit that calls the real OOM killer, from a v1 controller beside the v2 tree (a hybrid host)."""
    parent = Path("/sys/fs/cgroup/memory")
    if not (parent / "memory.limit_in_bytes").exists():
        pytest.skip("no v1 memory controller beside the cgroup2 tree to limit memory with")
    path = parent / f"kpod-test-{os.getpid()}"
    path.mkdir()
    (path / "memory.limit_in_bytes").write_text(str(24 << 20))
    group = Cgroup(path)
    yield group
    group.destroy()


def test_oom_kills_are_the_victims(
    cgroup: Callable[[str], Cgroup], workload: Callable[[str], str], limited: Cgroup
) -> None:
    """Two kills in A, one of them of a process whose first thread is gone; one in B; a plain SIGKILL is none."""
    a, b, c = cgroup("a"), cgroup("b"), cgroup("c")
    program = workload("glutton")

    def starve(owner: Cgroup, *arguments: str) -> None:
        def enter() -> None:
            owner.enter()
            limited.enter()

        process = subprocess.Popen([program, *arguments], preexec_fn=enter)  # noqa: PLW1509
        assert process.wait(30) == -signal.SIGKILL

    with opened(Memory(Environment())) as collector:
        totals = Totals(collector)
        starve(a)
        starve(b)
        totals.read()
        assert (totals.number(a, KILLS), totals.number(b, KILLS), totals.number(c, KILLS)) == (1, 1, 0)
        starve(a, "thread")
        killed = c.start("sleep", "60")
        killed.kill()
        killed.wait()
        totals.read()
        assert (totals.number(a, KILLS), totals.number(b, KILLS), totals.number(c, KILLS)) == (2, 1, 0)


@needs(PERF_EVENT)
def test_without_the_metric_no_fault_program_is_loaded(bpf_statistics: None) -> None:
    with opened(Memory(Environment(), frozenset({OOM_KILLS}))) as collector:
        assert {program.name for program in collector.programs()} == {"process_exits", "victim_chosen"}
    with opened(Memory(Environment())) as collector:
        assert {program.name for program in collector.programs()} == {"process_exits", "victim_chosen", "major_fault"}


def test_refused_perf_event_is_said(tmp_path: Path) -> None:
    """Where no perf event may be opened and no memory controller is there, the metric is off and the reason said."""
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    collector = Memory(Environment(cgroup_root=str(tmp_path), forced_off=frozenset({"perf_event"})))
    try:
        signals = {metric: signal for signal in collector.open() for metric in signal.metrics}
    finally:
        collector.close()
    assert not signals[OOM_KILLS].problem
    assert "memory controller" in signals[MAJOR_FAULTS].problem


def test_faults_from_files_where_perf_events_are_refused(tmp_path: Path) -> None:
    """memory.stat's running total, as differences; two cycles."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    stat = tmp_path / "memory.stat"
    group = Group(4711, str(tmp_path), (), Identity("cgroup", "x", ""))
    with opened(Memory(Environment(cgroup_root=str(tmp_path), forced_off=frozenset({"perf_event"})))) as collector:
        totals = Totals(collector)
        for faults in (5, 12):
            stat.write_text(f"anon 0\npgfault 100\npgmajfault {faults}\nworkingset_refault_anon 0\n")
            totals.read([group])
            assert totals.numbers[4711, FAULTS, ()] == faults
        stat.unlink()
        totals.read([group])
        assert totals.numbers[4711, FAULTS, ()] == 12
