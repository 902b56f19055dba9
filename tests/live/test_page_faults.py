"""Major faults against rusage."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.page_faults import MAJOR_FAULTS, PageFaults
from kpod_metrics.errors import UnavailableError
from kpod_metrics.features import PERF_EVENT
from kpod_metrics.pods.model import Group, Identity
from tests.forced import needs
from tests.live.harness import Cgroup, Totals, go, opened, proves, stop_point

FAULTS = MAJOR_FAULTS.name


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
    with opened(PageFaults(Environment())) as collector:
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


def test_refused_perf_event_is_said(tmp_path: Path) -> None:
    """If no perf event may be opened and there is no memory controller, the collector is off and says why."""
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    collector = PageFaults(Environment(cgroup_root=str(tmp_path), forced_off=frozenset({"perf_event"})))
    with pytest.raises(UnavailableError) as refused:
        collector.open()
    collector.close()
    assert str(refused.value) == (
        "perf_event_open is switched off; and there is no memory controller's memory.stat to read"
    )


def test_faults_from_files_where_perf_events_are_refused(tmp_path: Path) -> None:
    """memory.stat's running total, as differences; two cycles."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    stat = tmp_path / "memory.stat"
    group = Group(4711, str(tmp_path), (), Identity("cgroup", "x", ""))
    with opened(PageFaults(Environment(cgroup_root=str(tmp_path), forced_off=frozenset({"perf_event"})))) as collector:
        totals = Totals(collector)
        for faults in (5, 12):
            stat.write_text(f"anon 0\npgfault 100\npgmajfault {faults}\nworkingset_refault_anon 0\n")
            totals.read([group])
            assert totals.numbers[4711, FAULTS, ()] == faults
        stat.unlink()
        totals.read([group])
        assert totals.numbers[4711, FAULTS, ()] == 12
