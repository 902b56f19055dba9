"""Run-queue wait and context switches against what the kernel tells of the same processes in /proc."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.run_queue import RunQueue
from kpod_metrics.features import TASK_ITERATOR
from tests.forced import needs
from tests.live.harness import Cgroup, Totals, go, opened, proves, stop_point, switches

WAIT = "kpod_cpu_runqueue_latency_seconds"
SWITCHES = "kpod_cpu_context_switches_total"


def waited_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])


EVERY_WAY = pytest.mark.parametrize(
    "forced_off",
    [(), ("task_table",), ("task_storage", "batch"), ("tp_btf",)],
    ids=["newest", "storage", "oldest", "raw"],
)


@proves(WAIT, SWITCHES)
@EVERY_WAY
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
    with opened(RunQueue(Environment(forced_off=frozenset(forced_off)))) as collector:
        totals = Totals(collector)
        owners = (a, a, a, b)
        processes = [owner.start(program, "0", *([pause] if pause else [])) for owner in owners]
        children += processes

        def gap() -> dict[Cgroup, tuple[float, float]]:
            """For A and B: switches and nanoseconds that /proc tells of and we do not; all processes are stopped."""
            for process in processes:
                stop_point(process)
            # A process is reported as stopped a moment before it leaves its CPU for good.
            time.sleep(0.05)
            totals.read()
            found: dict[Cgroup, tuple[float, float]] = {
                owner: (-totals.number(owner, SWITCHES), -totals.histogram(owner, WAIT).sum_ns) for owner in (a, b)
            }
            for owner, process in zip(owners, processes, strict=True):
                counted, waited = found[owner]
                found[owner] = (counted + switches(process.pid), waited + waited_ns(process.pid))
            return found

        # What each did before it entered its cgroup is in /proc, and is not the cgroup's.
        start = gap()
        waited = totals.histogram(a, WAIT).sum_ns
        for _ in range(2):  # two cycles: what the first one read is not counted again
            for process in processes:
                go(process)
            time.sleep(1.0)
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            assert gap() == start
            assert totals.histogram(a, WAIT).sum_ns - waited > 100e6
            waited = totals.histogram(a, WAIT).sum_ns
            for owner in (a, b):
                assert totals.histogram(owner, WAIT).count == totals.number(owner, SWITCHES)
        assert totals.number(c, SWITCHES) == 0
        assert totals.histogram(c, WAIT).count == 0


@proves(WAIT)
@needs(TASK_ITERATOR)
@EVERY_WAY
def test_what_older_tasks_waited_before_is_not_counted(
    cgroup: Callable[[str], Cgroup],
    workload: Callable[[str], str],
    children: list[subprocess.Popen[bytes]],
    forced_off: tuple[str, ...],
) -> None:
    """Two that have competed for a CPU before we watch, and go on."""
    a = cgroup("a")
    processes = [a.start(workload("hog"), "0") for _ in range(2)]
    children += processes

    def compete(seconds: float) -> list[tuple[int, int]]:
        """Total nanoseconds in the run queue, and total switches."""
        for process in processes:
            go(process)
        time.sleep(seconds)
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        for process in processes:
            stop_point(process)
        time.sleep(0.05)  # as above
        return [(waited_ns(process.pid), switches(process.pid)) for process in processes]

    for process in processes:
        stop_point(process)
    before = compete(0.5)
    assert min(waited for waited, _ in before) > 50e6
    with opened(RunQueue(Environment(forced_off=frozenset(forced_off)))) as collector:
        totals = Totals(collector)
        after = compete(0.3)
        totals.read()
        grown = [sum(column) for column in zip(*after, strict=True)]
        was = [sum(column) for column in zip(*before, strict=True)]
        assert totals.histogram(a, WAIT).sum_ns == grown[0] - was[0]
        assert totals.histogram(a, WAIT).count == totals.number(a, SWITCHES) == grown[1] - was[1]


@proves(SWITCHES)
def test_without_the_iterator_older_tasks_switch_and_have_no_waits(
    cgroup: Callable[[str], Cgroup], workload: Callable[[str], str], children: list[subprocess.Popen[bytes]]
) -> None:
    """What is begun later has both."""
    old, new = cgroup("old"), cgroup("new")
    older = old.start(workload("hog"), "0", "1000")
    children.append(older)
    stop_point(older)
    before = switches(older.pid)
    with opened(RunQueue(Environment(forced_off=frozenset({TASK_ITERATOR})))) as collector:
        totals = Totals(collector)
        younger = new.start(workload("hog"), "0", "1000")
        children.append(younger)
        stop_point(younger)
        for process in (older, younger):
            go(process)
        time.sleep(0.3)
        for process in (older, younger):
            process.send_signal(signal.SIGSTOP)
            stop_point(process)
        time.sleep(0.05)  # as above
        totals.read()
        assert totals.number(old, SWITCHES) == switches(older.pid) - before > 0
        assert totals.histogram(old, WAIT).count == 0
        assert totals.histogram(new, WAIT).count == totals.number(new, SWITCHES) > 0
