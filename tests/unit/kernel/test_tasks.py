import struct
from types import SimpleNamespace
from typing import Any

from kpod_metrics.kernel.tasks import KEPT, TaskNamespaces, Tasks

RECORD = struct.Struct("=IIIIQQQQQ")


def tasks_of(*threads: TaskNamespaces) -> Tasks:
    """Tasks whose kernel program writes the records of these threads."""
    loaded: Any = SimpleNamespace(
        object=SimpleNamespace(maps={"task_namespaces_record": SimpleNamespace(value_layout=RECORD)}),
        links=[SimpleNamespace(run_iterator=lambda: b"".join(RECORD.pack(*thread) for thread in threads))],
    )
    tasks = Tasks()
    tasks._loaded = loaded
    return tasks


def thread(pid: int, cgroup: int, started: int = 0, network: int = 5) -> TaskNamespaces:
    return TaskNamespaces(pid, 4, network, 1, cgroup, started, 0, 6, 7)


def test_threads_by_cgroup_and_the_hosts_network() -> None:
    threads = [thread(2, 1, network=9), thread(10, 7), thread(11, 8), thread(12, 7)]
    snapshot = tasks_of(*threads).read()
    assert snapshot.by_cgroup == {1: threads[:1], 7: [threads[1], threads[3]], 8: [threads[2]]}
    assert snapshot.host_network == 9
    assert snapshot.of(7, 99, 8) == [threads[1], threads[3], threads[2]]


def test_the_oldest_of_many_threads_are_kept() -> None:
    """Process ids say nothing about their age: the kernel uses each again."""
    many = [thread(pid, 7, started=1_000_000 - pid) for pid in range(100_000)]
    [*kept] = tasks_of(*many, thread(100_000, 8)).read().of(7)
    assert KEPT <= len(kept) < 2 * KEPT
    assert {*many[-KEPT:]} <= {*kept}
