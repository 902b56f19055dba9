"""The totals of a cycle or two ago, so that the landing page has rates from its first request on.

Only those that a diagnosis needs, one value per series: for 100 pods in profile standard 0.1 ms per cycle and 0.3 MB.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kpod_metrics.diagnosis.rates import RATED
from kpod_metrics.exposition.page import Page
from kpod_metrics.histogram import Histogram
from kpod_metrics.series import Series

Totals = Mapping[str, Mapping[Series, int | float | Histogram]]
"""By metric and series."""


class Comparison(NamedTuple):
    """The page of a cycle, and earlier totals."""

    page: Page
    at: float
    """time.monotonic() at the end of its cycle."""
    before: Totals
    seconds: float
    """Age of the earlier totals; 0 if there are none yet."""


class Recent:
    """Keeps the totals of a cycle that is at least `window` seconds older than the newest, as soon as there is one.

    One thread writes. `newest` is replaced by assignment, so that any thread can read it.
    """

    def __init__(self, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = window
        self._clock = clock
        self._older: tuple[float, Totals] | None = None
        self._newer: tuple[float, Totals] | None = None
        self.newest: Comparison | None = None
        """None before the first cycle."""

    def note(self, page: Page) -> None:
        """Take the page of a cycle that just ended."""
        now = self._clock()
        if self._newer is None:
            self._newer = now, _totals(page)
            self.newest = Comparison(page, now, {}, 0.0)
            return
        if now - self._newer[0] >= 0.9 * self.window:  # cycles are not exactly an interval apart
            self._older, self._newer = self._newer, (now, _totals(page))
        since, before = self._older or self._newer
        self.newest = Comparison(page, now, before, now - since)


def _totals(page: Page) -> Totals:
    return {
        family.metric.name: {sample.series: sample.value for sample in family.samples}
        for family in page.families
        if family.metric.name in RATED
    }
