"""Alerts and panels that need the cpu, io and memory controllers of cgroup v2, or swap: the rest of test_monitoring.py.

The machine of `make test-kernels` that has Prometheus has them. It is emulated: tests wait for what comes.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import Environment
from monitoring.alerts import MUCH_WAIT
from tests.boards import Panel, asked, panels
from tests.live.agents import eventually
from tests.live.harness import go, stop_point, swapping_to
from tests.live.monitored import Agent, Raised, Workloads, shortened
from tests.live.prometheus import Prometheus, running_prometheus

MIB = 1 << 20
TIMEOUT = 150
"""Seconds: an alert of pressure takes a minute of it, and an emulated machine has much else to do."""

ALERT_OF = {
    "throttled": "KpodCpuThrottled",
    "contends": "KpodRunQueueSaturated",
    "neighbour": "KpodRunQueueSaturated",
    "near": "KpodMemoryNearLimit",
    "grows": "KpodMemoryGrowsToLimit",
    "killed": "KpodOomKill",
    "pressed": "KpodMemoryPressure",
    "swapped": None,
    "calm": None,
}
"""Workloads, each in its own cgroup, with the one alert that it raises."""

CONTENDING = [name for name, alert in ALERT_OF.items() if alert == "KpodRunQueueSaturated"]

CONTROLLERS = {
    metric.name: kind.controller
    for kind in registered().values()
    for table in kind.declare(Environment())
    for metric in table.metrics
}


def controller_of(panel: Panel) -> str:
    """The controller without which a panel has no data: that of the collectors of all its metrics."""
    drawn = {name for expression in panel.expressions for name in re.findall(r"\bkpod_\w+", expression)}
    found = {CONTROLLERS.get(re.sub("_(bucket|sum|count)$", "", name), "") for name in drawn}
    return found.pop() if len(found) == 1 else ""


PANELS = {
    **{panel.id: f"{name} controller in cgroup v2" for panel in panels() if (name := controller_of(panel))},
    "node: What pods wait for / Throttled share of CPU periods": "cpu controller in cgroup v2",
    "pod: Overview / Throttled share of CPU periods": "cpu controller in cgroup v2",
    "pod: Is it short of CPU time? / CPU throttled": "cpu controller in cgroup v2",
    "pod: Is it short of memory? / OOM kills of whole containers": "memory controller in cgroup v2",
    "pod: Is it short of memory? / Memory swap": "swap",
}
"""Panels without data, and what they need."""


class Limited(Workloads):
    """What runs in the cgroups of `ALERT_OF`."""

    def __init__(self, root: str, folder: Path, controllers: tuple[str, ...]) -> None:
        # One more, for panels: its short programs look for libraries in vain, which may be KpodSyscallErrors.
        super().__init__(root, folder, (*ALERT_OF, "writes"), controllers)
        self._file = Path(f"/var/tmp/{self.top.name}")
        for name in ALERT_OF.keys() - {"swapped"}:
            self._set(name, "memory.swap.max", 0)
        self._set("throttled", "cpu.max", "10000 100000")
        # A limit that leaves room: of a CPU that two want, each gets half.
        self._set("neighbour", "cpu.max", "90000 100000")
        self._set("grows", "memory.max", 64 * MIB)
        # No limit, but above it the kernel has a task wait for each page that it asks for.
        self._set("pressed", "memory.high", 16 * MIB)

    def _set(self, name: str, file: str, value: object) -> None:
        (self.top / name / file).write_text(str(value))

    def _hold(self, name: str, mib: int) -> None:
        """Have a process hold memory when this returns."""
        glutton = self._start(name, self._compiled("glutton"), str(mib))
        stop_point(glutton)
        go(glutton)
        stop_point(glutton)

    def start(self) -> None:
        """Start all that leave the CPUs idle."""
        self._hog("throttled", 4, self._compiled("hog"), "1")
        self._start("pressed", self._compiled("glutton"))
        self._hold("grows", 40)
        # These get their limits afterwards, so as not to be seen on the way there.
        self._hold("near", 60)
        self._set("near", "memory.max", 64 * MIB)
        self._hold("killed", 40)
        self._set("killed", "memory.max", 24 * MIB)
        self._hold("swapped", 40)
        self._set("swapped", "memory.reclaim", 20 * MIB)
        self._start("writes", "sh", "-ec", DIRECT, str(self._file))

    def contend(self) -> None:
        """Start those that do not."""
        self._contend(*CONTENDING)

    def end(self) -> None:
        """End all, and remove their cgroups."""
        super().end()
        self._file.unlink(missing_ok=True)


DIRECT = """
while true; do
    dd if=/dev/zero of=$0 bs=64K count=16 oflag=direct status=none
    dd if=$0 of=/dev/null bs=64K iflag=direct status=none
    sleep 1
done
"""


class Scene(Raised):
    """All that runs."""

    def __init__(self, prometheus: Prometheus, workloads: Limited) -> None:
        super().__init__(prometheus, workloads)
        self.workloads = workloads


@pytest.fixture(scope="module")
def scene(
    prometheus: Path,
    cgroup_root: str,
    controllers: tuple[str, ...],
    disk: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("monitoring")
    agent = Agent(folder / "agent.log")
    with ExitStack() as stack:
        stack.enter_context(swapping_to(disk))
        stack.callback(agent.end)
        agent.start(settings=("--discovery", "cgroup", "--poll-interval", "1s"))
        server = stack.enter_context(
            running_prometheus(
                prometheus, folder / "prometheus", f"127.0.0.1:{agent.port}", every="2s", rules=shortened(folder)
            )
        )
        workloads = stack.enter_context(Limited(cgroup_root, folder, controllers))
        ratio = f'container:kpod_mem_cgroup_unreclaimable:limit_ratio{{pod="{workloads.pod("grows")}"}}'
        eventually(lambda: server.has(f"count_over_time({ratio}[1m]) >= 2"), TIMEOUT)
        workloads.start()
        yield Scene(server, workloads)


def test_throttled_pod_on_an_idle_node_raises_that_alone(scene: Scene) -> None:
    assert eventually(lambda: scene.of_pod("throttled"), TIMEOUT) == {"KpodCpuThrottled"}
    # Its limit's wait alone would be enough for the other alert.
    assert scene.workloads.pod("throttled") in {labels["pod"] for labels, _ in scene.prometheus.query(MUCH_WAIT)}
    assert not [name for name in ALERT_OF if "KpodRunQueueSaturated" in scene.of_pod(name)]


def test_neighbours_that_contend_raise_that_alone(scene: Scene) -> None:
    scene.workloads.contend()
    eventually(lambda: all(map(scene.of_pod, CONTENDING)), TIMEOUT)
    assert [scene.of_pod(name) for name in CONTENDING] == [{"KpodRunQueueSaturated"}] * len(CONTENDING)


@pytest.mark.parametrize("name", [name for name, alert in ALERT_OF.items() if alert])
def test_workload_raises_its_alert_alone(name: str, scene: Scene) -> None:
    assert eventually(lambda: scene.of_pod(name), TIMEOUT) == {ALERT_OF[name]}


@pytest.mark.parametrize("name", [name for name, alert in ALERT_OF.items() if not alert])
def test_others_raise_none(name: str, scene: Scene) -> None:
    assert scene.of_pod(name) == set()


@pytest.mark.parametrize("panel", [panel for panel in panels() if panel.id in PANELS], ids=lambda panel: panel.id)
def test_panel_has_data(panel: Panel, scene: Scene) -> None:
    assert eventually(
        lambda: any(scene.prometheus.has(asked(expression, "30s")) for expression in panel.expressions), TIMEOUT
    )


def test_workloads_end_and_so_do_their_alerts(scene: Scene) -> None:
    """But that of kills, which is there for ten minutes."""
    scene.workloads.end()
    left = {name: {alert} for name, alert in ALERT_OF.items() if alert == "KpodOomKill"}
    eventually(lambda: {name: found for name in ALERT_OF if (found := scene.of_pod(name))} == left, TIMEOUT)
