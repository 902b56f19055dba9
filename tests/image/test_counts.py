"""The agent from the image, with exactly what the rendered chart gives it, counts from outside what others do."""

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.image.cluster import ORDINARY, Agent, Cluster, values
from tests.live.agents import eventually
from tests.live.containers import Container
from tests.live.harness import switches

SWITCHES = "kpod_cpu_context_switches_total"
SENT, RECEIVED = "kpod_net_tcp_bytes_sent_total", "kpod_net_tcp_bytes_received_total"
HOGS = [("hog", "0", "3000"), ("hog", "1", "1000")]
CALL = {"x86_64": "252", "aarch64": "31"}[os.uname().machine]
"""ioprio_get, which no library makes by itself."""


def switched(agent: Agent, three: list[Container], seconds: float = 0.5) -> None:
    """Have two hogs run: they have exactly the switches that /proc says, and a third pod has none."""
    hogs = three[:2]
    for hog in hogs:
        hog.stop_point()
    eventually(lambda: len(agent.page().find(SWITCHES, namespace="default", container="app")) == 3)

    def counted() -> tuple[list[float], list[int]]:
        """What is exported, and what /proc says, of hogs that stand still."""
        time.sleep(0.05)  # a process is reported as stopped a moment before it leaves its CPU
        true = [switches(hog.first_pid) + switches(hog.pid) for hog in hogs]
        return values(agent.next_page(), SWITCHES), true

    before, true_before = counted()
    for hog in hogs:
        hog.go()
    time.sleep(seconds)
    for hog in hogs:
        os.kill(hog.pid, 19)
        hog.stop_point()
    after, true_after = counted()
    grown = [now - then for then, now in zip(before, after, strict=True)]
    assert grown == [*(now - then for then, now in zip(true_before, true_after, strict=True)), 0]
    assert min(grown[:2]) > 0


@pytest.mark.parametrize("profile", ["minimal", "standard", "comprehensive"])
def test_context_switches(profile: str, cluster: Cluster) -> None:
    with cluster.agent(cluster.render(f"config.profile={profile}")) as agent, cluster.three(*HOGS) as three:
        switched(agent, three)
        assert agent.ready() == "ready\n"


def test_tcp_bytes(cluster: Cluster) -> None:
    """Known numbers of bytes between two pods, in the chart's default profile; by the article's path."""
    with cluster.agent(cluster.render()) as agent, ExitStack() as stack:
        paths = {name: cluster.create_pod(name) for name in ("left", "right", "idle")}

        def container(name: str, *command: str) -> Container:
            return stack.enter_context(cluster.runtime.container(paths[name], *command, capabilities=ORDINARY))

        tail = ("2", "send", "close", "0")
        server = container("right", "tcp_peer", "server", "127.0.0.1", "0", "3", "20011", "100003", *tail)
        assert server.process.stdout
        port = server.process.stdout.readline().decode().strip()
        client = container("left", "tcp_peer", "client", "127.0.0.1", port, "3", "100003", "20011", *tail)
        container("idle")
        for done in (1, 2):
            for end in (client, server):
                end.stop_point()
            to_server, to_client = 3 * 100003 * done, 3 * 20011 * done
            expected = [[to_server, to_client, 0], [to_client, to_server, 0]]
            eventually(lambda: [values(page := agent.page(), SENT), values(page, RECEIVED)] == expected)  # noqa: B023
            agent.next_page()
            page = agent.page("actuator/prometheus")
            assert [values(page, SENT), values(page, RECEIVED)] == expected
            assert values(page, "kpod_net_tcp_connections_total", direction="outbound") == [3, 0, 0]
            assert values(page, "kpod_net_tcp_connections_total", direction="inbound") == [0, 3, 0]
            for end in (client, server):
                end.go()
        assert agent.ready() == "ready\n"


def test_syscalls_and_faults(cluster: Cluster, on_disk: Path, tmp_path: Path) -> None:
    """Known numbers of a syscall in one pod, of major faults in another, in profile comprehensive."""
    file = tmp_path / "done"
    file.write_bytes(bytes(4096))
    rendered = cluster.render("config.profile=comprehensive", "config.syscalls={ioprio_get}")
    commands = [("syscall", str(file), "one", CALL, "1009"), ("faults", str(on_disk), "211")]
    with cluster.agent(rendered) as agent, cluster.three(*commands, binds=[file, on_disk]) as three:
        for one in three[:2]:
            one.stop_point()
        faults = "kpod_mem_major_page_faults_total"
        before = values(agent.next_page(), faults)
        for one in three[:2]:
            one.go()
        for one in three[:2]:
            one.stop_point()
        page = agent.next_page()
        assert values(page, "kpod_syscall_count_total", syscall="ioprio_get") == [1009, 0, 0]
        assert [now - then for then, now in zip(before, values(page, faults), strict=True)] == [0, 211, 0]
        assert all(values(page, "kpod_fs_capacity_bytes"))
        assert agent.ready() == "ready\n"


def test_memory_is_within_the_chart_s(cluster: Cluster) -> None:
    """Resident memory, read from outside, is below what the chart asks for."""
    with cluster.agent(cluster.render("config.profile=comprehensive")) as agent:
        page = agent.next_page()
        assert page.sum("process_resident_memory_bytes") < 64 << 20


def test_machine_that_is_a_container(cluster: Cluster) -> None:
    """As in kind: the node's own cgroup mount shows a subtree, whose root is the node's container."""
    with cluster.three(*HOGS) as three:
        node = three[0].cgroup.path.parents[3]
        assert node.name.startswith("kpod-test-")
        rendered = cluster.render(f"cgroupHostPath={node}")
        with cluster.agent(rendered) as agent:
            assert len(agent.next_page().find(SWITCHES, namespace="default", container="app")) == 3
            switched(agent, three)
