"""The columns of the table: what each shows, in a terminal and in plain text, and how the table is sorted by it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from kpod_metrics import columns as declared
from kpod_metrics.columns import Shows, Unit
from kpod_metrics.histogram import BUCKETS_PER_OCTAVE
from kpod_metrics.top import figures
from kpod_metrics.top.figures import Figures
from kpod_metrics.top.text import BARS

UNKNOWN = "-"
"""What is shown for a value that is not known."""
_BARS = 13
"""Of a distribution: one for two octaves, from a microsecond to a minute."""
_MIN_WIDTH = 6


@dataclass(frozen=True)
class Column:
    """One column.

    `key` is its name for --sort and in JSON. `title` is its header in a terminal, where it is `width` wide. `plain` is
    its header in plain text. A column without `number` is text.
    """

    key: str
    title: str
    width: int
    plain: str
    help: str
    cell: Callable[[Figures], str]
    """What a person sees."""
    number: Callable[[Figures], float | None] | None = None
    scale: float = 1.0
    """Factor of the number in plain text."""
    left: bool = False
    """Whether its cells begin at its left edge."""


def percent(share: float) -> str:
    """Write a share of the time, or of a CPU."""
    return f"{share * 100:.1f}" if share < 9.995 else f"{share * 100:.0f}"


def seconds(value: float) -> str:
    """Write a duration."""
    if value < 5e-7:
        return "<1us" if value else "0us"
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if value < size * 999.5:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}s" if value < 999.5 else f"{value:.0f}s"


def amount(value: float) -> str:
    """Write an amount in at most five characters, with a power of 1024 where it is large."""
    if value < 9.995:
        return f"{value:.2f}".rstrip("0").rstrip(".") if value >= 0.005 or not value else "<0.01"
    for unit in ("", "K", "M", "G", "T"):
        if value < 999.5:
            return f"{value:.0f}{unit}" if value >= 9.95 else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.3g}P"


def picture(buckets: Sequence[int], bars: str = BARS) -> str:
    """Draw a histogram of durations: a bar for each two octaves, as high as its share of the highest one."""
    cells = [0] * _BARS
    for bucket, count in enumerate(buckets):
        cells[min(max(bucket - 1, 0) // (2 * BUCKETS_PER_OCTAVE), _BARS - 1)] += count
    highest = max(cells)
    return "".join(bars[math.ceil(count * (len(bars) - 1) / highest)] if count else bars[0] for count in cells)


_WRITE = {Unit.SHARE: percent, Unit.SECONDS: seconds, Unit.AMOUNT: amount}
_SCALE = {Unit.SHARE: 100.0, Unit.SECONDS: 1e3, Unit.AMOUNT: 1.0}


def _column(column: declared.Column) -> Column:
    """Return the column that a collector declares."""
    key, write = column.key, _WRITE[column.unit]

    def number(of: Figures) -> float | None:
        return of.values[key]

    def cell(of: Figures) -> str:
        value = number(of)
        return UNKNOWN if value is None else write(value)

    def bars(of: Figures) -> str:
        return picture(of.bars[key]) if key in of.bars else UNKNOWN

    shows_bars = column.shows is Shows.DISTRIBUTION
    return Column(
        key,
        column.title,
        max(len(column.title), _MIN_WIDTH),
        column.plain,
        column.help,
        bars if shows_bars else cell,
        number,
        _SCALE[column.unit],
        left=shows_bars,
    )


def _name(name: str, of: Figures) -> str:
    value: str = getattr(of.owner, name)
    return value or UNKNOWN


def _cause(of: Figures) -> str:
    return f"{of.cause.name} {of.cause.amount}" if of.cause else UNKNOWN


NAMES = tuple(
    Column(name, name.upper(), width, name.upper(), name, partial(_name, name), left=True)
    for name, width in (("namespace", 12), ("pod", 40), ("container", 12))
)
WAITS = Column(
    "waits",
    "WAITS FOR",
    14,
    "WAITS_FOR",
    "what it waits for most, by the thresholds of the alerts, and how much",
    _cause,
    lambda of: of.cause.severity if of.cause else 0.0,
    left=True,
)
FIGURES = (WAITS, *map(_column, figures.COLUMNS))
COLUMNS = (*NAMES, *FIGURES)
KEYS = tuple(column.key for column in COLUMNS)


def chosen(found: Sequence[Figures], sort: str, filtered: str, *, reverse: bool = False) -> list[Figures]:
    """Return the containers that have a text in their names, sorted by a column: numbers from the largest, text from A.

    Those of which the number is not known come last in both directions. Equal ones are in the order of their names.
    """
    column = COLUMNS[KEYS.index(sort)]
    wanted = filtered.lower()
    rows = sorted((one for one in found if wanted in "/".join(one.owner[:3]).lower()), key=lambda one: one.owner)
    number = column.number
    if number is None:
        return sorted(rows, key=column.cell, reverse=reverse)
    known = [(value, one) for one in rows if (value := number(one)) is not None]
    unknown = [one for one in rows if number(one) is None]
    return [one for _, one in sorted(known, key=lambda pair: pair[0], reverse=not reverse)] + unknown
