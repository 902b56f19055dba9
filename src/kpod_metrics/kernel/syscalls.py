"""Names and numbers of syscalls, and the tables by number for `bpf/syscall.bpf.c`.

The numbers are those of the kernel's user-space headers (asm/unistd*.h): they are an interface, and never change.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from kpod_metrics.errors import SettingError
from kpod_metrics.kernel import _syscall_numbers

TABLE_SIZE = 512
"""Entries of the kernel program's tables; the highest number of Linux 7.3 is 472. x32's begin above 2**30."""

MAX_TRACKED = 254
"""A table's entry is a byte: 0 is none, 255 is ANY_BEGUN."""

ANY_BEGUN = 255
"""Entry of a number under which any syscall may end."""

WAITING = (
    "read|readv|recv.*|accept4?|connect|epoll_p?wait2?|poll|ppoll|select|pselect6|futex|nanosleep|clock_nanosleep"
    "|wait4|waitid|pause|rt_sig.*|io_getevents|io_uring_enter"
)
"""Regular expression of syscalls that wait for others or fail with "not now": long and failing calls are normal."""


@cache
def waits_by_nature(name: str) -> bool:
    """Whether a syscall is one of `WAITING`."""
    return re.fullmatch(WAITING, name) is not None


def _parse(text: str) -> dict[str, int]:
    numbers: dict[str, int] = {}
    following = 0
    for word in text.split():
        if word.isdigit():
            following = int(word)
        else:
            numbers[word] = following
            following += 1
    return numbers


X86_64 = _parse(_syscall_numbers.X86_64)
I386 = _parse(_syscall_numbers.I386)
ARM64 = _parse(_syscall_numbers.ARM64)
ARM = _parse(_syscall_numbers.ARM)

_NUMBERS = {"x86_64": (X86_64, I386), "aarch64": (ARM64, ARM)}
"""Native numbers and those of 32-bit processes, by machine as in uname."""

_REPLACEMENTS = {"epoll_wait": "epoll_pwait", "poll": "ppoll", "select": "pselect6"}
"""Waits that newer architectures have only with a signal mask: a C library calls that form there.

For open, stat and similar calls a C library uses openat and newfstatat, which can be tracked by their own names.
"""

_NEVER_RETURN = frozenset({"exit", "exit_group", "rt_sigreturn"})

_SECOND_FORM = re.compile(r"(\w+?)(?:_time64|64|32)$")
_IRREGULAR = {
    "_llseek": "lseek",
    "_newselect": "select",
    "arm_fadvise64_64": "fadvise64",
    "arm_sync_file_range": "sync_file_range",
    "fadvise64_64": "fadvise64",
    "fstatat64": "newfstatat",
    "mmap2": "mmap",
    "ugetrlimit": "getrlimit",
}


def supported(machine: str) -> bool:
    """Whether there are numbers for this machine (as in uname)."""
    return machine in _NUMBERS


def meaning(name: str) -> str:
    """Return the 64-bit name of a syscall in a 32-bit table.

    A 32-bit program with a newer C library calls the forms with 64-bit times, offsets or ids (futex_time64, stat64,
    getuid32): these are the same syscall. An i386 program with an older one uses socketcall or ipc: their numbers do
    not show which syscall it is, so they never count as connect or recvfrom.
    """
    if name in X86_64 or name in ARM64:
        return name
    match = _SECOND_FORM.match(name)
    plain = _IRREGULAR.get(name) or (match[1] if match else name)
    return plain if plain in X86_64 or plain in ARM64 else name


class Tracked(NamedTuple):
    """The syscalls to track on a machine: names, in the order of the indices, and the kernel program's two tables.

    An entry is a little-endian 16-bit number: the low byte is for native calls, the high byte for 32-bit ones; each is
    an index into `names` plus 1, or 0. `remarks` name the syscalls that are not tracked, and the reason.
    """

    names: tuple[str, ...]
    begins: bytes
    ends: bytes
    remarks: tuple[str, ...]


def check(names: Sequence[str]) -> None:
    """Raise SettingError for a name that no architecture has, or too many names."""
    known = X86_64.keys() | I386.keys() | ARM64.keys() | ARM.keys()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 3, 0.6)
            raise SettingError(
                f"syscalls: unknown syscall {name!r}"
                + (f" (nearest: {', '.join(near)})" if near else "")
                + "; accepted: names as in the manual's section 2, like read,openat,futex"
            )
    if len(set(names)) > MAX_TRACKED:
        raise SettingError(f"syscalls: {len(set(names))} names; accepted: at most {MAX_TRACKED}")


def track(names: Iterable[str], machine: str) -> Tracked:
    """Return the names to track on this machine; raises SettingError as `check` does."""
    wanted = tuple(dict.fromkeys(names))
    check(wanted)
    if not supported(machine):
        return Tracked(wanted, bytes(2 * TABLE_SIZE), bytes(2 * TABLE_SIZE), ())
    native, compat = _NUMBERS[machine]
    indices: dict[str, int] = {}
    remarks = []
    begins = bytearray(2 * TABLE_SIZE)
    for name in wanted:
        number = native.get(name)
        replacement = _REPLACEMENTS.get(name, "")
        if number is None and replacement in native and replacement not in wanted:
            number = native[replacement]
        if number is None:
            where = machine + (f", which has {replacement}" if replacement in native else "")
            remarks.append(f"syscalls: {name} does not exist on {where}: not counted")
        elif name in _NEVER_RETURN:
            remarks.append(f"syscalls: {name} never returns: not counted")
        else:
            indices[name] = begins[2 * number] = len(indices) + 1
    for name, number in compat.items():
        begins[2 * number + 1] = indices.get(meaning(name), 0)
    ends = begins.copy()
    if native is X86_64 and "execveat" in indices:  # one that succeeds ends with the number of execve
        ends[2 * native["execve"]] = ends[2 * compat["execve"] + 1] = ANY_BEGUN
    return Tracked(tuple(indices), bytes(begins), bytes(ends), tuple(remarks))
