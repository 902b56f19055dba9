"""Names and numbers of causes; tests/unit/landing has the causes themselves."""

import re
from pathlib import Path

import pytest

from kpod_metrics.diagnosis import causes
from kpod_metrics.diagnosis.causes import percent, short
from tests.conftest import REPOSITORY


def test_all_names_are_documented() -> None:
    names = re.findall(r'Cause\([^"]*"(\w+)"', Path(causes.__file__).read_text())
    assert len(names) >= 14
    page = (REPOSITORY / "docs" / "top.md").read_text()
    assert set(re.findall(r"^  \| `(\w+)` \|", page, re.MULTILINE)) == set(names)


@pytest.mark.parametrize(
    ("value", "number", "share"),
    [
        (0.0, "0", "0 %"),
        (0.004, "<0.01", "<1 %"),
        (0.05, "0.05", "5 %"),
        (1.0, "1", "100 %"),
        (1.976, "1.98", "198 %"),
        (10.0, "10", "1000 %"),
        (99.96, "100", "9996 %"),
        (1234.5, "1234", "123450 %"),
    ],
)
def test_numbers_for_people(value: float, number: str, share: str) -> None:
    assert (short(value), percent(value)) == (number, share)
