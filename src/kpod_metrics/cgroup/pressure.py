"""Pressure stall information: `cpu.pressure`, `memory.pressure`, `io.pressure` (Documentation/accounting/psi.rst)."""

from kpod_metrics.cgroup.keyed import number


def totals(data: bytes) -> tuple[int | None, int | None]:
    """Return the microseconds in which some, and in which all, tasks were held up; None where the line is missing.

    The cpu file has no `full` line before 5.13 ("psi: Add PSI_CPU_FULL state").
    """
    some = full = None
    for line in data.split(b"\n")[:-1]:
        head, _, total = line.partition(b" total=")
        if head.startswith(b"some "):
            some = number(total)
        elif head.startswith(b"full "):
            full = number(total)
    return some, full
