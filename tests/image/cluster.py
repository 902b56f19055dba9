"""One node of a cluster: an API server, pods with workloads, and the agent as the chart has it, seen from outside."""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testkit.apiserver import ApiServer
from tests.helm import Chart, Rendered
from tests.image.pod import DEFAULT_CAPABILITIES, Node, Object, Pods
from tests.live.agents import Page, eventually, get
from tests.live.containers import Container, Runtime, scope

TOP = f"kpod-test-{os.getpid()}"
ORDINARY = [f"CAP_{name}" for name in DEFAULT_CAPABILITIES]
"""What a container has that asks for nothing."""


@dataclass
class Agent:
    """A running agent."""

    url: str
    log: Path

    def page(self, path: str = "metrics") -> Page:
        """What it serves now."""
        return Page(get(f"{self.url}/{path}"))

    def ready(self) -> str:
        """What /readyz says."""
        return get(f"{self.url}/readyz")

    def next_page(self) -> Page:
        """The page of a whole cycle after now."""

        def stamp(page: Page) -> float:
            return page.sum("kpod_last_cycle_timestamp_seconds")

        page = self.page()
        for _ in range(2):  # one may be under way
            before = stamp(page)
            page = eventually(lambda: page if stamp(page := self.page()) > before else None)  # noqa: B023
        return page


@dataclass
class Cluster:
    """What a test has."""

    api: ApiServer
    node: Node
    pods: Pods
    chart: Chart
    runtime: Runtime
    url: str

    def render(self, *settings: str) -> Rendered:
        """The chart with values, and a cycle every 200 ms."""
        flags = [flag for setting in settings for flag in ("--set", setting)]
        return self.chart.render("--set", "config.poll_interval=200ms", *flags)

    @contextmanager
    def agent(self, rendered: Rendered, change: Callable[[Object], object] = lambda pod: None) -> Iterator[Agent]:
        """Start the rendered pod, `change`d, past its first cycle."""
        pod = copy.deepcopy(rendered.pod)
        change(pod)
        self.node.config_maps = rendered.config_maps
        log = self.node.folder / "agent.log"
        with self.pods.running(pod, self.node, log) as process:

            def serves() -> bool:
                assert process.poll() is None, log.read_text()
                return get(f"{self.url}/readyz").startswith("ready")

            eventually(serves, 20)
            yield Agent(self.url, log)
            assert process.poll() is None, log.read_text()
        assert "Traceback" not in log.read_text()
        assert process.returncode == 0, log.read_text()

    def outcome(self, rendered: Rendered, change: Callable[[Object], object]) -> tuple[int, list[str]]:
        """Run the rendered pod, `change`d, to its own end: status and lines of the log."""
        pod = copy.deepcopy(rendered.pod)
        change(pod)
        self.node.config_maps = rendered.config_maps
        log = self.node.folder / "agent.log"
        with self.pods.running(pod, self.node, log) as process:
            status = process.wait(20)
        return status, log.read_text().splitlines()

    def create_pod(self, name: str) -> str:
        """Make a pod of one container that runs, as far as the API server knows; return the container's cgroup."""
        uid = self.api.create_pod(name, node=self.node.name)["metadata"]["uid"]
        return scope(uid, self.api.run_container("default", name, "app"), TOP)

    @contextmanager
    def three(self, *commands: Sequence[str], binds: Sequence[Path] = ()) -> Iterator[list[Container]]:
        """Two pods that run workloads, and one that only exists."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(
                    self.runtime.container(self.create_pod(name), *command, binds=binds, capabilities=ORDINARY)
                )
                for name, command in zip(("left", "right", "idle"), (*commands, ()), strict=True)
            ]


def values(page: Page, name: str, **labels: Any) -> list[float]:
    """Of the containers of the three pods."""
    return [
        page.sum(name, namespace="default", pod=pod, container="app", **labels) for pod in ("left", "right", "idle")
    ]
