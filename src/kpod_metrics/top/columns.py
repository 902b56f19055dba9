"""The columns of the table: what each says, in a terminal and in plain text, and how rows are sorted by it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kpod_metrics.histogram import SLOTS_PER_OCTAVE
from kpod_metrics.top.rates import Row
from kpod_metrics.top.text import BARS

NOTHING = "-"
"""What is shown of what is not known."""
_CELLS = 13
"""Of a histogram's picture: two octaves each, from a microsecond to a minute."""


@dataclass(frozen=True)
class Column:
    """One column.

    `key` is its name for --sort and in JSON, `title` its head in a terminal, where it is `width` wide, `plain` its head
    in plain text, where a number is in the unit that this says. `number` takes the number from a row; `shown` writes it
    for a person. A column without a number is text.
    """

    key: str
    title: str
    width: int
    plain: str
    help: str
    number: Callable[[Row], float | None] | None = None
    shown: Callable[[float], str] = str
    scale: float = 1.0
    """By what a number is multiplied for plain text."""
    text: Callable[[Row], str] | None = None

    def cell(self, row: Row) -> str:
        """What a person sees."""
        if self.text is not None:
            return self.text(row)
        value = self.value(row)
        return NOTHING if value is None else self.shown(value)

    def value(self, row: Row) -> float | None:
        """The number, if there is one."""
        value = self.number(row) if self.number is not None else None
        return value if value is not None and math.isfinite(value) else None


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


def picture(slots: Sequence[int], bars: str = BARS) -> str:
    """Draw a histogram of durations: a bar for each two octaves, as high as its share of the highest."""
    cells = [0] * _CELLS
    for slot, count in enumerate(slots):
        cells[min(max(slot - 1, 0) // (2 * SLOTS_PER_OCTAVE), _CELLS - 1)] += count
    highest = max(cells)
    return "".join(bars[math.ceil(count * (len(bars) - 1) / highest)] if count else bars[0] for count in cells)


def _waits(row: Row) -> str:
    return f"{row.waits_for} {row.waits * 100:.0f}%" if row.waits_for else NOTHING


NAMES = (
    Column("namespace", "NAMESPACE", 12, "NAMESPACE", "namespace", text=lambda row: row.pod.namespace or NOTHING),
    Column("pod", "POD", 40, "POD", "pod", text=lambda row: row.pod.pod or NOTHING),
    Column("container", "CONTAINER", 12, "CONTAINER", "container", text=lambda row: row.pod.container or NOTHING),
)

FIGURES = (
    Column(
        "waits",
        "WAITS FOR",
        14,
        "WAITS_FOR",
        "what it waits for most, and for how much of the time: a CPU, its CPU limit, memory, a disk, retransmits",
        lambda row: row.waits,
        text=_waits,
    ),
    Column("cpu", "CPU%", 6, "CPU_%", "CPU time, 100 is one CPU", lambda row: row.cpu, percent, 100),
    Column(
        "runqueue_p99",
        "RUNQ-99",
        7,
        "RUNQ_P99_MS",
        "99th percentile of the waits for a CPU",
        lambda row: row.runqueue_p99,
        seconds,
        1e3,
    ),
    Column(
        "runqueue_waits",
        "RUNQ 1us..64s",
        _CELLS,
        "RUNQ_WAITS/S",
        "those waits by how long they took: a bar is two octaves",
        lambda row: row.runqueue_waits,
        text=lambda row: picture(row.runqueue) if row.runqueue else NOTHING,
    ),
    Column(
        "throttled",
        "THROT%",
        6,
        "THROTTLED_%",
        "time for which the CPU limit kept tasks off the CPUs",
        lambda row: row.throttled,
        percent,
        100,
    ),
    Column("retransmits", "RETR/s", 6, "RETRANSMITS/S", "TCP segments sent again", lambda r: r.retransmits, amount),
    Column("network", "TCP B/s", 7, "TCP_BYTES/S", "TCP payload, sent and received", lambda r: r.network, amount),
    Column("faults", "MAJFL/s", 7, "MAJOR_FAULTS/S", "page faults that waited for a disk", lambda r: r.faults, amount),
    Column("calls", "CALLS/s", 7, "SYSCALLS/S", "tracked syscalls", lambda row: row.calls, amount),
    Column("errors", "ERR/s", 6, "SYSCALL_ERRORS/S", "those of them that failed", lambda row: row.errors, amount),
    Column(
        "call_p99",
        "CALL-99",
        7,
        "SYSCALL_P99_MS",
        "99th percentile of syscalls, without those that wait for others by nature (read, epoll_wait, ...)",
        lambda row: row.call_p99,
        seconds,
        1e3,
    ),
    Column("disk", "DISK B/s", 8, "DISK_BYTES/S", "read from and written to disks", lambda row: row.disk, amount),
    Column("memory", "MEM B", 6, "MEMORY_BYTES", "memory, page cache included", lambda row: row.memory, amount),
    Column(
        "pressure_cpu",
        "PSIcpu",
        6,
        "PSI_CPU_%",
        "time in which some task waited for a CPU",
        lambda row: row.pressure_cpu,
        percent,
        100,
    ),
    Column(
        "pressure_memory",
        "PSImem",
        6,
        "PSI_MEMORY_%",
        "the same for memory",
        lambda row: row.pressure_memory,
        percent,
        100,
    ),
    Column(
        "pressure_io",
        "PSIio",
        6,
        "PSI_IO_%",
        "the same for a disk",
        lambda row: row.pressure_io,
        percent,
        100,
    ),
)

COLUMNS = (*NAMES, *FIGURES)
KEYS = tuple(column.key for column in COLUMNS)


def chosen(rows: Sequence[Row], sort: str, filtered: str, *, other_way: bool = False) -> list[Row]:
    """Return the rows that have a text in their names, sorted by a column: numbers from the largest on, text from A.

    Rows for which the number is not known come last either way. Equals stay in the order of their names.
    """
    column = COLUMNS[KEYS.index(sort)]
    wanted = filtered.lower()
    found = sorted((row for row in rows if wanted in "/".join(row.pod).lower()), key=lambda row: row.pod)
    if column.number is None:
        return sorted(found, key=column.cell, reverse=other_way)
    known = [row for row in found if column.value(row) is not None]
    unknown = [row for row in found if column.value(row) is None]
    return sorted(known, key=lambda row: column.value(row) or 0.0, reverse=not other_way) + unknown
