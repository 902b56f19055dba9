import os
from dataclasses import replace
from pathlib import Path

import pytest

from kpod_metrics.collectors.net_iface import MAX_BYTES, NetIface
from tests.unit.collectors.cycles import POD, Cycles, Tree, refuse

HEADING = (
    "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls "
    "carrier compressed\n"
)
SIDECAR = POD._replace(container="sidecar")
OTHER = POD._replace(pod="cart-1")
HOST = 1


def net_dev(**interfaces: int) -> str:
    """Every column of an interface has its own number, from this on."""
    return HEADING + "".join(
        f"{name:>6}: " + " ".join(str(first + column) for column in range(16)) + "\n"
        for name, first in interfaces.items()
    )


def silent_lo() -> str:
    return HEADING + "    lo:" + " 0" * 16 + "\n"


class Namespaces:
    """Network namespaces: the processes of one share one /proc/PID/net/dev, as hard links are one inode."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.join("host", HOST)

    def set(self, name: str, content: str) -> None:
        (self._tree.root / f"net-{name}").write_text(content)

    def join(self, name: str, *pids: int) -> None:
        path = self._tree.root / f"net-{name}"
        path.touch()
        for pid in pids:
            os.link(path, self._tree.process(pid) / "net/dev")


@pytest.fixture
def namespaces(tree: Tree) -> Namespaces:
    return Namespaces(tree)


def test_two_cycles(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("pod", 10)
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(NetIface(tree.environment))
    for first in (100, 130):
        namespaces.set("pod", net_dev(eth0=first))
        assert cycles.run(group).exported(POD.of_pod) == {
            "net_iface_rx_bytes_total eth0": first,
            "net_iface_rx_packets_total eth0": first + 1,
            "net_iface_rx_errors_total eth0": first + 2,
            "net_iface_rx_drops_total eth0": first + 3,
            "net_iface_tx_bytes_total eth0": first + 8,
            "net_iface_tx_packets_total eth0": first + 9,
            "net_iface_tx_errors_total eth0": first + 10,
            "net_iface_tx_drops_total eth0": first + 11,
        }


def received(cycles: Cycles, interface: str = "eth0") -> float:
    return cycles.exported(POD.of_pod)[f"net_iface_rx_bytes_total {interface}"]


def test_once_per_namespace_of_a_pod(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("pod", 10, 11, 20)
    namespaces.set("pod", net_dev(eth0=100))
    app, sidecar = tree.group("a", 7, pids=[10, 11]), tree.group("b", 8, SIDECAR, pids=[20])
    collector = NetIface(tree.environment)
    for groups in ((app, sidecar), (sidecar, app)):
        assert len(list(collector.collect(groups))) == 1
    cycles = Cycles(NetIface(tree.environment)).run(app, sidecar)
    assert received(cycles) == 100
    assert received(cycles.run(sidecar, app)) == 100


def test_namespace_outlives_the_container_it_was_read_through(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("pod", 10, 20, 30)
    app, sidecar = tree.group("a", 7, pids=[10]), tree.group("b", 8, SIDECAR, pids=[20])
    again = tree.group("c", 9, pids=[30])
    cycles = Cycles(NetIface(tree.environment))
    namespaces.set("pod", net_dev(eth0=100))
    cycles.run(app, sidecar)
    namespaces.set("pod", net_dev(eth0=150))
    cycles.run(sidecar)
    cycles.forget(lambda id_: id_ == app.id)
    namespaces.set("pod", net_dev(eth0=170))
    assert received(cycles.run(again, sidecar)) == 170


def test_totals_are_dropped_with_the_last_cgroup_of_the_namespace(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("pod", 10, 20)
    namespaces.set("pod", net_dev(eth0=100))
    app, sidecar = tree.group("a", 7, pids=[10]), tree.group("b", 8, SIDECAR, pids=[20])
    cycles = Cycles(NetIface(tree.environment)).run(app, sidecar)
    assert received(cycles.run(sidecar)) == 100
    cycles.forget(lambda id_: id_ == app.id)
    assert received(cycles.run(sidecar)) == 100
    cycles.forget(lambda id_: True)
    assert received(cycles.run(sidecar)) == 200, "another namespace of the same number"


def test_pod_that_is_seen_again_goes_on(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("pod", 10)
    namespaces.set("pod", net_dev(eth0=100))
    app, cycles = tree.group("a", 7, pids=[10]), Cycles(NetIface(tree.environment))
    other = replace(app, identity=OTHER)
    cycles.run(app)
    namespaces.set("pod", net_dev(eth0=103))
    assert received(cycles.run(app)) == 103
    assert cycles.run(other).exported(OTHER.of_pod)["net_iface_rx_bytes_total eth0"] == 103
    assert received(cycles.run().run(app)) == 103


def test_container_that_is_started_again_after_a_while_goes_on_in_the_sandboxs_namespace(
    tree: Tree, namespaces: Namespaces
) -> None:
    """CrashLoopBackOff: no container for minutes, while the sandbox holds the namespace and the series stay."""
    namespaces.join("pod", 10, 20)
    app, again = tree.group("a", 7, pids=[10]), tree.group("b", 8, pids=[20])
    cycles = Cycles(NetIface(tree.environment))
    namespaces.set("pod", net_dev(eth0=100))
    cycles.run(app)
    for _ in range(3):
        cycles.run()
        cycles.forget(lambda id_: id_ == app.id, lambda pod: pod == POD.of_pod)
    namespaces.set("pod", net_dev(eth0=130))
    assert received(cycles.run(again)) == 130


def test_namespace_of_a_former_sandbox_is_forgotten(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("before", 10)
    namespaces.join("now", 20)
    app, again = tree.group("a", 7, pids=[10]), tree.group("b", 8, pids=[20])
    cycles = Cycles(NetIface(tree.environment))
    namespaces.set("before", net_dev(eth0=100))
    namespaces.set("now", net_dev(eth0=30))
    cycles.run(app)
    cycles.run(again)
    cycles.forget(lambda id_: id_ == app.id, lambda pod: True)
    assert received(cycles) == 130
    namespaces.join("before", 11)
    namespaces.set("before", net_dev(eth0=107))
    assert received(cycles.run(again, tree.group("c", 9, pids=[11]))) == 237, "another, of the same number"


def test_two_namespaces_of_a_pod_are_added_up(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("one", 10)
    namespaces.join("two", 11)
    group, cycles = tree.group("a", 7, pids=[10, 11]), Cycles(NetIface(tree.environment))
    for one, two in ((100, 10), (105, 11), (105, 31)):
        namespaces.set("one", net_dev(eth0=one))
        namespaces.set("two", net_dev(eth0=two))
        assert received(cycles.run(group)) == one + two


def test_two_pods_in_one_namespace_have_it_each(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("shared", 10, 20)
    namespaces.set("shared", net_dev(eth0=100))
    cycles = Cycles(NetIface(tree.environment))
    cycles.run(tree.group("a", 7, pids=[10]), tree.group("b", 8, OTHER, pids=[20]))
    assert cycles.exported(POD.of_pod) == cycles.exported(OTHER.of_pod) != {}


def test_the_hosts_namespace_is_no_pods(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("host", 10)
    namespaces.join("pod", 11)
    namespaces.set("host", net_dev(eth0=1_000_000))
    namespaces.set("pod", net_dev(eth0=5))
    group = tree.group("a", 7, pids=[10, 11])
    assert received(Cycles(NetIface(tree.environment)).run(group)) == 5


def test_lo_appears_with_its_first_traffic(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("pod", 10)
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(NetIface(tree.environment))
    namespaces.set("pod", silent_lo())
    assert cycles.run(group).exported(POD.of_pod) == {}
    namespaces.set("pod", silent_lo().replace("lo:", "eth0:"))
    assert received(cycles.run(group)) == 0
    namespaces.set("pod", net_dev(lo=5))
    assert received(cycles.run(group), "lo") == 5


def test_interface_that_is_made_anew_starts_again(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("pod", 10)
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(NetIface(tree.environment))
    for first, expected in ((1000, 1000), (20, 1020), (25, 1025)):
        namespaces.set("pod", net_dev(eth0=first))
        assert received(cycles.run(group)) == expected


def test_only_so_many_interfaces_of_a_pod(tree: Tree, namespaces: Namespaces) -> None:
    """The first ones, over all of its namespaces; another pod has all of its own."""
    namespaces.join("long", 10)
    namespaces.join("more", 20)
    namespaces.join("other", 30)
    many = {f"v{number}": 1 << 40 for number in range(1000)}
    namespaces.set("long", net_dev(**many))
    namespaces.set("more", net_dev(eth0=5))
    namespaces.set("other", net_dev(eth0=5))
    lines = net_dev(**many).splitlines(keepends=True)
    fit = next(at for at in range(len(lines)) if sum(map(len, lines[: at + 1])) > MAX_BYTES) - 2
    groups = [tree.group("a", 7, pids=[10]), tree.group("b", 8, SIDECAR, pids=[20])]
    groups.append(tree.group("c", 9, OTHER, pids=[30]))
    rows = list(NetIface(tree.environment).collect(groups))
    assert [row.labels[0] for row in rows if row.owner == 7] == [f"v{number}" for number in range(fit)]
    assert [row.labels for row in rows if row.owner != 7] == [("eth0",)]
    assert {(row.owner, *row.labels): row.values for row in tree.environment.exceeded.rows()} == {
        (7, "interfaces"): (1,),
        (8, "interfaces"): (1,),
    }


def test_processes_and_cgroups_that_are_gone(tree: Tree, namespaces: Namespaces) -> None:
    namespaces.join("pod", 10)
    namespaces.set("pod", net_dev(eth0=5))
    groups = [tree.group("a", 7, pids=[98, 10, 99]), tree.group("b", 8, OTHER, pids=[99]), tree.group("c", 9, OTHER)]
    cycles = Cycles(NetIface(tree.environment)).run(*groups)
    assert received(cycles) == 5
    assert cycles.exported(OTHER.of_pod) == {}


def test_process_whose_number_another_has_before_its_file_is_read(
    tree: Tree, namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interfaces of another pod are not its own; its series stay until the next cycle."""
    namespaces.join("pod", 10)
    namespaces.join("other", 20)
    namespaces.set("pod", net_dev(eth0=5))
    namespaces.set("other", net_dev(eth0=1_000_000))
    groups = [tree.group("a", 7, pids=[10]), tree.group("b", 8, OTHER, pids=[20])]
    collector = NetIface(tree.environment)
    cycles = Cycles(collector)
    assert received(cycles.run(*groups)) == 5
    with monkeypatch.context() as patch:
        of_pod, real = Path(tree.proc, "10/net/dev"), os.open

        def opens(path: str, flags: int, *, dir_fd: int | None = None) -> int:
            if path == str(of_pod):
                of_pod.unlink()
                os.link(Path(tree.proc, "20/net/dev"), of_pod)
            return real(path, flags, dir_fd=dir_fd)

        patch.setattr("kpod_metrics.files.os.open", opens)
        assert received(cycles.run(*groups)) == 5
        assert collector.unread == {7}
    of_pod.unlink()
    os.link(tree.root / "net-pod", of_pod)
    namespaces.set("pod", net_dev(eth0=7))
    assert received(cycles.run(*groups)) == 7
    assert collector.unread == set()


def test_process_that_ends_before_its_file_is_read(
    tree: Tree, namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod's next container has another process in the namespace."""
    namespaces.join("pod", 10, 20)
    namespaces.set("pod", net_dev(eth0=5))
    refuse(monkeypatch, "/10/net/dev", FileNotFoundError)
    groups = [tree.group("a", 7, pids=[10]), tree.group("b", 8, SIDECAR, pids=[20])]
    assert received(Cycles(NetIface(tree.environment)).run(*groups)) == 5


def test_collector_fails_where_the_host_is_not_to_be_seen(tree: Tree, namespaces: Namespaces) -> None:
    """A /proc without PID 1 is not the host's: whose namespace is the host's cannot be told."""
    os.unlink(Path(tree.proc) / "1/net/dev")
    namespaces.join("pod", 10)
    with pytest.raises(FileNotFoundError, match="1/net/dev"):
        NetIface(tree.environment).collect([tree.group("a", 7, pids=[10])])
