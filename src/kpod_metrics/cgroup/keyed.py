"""Files with numbers under keys, as cgroup v2 has them (Documentation/admin-guide/cgroup-v2.rst, "Format").

A value is an int, or None if the file has no complete line with a plain number for the key.
"""

import errno
import re

from kpod_metrics.files import read_bytes, read_lines

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
"""Digits of the largest 64-bit number."""


def is_absent(error: OSError) -> bool:
    """Whether an error means that the file does not exist: not on this kernel, or its cgroup or process ended."""
    return error.errno in _ABSENT


def read_if_there(path: str) -> bytes:
    """Return the content of a file, empty if it does not exist; raises every other OSError."""
    try:
        return read_bytes(path)
    except OSError as error:
        if is_absent(error):
            return b""
        raise


def lines_if_there(path: str, limit: int) -> tuple[bytes, bool]:
    """Return the lines in the first `limit` bytes of a file, and whether these are all; none if it does not exist.

    Raises every other OSError.
    """
    try:
        return read_lines(path, limit)
    except OSError as error:
        if is_absent(error):
            return b"", True
        raise


def decimal(text: bytes) -> int | None:
    """Return the number that the text is; None unless it has only digits."""
    return int(text) if text.isdigit() and len(text) <= _DIGITS else None


def single(data: bytes) -> int | None:
    """Return the number in a file with nothing else (memory.current)."""
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

    A device without one of the keys is skipped. A name has no "="; the end of a line does not matter, because some
    kernels (5.15, 5.16) write no newline after a device without statistics: `7:1 7:0 8:0 rbytes=1 ...` has three
    devices.

    A name without a device number is skipped too: `(unknown)` is the name of every request queue without its own
    device (a path of native NVMe multipath, a device that is being removed), and can occur several times. If a device
    number occurs twice, the larger value of each counter counts: a sum would fall when one of the two disappears, and
    a falling counter counts from 0 again.
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


def without_controller(controller: str, controllers: bytes) -> str:
    """Return why cgroups lack a controller, by the content of the root's cgroup.controllers; empty if they have it."""
    if not controllers or controller.encode() in controllers.split():
        return ""
    return f"there is no {controller} controller in this cgroup v2 tree"
