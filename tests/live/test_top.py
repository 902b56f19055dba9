"""`top` with a real agent, and with its own collection: a cgroup that contends for a CPU and one that sleeps."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kpod_metrics.features import TASK_ITERATOR
from tests.forced import needs
from tests.live.agents import COMMAND, free_port, running_agent
from tests.live.harness import Cgroup
from tests.terminal import terminal


@pytest.fixture
def pods(cgroup: Callable[[str], Cgroup], cgroup_root: str, children: list[subprocess.Popen[bytes]]) -> tuple[str, str]:
    """The pod names of a cgroup with two tasks that want the same CPU, and of one whose task sleeps."""
    hogs, sleeper = cgroup("hogs"), cgroup("sleeper")
    spin = "while :; do :; done"
    children += [hogs.start("taskset", "-c", "0", "sh", "-c", spin) for _ in range(2)]
    children.append(sleeper.start("sleep", "600"))
    return str(hogs.path.relative_to(cgroup_root)), str(sleeper.path.relative_to(cgroup_root))


def as_expected(rows: list[dict[str, Any]], pods: tuple[str, str]) -> None:
    by_pod = {row["pod"]: row for row in rows}
    hogs, sleeper = (by_pod[pod] for pod in pods)
    # Two tasks share one CPU with whatever else runs: none gets more, and one waits while the other runs.
    assert 0.1 < hogs["cpu"] < 1.1
    assert hogs["waits_for"] == "cpu"
    assert hogs["waits"] > 0.3
    assert hogs["runqueue_p99"] > 1e-4
    assert hogs["runqueue_waits"] > 1
    assert sleeper["cpu"] < 0.01
    assert sleeper["waits_for"] == ""
    assert [sleeper[name] for name in ("faults", "retransmits", "network", "errors")] == [0, 0, 0, 0]
    # What this kernel's cgroup files do not have is not said to be 0.
    assert all(row["throttled"] is None or row["throttled"] == 0 for row in (hogs, sleeper))


def rows(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run([COMMAND, "top", "--json", *arguments], capture_output=True, check=True, timeout=60)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@needs(TASK_ITERATOR)  # the workloads are older than the agent
def test_with_a_running_agent(pods: tuple[str, str], tmp_path: Path) -> None:
    settings = ("--profile", "comprehensive", "--poll-interval", "2s")
    with running_agent(tmp_path / "log", *settings) as (_, port):
        as_expected(rows("--url", f"http://127.0.0.1:{port}"), pods)


@needs(TASK_ITERATOR)  # the workloads are older than the agent
def test_with_its_own_collection(pods: tuple[str, str]) -> None:
    as_expected(rows("--collect", "--poll-interval", "2s"), pods)


@needs(TASK_ITERATOR)  # the workloads are older than the agent
def test_without_an_agent_it_collects_itself_and_says_so(pods: tuple[str, str]) -> None:
    listen = f"127.0.0.1:{free_port()}"
    with terminal([COMMAND, "top", "--listen", listen, "--poll-interval", "500ms"], 20, 160) as shown:
        said = f"kpod-metrics top  own collection, no agent at http://{listen} (Connection refused)  "
        shown.until(
            lambda lines: lines[0].startswith(said) and any("hogs" in line and " cpu " in line for line in lines), 30
        )
        # The log of the agent in it is not written over the table.
        time.sleep(1)
        assert not any("INFO" in line for line in shown.lines)
        shown.press("q")
        assert shown.ended() == 0
