"""Traffic of network interfaces, from `/proc/PID/net/dev`: one file a network namespace and container.

Once per network namespace of a pod, as its containers share one; the host's own (that of PID 1) is no pod's.
`lo` appears once it has carried traffic: in most pods it is silent for ever, and would cost each eight series.

Where the kernel does not tell the namespaces of all processes at once, one is known by the inode of its /proc/net/dev.
Every namespace registers a file of its own there (net/core/net-procfs.c, dev_proc_net_init), and unlike
/proc/PID/ns/net it may be looked at without the right to trace the process: PID 1 can refuse that even to root.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
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


class NetIface(ProcessCollector):
    """Interface counters of each pod: those of each of its network namespaces, which outlive the containers in them."""

    name = "net_iface"
    description = "bytes, packets, errors, drops of network interfaces"
    question = Question.NETWORK

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """One table."""
        return (TABLE,)

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """One row an interface of each of a pod's namespaces."""
        views = self.views()
        if views is None:
            number, host = self._inode, self._inode(1)
        else:
            number = partial(self._number, views)
            host = number(KTHREADD)
        files: dict[int, dict[str, Interface]] = {}
        done: set[tuple[Identity, int]] = set()

        def read(group: Group) -> Iterable[Row]:
            for namespace, pid in self.namespaces(group.pids, number).items():
                if namespace == host or (group.pod, namespace) in done:
                    continue
                if not files.get(namespace):  # where a process had just ended, here is another
                    files[namespace] = interfaces(read_if_there(f"{self.environment.proc_root}/{pid}/net/dev"))
                for name, totals in files[namespace].items():
                    done.add((group.pod, namespace))
                    if name != "lo" or totals.rx_packets:
                        yield Row(TABLE, group.id, (name,), totals, namespace)

        return self.each([group for group in groups if group.pids], read)

    def _number(self, views: Mapping[int, TaskNamespaces], thread: int) -> int:
        """Return a thread's namespace. Only main threads are in `views`, while they have not ended."""
        view = views.get(thread)
        return namespace_of(self.environment.proc_root, "net", thread) if view is None else view.network_namespace

    def _inode(self, pid: int) -> int:
        return os.stat(f"{self.environment.proc_root}/{pid}/net/dev").st_ino
