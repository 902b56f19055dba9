"""Waits after a failure: at random, so that a thousand agents do not reconnect to a server at the same time."""

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

FIRST = 1.0
MAX_WAIT = 60.0
MAX_RETRY_AFTER = 600.0
"""Maximum seconds of a Retry-After header: a wrong header must not stop an agent for a day."""


class Backoff:
    """Random waits from 0 to a maximum, which doubles with every consecutive failure up to `max_wait` seconds."""

    def __init__(
        self,
        first: float = FIRST,
        max_wait: float = MAX_WAIT,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first = first
        self._max_wait = max_wait
        self._uniform = uniform
        self._ceiling = first

    def next(self, retry_after: float = 0.0, *, slow: bool = False) -> float:
        """Return the seconds to wait: at least those that the server requested; `slow` uses the highest maximum."""
        ceiling = self._max_wait if slow else self._ceiling
        self._ceiling = min(self._ceiling * 2, self._max_wait)
        return min(retry_after, MAX_RETRY_AFTER) + self._uniform(0.0, ceiling)

    def reset(self) -> None:
        """Start again with the shortest wait, after a success."""
        self._ceiling = self._first


def retry_after(header: str) -> float:
    """Return the seconds of a Retry-After header: a number of seconds, or the time until a date (RFC 9110).

    0 for any other header, and for a date in the past.
    """
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):  # OverflowError: a year or an offset too large for a C integer
        return 0.0
