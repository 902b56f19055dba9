"""The capabilities of this process: those that loading and attaching programs needs, and how to drop the others."""

import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterable

from kpod_metrics.errors import RefusedError
from kpod_metrics.files import read_bytes

# include/uapi/linux/capability.h
CAP_DAC_READ_SEARCH = 2
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_PERFMON = 38
CAP_BPF = 39

# include/uapi/linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_VERSION_3 = 0x20080522
"""Of capset(2): capabilities in two words."""

_EFFECTIVE = re.compile(rb"CapEff:\s+([0-9a-f]{1,16})")
_NAMES = {CAP_SYS_PTRACE: "CAP_SYS_PTRACE", CAP_PERFMON: "CAP_PERFMON", CAP_BPF: "CAP_BPF"}


def effective(proc_root: str = "/proc", task: str = "self") -> int:
    """Return the effective capabilities of a task, this process, as a bit mask.

    Raises RefusedError if `proc_root` is no /proc.
    """
    path = os.path.join(proc_root, task, "status")
    try:
        lines = read_bytes(path).splitlines()
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}: is --proc-root the host's /proc?") from None
    for line in lines:
        if found := _EFFECTIVE.fullmatch(line):
            return int(found[1], 16)
    return 0


def lacking(capabilities: int, *wanted: int) -> str:
    """Return the names of missing capabilities, joined by "and"; empty if all are there."""
    return " and ".join(_NAMES[one] for one in wanted if not capabilities & 1 << one)


def lacking_for_bpf(capabilities: int) -> str:
    """Return the missing capabilities to load tracing programs: CAP_BPF and CAP_PERFMON (5.8), or CAP_SYS_ADMIN."""
    return "" if capabilities & 1 << CAP_SYS_ADMIN else lacking(capabilities, CAP_BPF, CAP_PERFMON)


def _capset(capabilities: int) -> None:
    """Set the capabilities of the calling thread, none of them inheritable; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    if libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)):
        error = ctypes.get_errno()
        raise OSError(error, f"capset: {os.strerror(error)}")


def without(capabilities: Iterable[int], ask: Callable[[], bool]) -> bool:
    """Call `ask` on a thread without these capabilities and return its answer; false if they cannot be dropped."""
    answers: list[bool] = []

    def run() -> None:
        try:
            _capset(effective(task="thread-self") & ~mask(*capabilities))
        except (OSError, RefusedError):
            return
        answers.append(ask())

    thread = threading.Thread(target=run, name="without")
    thread.start()
    thread.join()
    return bool(answers) and answers[0]


def mask(*capabilities: int) -> int:
    """Return these capabilities as a bit mask."""
    return sum(1 << one for one in set(capabilities))


def drop_all_but(kept: int) -> None:
    """Drop all capabilities except these, permanently.

    Each thread has its own capabilities: call this before other threads start, which then have no more than this one.
    No program that is executed later gains any (no_new_privs), not even one of root (fs/exec.c, security/commoncap.c).
    Other processes of the same user cannot read the memory of this one, which may hold tokens, and it writes no core
    dump. Raises OSError; also if another thread still has capabilities: the error names it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
            error = ctypes.get_errno()
            raise OSError(error, f"prctl({option}): {os.strerror(error)}")
    kept &= effective(task="thread-self")
    _capset(kept)
    for thread in threading.enumerate():
        found = effective(task=f"self/task/{thread.native_id}")
        if found & ~kept:
            raise OSError(0, f"thread {thread.name} has {found:#x}")
