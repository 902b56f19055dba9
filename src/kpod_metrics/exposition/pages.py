"""The page that scrapers get: one a cycle, written in each format that is asked for at most once."""

import threading
from collections.abc import Iterable

from isal import isal_zlib

from kpod_metrics.exposition.page import Page

GZIP = 31
"""The window of 15 bits, in gzip's wrapping: zlib.h, deflateInit2()."""
_REMEMBERED = 20
"""Cycles for which a format that was asked for is written in advance."""


class Published:
    """The newest page, as bytes in any format; safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._page: Page | None = None
        self._written: dict[tuple[str, bool], bytes] = {}
        self._asked: dict[tuple[str, bool], int] = {}

    @property
    def page(self) -> Page | None:
        """The newest page; None before the first."""
        return self._page

    @property
    def ready(self) -> bool:
        """Whether there is a page."""
        return self._page is not None

    def publish(self, page: Page) -> None:
        """Replace the page, written already in the formats that were asked for lately."""
        with self._lock:
            self._asked = {variant: left - 1 for variant, left in self._asked.items() if left > 1}
            variants = sorted(self._asked)
        written: dict[tuple[str, bool], bytes] = {}
        for content_type, zipped in variants:
            self._write(page, written, content_type, zipped)
        with self._lock:
            self._page, self._written = page, written

    def get(self, content_type: str, zipped: bool) -> bytes:
        """Return the page in a format; the first to ask in a cycle has it written."""
        with self._lock:
            assert self._page is not None
            self._asked[content_type, zipped] = _REMEMBERED
            return self._write(self._page, self._written, content_type, zipped)

    @staticmethod
    def _write(page: Page, written: dict[tuple[str, bool], bytes], content_type: str, zipped: bool) -> bytes:
        body = written.get((content_type, zipped))
        if body is None:
            plain = written.get((content_type, False))
            pieces: Iterable[bytes] = page.pieces(content_type) if plain is None else (plain,)
            if zipped:
                # Never a whole page beside the zipped one: it is many times as large, in memory that has to be mapped.
                # Level 1: level 0 makes a third more bytes in the same time, the higher ones hardly fewer.
                squeezer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, GZIP)
                pieces = (*map(squeezer.compress, pieces), squeezer.flush())
            body = written[content_type, zipped] = b"".join(pieces)
        return body
