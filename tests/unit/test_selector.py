"""Label selectors, against what the API server's own documentation says of each form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.selector import parse

LABELS = {"app": "web", "tier": "", "example.com/team": "a_b"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("app", True),
        ("!app", False),
        ("canary", False),
        ("! canary", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web", True),
        ("app=we", False),
        ("app=", False),
        ("tier=", True),
        ("app!=web", False),
        ("app!=db", True),
        ("canary!=yes", True),  # a label that is not there is not equal
        ("app in (db, web)", True),
        ("app in(db)", False),
        ("app notin (db)", True),
        ("app notin (db,web)", False),
        ("canary in (yes)", False),
        ("canary notin (yes)", True),
        ("example.com/team=a_b", True),
        ("app=web,tier=,!canary,example.com/team in (a_b)", True),
        (" app=web , tier!=x ", True),
        ("app=web,tier=x", False),
        ("in", False),
        ("notin in (in)", False),
    ],
)
def test_forms(text: str, expected: bool) -> None:
    assert parse(text)(LABELS) is expected


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "app,",
        "app,,tier",
        "=web",
        "app=web tier=x",
        "app in web",
        "app in (web",
        "app in (w b)",
        "-app",
        "app=w b",
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="label"):
        parse(text)


@given(st.text("ap=!in(),notb -./_*", max_size=40))
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    try:
        selector = parse(text)
    except ValueError:
        return
    assert selector(LABELS) in {True, False}


WORDS = st.from_regex(r"[a-z]([a-z-]{0,8}[a-z])?", fullmatch=True)


@given(st.dictionaries(WORDS, WORDS, min_size=1, max_size=4))
def test_labels_select_themselves(labels: dict[str, str]) -> None:
    text = ",".join(f"{key}={value}" for key, value in labels.items())
    assert parse(text)(labels)
    assert not parse(text)({key: f"{value}x" for key, value in labels.items()})


def test_a_long_one_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="not a label selector"):
        parse("a" * 500_000 + "*")
