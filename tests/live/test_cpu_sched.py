"""Run-queue wait and context switches against what the kernel tells of the same processes in /proc."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kpod_metrics.collectors.base import Environment
from kpod_metrics.collectors.cpu_sched import CpuSched
from tests.live.harness import Cgroup, Totals, opened

WAIT = "kpod_cpu_runqueue_latency_seconds"
SWITCHES = "kpod_cpu_context_switches_total"


def switches(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)


def waited_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])


@pytest.mark.parametrize("forced_off", [(), ("task_storage", "batch")], ids=["newest", "oldest"])
@pytest.mark.parametrize("pause", [None, "2000"], ids=["hogs", "sleepers"])
def test_wait_and_switches_equal_schedstat(
    cgroup: Callable[[str], Cgroup],
    workload: Callable[[str], str],
    children: list[subprocess.Popen[bytes]],
    pause: str | None,
    forced_off: tuple[str, ...],
) -> None:
    """Three in A and one in B compete for one CPU; C has none."""
    a, b, c = cgroup("a"), cgroup("b"), cgroup("c")
    program = workload("hog")
    with opened(CpuSched(Environment(forced_off=frozenset(forced_off)))) as collector:
        totals = Totals(collector)
        groups = {a: [], b: []}  # type: dict[Cgroup, list[subprocess.Popen[bytes]]]
        for owner in (a, a, a, b):
            process = owner.start(program, "0", *([pause] if pause else []))
            groups[owner].append(process)
            children.append(process)
        for _ in range(2):  # two cycles: what the first one read is not counted again
            time.sleep(1.0)
            for process in children:
                process.send_signal(19)
            time.sleep(0.05)
            totals.read()
            for owner, processes in groups.items():
                true_wait = sum(waited_ns(process.pid) for process in processes)
                true_switches = sum(switches(process.pid) for process in processes)
                histogram = totals.histogram(owner, WAIT)
                counted = totals.number(owner, SWITCHES)
                assert true_wait > 100e6
                assert abs(histogram.sum_ns - true_wait) <= 0.02 * true_wait
                assert abs(counted - true_switches) <= max(len(processes), 0.01 * true_switches)
                assert histogram.count == counted
            for process in children:
                process.send_signal(18)
        assert totals.number(c, SWITCHES) == 0
        assert totals.histogram(c, WAIT).count == 0
