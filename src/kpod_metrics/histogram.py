"""Histogram slots as the kernel programs fill them (`bpf/kpod.bpf.h`), and the buckets exported from them.

Slots are exponential with four an octave (Prometheus native histogram schema 2) in units of seconds:
slot `i` holds observations in `(2**((i-1)/4 - 20), 2**(i/4 - 20)]` seconds, slot 0 all at or below
`2**-20` s (0.95 us), the last slot all above `2**6` s.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import add, index, itemgetter

SCHEMA = 2
SLOTS_PER_OCTAVE = 1 << SCHEMA
MIN_EXPONENT = -20
"""log2 of the lowest bound, in seconds."""
MAX_EXPONENT = 6
"""log2 of the highest finite bound, in seconds."""
FIRST_INDEX = MIN_EXPONENT * SLOTS_PER_OCTAVE
"""Index in schema 2 of the bucket that ends where slot 0 does: slot `i` is the bucket of index `i + FIRST_INDEX`."""
SLOTS = (MAX_EXPONENT - MIN_EXPONENT) * SLOTS_PER_OCTAVE + 2


class Histogram:
    """Observations by slot, and their sum in nanoseconds. An object never changes: a sum is another one.

    Only the slots from the first to the last that ever counted are kept: most have few, and there are many histograms.
    """

    __slots__ = ("counts", "first", "sum_ns")

    def __init__(self, counts: Sequence[int] = (), sum_ns: int = 0, first: int = 0) -> None:
        """`counts` are of the slots from `first` on; raises ValueError for slots that are not there."""
        if first < 0 or first + len(counts) > SLOTS:
            raise ValueError(f"slots {first} to {first + len(counts)} of {SLOTS}")
        self.counts, self.first, self.sum_ns = counts, first, sum_ns

    def __add__(self, other: "Histogram") -> "Histogram":
        """Return the observations of both."""
        mine, at = self.counts, other.first - self.first
        sum_ns, end = self.sum_ns + other.sum_ns, at + len(other.counts)
        if not other.counts:
            return Histogram(mine, sum_ns, self.first)
        if not mine:
            return Histogram([*map(index, other.counts)], sum_ns, other.first)
        if at < 0 or end > len(mine):
            # A list taken less than once is empty.
            wider = [0] * -at + [*mine] + [0] * (end - len(mine))
            return Histogram(wider, self.sum_ns, min(self.first, other.first)) + other
        total = [*mine]
        total[at:end] = map(add, mine[at:end], other.counts)
        return Histogram(total, sum_ns, self.first)

    def __sub__(self, before: "Histogram") -> "Histogram":
        """Return what was observed since an earlier total of the same 32-bit counts, which may have wrapped."""
        at, end = before.first - self.first, before.first - self.first + len(before.counts)
        if before.counts and (at < 0 or end > len(self.counts)):
            return Histogram(self.slots, self.sum_ns) - before
        grown = [*self.counts]
        grown[at:end] = [now - then & 0xFFFFFFFF for now, then in zip(grown[at:end], before.counts, strict=True)]
        return Histogram(grown, self.sum_ns - before.sum_ns, self.first)

    @property
    def slots(self) -> Sequence[int]:
        """The counts of all slots."""
        return [0] * self.first + [*self.counts] + [0] * (SLOTS - self.first - len(self.counts))

    @property
    def count(self) -> int:
        """Observations in all."""
        return sum(self.counts)

    @property
    def zeros(self) -> int:
        """Observations in slot 0, which is the zero bucket of other formats."""
        return self.counts[0] if self.counts and not self.first else 0

    def at_or_below(self, ends: tuple[int, ...]) -> tuple[int, ...]:
        """Return for each of these slots, two or more, the observations at or below its upper bound."""
        return _picked(ends, self.first, len(self.counts))([0, *accumulate(self.counts)])


EMPTY = Histogram()


@lru_cache(2048)
def _picked(ends: tuple[int, ...], first: int, length: int) -> Callable[[list[int]], tuple[int, ...]]:
    """Return what picks them out of the sums of no, one, two slots and so on."""
    return itemgetter(*[min(max(0, end + 1 - first), length) for end in ends])


def upper_bound(slot: int) -> float:
    """Inclusive upper bound of a slot, in seconds; infinity for the last one."""
    if slot >= SLOTS - 1:
        return float("inf")
    return float(2.0 ** (slot / SLOTS_PER_OCTAVE + MIN_EXPONENT))


def slot_of_exponent(exponent: int) -> int:
    """Return the slot whose upper bound is `2**exponent` seconds."""
    if not MIN_EXPONENT <= exponent <= MAX_EXPONENT:
        raise ValueError(f"no slot ends at 2**{exponent} s: {MIN_EXPONENT} to {MAX_EXPONENT} are there")
    return (exponent - MIN_EXPONENT) * SLOTS_PER_OCTAVE


def quantile(slots: Sequence[int], q: float) -> float:
    """Estimate the `q`-quantile (0 to 1) in seconds, as Prometheus does for a native histogram.

    Interpolates exponentially within the slot (prometheus/promql/quantile.go, since 2.50); NaN without observations.
    """
    total = sum(slots)
    if not total:
        return float("nan")
    rank = q * total
    below = 0
    for slot, count in enumerate(slots):
        if count and below + count >= rank:
            high = upper_bound(min(slot, SLOTS - 2))
            if slot in {0, SLOTS - 1}:
                return high
            fraction = (rank - below) / count
            return float(high * 2.0 ** ((fraction - 1) / SLOTS_PER_OCTAVE))
        below += count
    return upper_bound(SLOTS - 2)
