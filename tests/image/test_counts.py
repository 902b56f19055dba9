"""The agent from the image, with exactly what the rendered chart gives it, counts from outside what others do."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chart import Chart, Rendered
from tests.fakes.apiserver import ApiServer
from tests.image.conftest import NODE, POD
from tests.image.pod import Node, Pods
from tests.live.agents import Page, eventually, get
from tests.live.containers import Container, Runtime, mounted_trees
from tests.live.harness import switches

URL = f"http://{POD}:9090"
TOP = f"kpod-test-{os.getpid()}"
SWITCHES = "kpod_cpu_context_switches_total"
SENT, RECEIVED = "kpod_net_tcp_bytes_sent_total", "kpod_net_tcp_bytes_received_total"
CALLS = "kpod_syscall_count_total"


def scope(uid: str, container: str) -> str:
    """A container's cgroup of containerd and systemd."""
    pod = f"pod{uid.replace('-', '_')}"
    return f"{TOP}/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{pod}.slice/cri-containerd-{container}.scope"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert [str(tree / TOP) for tree in mounted_trees() if (tree / TOP).exists()] == []


@dataclass
class Agent:
    """A running agent, seen from outside."""

    log: Path

    def page(self) -> Page:
        return Page(get(f"{URL}/metrics"))

    def ready(self) -> str:
        return get(f"{URL}/readyz")

    def next_page(self) -> Page:
        """The page of a whole cycle after now."""

        def stamp(page: Page) -> float:
            return page.sum("kpod_last_cycle_timestamp_seconds")

        page = self.page()
        for _ in range(2):  # one may be under way
            before = stamp(page)
            page = eventually(lambda: page if stamp(page := self.page()) > before else None)  # noqa: B023
        return page


@contextmanager
def agent_of(pods: Pods, node: Node, rendered: Rendered) -> Iterator[Agent]:
    """Start the rendered pod, past its first cycle and its first list of pods."""
    node.config_maps = rendered.config_maps
    log = node.folder / "agent.log"
    with pods.running(rendered.pod, node, log) as process:

        def serves() -> bool:
            assert process.poll() is None, log.read_text()
            return get(f"{URL}/readyz").startswith("ready")

        eventually(serves, 20)
        yield Agent(log)
    assert "Traceback" not in log.read_text()
    assert process.returncode == 0, log.read_text()


@contextmanager
def three_pods(api: ApiServer, runtime: Runtime, *commands: tuple[str, ...], binds: list[Path]) -> Iterator[list[Container]]:
    """Two pods that run workloads and one that only exists, each of one container, known to the API server."""
    with ExitStack() as stack:
        containers = []
        for name, command in zip(("left", "right", "idle"), (*commands, ()), strict=True):
            uid = api.create_pod(name, node=NODE)["metadata"]["uid"]
            id_ = api.run_container("default", name, "app")
            containers.append(stack.enter_context(runtime.container(scope(uid, id_), *command, binds=binds)))
        yield containers


FAST = ("--set", "config.poll_interval=200ms")


def values(page: Page, name: str, **labels: str) -> list[float]:
    """Of the three pods."""
    return [page.sum(name, namespace="default", pod=pod, container="app", **labels) for pod in ("left", "right", "idle")]


@pytest.mark.parametrize("profile", ["minimal", "standard", "comprehensive"])
def test_context_switches(
    profile: str, api: ApiServer, node: Node, pods: Pods, runtime: Runtime, chart: Chart
) -> None:
    """Of two hogs, against /proc; a third pod has none."""
    rendered = chart.render(*FAST, "--set", f"config.profile={profile}")
    hogs = [("hog", "0", "3000"), ("hog", "1", "1000")]
    with agent_of(pods, node, rendered) as agent, three_pods(api, runtime, *hogs, binds=[]) as containers:
        left, right, _ = containers
        for hog in (left, right):
            hog.stop_point()
        eventually(lambda: len(agent.page().find(SWITCHES, namespace="default")) == 3)

        def counted() -> tuple[list[float], list[float]]:
            """What is exported, and what /proc says, of hogs that stand still."""
            time.sleep(0.05)  # a process is reported as stopped a moment before it leaves its CPU
            true = [switches(one.first_pid) + switches(one.pid) for one in (left, right)]
            return values(agent.next_page(), SWITCHES), true

        first, first_true = counted()
        for _ in range(2):
            for hog in (left, right):
                hog.go()
            time.sleep(0.3)
            for hog in (left, right):
                os.kill(hog.pid, 19)
                hog.stop_point()
        last, last_true = counted()
        grown = [after - before for before, after in zip(first, last, strict=True)]
        assert grown == [*(after - before for before, after in zip(first_true, last_true, strict=True)), 0]
        assert min(grown[:2]) > 50
        assert agent.ready() == "ready\n"


def test_tcp_bytes(api: ApiServer, node: Node, pods: Pods, runtime: Runtime, chart: Chart) -> None:
    """Known numbers of bytes between two pods, in the chart's default profile."""
    with agent_of(pods, node, chart.render(*FAST)) as agent, ExitStack() as stack:
        names = ("left", "right", "idle")
        paths = {}
        for name in names:
            uid = api.create_pod(name, node=NODE)["metadata"]["uid"]
            paths[name] = scope(uid, api.run_container("default", name, "app"))
        tail = ("2", "send", "close", "0")
        server = stack.enter_context(
            runtime.container(paths["right"], "tcp_peer", "server", "127.0.0.1", "0", "3", "20011", "100003", *tail)
        )
        assert server.process.stdout
        port = server.process.stdout.readline().decode().strip()
        client = stack.enter_context(
            runtime.container(paths["left"], "tcp_peer", "client", "127.0.0.1", port, "3", "100003", "20011", *tail)
        )
        stack.enter_context(runtime.container(paths["idle"]))
        for done in (1, 2):
            for end in (client, server):
                end.stop_point()
            to_server, to_client = 3 * 100003 * done, 3 * 20011 * done
            expected = [[to_server, to_client, 0], [to_client, to_server, 0]]
            eventually(lambda: [values(page := agent.page(), SENT), values(page, RECEIVED)] == expected)  # noqa: B023
            page = agent.next_page()
            assert [values(page, SENT), values(page, RECEIVED)] == expected
            assert values(page, "kpod_net_tcp_connections_total", direction="outbound") == [3, 0, 0]
            assert values(page, "kpod_net_tcp_connections_total", direction="inbound") == [0, 3, 0]
            for end in (client, server):
                end.go()
        assert agent.ready() == "ready\n"


def test_syscalls_and_faults(
    api: ApiServer, node: Node, pods: Pods, runtime: Runtime, chart: Chart, on_disk: Path, tmp_path: Path
) -> None:
    """Known numbers of a syscall in one pod, of major faults in another, in profile comprehensive."""
    number = {"x86_64": "252", "aarch64": "31"}[os.uname().machine]  # ioprio_get
    file = tmp_path / "done"
    file.write_bytes(bytes(4096))
    rendered = chart.render(*FAST, "--set", "config.profile=comprehensive,config.syscalls={ioprio_get}")
    commands = [("syscall", str(file), "one", number, "1009"), ("faults", str(on_disk), "211")]
    with agent_of(pods, node, rendered) as agent, three_pods(api, runtime, *commands, binds=[file, on_disk]) as three:
        for one in three[:2]:
            one.stop_point()
        faults = "kpod_mem_major_page_faults_total"
        before = values(agent.next_page(), faults)
        for one in three[:2]:
            one.go()
        for one in three[:2]:
            one.stop_point()
        page = agent.next_page()
        assert values(page, CALLS, syscall="ioprio_get") == [1009, 0, 0]
        assert [now - then for then, now in zip(before, values(page, faults), strict=True)] == [0, 211, 0]
        assert values(page, "kpod_fs_capacity_bytes")[0] > 0
        assert agent.ready() == "ready\n"


