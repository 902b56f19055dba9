"""What the processes of a cgroup share: looked at in the first few of them, as a cgroup may have thousands."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from kpod_metrics.cgroup.keyed import is_absent

LOOKED_AT = 32
"""Processes of a cgroup whose namespaces are looked at."""

_Shared = TypeVar("_Shared")


def distinct(pids: Sequence[int], of: Callable[[int], _Shared]) -> dict[_Shared, int]:
    """Return what `of` gives for these processes, each with the first process that has it.

    Processes that are gone are left out, and so are those that cannot be looked at unless nothing else is there.
    """
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
