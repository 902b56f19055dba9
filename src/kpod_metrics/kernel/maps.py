"""Reads a metric map without disturbing it: values are running totals, and a read deletes nothing.

An entry's identity is its key and the `created_ns` at the start of its value. The map is an LRU: the kernel evicts
entries when it is full. The events between the last read and the eviction are lost. The programs count the entries that
they create, so evictions are counted even if no read ever saw the entry.
"""

import errno
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from kpod_metrics.histogram import EMPTY, Histogram
from kpod_metrics.kernel.btf import Layout
from kpod_metrics.kernel.libbpf import KernelError, Map
from kpod_metrics.metrics import Row

MIN_MAP_ENTRIES = 10_240
MAP_ENTRIES_PER_CPU = 256
"""An LRU map keeps a reserve of free entries for each CPU; on many CPUs the reserves alone exhaust a small map."""
_CROWDED = 3 / 4
"""Share of a map's entries from which on containers must make room: below it, a burst of new pods finds some."""

_CREATED = 8
"""Bytes of `created_ns`, the first field of every value."""
_BEING_CREATED = bytes(_CREATED)

_NOT_SUPPORTED = {errno.EINVAL, errno.EOPNOTSUPP, 524, errno.EPERM}
"""The errors of kernels without the batch call, or without it for this type of map (524 is ENOTSUPP)."""


def map_entries(cpus: int) -> int:
    """Return the default capacity of a metric map."""
    return max(MIN_MAP_ENTRIES, MAP_ENTRIES_PER_CPU * cpus)


class MapCounts(NamedTuple):
    """What happened to a map since load: `struct map_counts` of bpf/kpod.bpf.h."""

    failures: int
    """Updates that failed."""
    births: int
    """Entries that programs created, if it is a metric map."""


class Counter:
    """The reader of the `MapCounts` of one map."""

    def __init__(self, source: Map) -> None:
        self._source, self._unpack = source, source.value_layout.unpack

    def read(self) -> MapCounts:
        """Return the sums over all CPUs (plain lookup: 5.10 has no batch for per-CPU arrays)."""
        per_cpu = map(self._unpack, self._source.lookup_per_cpu(bytes(4)))
        return MapCounts(*map(sum, zip(*per_cpu, strict=True)))


class Entry:
    """One entry of a map: the fields of its key, and running totals by the field names of its value in C."""

    __slots__ = ("_fields", "_value", "epoch", "key")

    def __init__(self, key: tuple[int, ...], value: bytes, layout: Layout) -> None:
        self.key, self._value, self._fields = key, value, layout.fields
        self.epoch = int.from_bytes(value[:_CREATED], sys.byteorder)
        """When the kernel created it: all its totals were 0 then."""

    def number(self, name: str) -> int:
        """Return a 64-bit number."""
        at = self._fields[name].offset
        return int.from_bytes(self._value[at : at + 8], sys.byteorder)

    def histogram(self, name: str) -> Histogram:
        """Return a `struct histogram`, from the first to the last bucket that ever counted."""
        field = self._fields[f"{name}.buckets"]
        counts = self._value[field.offset : field.offset + field.size]
        low, end = (field.size - len(counts.lstrip(b"\0"))) // 4, (len(counts.rstrip(b"\0")) + 3) // 4
        sum_ns = self.number(f"{name}.sum_ns")
        return Histogram(array("I", counts[4 * low : 4 * end]), sum_ns, low) if low < end else EMPTY


class CumulativeMap:
    """The reader of one metric map; not shared between threads."""

    def __init__(self, source: Map, counter: Counter, *, batch: bool = True) -> None:
        """`counter` has the births. Without `batch` keys are read one by one."""
        self.map, self._counter = source, counter
        self._batch = batch
        self._key, self.layout = source.key_layout, source.value_layout
        self._seen: dict[bytes, tuple[int, int, tuple[Row, ...]]] = {}
        """Every entry of the last read: the hash of its value, when the kernel created it, and its rows."""
        self._rows_of: Callable[[Entry], Iterable[Row]] = lambda entry: ()
        self._late: list[Row] = []
        self.failures = 0
        """Updates that failed until the last read."""
        self._evicted_before = 0
        """Evictions at the last look for room."""
        self._deleted = 0
        """Entries that this reader deleted."""
        self.evictions = 0
        """Evictions by the kernel until the last read: the entries that were created, but are neither there nor
        deleted. If entries were created during the read, some evictions count only in the next read."""

    @property
    def entries(self) -> int:
        """Entries at the last read."""
        return len(self._seen)

    def has_batch(self) -> bool:
        """Whether the kernel reads this map in batches: tries one call, which does not count as a read."""
        if self._batch:
            try:
                self.map.lookup_batch(1)
            except KernelError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
                self._batch = False
        return self._batch

    def read(self, rows_of: Callable[[Entry], Iterable[Row]]) -> list[Row]:
        """Return the rows of all entries: the same objects as in the last read if the value is the same.

        Two values with the same hash (1 in 2**64) count as the same until the entry changes again.
        """
        self._rows_of = rows_of
        seen: dict[bytes, tuple[int, int, tuple[Row, ...]]] = {}
        rows: list[Row] = []
        # Before the map: an entry that is created in between must not be missing from it.
        counts = self._counter.read()
        present = 0
        # Room for twice the entries of the last read: one call is then usually enough.
        room = max(64, 2 * len(self._seen))
        for key, value in self.map.lookup_batch(room) if self._batch else self._one_by_one():
            present += 1
            before, hashed = self._seen.get(key), hash(value)
            if before is not None and before[0] == hashed:
                seen[key] = before
            elif value[:_CREATED] == _BEING_CREATED:
                # Another CPU is creating it: the next read has it, with all its totals.
                if before is not None:
                    seen[key] = before
                continue
            else:
                entry = Entry(self._key.unpack(key), value, self.layout)
                seen[key] = hashed, entry.epoch, tuple(rows_of(entry))
            rows += seen[key][2]
        self.evictions = max(self.evictions, counts.births - present - self._deleted)
        self._seen, self.failures = seen, counts.failures
        return rows

    def _one_by_one(self) -> Iterable[tuple[bytes, bytes]]:
        found: dict[bytes, bytes] = {}
        # get_next_key starts again if its key was evicted meanwhile: the dict takes each key once.
        for key in self.map.iterate():
            if (value := self.map.lookup(key)) is not None:
                found[key] = value
            if len(found) > self.map.max_entries:
                break
        return found.items()

    def forget(self, gone: Callable[[tuple[int, ...]], bool]) -> int:
        """Delete the entries whose key is `gone`, after their last read; return how many there were."""
        return self._delete([key for key in self._seen if gone(self._key.unpack(key))])

    def _delete(self, keys: Sequence[bytes]) -> int:
        for key in keys:
            value = self.map.take(key)
            if value is not None:  # else the kernel evicted it meanwhile
                self._deleted += 1
                if hash(value) != self._seen[key][0]:
                    self._late += self._rows_of(Entry(self._key.unpack(key), value, self.layout))
            del self._seen[key]
        return len(keys)

    def take_late(self) -> list[Row]:
        """Return the rows of deleted entries that had more events after the last read."""
        late, self._late = self._late, []
        return late

    def is_crowded(self) -> bool:
        """Whether the map is nearly full, or entries were evicted since the last call of this."""
        evicted, self._evicted_before = self.evictions > self._evicted_before, self.evictions
        return evicted or self.entries > _CROWDED * self.map.max_entries

    def make_room(self, containers: Mapping[int, int]) -> dict[int, int]:
        """Delete entries of cgroups below containers, of those with most first, until half of the map is free.

        `containers` has the container of each such cgroup: from now on programs charge its entry. Such entries are from
        before the container was known. Return how many each container had. Call this after a read.
        """
        held: dict[int, list[bytes]] = {}
        for key in self._seen:
            container = containers.get(self._key.unpack(key)[0])
            if container is not None:
                held.setdefault(container, []).append(key)
        deleted = {}
        for container, keys in sorted(held.items(), key=lambda item: len(item[1]), reverse=True):
            if self.entries <= self.map.max_entries / 2:
                break
            deleted[container] = self._delete(keys)
        return deleted
