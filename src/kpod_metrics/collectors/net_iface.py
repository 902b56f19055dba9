"""Traffic of network interfaces, from `/proc/PID/net/dev`: one file per network namespace.

It reads each network namespace of a pod once, because its containers share one. The host's namespace (that of PID 1)
belongs to no pod. `lo` appears with its first traffic: in most pods it has none, and it would cost eight series.

If the kernel cannot list the namespaces of all processes at once, a namespace is identified by the inode of its
/proc/net/dev. Every namespace has its own file there (net/core/net-procfs.c, dev_proc_net_init). Unlike
/proc/PID/ns/net, it can be read without the right to trace the process, which PID 1 can refuse even to root.
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
    "bytes": (
        "Bytes {} by the network interface.",
        "bytes",
        "Near the bandwidth of the link, or its limit: this is the bottleneck.",
    ),
    "packets": (
        "Packets {} by the network interface.",
        "packets",
        "Divide drops and errors by it. Bytes divided by it are the size of a packet.",
    ),
    "errors": (
        "Packets not {} because of an error of the network interface.",
        "errs",
        "Grows: a hardware fault, or a wrong MTU (KpodInterfaceDrops).",
    ),
    "drops": (
        "Packets not {} because the network interface or the kernel dropped them.",
        "drop",
        "Grows for received packets: the receiver is too slow, or its queue too short. For sent ones: a bandwidth "
        "limit (KpodInterfaceDrops).",
    ),
}


def _counters(direction: str, done: str, heading: str) -> tuple[Metric, ...]:
    return tuple(
        counter(
            f"kpod_net_iface_{direction}_{what}_total",
            f"{help_.format(done)} `lo` appears with its first traffic.",
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
    """Interface counters of each pod, by network namespace: it outlives the containers."""

    name = "net_iface"
    description = "bytes, packets, errors, drops of network interfaces"
    question = Question.NETWORK

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Yield one row per interface of each network namespace of a pod."""
        tasks = self.snapshot()
        if tasks is None:
            namespace_id, host = self._inode, self._inode(1)
        else:
            namespace_id = partial(self._namespace, tasks)
            host = namespace_id(KTHREADD)
        files: dict[int, dict[str, Interface]] = {}
        done: set[tuple[Identity, int]] = set()

        def read(group: Group) -> Iterable[Row]:
            for namespace, pid in self.namespaces(group.pids, namespace_id).items():
                if namespace == host or (group.pod, namespace) in done:
                    continue
                if not files.get(namespace):  # the last process may have just ended: try this one
                    files[namespace] = interfaces(read_if_there(f"{self.environment.proc_root}/{pid}/net/dev"))
                for name, totals in files[namespace].items():
                    done.add((group.pod, namespace))
                    if name != "lo" or totals.rx_packets:
                        yield Row(TABLE, group.id, (name,), totals, namespace)

        return self.each([group for group in groups if group.pids], read)

    def _namespace(self, tasks: Mapping[int, TaskNamespaces], thread: int) -> int:
        """Return the namespace of a thread. `tasks` has only main threads that have not ended."""
        task = tasks.get(thread)
        return namespace_of(self.environment.proc_root, "net", thread) if task is None else task.network_namespace

    def _inode(self, pid: int) -> int:
        return os.stat(f"{self.environment.proc_root}/{pid}/net/dev").st_ino
