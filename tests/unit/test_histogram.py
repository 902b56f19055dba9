"""Histogram buckets: the model, the C function that the kernel programs run, and the quantiles read back from them."""

import ctypes
import math
import random
import subprocess
from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics import histogram
from kpod_metrics.histogram import BUCKETS, Histogram, bucket_of_exponent, quantile, upper_bound
from kpod_metrics.metrics import LATENCY_EXPONENTS

BPF = Path(__file__).parent.parent.parent / "bpf"
FACTOR = 2**0.25


def fits(ns: int, bucket: int) -> bool:
    """Whether ns <= 2**(bucket/4 - 20) s, in whole numbers: both sides to the fourth power, times 10**36 * 2**80."""
    return bool(ns**4 * 2**80 <= 10**36 * 2**bucket)


def floor_bound(bucket: int) -> int:
    """The most nanoseconds that a finite bucket holds."""
    low, high = 0, 2**40
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle, bucket) else (low, middle - 1)
    return low


BOUNDS = [floor_bound(bucket) for bucket in range(BUCKETS - 1)]


def model(ns: int) -> int:
    """The bucket of an observation: the first whose bound is not below it."""
    return bisect_left(BOUNDS, ns)


NEAR_BOUNDS = [bound + off for bound in BOUNDS for off in range(-3, 4)]


def test_buckets_are_the_format() -> None:
    assert (histogram.SCHEMA, histogram.BUCKETS_PER_OCTAVE, histogram.FIRST_INDEX, BUCKETS) == (2, 4, -80, 106)
    assert len(BOUNDS) == BUCKETS - 1


def test_bounds_rise_from_a_microsecond_to_a_minute() -> None:
    bounds = [upper_bound(bucket) for bucket in range(BUCKETS)]
    assert all(low < high for low, high in pairwise(bounds))
    assert bounds[0] <= 1e-6
    assert bounds[-2] >= 60
    assert bounds[-1] == math.inf
    assert upper_bound(BUCKETS + 10) == math.inf
    assert [high / low for low, high in pairwise(bounds[:-1])] == pytest.approx([FACTOR] * (BUCKETS - 2))


def test_bounds_are_those_of_the_whole_number_model() -> None:
    for bucket, bound in enumerate(BOUNDS):
        assert fits(bound, bucket)
        assert not fits(bound + 1, bucket)
        assert bound <= upper_bound(bucket) * 1e9 + 1e-4 < bound + 1


@pytest.mark.parametrize("exponent", range(histogram.MIN_EXPONENT, histogram.MAX_EXPONENT + 1))
def test_octaves_are_powers_of_two_seconds(exponent: int) -> None:
    assert upper_bound(bucket_of_exponent(exponent)) == 2.0**exponent


@pytest.mark.parametrize("exponent", [-21, 7])
def test_no_bucket_outside(exponent: int) -> None:
    with pytest.raises(ValueError, match="-20 to 6"):
        bucket_of_exponent(exponent)


def test_classic_buckets_are_bucket_bounds() -> None:
    assert [upper_bound(bucket_of_exponent(e)) for e in LATENCY_EXPONENTS] == [2.0**e for e in LATENCY_EXPONENTS]
    assert LATENCY_EXPONENTS[0] == histogram.MIN_EXPONENT
    assert LATENCY_EXPONENTS[-1] == histogram.MAX_EXPONENT


@pytest.fixture(scope="module")
def bucket_in_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], int]:
    """`histogram_bucket` of bpf/kpod.bpf.h, compiled for this machine."""
    folder = tmp_path_factory.mktemp("bucket")
    source, library = folder / "bucket.c", folder / "bucket.so"
    source.write_text('#include "kpod.bpf.h"\n__u32 bucket_of(__u64 ns) { return histogram_bucket(ns); }\n')
    headers = [f"-I{path.parent}" for path in Path("/usr/include").glob("*/asm")]
    # -w: attributes of the bpf target mean nothing here; what is tested has none.
    command = ["clang", "-O2", "-w", "-shared", "-fPIC", f"-I{BPF}", *headers, "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).bucket_of
    function.restype, function.argtypes = ctypes.c_uint32, [ctypes.c_uint64]
    return function


def test_c_equals_model_at_every_bound(bucket_in_c: Callable[[int], int]) -> None:
    assert [(ns, bucket_in_c(ns)) for ns in NEAR_BOUNDS] == [(ns, model(ns)) for ns in NEAR_BOUNDS]


def test_c_equals_model_at_random(bucket_in_c: Callable[[int], int]) -> None:
    generator = random.Random(1)
    observed = [*range(3000)]
    observed += [int(2 ** generator.uniform(0, 38)) for _ in range(100_000)]
    observed += [2**power + off for power in range(2, 63) for off in (-1, 0, 1)] + [2**64 - 1]
    for ns in observed:
        assert bucket_in_c(ns) == model(ns), ns


def test_c_buckets_stay_inside(bucket_in_c: Callable[[int], int]) -> None:
    assert bucket_in_c(0) == 0
    assert bucket_in_c(64_000_000_000) == BUCKETS - 2
    assert bucket_in_c(64_000_000_001) == bucket_in_c(2**64 - 1) == BUCKETS - 1


def test_histogram_adds_up() -> None:
    first = Histogram() + Histogram([1] * BUCKETS, 5)
    second = first + Histogram([3, 2] + [0] * (BUCKETS - 2), 8)
    assert (first.count, first.sum_ns) == (BUCKETS, 5)
    assert (second.count, second.sum_ns) == (BUCKETS + 5, 13)
    assert second.buckets[:3] == [4, 3, 1]
    third = second + Histogram([1, 2], 3, first=BUCKETS - 2)
    assert (third.count, third.buckets[-3:], third.sum_ns) == (BUCKETS + 8, [1, 2, 3], 16)
    fourth = third + Histogram([], 1)
    assert (fourth.buckets, fourth.sum_ns) == (third.buckets, 17)
    with pytest.raises(ValueError, match="buckets 105 to 107 of 106"):
        Histogram([1, 2], 3, first=BUCKETS - 1)
    with pytest.raises(ValueError, match="buckets -1 to 0 of 106"):
        Histogram([1], 3, first=-1)
    with pytest.raises(ValueError, match="buckets 0 to 107 of 106"):
        Histogram([1] * (BUCKETS + 1))


@given(
    st.lists(
        st.tuples(st.integers(0, BUCKETS), st.lists(st.integers(0, 2**40), max_size=BUCKETS), st.integers(0, 2**50)),
        max_size=5,
    ),
    st.lists(st.integers(0, BUCKETS - 1), min_size=2, max_size=BUCKETS),
)
def test_histogram_of_few_buckets_equals_one_of_all(added: list[tuple[int, list[int], int]], ends: list[int]) -> None:
    total, dense, sum_ns = Histogram(), [0] * BUCKETS, 0
    for first, some, ns in added:
        counts = some[: BUCKETS - first]
        before = list(total.buckets)
        grown = total + Histogram(counts, ns, first)
        assert total.buckets == before, "an object never changes"
        total, sum_ns = grown, sum_ns + ns
        for bucket, count in enumerate(counts, first):
            dense[bucket] += count
        assert (total.buckets, total.sum_ns, total.count, total.zeros) == (dense, sum_ns, sum(dense), dense[0])
        assert total.at_or_below(tuple(ends)) == tuple(sum(dense[: end + 1]) for end in ends)


def bucketed(observed: list[int]) -> list[int]:
    buckets = [0] * BUCKETS
    for ns in observed:
        buckets[model(ns)] += 1
    return buckets


def exact(ordered: list[int], q: float) -> float:
    """The smallest observation that at least `q` of all are at or below, in seconds."""
    return ordered[max(math.ceil(q * len(ordered)) - 1, 0)] / 1e9


@given(
    st.lists(st.integers(BOUNDS[0] + 1, BOUNDS[-1]), min_size=1, max_size=200),
    st.floats(0, 1) | st.sampled_from([0.5, 0.9, 0.99]),
)
def test_quantile_is_within_one_bucket(observed: list[int], q: float) -> None:
    true = exact(sorted(observed), q)
    assert true / FACTOR * (1 - 1e-9) <= quantile(bucketed(observed), q) <= true * FACTOR * (1 + 1e-9)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=50))
def test_quantile_rises_with_q(observed: list[int]) -> None:
    buckets = bucketed(observed)
    estimates = [quantile(buckets, q / 20) for q in range(21)]
    assert estimates == sorted(estimates)


def test_quantile_at_the_ends() -> None:
    assert math.isnan(quantile([0] * BUCKETS, 0.5))
    assert quantile(bucketed([1, 2]), 0.5) == 2.0**-20
    # Nothing is known above the last finite bound but that: as Prometheus, it is what is answered.
    assert quantile(bucketed([10**12]), 0.5) == 64.0


def bimodal(generator: random.Random) -> float:
    if generator.random() < 0.8:
        return generator.lognormvariate(math.log(2e-4), 0.4)
    return generator.lognormvariate(math.log(5e-2), 0.3)


SHAPES: list[Callable[[random.Random, float], float]] = [
    lambda g, scale: g.lognormvariate(math.log(scale), 1.0),
    lambda g, scale: g.expovariate(1 / scale),
    lambda g, scale: g.uniform(scale / 10, scale * 2),
    lambda g, _: bimodal(g),
    lambda g, scale: scale * g.paretovariate(1.5),
]


def test_mean_quantile_error_of_many_distributions() -> None:
    errors = []
    for seed in range(90):
        generator = random.Random(seed)
        scale = 10 ** generator.uniform(-4, 0)
        shape = SHAPES[seed % len(SHAPES)]
        observed = sorted(int(min(max(shape(generator, scale), 20e-6), 10.0) * 1e9) for _ in range(3000))
        buckets = bucketed(observed)
        for q in (0.5, 0.9, 0.99):
            true = exact(observed, q)
            errors.append(abs(quantile(buckets, q) / true - 1))
    assert len(errors) == 270
    # The clamp to 10 s piles observations up in the middle of a bucket, which no estimate can see.
    assert max(errors) <= FACTOR - 1
    assert sum(errors) / len(errors) <= 0.015


SLOT_COUNTS = st.lists(st.integers(0, 3) | st.integers(0, 2**32 - 1), max_size=8)


@given(st.integers(0, 6), SLOT_COUNTS, st.integers(0, 6), SLOT_COUNTS)
def test_histogram_since_another_counts_modulo_32_bits(
    at: int, before: list[int], grown_at: int, grown: list[int]
) -> None:
    """Counts of 32 bits between two reads, wherever each begins, also if they wrapped."""
    earlier, news = Histogram(before, 5, at), Histogram(grown, 9, grown_at)
    both = earlier + news
    wrapped = [count % 2**32 for count in both.buckets]
    later = Histogram(wrapped, 14)
    since = later - earlier
    assert (since.buckets, since.sum_ns) == (news.buckets, 9)
