"""What the processes of a cgroup share: looked at in the first few of them, as a cgroup may have thousands."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from kpod_metrics.cgroup.keyed import is_absent
from kpod_metrics.cgroup.tree import paths
from kpod_metrics.files import read_bytes

MAX_PROBED = 32
"""Processes of a cgroup whose namespaces are looked at."""

_Shared = TypeVar("_Shared")


def distinct(pids: Sequence[int], of: Callable[[int], _Shared], proc: str) -> dict[_Shared, int]:
    """Return what `of` gives for these processes, each with the first thread that has it.

    That is the main thread of a process or, where that has ended (pthread_exit() in main), the first other one that
    has not: the kernel takes the namespaces, the root and the descriptors from each thread that ends, and /proc/PID
    is the main thread's. /proc/TID is there for every thread. Threads of one process that are in namespaces of their
    own (setns(), unshare()) are not looked at: what counts is where the main thread is.

    Processes that are gone are left out, and so are those that cannot be looked at unless nothing else is there.
    `proc` is where procfs is mounted.
    """
    found: dict[_Shared, int] = {}
    refused: OSError | None = None
    for pid in pids[:MAX_PROBED]:
        for thread in _threads(proc, pid):
            try:
                found.setdefault(of(thread), thread)
            except OSError as error:
                if is_absent(error):
                    continue
                refused = error
            break
    if refused is not None and not found:
        raise refused
    return found


def _threads(proc: str, pid: int) -> Iterator[int]:
    """Yield a process, then its first other threads: those are listed only if they are asked for, and not all."""
    yield pid
    try:
        with os.scandir(f"{proc}/{pid}/task") as entries:
            first = [int(entry.name) for entry in islice(entries, MAX_PROBED)]
    except OSError:
        return
    yield from sorted(thread for thread in first if thread != pid)


def alive(proc: str, pid: int) -> int:
    """Return a thread of a process that has not ended: itself, if its main thread has not. OSError if there is none."""
    error: OSError | None = None
    for thread in _threads(proc, pid):
        try:
            os.stat(f"{proc}/{thread}/root")
        except OSError as refusal:
            if not is_absent(refusal):
                raise
            error = error or refusal
        else:
            return thread
    assert error is not None
    raise error


HIDDEN = (
    "the processes of other containers are not seen from here: it takes the host's PID namespace "
    "(Kubernetes: hostPID: true, Docker: --pid=host)"
)


def others_are_hidden(root: str, own: int | None = None) -> bool:
    """Whether this process is in a PID namespace that no process of another cgroup is in.

    cgroup.procs has 0 in the place of each that the reader's namespace lacks (cgroups(7)).
    """
    own = os.getpid() if own is None else own
    hidden = False
    for directory in paths(root):
        try:
            pids = set(map(int, read_bytes(f"{directory}/cgroup.procs").split()))
        except OSError:
            continue
        if pids - {0} and own not in pids:
            return False
        hidden = hidden or 0 in pids
    return hidden
