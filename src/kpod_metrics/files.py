"""Reading kernel files."""

import os


def read_bytes(path: str) -> bytes:
    """Return a kernel file's content with few system calls (open() makes seven); raises OSError.

    Read to the end: a short read is no sign of it, as a seq_file stops before the record that does not fit.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 1 << 16)
        while more := os.read(fd, 1 << 16):
            data += more
        return data
    finally:
        os.close(fd)
