"""Alerts and dashboards, live: workloads start, alerts fire in a real Prometheus, panels have data, and it ends.

The only change in the rule files is how long a condition must last. The tables below list what is not available here,
and why. test_monitoring_controllers.py has what needs its own machine. `tests/monitoring` has a case with made-up
series for every alert and every panel.
"""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from monitoring.alerts import ALERTS
from testkit.apiserver import ApiServer
from tests.boards import Panel, asked, panels
from tests.fakes.otlp import Fault, Receiver
from tests.live import test_monitoring_controllers as with_controllers
from tests.live.agents import Page, eventually, free_port, get
from tests.live.harness import ONLY_THERE, Cgroup, go, stop_point
from tests.live.monitored import NODE, Agent, Raised, Workloads, shortened
from tests.live.prometheus import Prometheus, running_prometheus

DROPPED = ["setpriv", "--bounding-set=-sys_admin,-bpf,-perfmon"]
"""Without these rights an agent has no kernel programs."""

ALERT_OF = {
    "contends": "KpodRunQueueSaturated",
    "neighbour": "KpodRunQueueSaturated",
    "loses": "KpodTcpRetransmits",
    "refused": "KpodTcpConnectFailures",
    "fails": "KpodSyscallErrors",
    "waits": "KpodSyscallSlow",
    "fills": "KpodFilesystemFull",
    "faults": "KpodMajorFaultStorm",
    "calm": None,
}
"""Workloads, each in its own cgroup, with the one alert that it raises."""

AGENT_ALERTS = ("KpodAgentDown", "KpodCollectorOff", "KpodPodSourceDisconnected", "KpodContainerRestarts")
"""Alerts that agents raise, or what an API server says; each has its own test."""

LASTING = {
    "full": {"KpodSeriesOverflow"},
    "pushes": {"KpodOtlpDropsPoints"},
    "strange": {"KpodUnresolvedEvents"},
}
"""Agents that lose something, with the alerts that tell it, which look ten minutes back: `make test-long` has them."""

NOT_HERE = {
    **{
        alert: f"needs the cpu or the memory controller in cgroup v2: {ONLY_THERE}"
        for alert in with_controllers.ALERT_OF.values()
        if alert and alert not in ALERT_OF.values()
    },
    "KpodDiskPressure": "150 seconds of standing still for I/O within five minutes: too long for a test",
    "KpodFilesystemLow": "as KpodFilesystemFull, with other numbers",
    "KpodNodeFilesystemLow": "fills this machine's disk",
    "KpodTcpRttRise": "compares with six hours before",
    "KpodInterfaceDrops": "no interface here can be made to drop",
    "KpodAgentsAbsent": "the other alerts need agents",
    "KpodAgentStuck": "an agent whose cycles end without it",
    "KpodSlowCycles": "thousands of pods",
    "KpodCollectorErrors": "half an hour of reads that fail and succeed in turn",
    "KpodMapNearCapacity": "a map so full, and not so full that it evicts",
    "KpodMapEvictions": "a map that evicts goes on with the machine's own cgroups",
    "KpodMapUpdatesFail": "thousands of cgroups within a moment",
    "KpodProgramRunsMissed": "a program that interrupts itself",
}
"""Alerts that are not provoked here, and why."""

_GPU = "this machine has no GPU"
NO_DATA = {
    **{panel: f"there is no {needed} here: {ONLY_THERE}" for panel, needed in with_controllers.PANELS.items()},
    "pod: Is it the GPU? / GPU utilization, busiest engine": _GPU,
    "pod: Is it the GPU? / GPU memory": _GPU,
}
"""Panels that may have no data, and why: their signals do not exist on every machine."""


class OfPods(Workloads):
    """What runs in the cgroups of `ALERT_OF`."""

    def __init__(self, root: str, folder: Path) -> None:
        super().__init__(root, folder, ALERT_OF)
        self._ended = threading.Event()

    def start(self) -> None:
        """Start all; those that count what they do have done it when this returns."""
        self._contend("contends", "neighbour")
        self._start("waits", sys.executable, "-c", SLOW_WRITES)
        self._start("fills", "unshare", "--mount", "sh", "-ec", FULL)
        nobody = str(free_port())
        self._start("refused", self._compiled("tcp_peer"), "refused", "127.0.0.1", nobody, "400")
        self._start("refused", "unshare", "--mount", "sh", "-ec", MANY_MOUNTS)
        done = self._folder / "done"
        done.write_bytes(bytes(4096))
        failing = self._start("fails", self._compiled("syscall"), str(done), "one", FSYNC, "2000")
        stop_point(failing)
        go(failing)
        self._lose()
        threading.Thread(target=self._fault, daemon=True).start()

    def _lose(self) -> None:
        wire = self._start("loses", self._compiled("tcp_wire"), "1000", "5", "0", "0")
        assert wire.stdout is not None
        assert wire.stdout.readline() == b"up\n"
        inside = ("nsenter", f"--net=/proc/{wire.pid}/ns/net", self._compiled("tcp_peer"))
        amounts = ("8", "400000", "400000", "1", "send", "close", "0")
        server = self._start("loses", *inside, "server", "10.0.0.1", "0", *amounts)
        assert server.stdout is not None
        port = server.stdout.readline().decode().strip()
        self._start("loses", *inside, "client", "10.0.0.2", port, *amounts)

    def _fault(self) -> None:
        """Faults in bursts of a thousand: a fifth of a second of a disk's time each."""
        file = Path(f"/var/tmp/{self.top.name}")
        file.write_bytes(bytes(range(256)) * 4 * 4096)
        subprocess.run(["sync", file], check=True)
        try:
            faulting = self._start("faults", self._compiled("faults"), str(file), "1024")
            while not self._ended.is_set():
                stop_point(faulting)
                go(faulting)
        except (AssertionError, OSError, ChildProcessError):
            if not self._ended.is_set():
                raise
        finally:
            file.unlink()

    def end(self) -> None:
        """End all, and remove their cgroups."""
        self._ended.set()
        super().end()


SLOW_WRITES = textwrap.dedent("""
    import os, threading, time
    end, pipe = os.pipe()
    os.set_blocking(pipe, False)
    for size in (4096, 1):
        try:
            while True: os.write(pipe, bytes(size))
        except BlockingIOError: pass
    os.set_blocking(pipe, True)
    for _ in range(40): threading.Thread(target=os.write, args=(pipe, bytes(4096))).start()
    time.sleep(0.9)
    for _ in range(60): os.read(end, 4096)
    time.sleep(600)
""")
MANY_MOUNTS = """
mount -t tmpfs -o size=1m none /mnt
for doubled in 1 2 3 4 5 6 7 8 9 10 11 12; do mkdir /mnt/$doubled; mount --rbind /mnt /mnt/$doubled; done
sleep 600
"""
"""4,096 lines of mountinfo: above a pod's limit."""
FULL = "mount -t tmpfs -o size=1m none /mnt; head -c 2000000 /dev/zero > /mnt/full || sleep 600"
FSYNC = {"x86_64": "74", "aarch64": "82"}[os.uname().machine]


class Scene(Raised):
    """All that runs."""

    def __init__(self, prometheus: Prometheus, workloads: OfPods, second: Agent, third: Agent) -> None:
        super().__init__(prometheus, workloads)
        self.workloads, self.second, self.third = workloads, second, third

    def of_agent(self, agent: Agent) -> set[str]:
        """Those of an agent."""
        return self.firing("instance", f"127.0.0.1:{agent.port}")


@contextmanager
def programs_measured() -> Iterator[None]:
    """Have the kernel measure BPF programs, for the panels that show it."""
    knob = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = knob.read_text()
    knob.write_text("1")
    try:
        yield
    finally:
        knob.write_text(before)


def kubeconfig(api: ApiServer) -> dict[str, object]:
    """How an agent finds the API server."""
    return {
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "x",
    }


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    """An API server with a pod that runs."""
    with ApiServer(bookmark_interval=1.0) as server:
        server.create_pod("crashes", node=NODE, namespace="shop")
        server.run_container("shop", "crashes", "app")
        yield server


@pytest.fixture(scope="module")
def scene(
    prometheus: Path,
    cgroup_root: str,
    tmp_path_factory: pytest.TempPathFactory,
    mount_namespaces: None,
    api: ApiServer,
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("monitoring")
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig(api)))
    agents = [Agent(folder / f"{name}.log") for name in ("first", "second", "third")]
    first, second, third = agents
    with ExitStack() as stack:
        stack.enter_context(programs_measured())
        for agent in agents:
            stack.callback(agent.end)
        receiver = stack.enter_context(Receiver())
        web = folder / "web.yml"
        web.write_text("http_server_config: {headers: {X-Frame-Options: deny}}\n")
        push = ("--otlp-endpoint", receiver.url, "--otlp-interval", "1s")
        first.start(settings=("--discovery", "cgroup", "--web-config-file", str(web), *push))
        second.start(*DROPPED)
        third.start(settings=("--discovery", "kubernetes", "--kubeconfig", str(folder / "kubeconfig")))
        others = {"second": f"127.0.0.1:{second.port}", "third": f"127.0.0.1:{third.port}"}
        started = running_prometheus(
            prometheus, folder / "prometheus", f"127.0.0.1:{first.port}", others=others, rules=shortened(folder)
        )
        server = stack.enter_context(started)
        workloads = stack.enter_context(OfPods(cgroup_root, folder))
        eventually(
            lambda: server.query(f'count_over_time(kpod_mem_oom_kills_total{{pod=~".*{workloads.top.name}.*"}}[1m])')
        )
        workloads.start()
        yield Scene(server, workloads, second, third)


def test_every_alert_is_provoked_or_said_why_not() -> None:
    provoked = {*ALERT_OF.values(), *AGENT_ALERTS}.union(*LASTING.values()) - {None}
    assert provoked | NOT_HERE.keys() == {alert.name for alert in ALERTS}
    assert not provoked & NOT_HERE.keys()


@pytest.mark.parametrize("name", [name for name, alert in ALERT_OF.items() if alert])
def test_workload_raises_its_alert_alone(name: str, scene: Scene) -> None:
    assert eventually(lambda: scene.of_pod(name), 30) == {ALERT_OF[name]}


def test_calm_neighbour_raises_none(scene: Scene) -> None:
    assert scene.of_pod("calm") == set()


@pytest.mark.parametrize("panel", list(panels()), ids=lambda panel: panel.id)
def test_panel_has_data(panel: Panel, scene: Scene) -> None:
    def found() -> bool:
        return any(scene.prometheus.has(asked(expression, "30s")) for expression in panel.expressions)

    if panel.id in NO_DATA and not found():
        pytest.skip(NO_DATA[panel.id])
    eventually(found)


def test_panels_without_data_are_panels() -> None:
    assert NO_DATA.keys() <= {panel.id for panel in panels()}


def test_workloads_end_and_so_do_their_alerts(scene: Scene) -> None:
    scene.workloads.end()
    eventually(lambda: not any(map(scene.of_pod, ALERT_OF)))


def test_agent_without_rights_then_down_then_well(scene: Scene) -> None:
    eventually(lambda: scene.of_agent(scene.second) == {"KpodCollectorOff"})
    scene.second.end()
    eventually(lambda: scene.of_agent(scene.second) == {"KpodAgentDown"})
    scene.second.start()
    eventually(lambda: not scene.of_agent(scene.second))


def test_source_of_pods_goes_and_comes_back(scene: Scene, api: ApiServer) -> None:
    api.stop()
    eventually(lambda: scene.of_agent(scene.third) == {"KpodPodSourceDisconnected"})
    api.start()
    eventually(lambda: not scene.of_agent(scene.third))


def test_container_that_is_started_again_and_again(scene: Scene, api: ApiServer) -> None:
    eventually(lambda: scene.prometheus.query('kpod_container_restarts{pod="crashes"} == 0'))
    for _ in range(3):
        api.run_container("shop", "crashes", "app")

    def firing() -> set[str]:
        return scene.firing("pod", "crashes")

    assert eventually(firing) == {"KpodContainerRestarts"}
    api.delete_pod("shop", "crashes")
    eventually(lambda: not firing())


@pytest.fixture(scope="module")
def losing(
    prometheus: Path, cgroup_root: str, tmp_path_factory: pytest.TempPathFactory, api: ApiServer
) -> Iterator[tuple[Prometheus, dict[str, Agent], Callable[[], None]]]:
    """Agents that lose events, until the test stops it."""
    folder = tmp_path_factory.mktemp("losing")
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig(api)))
    agents = {name: Agent(folder / f"{name}.log") for name in LASTING}
    top = Path(cgroup_root) / f"kpod-test-losing-{time.monotonic_ns()}"
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        top.mkdir()
        stack.callback(Cgroup(top).destroy)
        for agent in agents.values():
            stack.callback(agent.end)
        of_cgroups = ("--discovery", "cgroup")
        agents["pushes"].start(settings=(*of_cgroups, "--otlp-endpoint", receiver.url, "--otlp-interval", "1s"))
        agents["strange"].start(settings=("--discovery", "kubernetes", "--kubeconfig", str(folder / "kubeconfig")))
        page = Page(get(f"http://127.0.0.1:{agents['pushes'].port}/metrics"))
        room = len(page.find("kpod_syscall_count_total")) + 120  # no metric has more series of a cgroup
        agents["full"].start(settings=(*of_cgroups, "--series-limit", str(room)))
        others = {name: f"127.0.0.1:{agent.port}" for name, agent in agents.items()}
        server = stack.enter_context(
            running_prometheus(
                prometheus, folder / "prometheus", others["full"], others=others, rules=shortened(folder)
            )
        )
        work = stack.enter_context(ExitStack())
        receiver.always = Fault(400)
        work.callback(setattr, receiver, "always", None)
        # Many, and one that is a pod's container by its path, of a pod that the API server does not know.
        nobodys = f"kubepods/besteffort/pod{uuid.uuid4()}/{uuid.uuid4().hex * 2}"
        for path in (*(top / f"one{at}" for at in range(48)), top / nobodys):
            path.mkdir(parents=True)
            for made in [path, *path.parents][: len(path.relative_to(top).parts)][::-1]:
                work.callback(Cgroup(made).destroy)
            waking = Cgroup(path).start("sh", "-c", "while sleep 0.3; do :; done")
            work.callback(waking.wait)
            work.callback(waking.kill)
        yield server, agents, work.close


@pytest.mark.timeout(1000)
@pytest.mark.skipif(os.environ.get("LONG") != "1", reason="looks ten minutes back: `make test-long` runs it")
def test_alerts_of_what_is_lost_go_on_for_a_while_and_end(
    losing: tuple[Prometheus, dict[str, Agent], Callable[[], None]],
) -> None:
    server, agents, end = losing

    def firing() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {name: set() for name in agents}
        for labels in server.firing():
            for name, agent in agents.items():
                if labels.get("instance") == f"127.0.0.1:{agent.port}":
                    found[name].add(labels["alertname"])
        return found

    def settled(expected: dict[str, set[str]], seconds: float) -> None:
        until = time.monotonic() + seconds
        while firing() != expected and time.monotonic() < until:
            time.sleep(1)
        assert firing() == expected

    settled(LASTING, 120)
    end()
    settled({name: set() for name in LASTING}, 720)
