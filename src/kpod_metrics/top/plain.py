"""The table once, as text or JSON, for a pipe or a script."""

import json
from collections.abc import Sequence

from kpod_metrics.exposition.samples import clean
from kpod_metrics.top.columns import COLUMNS, NAMES, UNKNOWN, WAITS, Column
from kpod_metrics.top.figures import Figures
from kpod_metrics.top.text import width


def as_text(found: Sequence[Figures]) -> str:
    """Write a line for each container, below a header; columns are separated by blanks, `-` is not known."""
    lines = [[column.plain for column in COLUMNS], *([_plain(column, one) for column in COLUMNS] for one in found)]
    widths = [max(map(width, cells)) for cells in zip(*lines, strict=True)]
    out = []
    for cells in lines:
        padded = [
            cell + " " * (wide - width(cell)) if column.number is None else " " * (wide - width(cell)) + cell
            for column, cell, wide in zip(COLUMNS, cells, widths, strict=True)
        ]
        out.append("  ".join(padded).rstrip())
    return "\n".join(out)


def _plain(column: Column, of: Figures) -> str:
    if column is WAITS:
        return column.cell(of).replace(" ", ":")
    if column.number is None:
        return clean(column.cell(of)).replace(" ", r"\x20")
    value = column.number(of)
    return UNKNOWN if value is None else _number(value * column.scale)


def _number(value: float) -> str:
    """Write a number that `sort -n` understands."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3f}".rstrip("0").rstrip(".")


def as_json(found: Sequence[Figures]) -> str:
    """Write an array of objects by the columns' keys: numbers are seconds, bytes, per second, shares of 1."""
    return json.dumps(
        [
            {column.key: getattr(one.owner, column.key) for column in NAMES}
            | {column.key: column.number(one) for column in COLUMNS if column.number is not None}
            | {"waits_for": one.cause.name if one.cause else ""}
            for one in found
        ],
        indent=2,
    )
