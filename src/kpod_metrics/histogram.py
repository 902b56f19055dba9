"""Histograms with the buckets of the kernel programs (`bpf/kpod.bpf.h`).

Buckets are exponential, four per octave (schema 2 of Prometheus' native histograms), in seconds: bucket `i` has the
observations in `(2**((i-1)/4 - 20), 2**(i/4 - 20)]`, bucket 0 all up to `2**-20` s (0.95 us), the last one all above
`2**6` s. A classic bucket ends where one of these does.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import add, index, itemgetter, sub

SCHEMA = 2
BUCKETS_PER_OCTAVE = 1 << SCHEMA
MIN_EXPONENT = -20
"""log2 of the lowest bound, in seconds."""
MAX_EXPONENT = 6
"""log2 of the highest finite bound, in seconds."""
FIRST_INDEX = MIN_EXPONENT * BUCKETS_PER_OCTAVE
"""Bucket `i` has the index `i + FIRST_INDEX` in schema 2."""
BUCKETS = (MAX_EXPONENT - MIN_EXPONENT) * BUCKETS_PER_OCTAVE + 2


class Histogram:
    """Observations by bucket, and their sum in nanoseconds. Immutable.

    It has only the buckets from the first to the last with observations: usually few, and there are many histograms.
    """

    __slots__ = ("counts", "first", "sum_ns")

    def __init__(self, counts: Sequence[int] = (), sum_ns: int = 0, first: int = 0) -> None:
        """`counts` are those of the buckets from `first` on; raises ValueError for buckets out of range."""
        if first < 0 or first + len(counts) > BUCKETS:
            raise ValueError(f"buckets {first} to {first + len(counts)} of {BUCKETS}")
        self.counts, self.first, self.sum_ns = counts, first, sum_ns

    def __add__(self, other: "Histogram") -> "Histogram":
        """Return the sum of both histograms."""
        mine, at = self.counts, other.first - self.first
        sum_ns, end = self.sum_ns + other.sum_ns, at + len(other.counts)
        if not other.counts:
            return Histogram(mine, sum_ns, self.first)
        if not mine:
            return Histogram([*map(index, other.counts)], sum_ns, other.first)
        if at < 0 or end > len(mine):
            # A list repeated a negative number of times is empty.
            wider = [0] * -at + [*mine] + [0] * (end - len(mine))
            return Histogram(wider, self.sum_ns, min(self.first, other.first)) + other
        total = [*mine]
        total[at:end] = map(add, mine[at:end], other.counts)
        return Histogram(total, sum_ns, self.first)

    def __sub__(self, before: "Histogram") -> "Histogram":
        """Return the observations since an earlier total of the same 32-bit counts, which may have wrapped."""
        at, end = before.first - self.first, before.first - self.first + len(before.counts)
        if before.counts and (at < 0 or end > len(self.counts)):
            return Histogram(self.buckets, self.sum_ns) - before
        grown = [*self.counts]
        grown[at:end] = map(sub, grown[at:end], before.counts)
        if min(grown, default=0) < 0:
            grown = [count & 0xFFFFFFFF for count in grown]
        return Histogram(grown, self.sum_ns - before.sum_ns, self.first)

    @property
    def buckets(self) -> Sequence[int]:
        """The counts of all buckets."""
        return [0] * self.first + [*self.counts] + [0] * (BUCKETS - self.first - len(self.counts))

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.counts)

    @property
    def zeros(self) -> int:
        """The observations in bucket 0, the zero bucket of native histograms."""
        return self.counts[0] if self.counts and not self.first else 0

    def at_or_below(self, ends: tuple[int, ...]) -> tuple[int, ...]:
        """Return the observations at or below the upper bound of each of these buckets (two or more)."""
        return _picked(ends, self.first, len(self.counts))([0, *accumulate(self.counts)])


EMPTY = Histogram()


@lru_cache(2048)
def _picked(ends: tuple[int, ...], first: int, length: int) -> Callable[[list[int]], tuple[int, ...]]:
    """Return a getter for their items in the list of cumulative sums, which begins with 0."""
    return itemgetter(*[min(max(0, end + 1 - first), length) for end in ends])


def upper_bound(bucket: int) -> float:
    """Return the inclusive upper bound of a bucket, in seconds; infinity for the last one."""
    if bucket >= BUCKETS - 1:
        return float("inf")
    return float(2.0 ** (bucket / BUCKETS_PER_OCTAVE + MIN_EXPONENT))


def bucket_of_exponent(exponent: int) -> int:
    """Return the bucket whose upper bound is `2**exponent` seconds."""
    if not MIN_EXPONENT <= exponent <= MAX_EXPONENT:
        raise ValueError(f"no bucket ends at 2**{exponent} s: exponents are {MIN_EXPONENT} to {MAX_EXPONENT}")
    return (exponent - MIN_EXPONENT) * BUCKETS_PER_OCTAVE


def quantile(buckets: Sequence[int], q: float) -> float:
    """Estimate the `q`-quantile (0 to 1) in seconds, as Prometheus does for a native histogram.

    Interpolates exponentially within the bucket (prometheus/promql/quantile.go, since 2.50); NaN without observations.
    """
    total = sum(buckets)
    if not total:
        return float("nan")
    rank = q * total
    below = 0
    for bucket, count in enumerate(buckets):
        if count and below + count >= rank:
            high = upper_bound(min(bucket, BUCKETS - 2))
            if bucket in {0, BUCKETS - 1}:
                return high
            fraction = (rank - below) / count
            return float(high * 2.0 ** ((fraction - 1) / BUCKETS_PER_OCTAVE))
        below += count
    return upper_bound(BUCKETS - 2)
