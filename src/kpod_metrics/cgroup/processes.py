"""Namespaces and other properties of a cgroup's processes: only of the first ones, as there can be thousands."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from kpod_metrics.cgroup.keyed import is_absent
from kpod_metrics.cgroup.tree import paths
from kpod_metrics.files import read_bytes

MAX_PROBED = 32
"""Processes per cgroup, and threads per process, whose properties are read."""

_Property = TypeVar("_Property")


def distinct(pids: Sequence[int], of: Callable[[int], _Property], proc: str) -> dict[_Property, int]:
    """Return the distinct values of `of` for these processes, each with the first thread that has it.

    The thread is the main thread of a process or, if that has ended (pthread_exit() in main), the first one that has
    not: a thread that ends loses its namespaces, root and descriptors, and /proc/PID shows those of the main thread.
    /proc/TID exists for every thread. Threads that entered their own namespaces (setns(), unshare()) do not count.

    Processes that ended are skipped. If no process can be read, the error of the last one is raised. `proc` is the
    mount point of procfs.
    """
    found: dict[_Property, int] = {}
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
    """Yield the main thread of a process, then the first other ones, which are listed only if needed."""
    yield pid
    try:
        with os.scandir(f"{proc}/{pid}/task") as entries:
            first = [int(entry.name) for entry in islice(entries, MAX_PROBED)]
    except OSError:
        return
    yield from sorted(thread for thread in first if thread != pid)


def alive(proc: str, pid: int) -> int:
    """Return a thread of a process that has not ended, the main thread if possible; raises OSError if there is none."""
    error: OSError | None = None
    for thread in _threads(proc, pid):
        try:
            os.readlink(f"{proc}/{thread}/root")  # stat() would ask the file system, which may not answer
        except OSError as refusal:
            if not is_absent(refusal):
                raise
            error = error or refusal
        else:
            return thread
    assert error is not None
    raise error


HIDDEN = (
    "the processes of other containers are not seen: the agent needs the host's PID namespace "
    "(Kubernetes: hostPID: true, Docker: --pid=host)"
)


def others_are_hidden(root: str, own: int | None = None) -> bool:
    """Whether the PID namespace of this process has no process of another cgroup.

    cgroup.procs has 0 for each process that is not in the reader's namespace (cgroups(7)).
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
