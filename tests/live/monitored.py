"""What tests of alerts share: agents that are quick, workloads in their own cgroups, rules that wait for nothing."""

import re
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from monitoring import ROOT
from tests.live.agents import COMMAND, eventually, free_port, get, process
from tests.live.harness import Cgroup, compile_workload, go, stop_point
from tests.live.prometheus import Prometheus

NODE = "test-node"


class Workloads:
    """Cgroups by name, and what runs in them."""

    def __init__(self, root: str, folder: Path, names: Iterable[str], controllers: Iterable[str] = ()) -> None:
        self.top = Path(root) / f"kpod-test-monitoring-{time.monotonic_ns()}"
        self.top.mkdir()
        self._folder = folder
        self._root = root
        self._groups: dict[str, Cgroup] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        for controller in controllers:
            (self.top / "cgroup.subtree_control").write_text(f"+{controller}")
        for name in names:
            (self.top / name).mkdir()
            self._groups[name] = Cgroup(self.top / name)
            # One without processes is not reported; with this one its counters are there at 0 before they grow.
            self._start(name, "sleep", "600")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def pod(self, name: str) -> str:
        """A workload's pod label: its path below the mount."""
        return str((self.top / name).relative_to(self._root))

    def _start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        started = self._groups[name].start(*command, stdout=subprocess.PIPE)
        self._children.append(started)
        return started

    def _compiled(self, name: str) -> str:
        return compile_workload(name, self._folder)

    def _hog(self, name: str, tasks: int, *command: str) -> None:
        for _ in range(tasks):
            hog = self._start(name, *command)
            stop_point(hog)
            go(hog)

    def _contend(self, *names: str) -> None:
        """Have tasks of these want the same CPU, at a priority that leaves others theirs."""
        for name in names:
            self._hog(name, 8, "nice", "-n", "19", self._compiled("hog"), "0")

    def end(self) -> None:
        """End all, and remove their cgroups."""
        for group in self._groups.values():
            with suppress(FileNotFoundError):
                group.destroy()
        for child in self._children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        with suppress(FileNotFoundError):
            self.top.rmdir()


def flags(port: int, *more: str) -> list[str | Path]:
    """The command of an agent that is quick."""
    return [
        *(COMMAND, "run", "--listen", f"127.0.0.1:{port}", "--node-name", NODE, "--profile", "comprehensive"),
        *("--poll-interval", "300ms", "--grace-period", "500ms", "--collector-deadline", "5s", *more),
    ]


class Agent:
    """An agent that is started and ended while Prometheus looks on."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self._log = log
        self._stack = ExitStack()

    def start(self, *before: str, settings: tuple[str, ...] = ("--discovery", "cgroup")) -> None:
        """Start it, past its first page."""
        started = self._stack.enter_context(process([*before, *flags(self.port, *settings)], self._log))
        self._stack.callback(started.send_signal, signal.SIGTERM)
        eventually(lambda: get(f"http://127.0.0.1:{self.port}/metrics"), 60)

    def end(self) -> None:
        """End it."""
        self._stack.close()


class Raised:
    """The alerts that fire in a Prometheus."""

    def __init__(self, prometheus: Prometheus, workloads: Workloads) -> None:
        self.prometheus, self._workloads = prometheus, workloads

    def firing(self, label: str, value: str) -> set[str]:
        """The alerts that fire with a label."""
        return {labels["alertname"] for labels in self.prometheus.firing() if labels.get(label) == value}

    def of_pod(self, name: str) -> set[str]:
        """Those of a workload's cgroup."""
        return self.firing("pod", self._workloads.pod(name))


def shortened(folder: Path) -> list[Path]:
    """The rule files, with nothing changed but `for`."""
    made = []
    for path in sorted((ROOT / "rules").glob("*.yaml")):
        text = re.sub(r"^(    for: )\w+$", r"\g<1>1s", path.read_text(), flags=re.MULTILINE)
        made.append(folder / path.name)
        made[-1].write_text(text)
    return made
