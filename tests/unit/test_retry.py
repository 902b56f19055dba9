"""Waits after failures: jittered, bounded, doubling, and what a server asks for is heeded."""

import random
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.retry import FIRST, MAX_RETRY_AFTER, MAX_WAIT, Backoff, retry_after


def highest(low: float, high: float) -> float:
    """As random.uniform, at its most."""
    assert low == 0.0
    return high


def test_ceiling_doubles_up_to_the_bound_and_starts_over() -> None:
    backoff = Backoff(uniform=highest)
    assert [backoff.next() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    backoff.reset()
    assert backoff.next() == 1
    assert backoff.next(slow=True) == 60
    assert backoff.next() == 4


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_jittered_and_bounded(seed: int, failures: int) -> None:
    backoff = Backoff(uniform=random.Random(seed).uniform)
    waits = [backoff.next() for _ in range(failures)]
    assert all(0 <= wait <= min(FIRST * 2**tries, MAX_WAIT) for tries, wait in enumerate(waits))
    assert len(set(waits)) == failures


@given(st.floats(0, 1e9), st.integers(0, 2**32))
def test_what_the_server_asks_for_is_the_least(asked_for: float, seed: int) -> None:
    wait = Backoff(uniform=random.Random(seed).uniform).next(asked_for)
    assert min(asked_for, MAX_RETRY_AFTER) <= wait <= min(asked_for, MAX_RETRY_AFTER) + FIRST


def test_a_thousand_agents_do_not_return_at_once() -> None:
    """All lose their server at the same moment: what comes to it in the worst second of the first ten minutes."""
    chance = random.Random(1)
    attempts = [0] * 600
    for _ in range(1000):
        backoff, at = Backoff(uniform=chance.uniform), 0.0
        while (at := at + backoff.next()) < 600:
            attempts[int(at)] += 1
    # The first second has the first attempt of all, and some seconds; a minute later it is 1 in 30 a second.
    assert max(attempts[:1]) < 1700
    assert max(attempts[60:]) < 70
    assert sum(attempts) / 1000 < 30


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 0),
        ("3", 3),
        ("-1", 0),
        ("nan", 0),
        ("soon", 0),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 0),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", 0),
        ("Thu, 01 Jan 2026 00:00:00 +99999999999999999999", 0),
    ],
)
def test_retry_after(header: str, seconds: float) -> None:
    assert retry_after(header) == seconds


def test_retry_after_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000
    monkeypatch.setattr(time, "time", lambda: now + 0.25)
    assert retry_after(formatdate(now + 500)) == 499.75


@given(st.text(max_size=40))
def test_any_header_can_be_read(header: str) -> None:
    assert retry_after(header) >= 0
