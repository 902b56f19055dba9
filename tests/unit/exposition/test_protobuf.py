"""Prometheus' protobuf format: every value of a page, read back by protobuf's own decoder."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from kpod_metrics.exposition.page import Page, Renderer
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.samples import shown
from kpod_metrics.histogram import BUCKETS, MIN_EXPONENT, Histogram, bucket_of_exponent
from kpod_metrics.metrics import Table, latency
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import Store
from tests.client_model import TYPES, buckets_of, decode, labels_of
from tests.growth import grow
from tests.unit.exposition.fixture import CONSTANT, EXTRA
from tests.unit.exposition.fixture import labels_of as expected_labels

FIRST = -79
"""Index in schema 2 of the bucket after the zero bucket: (2**-20, 2**-19.75]."""

TABLE = Table((latency("kpod_wait_seconds", "Wait.", "test", exponents=(-20, 0, 6)),))
ME = Identity("n", "p", "c")


def test_values_are_the_stores(page: Page, store: Store) -> None:
    families = list(decode(b"".join(page.pieces(PROTOBUF))))
    declared = list(store.families())
    assert [family.name for family in families] == [metric.name for _, _, metric, _ in declared]
    for family, (table, at, metric, children) in zip(families, declared, strict=True):
        assert (TYPES[family.type], family.help) == (metric.kind.value, metric.help)
        for one, series in zip(family.metric, children, strict=True):
            assert labels_of(one) == expected_labels(table, series)
            value = series.values[at]
            if not isinstance(value, Histogram):
                assert getattr(one, TYPES[family.type]).value == value
                continue
            histogram = one.histogram
            assert buckets_of(histogram, BUCKETS, FIRST) == list(value.buckets)
            assert (histogram.sample_count, histogram.sample_sum) == (value.count, value.sum_ns / 1e9)
            assert [(bucket.upper_bound, bucket.cumulative_count) for bucket in histogram.bucket] == [
                (2.0**exponent, sum(value.buckets[: bucket_of_exponent(exponent) + 1])) for exponent in metric.exponents
            ]


def test_without_classic_buckets(store: Store) -> None:
    families = list(
        decode(b"".join(Renderer(CONSTANT, EXTRA, classic=False).render(store_of([1] * BUCKETS)).pieces(PROTOBUF)))
    )
    [histogram] = [one.histogram for family in families for one in family.metric]
    assert not histogram.bucket
    assert (histogram.schema, histogram.sample_count) == (2, BUCKETS)


def store_of(buckets: list[int], first: int = 0) -> Store:
    store = Store([TABLE], frozenset(TABLE.metrics))
    grow(store, TABLE, ME, (), (Histogram(buckets, 3, first),))
    return store


def one(buckets: list[int], first: int = 0) -> Any:
    [family] = decode(b"".join(Renderer({}).render(store_of(buckets, first)).pieces(PROTOBUF)))
    [metric] = family.metric
    return metric.histogram


def spans(histogram: Any) -> list[tuple[int, int]]:
    return [(span.offset, span.length) for span in histogram.positive_span]


def test_empty_histogram_is_native() -> None:
    """Prometheus takes one without spans and with a threshold of 0 for classic, and would make other series of it."""
    histogram = one([0])
    assert (histogram.zero_threshold, histogram.zero_count, spans(histogram)) == (2.0**-20, 0, [])


def test_least_and_most() -> None:
    least = one([7])
    assert (least.zero_count, least.sample_count, spans(least)) == (7, 7, [])
    assert least.zero_threshold == 2.0**MIN_EXPONENT
    most = one([9], BUCKETS - 1)
    # Index 25: (2**6, 2**6.25].
    assert (spans(most), list(most.positive_delta), most.zero_count) == ([(25, 1)], [9], 0)


def test_short_gaps_are_bridged() -> None:
    buckets = [0] * BUCKETS
    buckets[1], buckets[4], buckets[8], buckets[9] = 5, 2, 1, 1
    histogram = one(buckets)
    assert spans(histogram) == [(FIRST, 4), (3, 2)]
    assert list(histogram.positive_delta) == [5, -5, 0, 2, -1, 0]


@given(
    st.lists(st.integers(0, 2**62) | st.just(0), min_size=BUCKETS, max_size=BUCKETS).filter(lambda s: sum(s) < 2**63)
)
@example([2**50] * BUCKETS)
@example([0, *([0, 0, 0, 1] * 26), 0])
def test_any_histogram_comes_back(buckets: list[int]) -> None:
    histogram = one(buckets)
    assert buckets_of(histogram, BUCKETS, FIRST) == buckets
    assert histogram.sample_count == sum(buckets)
    assert all(offset > 2 for offset, _ in spans(histogram)[1:])
    assert all(length > 0 for _, length in spans(histogram))


def test_second_page_has_new_numbers_and_the_first_keeps_its_own() -> None:
    store, renderer = store_of([1]), Renderer({"node": "x"})
    first = renderer.render(store)
    grow(store, TABLE, ME, (), (Histogram([4], 1),))
    second = renderer.render(store)
    counts = [
        next(iter(decode(b"".join(page.pieces(PROTOBUF))))).metric[0].histogram.sample_count
        for page in (second, first, second)
    ]
    assert counts == [5, 1, 5]


@given(st.text(max_size=20))
@example("\udc80")
@example("\ud800")
def test_any_label_is_utf8(value: str) -> None:
    store = Store([TABLE], frozenset(TABLE.metrics))
    grow(store, TABLE, Identity("n", value, ""), (), (Histogram([1], 1),))
    [family] = decode(b"".join(Renderer({}).render(store).pieces(PROTOBUF)))
    back = labels_of(family.metric[0])["pod"]
    assert back == shown(value) or not value.isascii()
