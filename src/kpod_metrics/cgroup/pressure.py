"""Pressure stall information: `cpu.pressure`, `memory.pressure`, `io.pressure` (Documentation/accounting/psi.rst)."""

from kpod_metrics.cgroup.keyed import decimal


def totals(data: bytes) -> tuple[int | None, int | None]:
    """Return the microseconds in which some, and in which all tasks were stalled; None if a line is missing.

    The cpu file has no `full` line before 5.13 ("psi: Add PSI_CPU_FULL state").
    """
    return _total(data, data.find(b"some ")), _total(data, data.find(b"full "))


def _total(data: bytes, line: int) -> int | None:
    """Return the total at the end of the line that begins at this offset (-1: no line)."""
    end = data.find(b"\n", line)
    at = data.rfind(b" total=", line, end) if line >= 0 <= end else -1
    return decimal(data[at + 7 : end]) if at >= 0 else None
