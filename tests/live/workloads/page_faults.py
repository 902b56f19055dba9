"""Page faults that wait for a disk."""

import mmap
import os
from pathlib import Path

from kpod_metrics.features import PERF_EVENT
from tests.live.workloads import Event


def fault(times: int, file: Path) -> None:
    """Look at pages that only the disk has."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as pages:
            pages.madvise(mmap.MADV_RANDOM)
            for page in range(times):
                pages[page * mmap.PAGESIZE]


EVENTS = {"a major page fault": Event(fault, 1_000, needs=(PERF_EVENT,))}
