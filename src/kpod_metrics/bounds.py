"""The limits of each pod, and the count of what went over them.

A pod decides how many mounts, interfaces, cgroups and threads it has, and what they are called. Each limit here is of
one pod, so a pod that reaches it loses only its own detail.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable

from kpod_metrics.metrics import Label, Profile, Row, Scope, Table, counter

LIMITS = {
    "series": "series with labels of the pod's own choice (interfaces, devices, mounts): `pod_series_limit`, or 100 "
    "while the agent has little room",
    "label_bytes": "bytes of these labels: `pod_label_bytes_limit`",
    "claims": "a second cgroup with the ids of a container that exists",
    "cgroups": "cgroups below one container or unit",
    "map_entries": "entries of cgroups in a container, in a kernel map that is nearly full",
    "mountinfo": "bytes of the tables of mounts (`/proc/PID/mountinfo`): 256 KiB, and 16 KiB per cycle on average",
    "file_systems": "file systems",
    "hung_mounts": "file systems that do not answer, and those that wait behind them",
    "mount_namespaces": "mount namespaces and root directories",
    "network_namespaces": "network namespaces",
    "descriptors": "processes and descriptors that can be of a GPU",
    "interfaces": "bytes of the lists of network interfaces (`/proc/PID/net/dev`), 64 KiB",
}
"""What each limit means, by the value of the label `limit`."""

EXCEEDED = Table(
    (
        counter(
            "kpod_pod_limit_exceeded_total",
            "How often the pod went over a limit of its own: what is beyond is not read, or is added up in the series "
            "`other` of the pod. Other pods are not affected.",
            "agent",
            profile=Profile.MINIMAL,
            optional="over a limit",
            advice="Look at the pod that the labels name: docs/security.md says what each limit means.",
        ),
    ),
    (Label("limit", tuple(LIMITS)),),
    Scope.POD,
    sparse=True,
)


LABEL_BYTES = 200
"""Bytes of a label's value. The kernel allows a mount point of 4 KiB, and each series of a page repeats it."""
_HASHED = 9
"""Bytes of the mark at the end of a value that was cut: "~" and eight digits."""


def clipped(value: str) -> str:
    """Return the value of a label, or its beginning with a mark if it is longer than LABEL_BYTES in UTF-8.

    The mark is a hash of the whole value: two long values stay two series.
    """
    if 4 * len(value) <= LABEL_BYTES:  # a character has at most four bytes
        return value
    whole = value.encode("utf-8", "surrogatepass")
    if len(whole) <= LABEL_BYTES:
        return value
    end = LABEL_BYTES - _HASHED
    while whole[end] & 0xC0 == 0x80:  # not within a character
        end -= 1
    beginning = whole[:end].decode("utf-8", "surrogatepass")
    return f"{beginning}~{hashlib.sha256(whole).hexdigest()[: _HASHED - 1]}"


class Ledger:
    """Running totals of exceeded limits, by cgroup; for several threads."""

    def __init__(self) -> None:
        self._totals: dict[tuple[int, str], int] = {}
        self._lock = threading.Lock()

    def add(self, owner: int, limit: str, times: int = 1) -> None:
        """Count that a cgroup went over a limit; raises KeyError if no such limit is declared."""
        if limit not in LIMITS:
            raise KeyError(limit)
        with self._lock:
            self._totals[owner, limit] = self._totals.get((owner, limit), 0) + times

    def rows(self) -> Iterable[Row]:
        """Return a row for each cgroup and limit."""
        with self._lock:
            return [Row(EXCEEDED, owner, (limit,), (total,), owner) for (owner, limit), total in self._totals.items()]

    def forget(self, gone: Callable[[int], bool]) -> None:
        """Drop the totals of cgroups that are `gone`, after their last values were read."""
        with self._lock:
            for key in [key for key in self._totals if gone(key[0])]:
                del self._totals[key]
