import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kpod_metrics.cgroup.mounts import FileSystem, Point
from kpod_metrics.collectors.parts.statvfs import MAX_STUCK, Probe, Statvfs
from kpod_metrics.kernel.openat2 import ReplacedError
from tests.unit.kernel.mounts import mount_of

TIMEOUT = 1.0
SIZE = os.statvfs_result((4096, 1024, 10, 5, 5, 0, 0, 0, 0, 255))


class Machine:
    """File systems of which some hang until they are released."""

    def __init__(self) -> None:
        self._hanging: dict[str, threading.Event] = {}
        self.asked: list[str] = []
        self.threads: set[int] = set()

    def hang(self, *devices: str) -> None:
        self._hanging.update({device: threading.Event() for device in devices})

    def release(self, *devices: str) -> None:
        for device in devices or list(self._hanging):
            self._hanging.pop(device).set()

    def statvfs(self, root: str, point: str, mount: int) -> os.statvfs_result:
        device = point.removeprefix("/")
        self.asked.append(device)
        self.threads.add(threading.get_ident())
        if event := self._hanging.get(device):
            event.wait()
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


def probes(*devices: str) -> list[Probe]:
    """Probes of devices; "nfs..." are on other machines."""
    return [Probe(FileSystem(device, not device.startswith("nfs"), [Point(f"/{device}", 1)]), "") for device in devices]


def answered(asker: Statvfs, *devices: str) -> list[str]:
    asking = probes(*devices)
    asker.read(asking)
    return [probe.system.device for probe in asking if probe.answer is SIZE]


def test_one_thread_asks_all_of_all_cycles(machine: Machine, statvfs: Statvfs) -> None:
    many = [f"d{number}" for number in range(100)]
    for _ in range(3):
        assert answered(statvfs, *many) == many
    assert len(machine.threads) == helpers() == 1
    assert threading.get_ident() not in machine.threads
    statvfs.close()
    until(lambda: not helpers())


def test_nothing_to_ask_takes_no_thread(statvfs: Statvfs) -> None:
    statvfs.read([])
    assert helpers() == 0


def test_one_that_hangs_loses_itself_alone(
    machine: Machine, statvfs: Statvfs, caplog: pytest.LogCaptureFixture
) -> None:
    machine.hang("b")
    assert answered(statvfs, "a", "b", "c") == ["a", "c"]
    for _ in range(5):
        assert answered(statvfs, "a", "b", "c") == ["a", "c"]
    assert machine.asked.count("b") == 1  # it is waited for once
    assert helpers() == 2
    assert [record.getMessage() for record in caplog.records] == [
        "file system b at /b does not answer: skipped until it does (1 such)"
    ]


def test_one_that_answers_again(machine: Machine, statvfs: Statvfs) -> None:
    machine.hang("b")
    answered(statvfs, "a", "b")
    machine.release("b")
    until(lambda: not statvfs.stuck)
    assert answered(statvfs, "a", "b") == ["a", "b"]
    until(lambda: helpers() == 1)


def test_device_of_several_mount_namespaces_hangs_one_thread(machine: Machine, statvfs: Statvfs) -> None:
    machine.hang("nfs")
    assert answered(statvfs, "nfs", "nfs", "a", "nfs") == ["a"]
    assert machine.asked.count("nfs") == 1


def test_many_that_hang_at_once_hold_up_their_like_only(machine: Machine, statvfs: Statvfs) -> None:
    servers = [f"nfs{number}" for number in range(50)]
    machine.hang(*servers)
    for _ in range(10):
        assert answered(statvfs, *servers, "a", "b") == ["a", "b"]
    assert len(statvfs.stuck) == MAX_STUCK - 1  # the last thread is kept for what is local
    assert helpers() == MAX_STUCK
    machine.release()
    until(lambda: not statvfs.stuck)
    assert answered(statvfs, *servers, "a") == [*servers, "a"]
    until(lambda: helpers() == 1)


def test_no_more_threads_hang_than_are_allowed(machine: Machine, statvfs: Statvfs) -> None:
    disks = [f"d{number}" for number in range(MAX_STUCK + 5)]
    machine.hang(*disks)
    for _ in range(MAX_STUCK):
        assert answered(statvfs, *disks, "z") == []
    assert len(statvfs.stuck) == helpers() == MAX_STUCK
    machine.release(disks[0])
    until(lambda: len(statvfs.stuck) < MAX_STUCK)
    assert answered(statvfs, "z") == ["z"]


def test_close_while_one_hangs(machine: Machine, statvfs: Statvfs) -> None:
    machine.hang("b")
    answered(statvfs, "a", "b", "c")
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
            name: Probe(FileSystem(name, local=True, points=[Point(path, mount) for path in found]), str(tmp_path))
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
