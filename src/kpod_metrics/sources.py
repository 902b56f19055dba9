"""The last rows of counters whose labels are open: one for each interface of a namespace, each device of a cgroup.

An interface or a device can be removed while its pod runs. A source that two reads in a row did not find is gone.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from kpod_metrics.limits import Limits, Usage
from kpod_metrics.metrics import Row, Scope, Table
from kpod_metrics.pods.model import Group, Identity
from kpod_metrics.series import Series


class Source:
    """One running total in the kernel: its last row, and the series that takes what it grows by."""

    __slots__ = ("read", "row", "series", "usage")

    def __init__(self, row: Row, series: Series, read: int, usage: Usage) -> None:
        self.row, self.series, self.usage = row, series, usage
        self.read = read
        """The number of the last read that found it."""


class Sources:
    """The sources of one table."""

    def __init__(self, table: Table, limits: Limits) -> None:
        self._limits = limits
        self._of_pods = table.scope is Scope.POD
        self._sources: dict[tuple[Any, ...], Source] = {}
        self.read = 0
        """The number of the read whose rows are being taken."""

    def key(self, row: Row, identity: Identity) -> tuple[Any, ...]:
        """Return the key of a row's source. A counter of a pod may be read through several cgroups of the pod."""
        return (identity, row.labels, row.epoch) if self._of_pods else (row.owner, row.labels)

    def get(self, key: tuple[Any, ...]) -> Source | None:
        """Return a source, if it is known."""
        return self._sources.get(key)

    def has_room(self, identity: Identity) -> bool:
        """Whether the owner's pod may have another source."""
        return self._limits.allows_row(self._limits.usage(identity))

    def add(self, key: tuple[Any, ...], row: Row, series: Series, identity: Identity) -> None:
        """Add a source."""
        usage = self._limits.usage(identity)
        self._limits.keep_rows(usage, 1)
        self._sources[key] = Source(row, series, self.read, usage)

    def end_read(self, groups: Sequence[Group], unread: Collection[int]) -> set[Series]:
        """End a read of these groups without the `unread` ones; return the series whose last source is gone.

        A source whose owner was not read is not gone: its process may have just ended, and the next one starts.
        """
        missing = [(key, source) for key, source in self._sources.items() if source.read != self.read]
        gone = []
        if missing:
            passed = {group.id for group in groups if group.id in unread}
            read = {group.id for group in groups if group.pids} - passed
            pods = {group.pod for group in groups if group.id in read}
            pods -= {group.pod for group in groups if group.id in passed}
            for key, source in missing:
                if not (key[0] in pods if self._of_pods else source.row.owner in read):
                    source.read = self.read
                elif source.read < self.read - 1:
                    gone.append(key)
        self.read += 1
        return self._remove(gone)

    def forget(self, gone: Callable[[int], bool], stays: Callable[[Identity], bool]) -> set[Series]:
        """Remove the sources of cgroups that are `gone`; return the series that end with them.

        A counter of a pod may outlive the cgroup through which it was read: the sandbox keeps the network namespace
        while a container waits for its restart. Its source is kept while the pod `stays` and has no other one. The
        series of a container stay: its next cgroup continues them. So do those of a pod that ends, for one more page.
        """
        if not (owners := {owner for owner in {source.row.owner for source in self._sources.values()} if gone(owner)}):
            return set()
        doomed = [key for key, source in self._sources.items() if source.row.owner in owners]
        if not self._of_pods:
            self._remove(doomed)
            return set()
        living = {key[0] for key, source in self._sources.items() if source.row.owner not in owners}
        self._remove([key for key in doomed if key[0] not in living and not stays(key[0])])
        return self._remove([key for key in doomed if key[0] in living])

    def _remove(self, keys: Sequence[tuple[Any, ...]]) -> set[Series]:
        """Remove sources; return the series that have none now."""
        if not keys:
            return set()
        removed = [self._sources.pop(key) for key in keys]
        for source in removed:
            self._limits.keep_rows(source.usage, -1)
        return {source.series for source in removed} - {source.series for source in self._sources.values()}
