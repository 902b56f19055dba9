"""Traffic of network interfaces, from `/proc/PID/net/dev`: one file per network namespace.

It reads each network namespace of a pod once, because its containers share one. The host's namespace (that of PID 1)
belongs to no pod. `lo` appears with its first traffic: in most pods it has none, and it would cost eight series.

If the kernel cannot list the namespaces of all processes at once, a namespace is identified by the inode of its
/proc/net/dev. Every namespace has its own file there (net/core/net-procfs.c, dev_proc_net_init). Unlike
/proc/PID/ns/net, it can be read without the right to trace the process, which PID 1 can refuse even to root.
"""

import errno
import os
from collections.abc import Iterable, Sequence
from operator import attrgetter

from kpod_metrics.cgroup.keyed import is_absent
from kpod_metrics.cgroup.net_dev import Interface, interfaces
from kpod_metrics.collectors.kit import Environment, Question
from kpod_metrics.collectors.parts.per_process import ProcessCollector
from kpod_metrics.collectors.parts.threads import ThreadFolders
from kpod_metrics.files import read_short_lines
from kpod_metrics.kernel.tasks import TaskNamespaces
from kpod_metrics.metrics import Label, Metric, Row, Scope, Table, counter
from kpod_metrics.pods.model import Group, Identity

MAX_BYTES = 64 << 10
"""Bytes of the lists of interfaces of one pod: 400 interfaces, the oldest ones. Most pods have two."""
_network_namespace = attrgetter("network_namespace")

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

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._folders = ThreadFolders(environment.proc_root, environment.kept_files)

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Yield one row per interface of each network namespace of a pod."""
        tasks = self.snapshot()
        host = self._inode(1) if tasks is None else tasks.host_network
        files: dict[int, dict[str, Interface]] = {}
        done: set[tuple[Identity, int]] = set()
        known: dict[Identity, set[int]] = {}
        room: dict[Identity, int] = {}
        late: set[int] = set()
        self._folders.begin()

        def namespaces(group: Group) -> Iterable[tuple[int, int | TaskNamespaces]]:
            if tasks is None:
                return self.distinct_in_proc(group.pids, self._inode).items()
            of_pod = known.setdefault(group.pod, set())
            return self.distinct(group, tasks, _network_namespace, of_pod, "network_namespaces").items()

        def interfaces_of(namespace: int, thread: int | TaskNamespaces, group: Group) -> dict[str, Interface]:
            left = room.get(group.pod, MAX_BYTES)
            # The thread may have ended after the namespaces were listed, and one of another pod have its number.
            try:
                if isinstance(thread, TaskNamespaces):
                    content, complete = self._folders.read_short_lines(thread, "net/dev", left)
                else:
                    content, complete = read_short_lines(f"{self.environment.proc_root}/{thread}/net/dev", left)
                    if self._inode(thread) != namespace:
                        raise ProcessLookupError(errno.ESRCH, "another process has its number")
            except OSError as error:
                if is_absent(error):
                    late.add(group.id)
                    return {}
                raise
            room[group.pod] = left - len(content)
            if not complete:
                self.exceeded(group.id, "interfaces")
            return interfaces(content)

        def read(group: Group) -> Iterable[Row]:
            for namespace, thread in namespaces(group):
                if namespace == host or (group.pod, namespace) in done:
                    continue
                if not files.get(namespace):  # the last process may have just ended: try this one
                    files[namespace] = interfaces_of(namespace, thread, group)
                for name, totals in files[namespace].items():
                    done.add((group.pod, namespace))
                    if name != "lo" or totals.rx_packets:
                        yield Row(TABLE, group.id, (name,), totals, namespace)

        rows = self.each([group for group in groups if group.pids], read)
        self.unread |= late
        return rows

    def close(self) -> None:
        """Close the open folders."""
        self._folders.close()
        super().close()

    def _inode(self, pid: int) -> int:
        return os.stat(f"{self.environment.proc_root}/{pid}/net/dev").st_ino
