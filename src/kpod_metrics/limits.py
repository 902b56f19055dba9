"""Which series an owner gets: limits of the node, and of what one pod decides by its interfaces, devices and mounts.

A pod that goes over a limit of its own has the rest added up in its series `other`. If the node has little room, the
limit is the few series that most pods have: so a new pod always finds room for all of its series.
"""

import enum
from collections.abc import Callable, Set
from typing import Final

from kpod_metrics.metrics import Table
from kpod_metrics.pods.model import Identity
from kpod_metrics.series import Series

OTHER: Final = "other"
"""Value of the labels of a pod's own choice, in the series that take what is over a limit of the pod."""
OPEN_SHARE = 2
"""If series with such labels take more than this fraction of `series_limit_total` (half), the node has little room. The
default leaves room for 1,000 pods of profile standard."""
FEW = 100
"""Series of its own choice that a pod has if the node has little room: an interface, four devices, 25 mounts."""

MORE_ROWS = 1_000
"""Rows of one pod that are kept beyond its series, for the differences that are added up in `other`. What is beyond is
not counted: 1,000 interfaces or devices more than the limit are an attack."""
_LOOK_EVERY = 256
"""The memory limit is checked after so many new series: many pods may start within one cycle."""

SERIES_BYTES = 600
"""Memory of a series as counted in the text format, after a scrape: measured, 185 MB with 265,000 series and 5,000
cgroups."""
LABEL_COPIES = 4
"""How often a label's value is in memory for each such series: in its form, its lines, its family, and the page.
Measured, 4.1 times for mounts."""
ROW_BYTES = 800
"""Memory of the last row of a counter: measured, 760 bytes of an interface."""


class Room(enum.IntEnum):
    """Which new series there is memory for."""

    NONE = 0
    """None, but those that a known owner lacks."""
    LITTLE = 1
    """Those of new owners, but only few of a pod's choice."""
    ALL = 2


class Usage:
    """What one pod has of what it decides itself."""

    __slots__ = ("label_bytes", "rows", "series")

    def __init__(self) -> None:
        self.series = self.label_bytes = 0
        self.rows = 0
        """The last rows that are kept to take differences, also of what is over the limits."""


class Limits:
    """Counts series, and decides on new ones."""

    def __init__(
        self,
        series: int = 1_000_000,
        total: int = 1_000_000,
        pod_series: int = 1_000_000,
        pod_label_bytes: int = 1 << 30,
        room: Callable[[int], Room] = lambda needed: Room.ALL,
    ) -> None:
        """`series` limits the series of each metric, with a histogram as one.

        `total` limits the series of all pods, as in the text format: a histogram has a series for each bucket.
        `pod_series` and `pod_label_bytes` limit the series and the bytes of labels that one pod decides. `room` gets
        the memory that all series need, in bytes, and returns which new ones there is memory for.
        """
        self._series, self._total = series, total
        self._pod_series, self._pod_label_bytes = pod_series, pod_label_bytes
        self._room_for, self._room = room, Room.ALL
        self._has = self._has_open = self._label_bytes = self._rows = self._made = 0
        self._pods: dict[Identity, Usage] = {}
        self.admitted: set[Identity] = set()
        """Owners of series."""

    def look(self) -> bool:
        """Check the memory; return whether there is none for new owners."""
        needed = SERIES_BYTES * self._has + LABEL_COPIES * self._label_bytes + ROW_BYTES * self._rows
        self._room = self._room_for(needed)
        return self._room is Room.NONE

    def usage(self, identity: Identity) -> Usage:
        """Return what an owner's pod has."""
        pod = identity.of_pod
        if (usage := self._pods.get(pod)) is None:
            usage = self._pods[pod] = Usage()
        return usage

    def allows_row(self, usage: Usage) -> bool:
        """Whether another row of a pod may be kept."""
        return usage.rows < MORE_ROWS + (self._pod_series if self._room is Room.ALL else 0)

    def keep_rows(self, usage: Usage, rows: int) -> None:
        """Count more rows, or fewer."""
        usage.rows += rows
        self._rows += rows

    def of_pod(self, table: Table, identity: Identity, labels: tuple[str, ...], weight: int) -> str:
        """Return the limit (of `bounds.LIMITS`) that a new series would be over in its pod, if any."""
        usage = self.usage(identity)
        little = self._room < Room.ALL or self._has_open + weight > self._total // OPEN_SHARE
        if usage.series + weight > (min(FEW, self._pod_series) if little else self._pod_series):
            return "series"
        return "label_bytes" if usage.label_bytes + _label_bytes(table, labels) > self._pod_label_bytes else ""

    def refuses(self, identity: Identity, siblings: int, weight: int) -> bool:
        """Whether the node has no room for a new series of this metric, which has so many `siblings`."""
        return (
            siblings >= self._series
            or self._has + weight > self._total
            or (self._room is Room.NONE and identity not in self.admitted)
        )

    def add(self, table: Table, series: Series, weight: int) -> None:
        """Count a new series; after some of them, look at the memory again."""
        self._count(table, series, weight)
        self.admitted.update((series.identity, series.identity.of_pod))
        self._made += 1
        if not self._made % _LOOK_EVERY:
            self.look()

    def remove(self, table: Table, series: Series, weight: int) -> None:
        """Count a series no more."""
        self._count(table, series, -weight)

    def _count(self, table: Table, series: Series, weight: int) -> None:
        self._has += weight
        if not table.is_open:
            return
        size = _label_bytes(table, series.labels)
        self._has_open += weight
        self._label_bytes += weight * size
        if series.labels != folded(table, series.labels, OTHER):  # `other` is beside the limits of its pod
            usage = self.usage(series.identity)
            usage.series += weight
            usage.label_bytes += size if weight > 0 else -size

    def retain(self, owners: Set[Identity]) -> None:
        """Forget all other owners; their series are removed already."""
        self.admitted &= owners
        for pod in self._pods.keys() - owners:
            del self._pods[pod]


def folded(table: Table, labels: tuple[str, ...], value: str) -> tuple[str, ...]:
    """Return labels with one value for all that are open. Those with declared values are bounded."""
    return tuple(own if label.values else value for label, own in zip(table.labels, labels, strict=True))


def _label_bytes(table: Table, labels: tuple[str, ...]) -> int:
    """Return the bytes of the open labels."""
    return sum(
        len(value.encode("utf-8", "surrogatepass"))
        for label, value in zip(table.labels, labels, strict=True)
        if not label.values
    )
