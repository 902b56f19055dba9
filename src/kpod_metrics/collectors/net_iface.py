"""Traffic of network interfaces, from `/proc/PID/net/dev`: one file a network namespace and container.

Once per network namespace of a pod, as its containers share one; the host's own (that of PID 1) is no pod's.
`lo` appears once it has carried traffic: in most pods it is silent for ever, and would cost each eight series.

Where the kernel does not tell the namespaces of all processes at once, one is known by the inode of its /proc/net/dev.
Every namespace registers a file of its own there (net/core/net-procfs.c, dev_proc_net_init), and unlike
/proc/PID/ns/net it may be looked at without the right to trace the process: PID 1 can refuse that even to root.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from kpod_metrics.cgroup.keyed import read_if_there
from kpod_metrics.cgroup.net_dev import Interface, interfaces
from kpod_metrics.collectors.kit import Environment, Question
from kpod_metrics.collectors.parts.per_process import ProcessCollector, namespace_of
from kpod_metrics.kernel.tasks import KTHREADD, TaskNamespaces
from kpod_metrics.metrics import Label, Metric, Row, Scope, Table, counter
from kpod_metrics.pods.model import Group, Identity

_WHAT = {
    "bytes": ("Bytes {} by the network interface.", "bytes", "Near the link or its limit: that is the bottleneck."),
    "packets": (
        "Packets {} by the network interface.",
        "packets",
        "What drops and errors are a share of. Bytes divided by it: the size of a packet.",
    ),
    "errors": (
        "Packets not {} because of an error of the network interface.",
        "errs",
        "Hardware, or a wrong MTU (KpodInterfaceDrops).",
    ),
    "drops": (
        "Packets not {} because the network interface or the kernel dropped them.",
        "drop",
        "Received: the receiver is too slow, or its queue too short. Sent: a bandwidth limit (KpodInterfaceDrops).",
    ),
}


def _counters(direction: str, done: str, heading: str) -> tuple[Metric, ...]:
    return tuple(
        counter(
            f"kpod_net_iface_{direction}_{what}_total",
            f"{help_.format(done)} `lo` is there once it has carried traffic.",
            f"{heading} {column} of /proc/PID/net/dev",
            advice=advice,
        )
        for what, (help_, column, advice) in _WHAT.items()
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
    """The cgroups that had processes in it, but for those that are gone."""
    totals: dict[str, Interface] = field(default_factory=dict)


class NetIface(ProcessCollector):
    """Interface counters of each pod.

    The collector takes the differences itself: a namespace outlives the containers through which it is read, while the
    store tells running totals apart by cgroup, and would add the whole total again at a container's restart.
    """

    name = "net_iface"
    description = "traffic of network interfaces"
    question = Question.NETWORK

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._namespaces: dict[tuple[Identity, int], _Namespace] = {}
        self._read: dict[int, tuple[bytes, dict[str, Interface]]] = {}
        """The files of the last cycle by namespace, and what they say: most pods are silent most of the time."""

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """One table."""
        return (TABLE,)

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """One row an interface of each pod's namespaces with news, with what its totals grew by."""
        views = self.views()
        if views is None:
            number, host = self._inode, self._inode(1)
        else:
            number = partial(self._number, views)
            host = number(KTHREADD)
        files: dict[int, tuple[bytes, dict[str, Interface]]] = {}
        done: set[tuple[Identity, int]] = set()

        def read(group: Group) -> Iterable[Row]:
            pod = group.pod
            for of, pid in self.namespaces(group.pids, number).items():
                if of == host:
                    continue
                key = (pod, of)
                namespace = self._namespaces.get(key)
                if namespace is None:
                    namespace = self._namespaces[key] = _Namespace()
                namespace.owners.add(group.id)
                if key in done:
                    continue
                if of not in files or not files[of][1]:  # if that process had just ended: here is another
                    files[of] = self._interfaces(of, pid)
                if found := files[of][1]:
                    done.add(key)
                    # One that was forgotten has to be told from the beginning.
                    if self.is_news(key, found) or not namespace.totals:
                        yield from _rows(group.id, namespace.totals, found, of)

        rows = self.each([group for group in groups if group.pids], read)
        self._read = files
        return rows

    def _interfaces(self, namespace: int, pid: int) -> tuple[bytes, dict[str, Interface]]:
        """Read a namespace's file: the very object of the last cycle where it says the same."""
        content = read_if_there(f"{self.environment.proc_root}/{pid}/net/dev")
        known = self._read.get(namespace)
        return known if known is not None and known[0] == content else (content, interfaces(content))

    def _number(self, views: Mapping[int, TaskNamespaces], thread: int) -> int:
        """Return a thread's namespace. Only main threads are in `views`, while they have not ended."""
        view = views.get(thread)
        return namespace_of(self.environment.proc_root, "net", thread) if view is None else view.network_namespace

    def _inode(self, pid: int) -> int:
        return os.stat(f"{self.environment.proc_root}/{pid}/net/dev").st_ino

    def forget(self, gone: Callable[[int], bool], stays: Callable[[Identity], bool]) -> None:
        """Drop the totals of namespaces whose every cgroup is gone, once nobody can come back to them.

        The sandbox holds a pod's namespace while its containers wait to be started again, as in CrashLoopBackOff: its
        totals go on then, and so do the pod's series. A sandbox that was made anew has another.
        """
        lived_in: set[Identity] = set()
        for (pod, _), namespace in self._namespaces.items():
            if any(map(gone, namespace.owners)):
                namespace.owners = {owner for owner in namespace.owners if not gone(owner)}
            if namespace.owners:
                lived_in.add(pod)
        self._namespaces = {
            key: namespace
            for key, namespace in self._namespaces.items()
            if namespace.owners or (key[0] not in lived_in and stays(key[0]))
        }


_NOTHING = (0,) * len(Interface._fields)


def _rows(owner: int, before: dict[str, Interface], now: dict[str, Interface], namespace: int) -> Iterable[Row]:
    """Rows of the differences; `before` becomes `now`. A total that went down began anew."""
    for name, totals in now.items():
        if name == "lo" and not totals.rx_packets:
            continue
        known = before.get(name)
        grown: Sequence[int] = totals
        if known is totals:
            grown = _NOTHING
        elif known is not None:
            grown = [new - old if new >= old else new for new, old in zip(totals, known, strict=True)]
        before[name] = totals
        yield Row(TABLE, owner, (name,), grown, namespace)
