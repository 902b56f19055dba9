"""How a collector declares its columns of `top`: what each shows, and how it is called."""

import enum
from dataclasses import dataclass

FIXED = ("namespace", "pod", "container", "waits")
"""Keys of the columns that no collector declares."""


class Shows(enum.Enum):
    """What a column shows of its metrics; all their series are added up."""

    RATE = "the growth per second"
    LAST = "the last value of a gauge"
    P99 = "the 99th percentile of a histogram"
    DISTRIBUTION = "a histogram as bars, and its observations per second"


class Unit(enum.Enum):
    """What the values are, which is how people read them."""

    SHARE = "share"
    SECONDS = "seconds"
    AMOUNT = "amount"


@dataclass(frozen=True)
class Column:
    """One column of `top`."""

    key: str
    """Its name for `--sort` and in JSON."""
    title: str
    """Its header in a terminal."""
    plain: str
    """Its header in plain text. Shares are in per cent there, times in milliseconds."""
    help: str
    metrics: tuple[str, ...]
    unit: Unit = Unit.AMOUNT
    shows: Shows = Shows.RATE
    chosen: str = ".*"
    """Of a histogram: expression for the label values of the series that it shows."""
    place: int = 1000
    """Columns with a smaller number come first, those with the same number by key."""
