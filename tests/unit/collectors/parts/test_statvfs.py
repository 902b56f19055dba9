import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kpod_metrics.cgroup.mounts import FileSystem, Point
from kpod_metrics.collectors.parts.statvfs import (
    MAX_STUCK,
    STUCK_OF_A_POD,
    STUCK_OF_A_POD_AT_MOST,
    SUSPECT_CYCLES,
    Probe,
    Statvfs,
)
from kpod_metrics.kernel.openat2 import ReplacedError
from kpod_metrics.pods.model import Group, Identity
from tests.unit.kernel.mounts import mount_of

TIMEOUT = 1.0
SIZE = os.statvfs_result((4096, 1024, 10, 5, 5, 0, 0, 0, 0, 255))


class Machine:
    """File systems of which some hang until they are released, or take a while."""

    def __init__(self) -> None:
        self._hanging: dict[str, threading.Event] = {}
        self._on_the_way: set[str] = set()
        self.slow: dict[str, float] = {}
        self.asked: list[str] = []
        self.threads: set[int] = set()

    def hang(self, *places: str, on_the_way: bool = False) -> None:
        """Have these hang; `on_the_way`: the path to the mount point, not the file system."""
        self._hanging.update({place: threading.Event() for place in places})
        self._on_the_way.update(places if on_the_way else ())

    def release(self, *places: str) -> None:
        for place in places or list(self._hanging):
            self._hanging.pop(place).set()

    def statvfs(self, root: str, point: str, mount: int, reached: Callable[[str], object]) -> os.statvfs_result:
        """The file system is named by its place (pod:device) or, in every pod, by its device."""
        place, device = f"{root}{point.replace('/', ':')}", point.removeprefix("/")
        self.asked.append(place)
        self.threads.add(threading.get_ident())
        if not self._on_the_way & {place, device}:
            reached(device)
        for event in {self._hanging[name] for name in (place, device) if name in self._hanging}:
            event.wait()
        time.sleep(self.slow.get(place, 0))
        return SIZE


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.release()
    until(lambda: not helpers())


def helpers() -> int:
    return sum(thread.name == "statvfs" for thread in threading.enumerate())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def statvfs(machine: Machine) -> Iterator[Statvfs]:
    asker = Statvfs(machine.statvfs, TIMEOUT)
    yield asker
    asker.close()


PODS: dict[str, Group] = {}


def group(pod: str) -> Group:
    return PODS.setdefault(pod, Group(len(PODS) + 1, "", (), Identity("test", pod, "")))


def probes(*places: str) -> list[Probe]:
    """Probes of places, each "pod:device"."""
    return [
        Probe(FileSystem(device, [Point(f"/{device}", 1)]), pod, group(pod))
        for pod, device in (place.split(":") for place in places)
    ]


def answered(asker: Statvfs, *places: str) -> list[str]:
    asking = probes(*places)
    asker.read(asking)
    return [f"{probe.root}:{probe.system.device}" for probe in asking if probe.answer is SIZE]


def test_one_thread_asks_all_of_all_cycles(machine: Machine) -> None:
    asker = Statvfs(machine.statvfs, timeout=100.0)
    many = [f"p{number // 3}:d{number}" for number in range(100)]
    for _ in range(3):
        assert answered(asker, *many) == many
    assert machine.asked == 3 * many
    assert len(machine.threads) == 1
    until(lambda: helpers() == 1)
    assert threading.get_ident() not in machine.threads
    asker.close()
    until(lambda: not helpers())
    assert answered(asker, "a:1") == ["a:1"]
    asker.close()


def test_nothing_to_ask_takes_no_thread(statvfs: Statvfs) -> None:
    statvfs.read([])
    assert helpers() == 0


def test_one_that_hangs_loses_itself_alone(
    machine: Machine, statvfs: Statvfs, caplog: pytest.LogCaptureFixture
) -> None:
    machine.hang("b")
    every = ["p:a", "p:b", "p:c", "q:d"]
    # The mounts behind it in its own pod wait, once.
    assert answered(statvfs, *every) == ["p:a", "q:d"]
    assert [statvfs.is_suspect(group(pod).pod) for pod in "pq"] == [True, False]
    assert [statvfs.hangs(probe) for probe in probes(*every)] == [False, True, False, False]
    for _ in range(5):
        assert answered(statvfs, *every) == ["p:a", "p:c", "q:d"]
    assert machine.asked.count("p:b") == 1  # it is waited for once
    until(lambda: helpers() == 2)
    assert [record.getMessage() for record in caplog.records] == [
        "file system b at p/b does not answer: skipped until it does (1 such)"
    ]


def test_one_that_answers_again(machine: Machine, statvfs: Statvfs) -> None:
    machine.hang("b")
    answered(statvfs, "p:a", "p:b")
    machine.release("b")
    until(lambda: not statvfs.stuck)
    assert answered(statvfs, "p:a", "p:b") == ["p:a", "p:b"]
    until(lambda: helpers() == 1)
    for _ in range(SUSPECT_CYCLES):
        assert statvfs.is_suspect(group("p").pod)
        answered(statvfs, "p:a")
    assert not statvfs.is_suspect(group("p").pod)


def test_device_of_several_pods_hangs_one_thread(machine: Machine, statvfs: Statvfs) -> None:
    machine.hang("nfs")
    every = ["p:nfs", "q:nfs", "q:a", "r:nfs", "r:b"]
    for _ in range(3):
        assert answered(statvfs, *every) == ["q:a", "r:b"]
    assert machine.asked.count("p:nfs") == 1
    assert statvfs.stuck == 1
    assert [statvfs.is_suspect(group(pod).pod) for pod in "pqr"] == [True, False, False]
    machine.release()
    until(lambda: not statvfs.stuck)
    assert answered(statvfs, *every) == every


def test_path_that_hangs_says_nothing_of_the_device_at_its_end(machine: Machine, statvfs: Statvfs) -> None:
    """A tenant can mount a file system that others have below one that hangs."""
    machine.hang("p:disk", on_the_way=True)
    for _ in range(3):
        assert answered(statvfs, "p:disk", "q:disk") == ["q:disk"]
    assert machine.asked.count("p:disk") == 1


def test_a_pod_cannot_take_more_than_its_threads(machine: Machine, statvfs: Statvfs) -> None:
    bad = [f"p:{number}" for number in range(50)]
    machine.hang(*bad)
    for cycle in range(10):
        # The good one had its turn behind a bad one, once.
        assert answered(statvfs, *bad, "p:good", "q:a", "r:b") == ["q:a", "r:b"], cycle
    assert statvfs.stuck == STUCK_OF_A_POD
    until(lambda: helpers() == STUCK_OF_A_POD + 1)


def test_mounts_that_answered_go_on_beside_those_that_hang(machine: Machine, statvfs: Statvfs) -> None:
    good = [f"p:good{number}" for number in range(8)]
    assert answered(statvfs, *good) == good
    machine.hang("bad1", "bad2", "bad3")
    answered(statvfs, *good, "p:bad1", "p:bad2", "p:bad3")
    for _ in range(4):
        assert answered(statvfs, *good, "p:bad1", "p:bad2", "p:bad3") == good
    assert statvfs.stuck == STUCK_OF_A_POD
    # They can hang too: up to a limit.
    machine.hang(*(place.removeprefix("p:") for place in good))
    for _ in range(4):
        assert answered(statvfs, *good) == []
    assert statvfs.stuck == STUCK_OF_A_POD_AT_MOST


def test_pods_that_hang_at_once_cost_others_nothing(machine: Machine, statvfs: Statvfs) -> None:
    bad = [f"{number}:bad{number}" for number in range(20)]
    machine.hang(*(place.split(":")[1] for place in bad))
    for _ in range(3):
        assert answered(statvfs, *bad, "a:1", "b:2") == ["a:1", "b:2"]
    assert statvfs.stuck == len(bad)


def test_pods_that_had_no_turn_have_it_first_in_the_next_cycle(machine: Machine, statvfs: Statvfs) -> None:
    bad = [f"{number}:bad{number}" for number in range(MAX_STUCK + 20)]
    machine.hang(*(place.split(":")[1] for place in bad))
    assert answered(statvfs, *bad, "a:1", "b:2") == []
    assert not statvfs.is_suspect(group("a").pod)
    assert not any(statvfs.hangs(probe) for probe in probes("a:1", "b:2"))
    assert answered(statvfs, *bad, "a:1", "b:2") == ["a:1", "b:2"]
    machine.hang("first")
    machine.asked.clear()
    assert answered(statvfs, "f:first", "a:1", "b:2") == ["a:1", "b:2"]
    assert machine.asked == ["f:first", "a:1", "b:2"]


def test_no_suspect_is_read_while_too_many_hang(machine: Machine, statvfs: Statvfs) -> None:
    """Other pods are, also one that hangs for the first time."""
    bad = [f"{number}:bad{number}" for number in range(MAX_STUCK)]
    more = [place + "'" for place in bad]
    machine.hang(*(place.split(":")[1] for place in bad + more))
    while statvfs.stuck < MAX_STUCK:
        answered(statvfs, *bad)
    for _ in range(3):
        assert answered(statvfs, *bad, *more, "a:1") == ["a:1"]
        assert statvfs.stuck == MAX_STUCK
    machine.hang("new")
    assert answered(statvfs, *more, "n:new", "a:1") == ["a:1"]
    assert statvfs.stuck == MAX_STUCK + 1
    assert answered(statvfs, *more, "n:new", "n:other", "a:1") == ["a:1"]
    machine.release("bad0", "bad1")
    until(lambda: statvfs.stuck < MAX_STUCK)
    assert answered(statvfs, "0:good", "a:1") == ["0:good", "a:1"]


def test_pod_whose_calls_are_slow_has_its_share_of_time(machine: Machine, statvfs: Statvfs) -> None:
    slow = [f"p:slow{number}" for number in range(100)]
    machine.slow = dict.fromkeys(slow, 0.05)
    for _ in range(3):
        found = answered(statvfs, *slow, "p:good", "q:a")
        assert found[-1] == "q:a"
        assert 0 < len(found) < 30
    assert statvfs.is_suspect(group("p").pod)
    assert statvfs.stuck == 0


def test_close_while_one_hangs(machine: Machine, statvfs: Statvfs) -> None:
    machine.hang("b")
    answered(statvfs, "a:a", "b:b", "c:c")
    statvfs.close()
    statvfs.close()
    until(lambda: helpers() == 1)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "statvfs")


def test_real_file_systems(tmp_path: Path) -> None:
    """The mount of the folder is the one that it is on; its root directory is none, so it is asked by a path below."""
    (tmp_path / "file").touch()
    mount = mount_of(tmp_path)
    asker = Statvfs()
    try:
        points = {"files": ["/file"], "after": ["/file", "/"], "none": ["/none"], "odd": ["/\0"]}
        asking = {
            name: Probe(FileSystem(name, [Point(path, mount) for path in found]), str(tmp_path), group("p"))
            for name, found in points.items()
        }
        asker.read(asking.values())
        assert isinstance(asking["files"].answer, NotADirectoryError)
        assert isinstance(asking["none"].answer, ReplacedError)
        assert isinstance(asking["odd"].answer, OSError)
        assert isinstance(asking["after"].answer, os.statvfs_result)
        assert asking["after"].answer.f_blocks == os.statvfs(tmp_path).f_blocks
        assert asking["after"].at == 1
    finally:
        asker.close()
