"""How long to wait after a failure, so that a thousand agents that lose one server do not return all at once."""

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

FIRST = 1.0
MOST = 60.0
MOST_ASKED_FOR = 600.0
"""Seconds that a server can ask for with Retry-After; a wrong header must not silence an agent for a day."""


class Backoff:
    """Waits at random between nothing and a ceiling that doubles with every failure in a row, up to `most` seconds."""

    def __init__(
        self, first: float = FIRST, most: float = MOST, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._first = first
        self._most = most
        self._uniform = uniform
        self._ceiling = first

    def next(self, asked_for: float = 0.0, *, slow: bool = False) -> float:
        """Return the seconds to wait now: at least what the server asked for; `slow`, with the highest ceiling."""
        ceiling = self._most if slow else self._ceiling
        self._ceiling = min(self._ceiling * 2, self._most)
        return min(asked_for, MOST_ASKED_FOR) + self._uniform(0.0, ceiling)

    def reset(self) -> None:
        """Start over: it works."""
        self._ceiling = self._first


def retry_after(header: str) -> float:
    """Return the seconds that a Retry-After header asks to wait: it has a number of seconds, or a date (RFC 9110).

    0 for a header that has neither, and for a date in the past.
    """
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):  # OverflowError: a year or an offset of more digits than a C integer has
        return 0.0
