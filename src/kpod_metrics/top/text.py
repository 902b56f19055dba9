"""Text for a terminal: no control character of a name reaches it, and widths are those on the screen."""

import unicodedata

from kpod_metrics.exposition.samples import clean

ELLIPSIS = "…"
BARS = " ▁▂▃▄▅▆▇█"
PLAIN_BARS = " .:-=+*#@"


def width(text: str) -> int:
    """Return the number of columns that printable text takes."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def fit(text: str, columns: int, *, middle: bool = False) -> str:
    """Return clean text of exactly this many columns. If it is too long, its end or its middle is cut."""
    text = clean(text)
    if width(text) > columns:
        if columns < 2:
            text = _head(text, columns)
        elif middle:
            tail = _head(text[::-1], columns // 2)[::-1]
            text = _head(text, columns - 1 - width(tail)) + ELLIPSIS + tail
        else:
            text = _head(text, columns - 1) + ELLIPSIS
    return text + " " * (columns - width(text))


def _head(text: str, columns: int) -> str:
    taken = 0
    for at, char in enumerate(text):
        taken += _width(char)
        if taken > columns:
            return text[:at]
    return text
