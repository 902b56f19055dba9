"""Set-up of this process: its memory allocator, and its capabilities."""

import ctypes
import gc
import logging
import os
from collections.abc import Sequence

from kpod_metrics.agent.state import State
from kpod_metrics.errors import KpodError
from kpod_metrics.files import read_bytes
from kpod_metrics.kernel import libbpf, rights
from kpod_metrics.settings import Settings

log = logging.getLogger(__name__)


def needs_bpf(proc_root: str) -> bool:
    """Whether this kernel requires CAP_BPF to read a map or run an iterator that is open already.

    Before 5.19 (c8644cd0efe7) kernel.unprivileged_bpf_disabled refuses all of bpf() without it. If it is 0 now, it may
    be set later, so the kernel's answer now does not help.
    """
    try:
        setting = read_bytes(os.path.join(proc_root, "sys/kernel/unprivileged_bpf_disabled")).strip()
    except OSError:
        setting = b""
    if setting == b"0":
        return True
    return not rights.without((rights.CAP_BPF, rights.CAP_SYS_ADMIN), lambda: not libbpf.is_refused())


_MALLOPT = {"M_TRIM_THRESHOLD": -1, "M_MMAP_THRESHOLD": -3, "M_ARENA_MAX": -8}
"""Constants of malloc.h."""


def tune_process() -> None:
    """Set up the memory allocator for an agent; before it starts threads.

    The C library gets one arena for all threads, and returns freed memory from 1 MiB on, so that it does not map the
    larger buffers of each cycle again: mallopt(3). Measured at 100 pods: 40 MB resident; from 64 KiB on it was 0.7 MB
    less, with 185 page faults a cycle, 1 ms of CPU time. The garbage collector leaves out the imported modules, and
    runs less often than once per cycle of rows, which have no reference cycles.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        for parameter, value in (("M_ARENA_MAX", 1), ("M_TRIM_THRESHOLD", 1 << 20), ("M_MMAP_THRESHOLD", 4 << 20)):
            libc.mallopt(_MALLOPT[parameter], value)
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def needed(states: Sequence[State], settings: Settings) -> int:
    """Return the capabilities that the agent needs while it runs, as a bit mask; attached programs need none."""
    opened = [state.collector for state in states if state.opened]
    wanted = set().union(*(collector.rights() for collector in opened))
    if settings.discovery != "cgroup" or settings.web_config_file:
        wanted.add(rights.CAP_DAC_READ_SEARCH)  # a kubeconfig, a key of another user's, read again
    if any(collector.uses_bpf for collector in opened) and needs_bpf(settings.proc_root):
        wanted.add(rights.CAP_BPF)
    had = rights.effective()
    if any(one in wanted and not had & 1 << one for one in (rights.CAP_BPF, rights.CAP_PERFMON)):
        wanted.add(rights.CAP_SYS_ADMIN)  # which stands for both
    return rights.mask(*wanted)


def give_up_rights(mask: int) -> str:
    """Drop all capabilities except these; return the reason if that failed."""
    try:
        rights.drop_all_but(mask)
    except (KpodError, OSError) as error:
        kept = f"rights that are not needed are kept: {error.strerror if isinstance(error, OSError) else error}"
        log.error("%s", kept)
        return kept
    return ""
