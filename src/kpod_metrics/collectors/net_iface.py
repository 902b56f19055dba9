"""Traffic of network interfaces, from `/proc/PID/net/dev`: one file a network namespace and container.

Once per network namespace of a pod, as its containers share one; the host's own (that of PID 1) is no pod's.
`lo` appears once it has carried traffic: in most pods it is silent for ever, and would cost each eight series.

A namespace is known by the inode of its /proc/net/dev. Every namespace registers a file of its own there
(net/core/net-procfs.c, dev_proc_net_init), and unlike /proc/PID/ns/net it may be looked at without the right to trace
the process: PID 1 can refuse that even to root.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kpod_metrics.cgroup.keyed import read_if_there
from kpod_metrics.cgroup.net_dev import Interface, interfaces
from kpod_metrics.cgroup.processes import HIDDEN, distinct, others_are_hidden
from kpod_metrics.collectors.base import Environment, Signal
from kpod_metrics.collectors.per_group import FileCollector
from kpod_metrics.errors import UnavailableError
from kpod_metrics.metrics import Label, Metric, Row, Scope, Table, counter
from kpod_metrics.pods.model import Group, Identity

_WHAT = {
    "bytes": ("Bytes {} by the network interface.", "bytes"),
    "packets": ("Packets {} by the network interface.", "packets"),
    "errors": ("Packets not {} because of an error of the network interface.", "errs"),
    "drops": ("Packets not {} because the network interface or the kernel dropped them.", "drop"),
}


def _counters(direction: str, done: str, heading: str) -> tuple[Metric, ...]:
    return tuple(
        counter(
            f"kpod_net_iface_{direction}_{what}_total",
            f"{help_.format(done)} `lo` is there once it has carried traffic.",
            f"{heading} {column} of /proc/PID/net/dev",
        )
        for what, (help_, column) in _WHAT.items()
    )


TABLE = Table(
    (*_counters("rx", "received", "Receive"), *_counters("tx", "sent", "Transmit")),
    labels=(Label("interface", per="network interface"),),
    scope=Scope.POD,
)


@dataclass
class _Namespace:
    """One network namespace of one pod."""

    owners: set[int] = field(default_factory=set)
    """The cgroups with processes in it, those that are gone included."""
    totals: dict[str, Interface] = field(default_factory=dict)


class NetIface(FileCollector):
    """Interface counters of each pod.

    The collector takes the differences itself: a namespace outlives the containers through which it is read, while the
    store tells running totals apart by cgroup, and would add the whole total again at a container's restart.
    """

    name = "net_iface"
    description = "traffic of network interfaces"

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._namespaces: dict[tuple[Identity, int], _Namespace] = {}

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """One table."""
        return (TABLE,)

    def open(self) -> list[Signal]:
        """Raise UnavailableError where no process of any pod is seen."""
        if others_are_hidden(self.environment.cgroup_root):
            raise UnavailableError(HIDDEN)
        return super().open()

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """One row an interface of each pod's namespaces, with what its totals grew by."""
        host = self._inode(1)
        files: dict[int, dict[str, Interface]] = {}
        done: set[tuple[Identity, int]] = set()

        def read(group: Group) -> Iterable[Row]:
            for inode, pid in distinct(group.pids, self._inode).items():
                if inode == host:
                    continue
                key = (group.pod, inode)
                namespace = self._namespaces.setdefault(key, _Namespace())
                namespace.owners.add(group.id)
                if key in done:
                    continue
                if not files.get(inode):  # nothing was read if the process had just ended: here is another
                    files[inode] = interfaces(read_if_there(f"{self.environment.proc_root}/{pid}/net/dev"))
                if files[inode]:
                    done.add(key)
                    yield from _rows(group.id, namespace.totals, files[inode], inode)

        return self.each([group for group in groups if group.pids], read)

    def _inode(self, pid: int) -> int:
        return os.stat(f"{self.environment.proc_root}/{pid}/net/dev").st_ino

    def forget(self, gone: Callable[[int], bool]) -> None:
        """Drop the totals of namespaces whose every cgroup is gone; the store has dropped their series before."""
        self._namespaces = {
            key: namespace for key, namespace in self._namespaces.items() if not all(map(gone, namespace.owners))
        }


def _rows(owner: int, before: dict[str, Interface], now: dict[str, Interface], inode: int) -> Iterable[Row]:
    """Rows of the differences; `before` becomes `now`. A total that went down began anew."""
    for name, totals in now.items():
        if name == "lo" and not totals.rx_packets:
            continue
        known = before.get(name)
        grown: Sequence[int] = totals
        if known is not None:
            grown = [new - old if new >= old else new for new, old in zip(totals, known, strict=True)]
        before[name] = totals
        yield Row(TABLE, owner, (name,), grown, inode)
