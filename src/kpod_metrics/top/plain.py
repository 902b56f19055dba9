"""The table once, as text or JSON, for a pipe or a script."""

import json
from collections.abc import Sequence

from kpod_metrics.top.columns import COLUMNS, NOTHING, Column
from kpod_metrics.top.rates import Row
from kpod_metrics.top.text import clean, width


def as_text(rows: Sequence[Row]) -> str:
    """Write a line for each row, below a head: columns parted by blanks, which no name has; `-` is not known."""
    lines = [[column.plain for column in COLUMNS], *([_plain(column, row) for column in COLUMNS] for row in rows)]
    widths = [max(map(width, cells)) for cells in zip(*lines, strict=True)]
    out = []
    for cells in lines:
        padded = [
            cell + " " * (wide - width(cell)) if column.number is None else " " * (wide - width(cell)) + cell
            for column, cell, wide in zip(COLUMNS, cells, widths, strict=True)
        ]
        out.append("  ".join(padded).rstrip())
    return "\n".join(out)


def _plain(column: Column, row: Row) -> str:
    if column.key == "waits":
        return f"{row.waits_for}:{row.waits * 100:.0f}%" if row.waits_for else NOTHING
    if column.number is None:
        return clean(column.cell(row)).replace(" ", r"\x20")
    value = column.value(row)
    return NOTHING if value is None else _number(value * column.scale)


def _number(value: float) -> str:
    """Write a number that `sort -n` understands."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3f}".rstrip("0").rstrip(".")


def as_json(rows: Sequence[Row]) -> str:
    """Write an array of objects by the columns' keys: numbers are seconds, bytes, events a second, shares of 1."""
    return json.dumps(
        [
            dict(zip(("namespace", "pod", "container"), row.pod, strict=True))
            | {column.key: column.value(row) for column in COLUMNS if column.number is not None}
            | {"waits_for": row.waits_for}
            for row in rows
        ],
        indent=2,
    )
