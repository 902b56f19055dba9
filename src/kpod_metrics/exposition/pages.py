"""The page that scrapers get: one per cycle, written at most once in each requested format."""

import threading
from collections.abc import Iterable

from isal import isal_zlib

from kpod_metrics.exposition.page import Page

GZIP = 31
"""A window of 15 bits, with a gzip header: zlib.h, deflateInit2()."""
_WARM_CYCLES = 20
"""Cycles for which a requested format is written in advance."""


class Published:
    """The newest page, as bytes in any format; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.page: Page | None = None
        """The newest page; None before the first one."""
        self._written: dict[tuple[str, bool], bytes] = {}
        self._asked: dict[tuple[str, bool], int] = {}

    def publish(self, page: Page) -> None:
        """Replace the page; it is written first in the formats that clients requested recently."""
        with self._lock:
            self._asked = {variant: left - 1 for variant, left in self._asked.items() if left > 1}
            variants = sorted(self._asked)
        written: dict[tuple[str, bool], bytes] = {}
        for content_type, zipped in variants:
            self._write(page, written, content_type, zipped)
        with self._lock:
            self.page, self._written = page, written

    def get(self, content_type: str, zipped: bool) -> bytes:
        """Return the page in a format; the first request in a cycle writes it."""
        with self._lock:
            assert self.page is not None
            self._asked[content_type, zipped] = _WARM_CYCLES
            return self._write(self.page, self._written, content_type, zipped)

    @staticmethod
    def _write(page: Page, written: dict[tuple[str, bool], bytes], content_type: str, zipped: bool) -> bytes:
        body = written.get((content_type, zipped))
        if body is None:
            plain = written.get((content_type, False))
            pieces: Iterable[bytes] = page.pieces(content_type) if plain is None else (plain,)
            if zipped:
                # Never a whole page beside the compressed one: it is many times larger, in newly mapped memory.
                # Level 0 writes a third more bytes in the same time, levels above 1 hardly fewer.
                compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, GZIP)
                pieces = (*map(compressor.compress, pieces), compressor.flush())
            body = written[content_type, zipped] = b"".join(pieces)
        return body
