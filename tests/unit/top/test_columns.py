"""Figures and names as a person sees them, sorting, and the picture of a histogram."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics import cli
from kpod_metrics.histogram import MAX_EXPONENT, MIN_EXPONENT, SLOTS, slot_of_exponent
from kpod_metrics.top.columns import COLUMNS, FIGURES, KEYS, amount, chosen, percent, picture, seconds
from kpod_metrics.top.frame import State, frame
from kpod_metrics.top.rates import Pod, Reading, Row
from kpod_metrics.top.text import PLAIN_BARS, clean, fit, width
from kpod_metrics.top.watch import View


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
    for column in FIGURES:
        if column.text is None and (column.shown is amount or value < 900):
            assert len(column.shown(value)) <= column.width, column.key
    assert len(amount(value)) <= 5


def test_picture() -> None:
    slots = [0] * SLOTS
    assert picture(slots) == " " * 13
    slots[0], slots[slot_of_exponent(-18)], slots[slot_of_exponent(-18) + 1], slots[SLOTS - 1] = 6, 2, 1, 4
    assert picture(slots) == "█▁          ▄"
    assert picture(slots, PLAIN_BARS) == "@.          ="
    for cell, exponent in enumerate(range(MIN_EXPONENT + 2, MAX_EXPONENT + 1, 2)):
        alone = [0] * SLOTS
        alone[slot_of_exponent(exponent)] = 1
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


def row(name: str, **values: float) -> Row:
    return Row(Pod("ns", name, ""), **values)  # type: ignore[arg-type]


def test_sorting() -> None:
    rows = [row("b", cpu=1.0), row("d"), row("a", cpu=1.0), row("c", cpu=5.0)]

    def order(sort: str, other_way: bool = False) -> str:
        return "".join(found.pod.pod for found in chosen(rows, sort, "", other_way=other_way))

    assert order("cpu") == "cabd"
    assert order("cpu", other_way=True) == "abcd"
    assert order("pod") == "abcd"
    assert order("pod", other_way=True) == "dcba"


def test_filter_is_a_part_of_any_name() -> None:
    rows = [Row(Pod("shop", "web", "app")), Row(Pod("kube-system", "dns", ""))]
    assert [found.pod.pod for found in chosen(rows, "cpu", "SHOP/w")] == ["web"]
    assert chosen(rows, "cpu", "none") == []


def test_command_line_knows_the_columns() -> None:
    assert cli._SORTS == KEYS
    assert len({column.plain for column in COLUMNS}) == len(COLUMNS)


@given(
    st.lists(st.tuples(st.text(), st.text(), st.text(), st.floats()), max_size=5),
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
    rows = [Row(Pod(*name), cpu=value, waits_for="cpu", waits=0.5) for *name, value in names]
    reading = Reading(0.0, 1.0, "n", (), {})
    state = State(sort=sort, help=help_)
    made = frame(View("s", False, reading, rows, True), state, lines, columns, unicode=unicode)
    assert len(made) <= lines
    for line in made:
        text = "".join(part for part, _ in line)
        assert width(text) <= columns
        assert text.isprintable()
        assert unicode or text.isascii()
    if made and rows and lines >= 2 and not help_ and columns >= 20 and sort not in {"namespace", "pod", "container"}:
        title = next(column.title for column in COLUMNS if column.key == sort)
        assert any(title in part for line in made for part, _ in line)
