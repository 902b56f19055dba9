from collections.abc import Iterable
from operator import attrgetter

from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.net_iface import NetIface
from kpod_metrics.collectors.parts.per_process import MAX_NAMESPACES
from kpod_metrics.kernel.tasks import Snapshot, TaskNamespaces
from kpod_metrics.pods.model import Group, Identity

ONE, SIDECAR = (Group(id_, "", (1,), Identity("test", "one", name)) for id_, name in ((7, "a"), (8, "b")))
KEY = attrgetter("network_namespace")


def thread(pid: int, namespace: int, started: int, cgroup: int = 7) -> TaskNamespaces:
    return TaskNamespaces(pid, 1, namespace, 1, cgroup, started, 0, 1, 1)


class Choice:
    """What is chosen in one cycle."""

    def __init__(self, threads: Iterable[TaskNamespaces]) -> None:
        by_cgroup: dict[int, list[TaskNamespaces]] = {}
        for one in threads:
            by_cgroup.setdefault(one.cgroup, []).append(one)
        self._tasks = Snapshot(by_cgroup, 0)
        self._known: set[int] = set()
        self._collector = NetIface(Environment())

    def of(self, group: Group) -> dict[int, int]:
        """The namespaces of a cgroup, and a thread in each."""
        found = self._collector.distinct(group, self._tasks, KEY, self._known, "network_namespaces")
        return {namespace: task.pid for namespace, task in found.items()}

    def exceeded(self) -> dict[int, object]:
        return {row.owner: row.values[0] for row in self._collector.environment.exceeded.rows()}


def test_each_namespace_has_its_first_thread() -> None:
    choice = Choice([thread(10, 1, 0), thread(11, 2, 0), thread(12, 1, 0), thread(20, 3, 0, cgroup=8)])
    assert choice.of(ONE) == {1: 10, 2: 11}
    assert choice.of(SIDECAR) == {3: 20}
    assert choice.exceeded() == {}


def test_cgroups_below_it_belong_to_a_group() -> None:
    group = Group(7, "", (1,), Identity("test", "one", "a"), below=(70, 71))
    choice = Choice([thread(10, 1, 0, 71), thread(11, 2, 0, 70), thread(12, 1, 0, 7), thread(13, 4, 0, 72)])
    assert choice.of(group) == {1: 12, 2: 11}


def test_the_oldest_are_chosen_if_there_are_too_many() -> None:
    """Their ids say nothing about their age: the kernel uses each again."""
    threads = [thread(pid, namespace=pid, started=1000 - pid) for pid in range(100, 100 + MAX_NAMESPACES + 30)]
    assert [*Choice(threads).of(ONE)] == [*range(130, 130 + MAX_NAMESPACES)]
    choice = Choice(threads)
    choice.of(ONE)
    assert choice.exceeded() == {7: 30}


def test_containers_of_a_pod_have_the_limit_together() -> None:
    """A namespace that another container has too counts once."""
    many = [thread(pid, namespace=pid, started=pid) for pid in range(1, MAX_NAMESPACES)]
    sidecar = [
        thread(pid, namespace=pid - 1000, started=pid, cgroup=8) for pid in range(1001, 1001 + MAX_NAMESPACES + 1)
    ]
    choice = Choice([*many, *sidecar])
    assert len(choice.of(ONE)) == MAX_NAMESPACES - 1
    assert [*choice.of(SIDECAR)] == [*range(1, MAX_NAMESPACES + 1)]
    assert choice.exceeded() == {8: 1}
