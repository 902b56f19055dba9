"""Reads of a disk that the page cache does not answer."""

import mmap
import os
from pathlib import Path

from tests.live.workloads import Event


def read(times: int, file: Path) -> None:
    """Read one page after another, each from the disk."""
    pages = file.stat().st_size // mmap.PAGESIZE
    opened = os.open(file, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            for number in range(times):
                os.preadv(opened, [page], number % pages * mmap.PAGESIZE)
    finally:
        os.close(opened)


EVENTS = {"a block request": Event(read, 500)}
