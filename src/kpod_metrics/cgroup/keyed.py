"""Files with numbers under keys, as cgroup v2 has them (Documentation/admin-guide/cgroup-v2.rst, "Format").

Whatever is not a whole line with a plain number after its key is left out: a value is an int, or None.
"""

import errno
import re

from kpod_metrics.files import read_bytes

_ABSENT = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENODEV,  # the cgroup was removed after the file was opened (kernfs)
        errno.ESRCH,  # the process ended after the file was opened
        errno.EINVAL,  # mountinfo of a zombie
        errno.EOPNOTSUPP,  # pressure files of a kernel started with psi=0
    }
)
_DEVICE = re.compile(rb"[0-9]+:[0-9]+")
_DIGITS = 20
"""As many as the largest number of 64 bits has."""


def is_absent(error: OSError) -> bool:
    """Whether an error says that the file is not there: not on this kernel, or its cgroup or process has gone."""
    return error.errno in _ABSENT


def read_if_there(path: str) -> bytes:
    """Return a file's content, nothing where it is absent; raises any other OSError."""
    try:
        return read_bytes(path)
    except OSError as error:
        if is_absent(error):
            return b""
        raise


def decimal(text: bytes) -> int | None:
    """Return a number that is written in digits alone."""
    return int(text) if text.isdigit() and len(text) <= _DIGITS else None


def single(data: bytes) -> int | None:
    """Return the number that is all of a file (memory.current)."""
    return decimal(data[:-1]) if data.endswith(b"\n") else None


def flat(data: bytes, *keys: bytes) -> list[int | None]:
    """Return the values of these keys of a flat keyed file: `KEY VALUE` lines (cpu.stat, memory.events)."""
    lines = b"\n" + data
    values = []
    for key in keys:
        _, _, after = lines.partition(b"\n" + key + b" ")
        value, end, _ = after.partition(b"\n")
        values.append(int(value) if end and value.isdigit() and len(value) <= _DIGITS else None)
    return values


def by_device(data: bytes, *keys: bytes) -> dict[str, list[int]]:
    """Return the values of these keys of each block device, by its MAJ:MIN: `NAME KEY=VALUE KEY=VALUE` lines (io.stat).

    A name that lacks one of the keys is left out. Names are told from pairs by their lack of a "=", not by the line:
    some kernels (5.15, 5.16) end no line after a device that has no statistics, so that `7:1 7:0 8:0 rbytes=1 ...`
    is of three.

    What has no number is left out as well: `(unknown)` is the name of every request queue without a device of its own
    (a path of native NVMe multipath, a device that is being removed), of which there may be several in one file. A
    number is of one queue. Should it ever be there twice, the larger of each count is taken: a sum would fall when one
    of the two goes, and what falls is counted from its beginning.
    """
    found: dict[str, list[int]] = {}
    name = b""
    pairs: dict[bytes, bytes] = {}
    tokens = data[: data.rfind(b"\n") + 1].split()
    for token in [*tokens, b""]:
        key, is_pair, value = token.partition(b"=")
        if is_pair:
            pairs[key] = value
            continue
        values = [decimal(pairs.get(wanted, b"")) for wanted in keys]
        numbers = [value for value in values if value is not None]
        if len(numbers) == len(keys) and _DEVICE.fullmatch(name):
            device = name.decode("ascii")
            before = found.get(device)
            found[device] = numbers if before is None else [*map(max, before, numbers)]
        name, pairs = key, {}
    return found
