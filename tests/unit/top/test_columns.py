"""Figures and names as a person sees them, sorting, and the picture of a histogram."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.collectors import columns as declared
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import Collector
from kpod_metrics.columns import FIXED, Shows, Unit
from kpod_metrics.diagnosis.causes import Cause
from kpod_metrics.exposition.samples import clean
from kpod_metrics.histogram import BUCKETS, MAX_EXPONENT, MIN_EXPONENT, bucket_of_exponent
from kpod_metrics.metrics import Kind
from kpod_metrics.pods.model import Identity
from kpod_metrics.reference import declared as declared_metrics
from kpod_metrics.top.columns import COLUMNS, KEYS, amount, chosen, percent, picture, seconds
from kpod_metrics.top.figures import Figures, Reading
from kpod_metrics.top.frame import Choices, frame
from kpod_metrics.top.text import PLAIN_BARS, fit, width
from kpod_metrics.top.watch import Latest


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((0, "0"), (0.5, "0.5"), (0.123, "0.12"), (9.9, "9.9"), (9.999, "10"), (999, "999"), (1000, "1.0K")),
        *((1 << 20, "1.0M"), (15 << 20, "15M"), (1023 << 10, "1.0M"), (5 << 40, "5.0T"), (5000 << 40, "4.88P")),
    ],
)
def test_amounts(value: float, expected: str) -> None:
    assert amount(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0us"),
        (1e-9, "<1us"),
        (1.5e-6, "1.5us"),
        (999e-6, "999us"),
        (0.9996e-3, "1ms"),
        (4.254e-3, "4.25ms"),
        (0.5, "500ms"),
        (1, "1s"),
        (64, "64s"),
    ],
)
def test_durations(value: float, expected: str) -> None:
    assert seconds(value) == expected


@pytest.mark.parametrize(("share", "expected"), [(0, "0.0"), (0.1234, "12.3"), (1, "100.0"), (12.5, "1250")])
def test_shares(share: float, expected: str) -> None:
    assert percent(share) == expected


@given(st.floats(0, 1e14))
def test_figures_fit_into_their_columns(value: float) -> None:
    for column in declared():
        if column.unit is Unit.AMOUNT or value < 900:
            cell = next(made for made in COLUMNS if made.key == column.key)
            assert len(cell.cell(row("a", **{column.key: value}))) <= cell.width, column.key
    assert len(amount(value)) <= 5


def test_picture() -> None:
    buckets = [0] * BUCKETS
    assert picture(buckets) == " " * 13
    buckets[0], buckets[bucket_of_exponent(-18)], buckets[bucket_of_exponent(-18) + 1], buckets[BUCKETS - 1] = (
        6,
        2,
        1,
        4,
    )
    assert picture(buckets) == "█▁          ▄"
    assert picture(buckets, PLAIN_BARS) == "@.          ="
    for cell, exponent in enumerate(range(MIN_EXPONENT + 2, MAX_EXPONENT + 1, 2)):
        alone = [0] * BUCKETS
        alone[bucket_of_exponent(exponent)] = 1
        assert picture(alone).index("█") == cell


def test_control_characters_are_written_out() -> None:
    assert clean("a\x1b[31mb\x9b\u202e\udc80\n") == r"a\x1b[31mb\x9b\u202e\udc80\n"
    assert clean("日本語 é") == "日本語 é"


@given(st.text(), st.integers(0, 30), st.booleans())
def test_text_is_as_wide_as_it_is_told(text: str, columns: int, middle: bool) -> None:
    made = fit(text, columns, middle=middle)
    assert width(made) == columns
    assert made.isprintable()


def test_long_names_lose_their_middle() -> None:
    assert fit("web-7d9c5b6f8-x2v4q", 11, middle=True) == "web-7…x2v4q"
    assert fit("日本語日本語", 7, middle=True) == "日本…語"
    assert fit("日本語", 4) == "日… "


def row(name: str, **values: float) -> Figures:
    return Figures(Identity("ns", name, ""), dict.fromkeys(KEYS) | values)


def test_sorting() -> None:
    rows = [row("b", cpu=1.0), row("d"), row("a", cpu=1.0), row("c", cpu=5.0)]

    def order(sort: str, reverse: bool = False) -> str:
        return "".join(found.owner.pod for found in chosen(rows, sort, "", reverse=reverse))

    assert order("cpu") == "cabd"
    assert order("cpu", reverse=True) == "abcd"
    assert order("pod") == "abcd"
    assert order("pod", reverse=True) == "dcba"


def test_filter_is_a_part_of_any_name() -> None:
    rows = [
        Figures(Identity("shop", "web", "app"), {"cpu": 1}),
        Figures(Identity("kube-system", "dns", ""), {"cpu": 2}),
    ]
    assert [found.owner.pod for found in chosen(rows, "cpu", "SHOP/w")] == ["web"]
    assert chosen(rows, "cpu", "none") == []


def test_columns_are_declared_once() -> None:
    assert (*FIXED, *(column.key for column in declared())) == KEYS
    assert len({column.plain for column in COLUMNS}) == len({column.key for column in COLUMNS}) == len(COLUMNS)


@pytest.mark.parametrize(("name", "kind"), registered().items(), ids=registered())
def test_columns_show_metrics_of_their_collector(name: str, kind: type[Collector]) -> None:
    of_collector = {metric.name: metric for collector, _, metric in declared_metrics() if collector == name}
    for column in kind.columns:
        kinds = {of_collector[metric].kind for metric in column.metrics}
        assert kinds == {{Shows.RATE: Kind.COUNTER, Shows.LAST: Kind.GAUGE}.get(column.shows, Kind.HISTOGRAM)}
        assert kinds != {Kind.HISTOGRAM} or len(column.metrics) == 1


@given(
    st.lists(st.tuples(st.text(), st.text(), st.text(), st.floats(allow_nan=False, allow_infinity=False)), max_size=5),
    st.tuples(st.integers(0, 30), st.integers(0, 200)),
    st.sampled_from(KEYS),
    st.booleans(),
    st.booleans(),
)
def test_frame_of_any_size_fits(
    names: list[tuple[str, str, str, float]], size: tuple[int, int], sort: str, unicode: bool, help_: bool
) -> None:
    """Whatever names and numbers are: so many lines, so wide, nothing in them that is a command to a terminal."""
    lines, columns = size
    rows = [
        Figures(
            Identity(namespace, pod, container),
            dict.fromkeys(KEYS) | {"cpu": value},
            cause=Cause(0.5, "cpu", "15%", "", ""),
        )
        for namespace, pod, container, value in names
    ]
    reading = Reading(0.0, 1.0, "n", (), {})
    choices = Choices(sort=sort, help=help_)
    made = frame(Latest("s", False, reading, rows, True), choices, lines, columns, unicode=unicode)
    assert len(made) <= lines
    for line in made:
        text = "".join(part for part, _ in line)
        assert width(text) <= columns
        assert text.isprintable()
        assert unicode or text.isascii()
    if made and rows and lines >= 2 and not help_ and columns >= 20 and sort not in {"namespace", "pod", "container"}:
        title = next(column.title for column in COLUMNS if column.key == sort)
        assert any(title in part for line in made for part, _ in line)
