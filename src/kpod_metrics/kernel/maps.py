"""Reads a metric map without disturbing it: values are cumulative, differences are made here.

An entry's identity is its key and the `born_ns` that its value begins with. An entry whose `born_ns` changed, or that
is gone though nobody deleted it, was evicted by the kernel (the map is an LRU): that is counted, and the value of one
born again is added whole. What it counted between the last read and its eviction cannot be known.
"""

import errno
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from operator import sub

from kpod_metrics.kernel.btf import Field
from kpod_metrics.kernel.libbpf import KernelError, Map

_BORN = 8
"""Bytes of `born_ns`, the first field of every value."""
_UNBORN = bytes(_BORN)
_NUMBER = struct.Struct("=Q")
_numbers32 = cache(lambda count: struct.Struct(f"={count}I"))

_NOT_SUPPORTED = {errno.EINVAL, errno.EOPNOTSUPP, 524, errno.EPERM}
"""What kernels answer that lack the batch call, or have it not for this type of map (524 is ENOTSUPP)."""


class Delta:
    """What one entry grew by since the last read. Values are as the kernel has them, in the machine's byte order."""

    __slots__ = ("before", "key", "now")

    def __init__(self, key: tuple[int, ...], now: bytes, before: bytes) -> None:
        self.key, self.now, self.before = key, now, before

    def number(self, field: Field) -> int:
        """Growth of a 64-bit number."""
        at = field.offset
        [now], [before] = _NUMBER.unpack_from(self.now, at), _NUMBER.unpack_from(self.before, at)
        return int(now - before)

    def array32(self, field: Field) -> tuple[int, Sequence[int]]:
        """Growth of an array of 32-bit numbers, which may have wrapped: the first that changed, and all to the last.

        Of a histogram's 106 slots a cycle changes some that lie together: two comparisons of the whole find them.
        """
        at, end = field.offset, field.offset + field.size
        now, before = self.now, self.before
        changed = int.from_bytes(now[at:end], "little") ^ int.from_bytes(before[at:end], "little")
        if not changed:
            return 0, ()
        low, high = ((changed & -changed).bit_length() - 1) // 32, (changed.bit_length() + 31) // 32
        numbers, at = _numbers32(high - low), at + 4 * low
        grown = map(sub, numbers.unpack_from(now, at), numbers.unpack_from(before, at))
        return low, [number & 0xFFFFFFFF for number in grown]


class CumulativeMap:
    """The reader of one metric map; not shared between threads."""

    def __init__(self, source: Map, failures: Map, *, batch: bool = True) -> None:
        """`failures` is the map's per-CPU counter of failed updates; without `batch` keys are read one by one."""
        self.map = source
        self._failures = failures
        self._batch = batch
        self._key, self.layout = source.key_layout, source.value_layout
        self._zero = bytes(self.layout.size)
        self._seen: dict[bytes, bytes] = {}
        self.evictions = 0
        """Entries that the kernel evicted, as far as reads could tell."""

    @property
    def entries(self) -> int:
        """Entries at the last read."""
        return len(self._seen)

    def has_batch(self) -> bool:
        """Whether the kernel reads this map in batches: one call, which takes nothing as read."""
        if self._batch:
            try:
                self.map.lookup_batch(1)
            except KernelError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
                self._batch = False
        return self._batch

    def update_errors(self) -> int:
        """Updates that failed in the kernel since the programs were loaded."""
        return failed_updates(self._failures)

    def read(self) -> list[Delta]:
        """Return what changed since the last read; nothing is taken as read if the read fails."""
        seen: dict[bytes, bytes] = {}
        deltas = []
        evicted = 0
        for key, value in self._entries():
            before = self._seen.get(key)
            if value[:_BORN] == _UNBORN:
                # Being born on another CPU right now: the next read has it, with all it counted.
                if before is not None:
                    seen[key] = before
                continue
            seen[key] = value
            if value == before:
                continue
            if before is not None and before[:_BORN] != value[:_BORN]:
                evicted += 1
                before = None
            deltas.append(Delta(self._key.unpack(key), value, before or self._zero))
        # An entry in the middle of being born again counts as evicted once it is there.
        evicted += sum(1 for key in self._seen if key not in seen)
        self.evictions += evicted
        self._seen = seen
        return deltas

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        if self._batch:
            # Twice what was there leaves room for what comes; the kernel fills it in one call.
            count, keys, values = self.map.lookup_batch(max(64, 2 * len(self._seen)))
            key_size, value_size = self.map.key_size, self.map.value_size
            for i in range(count):
                yield (
                    bytes(keys[i * key_size : (i + 1) * key_size]),
                    bytes(values[i * value_size : (i + 1) * value_size]),
                )
            return
        found: dict[bytes, bytes] = {}
        # get_next_key starts over when its key was evicted meanwhile: the dict takes each key once.
        for key in self.map.iterate():
            if (value := self.map.lookup(key)) is not None:
                found[key] = value
            if len(found) > self.map.max_entries:
                break
        yield from found.items()

    def forget(self, gone: Callable[[tuple[int, ...]], bool]) -> int:
        """Delete the entries whose key is `gone`, after their last read; return how many there were."""
        doomed = [key for key in self._seen if gone(self._key.unpack(key))]
        for key in doomed:
            self.map.delete(key)
            del self._seen[key]
        return len(doomed)


def failed_updates(counter: Map) -> int:
    """Sum a per-CPU counter of failed updates (plain lookup: 5.10 has no batch for per-CPU arrays)."""
    return sum(int.from_bytes(value, "little") for value in counter.lookup_per_cpu(bytes(4)))
