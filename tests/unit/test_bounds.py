"""What is common to the limits of a pod."""

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.bounds import LABEL_BYTES, clipped


def mark(value: str) -> str:
    return "~" + hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:8]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ""),
        ("a" * 200, "a" * 200),
        ("é" * 100, "é" * 100),
        ("a" * 201, "a" * 191 + mark("a" * 201)),
        ("é" * 101, "é" * 95 + mark("é" * 101)),
        ("a" + "é" * 101, "a" + "é" * 95 + mark("a" + "é" * 101)),
        ("\N{GRINNING FACE}" * 51, "\N{GRINNING FACE}" * 47 + mark("\N{GRINNING FACE}" * 51)),
        (os.fsdecode(b"\xff" * 300), os.fsdecode(b"\xff" * 63) + mark(os.fsdecode(b"\xff" * 300))),
    ],
)
def test_long_value_is_cut_between_two_characters(value: str, expected: str) -> None:
    assert clipped(value) == expected


@given(st.text(st.characters(), min_size=40, max_size=400))
def test_value_has_few_bytes_and_begins_as_it_did(value: str) -> None:
    cut = clipped(value)
    assert len(cut.encode("utf-8", "surrogatepass")) <= LABEL_BYTES
    assert cut == value or value.startswith(cut[:-9])
