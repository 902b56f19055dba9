"""What the processes of a cgroup share: looked at in the first few of them, as a cgroup may have thousands."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from kpod_metrics.cgroup.keyed import is_absent
from kpod_metrics.cgroup.tree import paths
from kpod_metrics.files import read_bytes

LOOKED_AT = 32
"""Processes of a cgroup whose namespaces are looked at."""

_Shared = TypeVar("_Shared")


def distinct(pids: Sequence[int], of: Callable[[int], _Shared]) -> dict[_Shared, int]:
    """Return what `of` gives for these processes, each with the first process that has it.

    Processes that are gone are left out, and so are those that cannot be looked at unless nothing else is there.
    """
    if len(pids) == 1:  # most have one
        try:
            return {of(pids[0]): pids[0]}
        except OSError as error:
            if is_absent(error):
                return {}
            raise
    found: dict[_Shared, int] = {}
    refused: OSError | None = None
    for pid in pids[:LOOKED_AT]:
        try:
            found.setdefault(of(pid), pid)
        except OSError as error:
            if not is_absent(error):
                refused = error
    if refused is not None and not found:
        raise refused
    return found


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
