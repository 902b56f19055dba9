"""A stand-in for `Map` shows the logic of its reader; what the kernel does with a real one is shown by tests/live."""

import errno
import struct
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kpod_metrics.histogram import Histogram
from kpod_metrics.kernel.btf import Layout
from kpod_metrics.kernel.libbpf import KernelError, Map
from kpod_metrics.kernel.maps import Counter, CumulativeMap, Entry, MapCounts
from kpod_metrics.metrics import Row, Table, counter, latency

WRAP = 2**32


class FakeMap:
    """What a reader uses of `Map`: two entries of numbers, and errors on demand."""

    def __init__(self) -> None:
        self.name = "fake"
        self.key_layout = Layout(8, [("cgroup_id", 0, "Q", 1)], unnamed_holes=False)
        self.value_layout = Layout(
            32,
            [
                ("created_ns", 0, "Q", 1),
                ("total", 8, "Q", 1),
                ("wait.sum_ns", 16, "Q", 1),
                ("wait.buckets", 24, "I", 2),
            ],
            unnamed_holes=False,
        )
        self.max_entries = 1000
        self.content: dict[bytes, bytes] = {}
        self.births = 0
        """Entries whose birth the programs have counted."""
        self.batch_error: int | None = None
        self.lookup_error: int | None = None
        self.repeat = 1
        """How many times an iteration begins again."""
        self.rooms: list[int] = []

    def set(self, key: int, created: int, total: int, *buckets: int) -> None:
        """What the kernel's programs do. An entry with another `created` than before is another entry."""
        at = struct.pack("<Q", key)
        before = struct.unpack_from("<Q", self.content[at])[0] if at in self.content else None
        self.births += before not in {0, created}
        self.content[at] = struct.pack("<QQQII", created, total, 10 * total, *(buckets or (0, 0)))

    def evict(self, *keys: int) -> None:
        """What the kernel does with a full map."""
        for key in keys:
            del self.content[struct.pack("<Q", key)]

    def lookup_batch(self, room: int) -> list[tuple[bytes, bytes]]:
        self.rooms.append(room)
        if self.batch_error is not None:
            raise KernelError("batch lookup", self.batch_error, [])
        return list(self.content.items())

    def iterate(self) -> Iterator[bytes]:
        for _ in range(self.repeat):
            yield from list(self.content)

    def lookup(self, key: bytes) -> bytes | None:
        if self.lookup_error is not None:
            raise KernelError("lookup", self.lookup_error, [])
        return self.content.get(key)

    def take(self, key: bytes) -> bytes | None:
        return self.content.pop(key, None)


class FakeCounts:
    """The map beside it, on two CPUs."""

    def __init__(self, kernel: FakeMap) -> None:
        self._kernel = kernel
        self.value_layout = Layout(16, [("failures", 0, "Q", 1), ("births", 8, "Q", 1)], unnamed_holes=False)

    def lookup_per_cpu(self, key: bytes) -> list[bytes]:
        assert key == bytes(4)
        return [
            struct.pack("<QQ", 3, self._kernel.births // 3),
            struct.pack("<QQ", 4, -(-self._kernel.births * 2 // 3)),
        ]


def counter_of(kernel: FakeMap) -> Counter:
    return Counter(cast(Map, FakeCounts(kernel)))


@pytest.fixture
def kernel() -> FakeMap:
    return FakeMap()


def reader_of(kernel: FakeMap, *, batch: bool = True) -> CumulativeMap:
    return CumulativeMap(cast(Map, kernel), counter_of(kernel), batch=batch)


TABLE = Table((counter("kpod_totals_total", "Test.", "test"), latency("kpod_wait_seconds", "Test.", "test")))


def rows_of(entry: Entry) -> Iterator[Row]:
    yield Row(TABLE, entry.key[0], (), (entry.number("total"), entry.histogram("wait")), entry.epoch)


def read(reader: CumulativeMap) -> dict[int, tuple[int, list[int]]]:
    """One read: key to the total and the buckets."""
    found = {}
    for row in reader.read(rows_of):
        total, wait = row.values
        assert isinstance(total, int)
        assert isinstance(wait, Histogram)
        assert wait.sum_ns == (10 * total if wait.count else 0)
        found[row.owner] = (total, [*wait.buckets[:2]])
    return found


@pytest.mark.parametrize("batch", [True, False])
def test_running_totals(kernel: FakeMap, batch: bool) -> None:
    reader = reader_of(kernel, batch=batch)
    assert read(reader) == {}
    kernel.set(1, 100, 5, 1, 2)
    kernel.set(2, 100, 50, 0, 1)
    assert read(reader) == {1: (5, [1, 2]), 2: (50, [0, 1])}
    before = reader.read(rows_of)
    kernel.set(1, 100, 9, 1, 4)
    assert read(reader) == {1: (9, [1, 4]), 2: (50, [0, 1])}
    first, second = reader.read(rows_of)
    assert (first is before[0], second is before[1]) == (False, True), "of one that stands still it is the same row"
    assert (first.epoch, second.epoch) == (100, 100)
    assert (reader.entries, reader.evictions) == (2, 0)
    assert bool(kernel.rooms) == batch


def test_entry_born_again_is_an_eviction_and_counts_whole(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    kernel.set(1, 100, 5, 1, 2)
    read(reader)
    kernel.set(1, 200, 7, 3, 3)
    assert read(reader) == {1: (7, [3, 3])}
    assert reader.evictions == 1
    # Fewer than before shows it too late; the same number must not hide it.
    kernel.set(1, 300, 7, 3, 3)
    assert read(reader) == {1: (7, [3, 3])}
    assert reader.evictions == 2


def test_entry_that_is_gone_is_an_eviction_once(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    kernel.set(1, 100, 5)
    kernel.set(2, 100, 6)
    read(reader)
    kernel.evict(1)
    assert read(reader) == {2: (6, [0, 0])}
    assert (reader.evictions, reader.entries) == (1, 1)
    assert read(reader) == {2: (6, [0, 0])}
    assert reader.evictions == 1
    kernel.set(1, 300, 2)
    assert read(reader) == {1: (2, [0, 0]), 2: (6, [0, 0])}
    assert reader.evictions == 1


def test_entry_being_born_waits_for_the_next_read(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    kernel.set(1, 0, 3)
    assert read(reader) == {}
    assert reader.entries == 0
    kernel.set(1, 100, 4)
    assert read(reader) == {1: (4, [0, 0])}
    assert reader.evictions == 0


def test_entry_being_born_again_is_one_eviction(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    kernel.set(1, 100, 50)
    read(reader)
    kernel.set(1, 0, 3)
    assert read(reader) == {}
    assert reader.evictions == 1
    kernel.set(1, 200, 4)
    assert read(reader) == {1: (4, [0, 0])}
    assert reader.evictions == 1


def test_entries_created_and_evicted_between_two_reads_are_counted(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    kernel.set(1, 100, 5)
    read(reader)
    for key in range(2, 3002):
        kernel.set(key, 200, 1)
        kernel.evict(key)
    assert read(reader) == {1: (5, [0, 0])}
    assert (reader.entries, reader.evictions) == (1, 3000)


def test_births_that_are_not_counted_yet_make_no_count_smaller(kernel: FakeMap) -> None:
    """An entry is there before its birth is counted, and others are created between the two parts of a read."""
    reader = reader_of(kernel)
    kernel.set(1, 100, 5)
    kernel.births -= 1
    read(reader)
    assert reader.evictions == 0
    kernel.births += 1
    kernel.evict(1)
    read(reader)
    assert reader.evictions == 1
    for key in (2, 3):
        kernel.set(key, 200, 1)
    kernel.births -= 2
    read(reader)
    assert reader.evictions == 1
    kernel.births += 2
    read(reader)
    assert reader.evictions == 1


@given(st.lists(st.tuples(st.sampled_from(("birth", "eviction", "read", "forget")), st.integers(1, 6)), max_size=60))
def test_evicted_is_created_and_neither_there_nor_deleted(events: list[tuple[str, int]]) -> None:
    kernel = FakeMap()
    reader = reader_of(kernel)
    evicted = 0
    for at, (what, key) in enumerate(events):
        there = struct.pack("<Q", key) in kernel.content
        if what == "birth" and not there:
            kernel.set(key, at + 1, 1)
        elif what == "eviction" and there:
            kernel.evict(key)
            evicted += 1
        elif what == "read":
            read(reader)
            assert reader.evictions == evicted
        elif what == "forget":
            reader.forget(lambda of, key=key: of[0] == key)  # type: ignore[misc]
    read(reader)
    assert reader.evictions == evicted


COUNTS = st.integers(0, 3) | st.integers(0, WRAP - 1)


@given(st.lists(COUNTS, min_size=1, max_size=40))
@example([0, 0, 2**31, 0])
@example([0, 0])
def test_histogram_is_from_the_first_bucket_that_counted_to_the_last(buckets: list[int]) -> None:
    """Beside it, in the value, is something else."""
    size = len(buckets)
    layout = Layout(
        24 + 4 * size,
        [
            ("created_ns", 0, "Q", 1),
            ("wait.sum_ns", 8, "Q", 1),
            ("wait.buckets", 16, "I", size),
            ("end", 16 + 4 * size, "Q", 1),
        ],
        unnamed_holes=True,
    )
    found = Entry((1,), struct.pack(f"<QQ{size}IQ", 7, 9, *buckets, WRAP), layout).histogram("wait")
    counted = [at for at, count in enumerate(buckets) if count]
    first, end = (counted[0], counted[-1] + 1) if counted else (0, 0)
    assert (found.first, list(found.counts), found.sum_ns) == (first, buckets[first:end], 9 if counted else 0)


@pytest.mark.parametrize("batch", [True, False])
def test_failing_read_takes_nothing(kernel: FakeMap, batch: bool) -> None:
    reader = reader_of(kernel, batch=batch)
    kernel.set(1, 100, 5)
    kernel.set(2, 100, 6)
    read(reader)
    kernel.set(1, 100, 7)
    kernel.evict(2)
    kernel.batch_error = kernel.lookup_error = errno.EFAULT
    for _ in range(2):
        with pytest.raises(KernelError, match="EFAULT"):
            reader.read(rows_of)
    assert (reader.entries, reader.evictions) == (2, 0)
    kernel.batch_error = kernel.lookup_error = None
    assert read(reader) == {1: (7, [0, 0])}
    assert (reader.entries, reader.evictions) == (1, 1)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, 524, errno.EPERM])
def test_without_batch_it_iterates(kernel: FakeMap, number: int) -> None:
    reader = reader_of(kernel)
    kernel.batch_error = number
    assert not reader.has_batch()
    kernel.set(1, 100, 5)
    assert read(reader) == {1: (5, [0, 0])}
    kernel.set(1, 100, 6)
    kernel.set(2, 100, 1)
    assert read(reader) == {1: (6, [0, 0]), 2: (1, [0, 0])}
    assert len(kernel.rooms) == 1  # asked once, and remembered


def test_asking_for_batches_takes_nothing_as_read(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    kernel.set(1, 100, 5)
    assert reader.has_batch()
    assert read(reader) == {1: (5, [0, 0])}
    kernel.batch_error = errno.ENOMEM
    with pytest.raises(KernelError, match="ENOMEM"):
        reader.has_batch()


def test_other_errors_of_the_batch_call_are_raised(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    kernel.batch_error = errno.ENOMEM
    with pytest.raises(KernelError, match="ENOMEM"):
        reader.read(rows_of)
    kernel.batch_error = None
    kernel.set(1, 100, 5)
    assert read(reader) == {1: (5, [0, 0])}
    assert len(kernel.rooms) == 2


def test_batch_that_worked_and_fails_is_an_error(kernel: FakeMap) -> None:
    """EPERM after a success is a right that was taken away, no lack of the call."""
    reader = reader_of(kernel)
    kernel.set(1, 100, 5)
    read(reader)
    kernel.batch_error = errno.EPERM
    with pytest.raises(KernelError, match="EPERM"):
        reader.read(rows_of)


def test_iteration_that_starts_over_takes_each_key_once(kernel: FakeMap) -> None:
    reader = reader_of(kernel, batch=False)
    kernel.repeat = 1000
    for key in range(5):
        kernel.set(key, 100, 5)
    assert read(reader) == dict.fromkeys(range(5), (5, [0, 0]))
    assert reader.evictions == 0


def test_iteration_ends_though_keys_never_do(kernel: FakeMap) -> None:
    """As when entries are evicted and made faster than they are read: one more than there is room for is enough."""
    reader = reader_of(kernel, batch=False)
    kernel.max_entries = 10
    for key in range(100):
        kernel.set(key, 100, 5)
    assert read(reader) == dict.fromkeys(range(11), (5, [0, 0]))


def test_iteration_leaves_out_what_is_gone_between_key_and_value(kernel: FakeMap) -> None:
    reader = reader_of(kernel, batch=False)
    kernel.set(1, 100, 5)
    kernel.set(2, 100, 5)
    keys = list(kernel.content)
    kernel.iterate = lambda: iter(keys)  # type: ignore[method-assign]
    kernel.content.pop(keys[0])
    assert read(reader) == {2: (5, [0, 0])}


def test_room_grows_with_the_map(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    for key in range(100):
        kernel.set(key, 100, 1)
    read(reader)
    read(reader)
    assert kernel.rooms == [64, 200]


def test_forget_deletes_and_is_no_eviction(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    for key in (1, 2, 3):
        kernel.set(key, 100, 5)
    read(reader)
    assert reader.forget(lambda key: key[0] != 2) == 2
    assert [struct.unpack("<Q", key)[0] for key in kernel.content] == [2]
    assert read(reader) == {2: (5, [0, 0])}
    assert (reader.entries, reader.evictions) == (1, 0)
    kernel.set(1, 300, 2)
    assert read(reader) == {1: (2, [0, 0]), 2: (5, [0, 0])}


def test_events_between_the_read_and_the_deletion_are_in_late_rows(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    for key in (1, 2):
        kernel.set(key, 100, 5)
    read(reader)
    kernel.set(1, 100, 9)
    assert reader.forget(lambda _: True) == 2
    assert [(row.owner, row.values[0]) for row in reader.take_late()] == [(1, 9)]
    assert reader.take_late() == []


def test_forget_of_what_the_kernel_evicted_meanwhile(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    kernel.set(1, 100, 5)
    read(reader)
    kernel.evict(1)
    assert reader.forget(lambda _: True) == 1
    assert read(reader) == {}
    assert reader.evictions == 1


def test_forget_that_fails_forgets_nothing_undeleted(kernel: FakeMap, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(kernel)
    kernel.set(1, 100, 5)
    read(reader)

    def refuse(_: bytes) -> bytes | None:
        raise KernelError("delete", errno.EPERM, [])

    monkeypatch.setattr(kernel, "take", refuse)
    with pytest.raises(KernelError):
        reader.forget(lambda _: True)
    assert reader.entries == 1
    assert read(reader) == {1: (5, [0, 0])}


def test_a_map_is_crowded_if_it_is_nearly_full_or_entries_were_evicted(kernel: FakeMap) -> None:
    reader = reader_of(kernel)
    kernel.max_entries = 8
    for key in range(6):
        kernel.set(key, 100, 1)
    read(reader)
    assert not reader.is_crowded()
    kernel.evict(5)
    read(reader)
    assert [reader.is_crowded(), reader.is_crowded()] == [True, False]
    for key in (5, 6):
        kernel.set(key, 100, 1)
    read(reader)
    assert [reader.is_crowded(), reader.is_crowded()] == [True, True]


def test_containers_with_most_make_room_first(kernel: FakeMap) -> None:
    """Until half of the map is free. Entries of containers themselves, and of others, stay."""
    reader = reader_of(kernel)
    kernel.max_entries = 20
    for key in range(20):
        kernel.set(key, 100, 1)
    read(reader)
    containers = dict.fromkeys(range(3), 10) | dict.fromkeys(range(3, 9), 11) | dict.fromkeys(range(13, 18), 12)
    assert reader.make_room({**containers, 30: 10}) == {11: 6, 12: 5}
    assert set(read(reader)) == {*range(3), *range(9, 13), 18, 19}
    assert (reader.entries, reader.evictions) == (9, 0)
    assert reader.make_room(containers) == {}
    for key in range(20, 24):
        kernel.set(key, 100, 1)
    read(reader)
    assert reader.make_room({}) == {}
    assert reader.make_room(containers) == {10: 3}
    assert reader.entries == 10


def test_counts_are_summed_over_the_cpus(kernel: FakeMap) -> None:
    for key in range(5):
        kernel.set(key, 100, 1)
    assert counter_of(kernel).read() == MapCounts(failures=7, births=5)
    reader = reader_of(kernel)
    assert reader.failures == 0
    read(reader)
    assert reader.failures == 7
