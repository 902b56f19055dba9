"""A stand-in for `Map` shows what is written to it; what programs do with the marks is shown by tests/live."""

import errno
import struct
from typing import cast

import pytest

from kpod_metrics.kernel.containers import REMOVED, Containers
from kpod_metrics.kernel.libbpf import KernelError, Map


class FakeMap:
    """What `Containers` uses of `Map`."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.content: dict[int, int] = {}
        self.writes = 0
        self.shares: FakeMap | None = None

    def reuse(self, other: "FakeMap") -> None:
        self.shares = other

    def update(self, key: bytes, value: bytes) -> None:
        self.writes += 1
        (cgroup,), (levels,) = struct.unpack("<Q", key), struct.unpack("<I", value)
        if cgroup not in self.content and len(self.content) >= self.room:
            raise KernelError("update", errno.E2BIG, [])
        self.content[cgroup] = levels

    def lookup(self, key: bytes) -> bytes | None:
        found = self.content.get(struct.unpack("<Q", key)[0])
        return None if found is None else struct.pack("<I", found)

    def delete(self, key: bytes) -> bool:
        self.writes += 1
        return self.content.pop(struct.unpack("<Q", key)[0], None) is not None


def joined(containers: Containers, map_: FakeMap) -> FakeMap:
    containers.join(cast(Map, map_))
    return map_


PRESENT = frozenset(range(10))


def test_only_differences_are_written() -> None:
    containers = Containers()
    map_ = joined(containers, FakeMap())
    containers.mark({1: 0, 2: 1}, PRESENT)
    assert (map_.content, map_.writes) == ({1: 0, 2: 1}, 2)
    containers.mark({2: 1, 3: 2}, PRESENT)
    assert (map_.content, map_.writes) == ({2: 1, 3: 2}, 4)
    containers.mark({2: 1, 3: 2}, PRESENT)
    assert map_.writes == 4
    containers.mark({2: 0}, PRESENT)
    assert map_.content == {2: 0}


def test_what_the_kernel_marked_is_corrected() -> None:
    containers = Containers()
    map_ = joined(containers, FakeMap())
    containers.mark({1: 1}, PRESENT)
    map_.content |= {2: 0, 3: 0}
    containers.mark({1: 1, 2: 0}, PRESENT, {2, 3})
    assert map_.content == {1: 1, 2: 0}


def test_marks_of_removed_cgroups_stay_up_to_a_number() -> None:
    """Also of those that only the kernel marked; others that were created and removed take no place."""
    containers = Containers()
    map_ = joined(containers, FakeMap(room=10_000))
    numbers = range(100, 100 + REMOVED)
    containers.mark(dict.fromkeys(numbers, 0), {*numbers})
    containers.mark({}, PRESENT)
    assert map_.content == dict.fromkeys(numbers, 0)
    map_.content[50_000] = 0
    containers.mark({}, PRESENT, (*range(20_000, 30_000), 50_000))
    assert map_.content == {**dict.fromkeys(numbers[1:], 0), 50_000: 0}


def test_all_maps_are_one_until_the_last_leaves() -> None:
    containers = Containers()
    containers.mark({1: 0}, PRESENT)  # no programs are loaded
    first, second = joined(containers, FakeMap()), joined(containers, FakeMap())
    assert (first.shares, second.shares) == (None, first)
    counted = [containers.is_counted_with(cast(Map, map_)) for map_ in (first, second, FakeMap())]
    assert counted == [True, False, True]
    containers.mark({1: 0}, PRESENT)
    containers.leave(cast(Map, first))
    containers.mark({1: 0, 2: 0}, PRESENT)
    assert (first.content, second.content) == ({1: 0}, {2: 0})
    assert joined(containers, FakeMap()).shares is second
    containers = Containers()
    for _ in range(2):  # a new map is empty
        map_ = joined(containers, FakeMap())
        containers.mark({1: 0}, PRESENT)
        assert map_.content == {1: 0}
        containers.leave(cast(Map, map_))


def test_a_full_map_refuses_and_the_rest_is_written() -> None:
    containers = Containers()
    map_ = joined(containers, FakeMap(room=2))
    with pytest.raises(KernelError, match="E2BIG"):
        containers.mark({1: 0, 2: 0, 3: 0}, PRESENT)
    assert map_.content == {1: 0, 2: 0}
    with pytest.raises(KernelError, match="E2BIG"):
        containers.mark({1: 1, 3: 0, 4: 0}, PRESENT)
    assert map_.content == {1: 1, 3: 0}
    containers.mark({3: 0, 4: 0}, PRESENT)
    assert map_.content == {3: 0, 4: 0}
