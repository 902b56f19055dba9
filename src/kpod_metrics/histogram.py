"""Histogram slots as the kernel programs fill them (`bpf/kpod.bpf.h`), and the buckets exported from them.

Slots are exponential with four an octave (Prometheus native histogram schema 2) in units of seconds:
slot `i` holds observations in `(2**((i-1)/4 - 20), 2**(i/4 - 20)]` seconds, slot 0 all at or below
`2**-20` s (0.95 us), the last slot all above `2**6` s.
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import add

SCHEMA = 2
SLOTS_PER_OCTAVE = 1 << SCHEMA
MIN_EXPONENT = -20
"""log2 of the lowest bound, in seconds."""
MAX_EXPONENT = 6
"""log2 of the highest finite bound, in seconds."""
FIRST_INDEX = MIN_EXPONENT * SLOTS_PER_OCTAVE
"""Index in schema 2 of the bucket that ends where slot 0 does: slot `i` is the bucket of index `i + FIRST_INDEX`."""
SLOTS = (MAX_EXPONENT - MIN_EXPONENT) * SLOTS_PER_OCTAVE + 2
_EMPTY = (0,) * SLOTS


class Histogram:
    """Observations by slot, and their sum in nanoseconds. An object never changes: `plus` makes another."""

    __slots__ = ("slots", "sum_ns")

    def __init__(self, slots: Sequence[int] = _EMPTY, sum_ns: int = 0) -> None:
        """`slots` has SLOTS counts; raises ValueError for another number."""
        if len(slots) != SLOTS:
            raise ValueError(f"{len(slots)} slots, not {SLOTS}")
        self.slots = slots
        self.sum_ns = sum_ns

    def plus(self, slots: Sequence[int], sum_ns: int, first: int = 0) -> "Histogram":
        """Return this total and what was observed since: `slots` has the counts of some, from `first` on.

        Raises ValueError for counts of slots that are not there.
        """
        end = first + len(slots)
        if not 0 <= first <= end <= SLOTS:
            raise ValueError(f"slots {first} to {end} of {SLOTS}")
        total = list(self.slots)
        total[first:end] = map(add, total[first:end], slots)
        return Histogram(total, self.sum_ns + sum_ns)

    @property
    def count(self) -> int:
        """Observations in all."""
        return sum(self.slots)

    def cumulative(self) -> list[int]:
        """For each slot, the observations at or below its upper bound; the last is the count."""
        return list(accumulate(self.slots))


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
