"""The lines of text that a terminal of a given size shows. Nothing here accesses the terminal."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from textwrap import wrap

from kpod_metrics.exposition.samples import clean
from kpod_metrics.top.columns import COLUMNS, FIGURES, KEYS, NAMES, Column, chosen
from kpod_metrics.top.figures import Figures
from kpod_metrics.top.text import BARS, PLAIN_BARS, fit, width
from kpod_metrics.top.watch import Latest

KEYS_LINE = "q quit  h help  ←→ sort  r reverse  / filter  p pause  ↑↓ scroll"
HELP = (
    "q            quit",
    "←  →         sort by the previous, next column",
    "r            reverse the order",
    "/            filter by a part of a name: Enter keeps it, Esc clears it",
    "p, space     pause, resume",
    "↑  ↓         scroll by a line; PgUp, PgDn by a page; Home, End",
    "h, ?         show and hide this help",
    "",
)
_MARGIN = 14
"""Width of the first column of the help."""


class Style(Enum):
    """How a part of a line is highlighted."""

    PLAIN = "plain"
    TITLE = "title"
    PROBLEM = "problem"
    CHOSEN = "chosen"
    """The header of the column that the table is sorted by."""
    HEAD = "head"


Line = list[tuple[str, Style]]


@dataclass
class Choices:
    """What the user has chosen by keys."""

    sort: str = "waits"
    reverse: bool = False
    filter: str = ""
    typing: bool = False
    """Whether keys are letters of the filter."""
    paused: Latest | None = None
    """The figures when the user paused."""
    help: bool = False
    top: int = 0
    """First visible row, or line of the help."""
    page: int = 1
    """Number of rows of the last frame."""


def frame(latest: Latest, choices: Choices, lines: int, columns: int, *, unicode: bool = True) -> list[Line]:
    """Return at most this many lines and columns; `unicode`: the terminal shows more than ASCII."""
    if lines < 1 or columns < 1:
        return []
    latest = choices.paused or latest
    rows = chosen(latest.figures, choices.sort, choices.filter, reverse=choices.reverse)
    # With few lines, the keys are left out first, then the title, then the header.
    with_title, with_keys, with_head = lines >= 3, lines >= 4 or choices.typing, lines >= 2
    if choices.help:
        with_head = False
    room = lines - with_title - with_keys - with_head
    body = _help(columns) if choices.help else _table(rows, choices, columns, with_head)
    head, body = body[:with_head], body[with_head:]
    choices.page = max(room, 1)
    choices.top = max(0, min(choices.top, len(body) - room))
    shown = body[choices.top : choices.top + max(room, 0)]
    if not choices.help and not body:
        shown = [[(_nothing(latest, choices), Style.PLAIN)]][: max(room, 0)]
    made: list[Line] = []
    if with_title:
        made.append(_title(latest, choices, len(rows)))
    made += head
    made += shown
    if with_keys:
        made += [[] for _ in range(lines - 1 - len(made))]
        made.append([(f"filter: {choices.filter}_" if choices.typing else KEYS_LINE, Style.TITLE)])
    return [_cut(line, columns, unicode) for line in made[:lines]]


def _cut(line: Line, columns: int, unicode: bool) -> Line:
    """Make the parts of a line fit; a title is extended to the end of the line."""
    parts: Line = []
    for text, style in line:
        text = clean(text)  # noqa: PLW2901
        if not unicode:
            text = text.translate(_ASCII).encode("ascii", "replace").decode()  # noqa: PLW2901
        wide = columns if style in {Style.TITLE, Style.PROBLEM} else min(width(text), columns)
        if wide > 0:
            text = fit(text, wide)  # noqa: PLW2901
            parts.append((text if unicode else text.translate(_ASCII), style))
        columns -= wide
    return parts


_ASCII = str.maketrans(dict(zip(BARS, PLAIN_BARS, strict=True)) | {"←": "<", "→": ">", "↑": "^", "↓": "v", "…": "~"})


def _title(latest: Latest, choices: Choices, found: int) -> Line:
    reading = latest.reading
    at = time.strftime("%H:%M:%S", time.localtime(reading.time)) if reading else ""
    if latest.problem:
        return [(f"{latest.problem}: {latest.source}{f', shown is {at}' if at else ''}", Style.PROBLEM)]
    if reading is None:
        return [(f"kpod-metrics top  {latest.source}", Style.TITLE)]
    # The most important first: a narrow terminal cuts the end.
    parts = [
        "PAUSED" if choices.paused else "kpod-metrics top",
        latest.source if latest.own else "",
        f"off: {', '.join(reading.off)}" if reading.off else "",
        reading.node,
        f"{at} every {reading.interval:g}s",
        f"{found} of {len(latest.figures)}" if choices.filter else str(len(latest.figures)),
        f"by {choices.sort}{', reversed' if choices.reverse else ''}",
        "rates after the next cycle" if not latest.rated else "",
        f"filter: {choices.filter}" if choices.filter else "",
        "" if latest.own else latest.source,
    ]
    return [("  ".join(filter(None, parts)), Style.TITLE)]


def _nothing(latest: Latest, choices: Choices) -> str:
    if latest.reading is None:
        return "waiting for the first page"
    return f"no name contains {choices.filter!r}: Esc clears the filter" if choices.filter else "no pods"


def _help(columns: int) -> list[Line]:
    lines = list(HELP)
    for column in FIGURES:
        first, *more = wrap(column.help, max(columns - _MARGIN, 10))
        lines += [f"{column.title:<{_MARGIN}}{first}", *(" " * _MARGIN + text for text in more)]
    return [[(text, Style.PLAIN)] for text in lines]


def _table(rows: Sequence[Figures], choices: Choices, columns: int, with_head: bool) -> list[Line]:
    """Return the header, and a line for each container."""
    layout = _layout(rows, choices.sort, columns)
    lines: list[Line] = []
    if with_head:
        head: Line = []
        for column, wide in layout:
            style = Style.CHOSEN if column.key == choices.sort else Style.HEAD
            head += [(_aligned(column, column.title, wide), style), (" ", Style.HEAD)]
        lines.append(head[:-1])
    for row in rows:
        cells = [_aligned(column, column.cell(row), wide) for column, wide in layout]
        lines.append([(" ".join(cells), Style.PLAIN)])
    return lines


def _aligned(column: Column, text: str, wide: int) -> str:
    text = clean(text)
    if column.left:
        return fit(text, wide, middle=column in NAMES)
    return " " * (wide - width(text)) + fit(text, min(wide, width(text)))


_NAME, _MIN_NAME = 16, 4


def _layout(rows: Sequence[Figures], sort: str, columns: int) -> list[tuple[Column, int]]:
    """Return the columns that fit, with their widths; the column that the table is sorted by is always one of them.

    A narrow terminal shows only the pod of the names.
    """
    needed = {
        column.key: max([width(column.title), *(width(clean(column.cell(row))) for row in rows)]) for column in NAMES
    }
    names = [c for c in NAMES if c.key == "pod" or (any(getattr(row.owner, c.key) for row in rows) and columns >= 80)]
    if sort in {"namespace", "container"} and COLUMNS[KEYS.index(sort)] not in names:
        names = [c for c in NAMES if c in names or c.key == sort]
    widths = {c.key: min(needed[c.key], c.width) for c in names}
    at = max(KEYS.index(sort) - len(NAMES), 0)
    others = sum(widths[c.key] + 1 for c in names if c.key != "pod")
    # A third of the terminal, or at least 16 columns, but not the room of the column that the table is sorted by.
    most = min(max(columns // 3 - others, _NAME), columns - others - 2 - FIGURES[at].width)
    widths["pod"] = max(min(widths["pod"], most), min(_MIN_NAME, columns))
    left = columns - others - widths["pod"]
    fitting = [FIGURES[at]] if left > FIGURES[at].width else []
    left -= sum(c.width + 1 for c in fitting)
    if fitting:
        # As many columns before it as fit, so that few columns move when the user sorts by another; then those after.
        first = 0
        while sum(c.width + 1 for c in FIGURES[first:at]) > left:
            first += 1
        fitting = list(FIGURES[first : at + 1])
        left -= sum(c.width + 1 for c in FIGURES[first:at])
        for column in FIGURES[at + 1 :]:
            if column.width + 1 > left:
                break
            fitting.append(column)
            left -= column.width + 1
    widths["pod"] += max(0, min(left, needed["pod"] - widths["pod"]))
    return [(c, widths[c.key]) for c in names] + [(c, c.width) for c in fitting]
