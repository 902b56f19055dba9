"""A node that is a container (kind, k3d): the agent sees a part of the cgroup tree, and events of all of it."""

import sys
from collections.abc import Callable
from pathlib import Path

from tests.live.agents import Page, eventually, get, running_agent
from tests.live.harness import Cgroup

COUNT = "kpod_syscall_count_total"
UNATTRIBUTED = "kpod_unattributed_events_total"
AGENT = ["--poll-interval", "200ms", "--profile", "custom", "--collectors-syscall-enabled", "true"]
RARE = "sched_rr_get_interval"


def calls(number: int) -> list[str]:
    """A command that makes so many of a system call that nothing else here makes."""
    return [sys.executable, "-c", f"import os\nfor _ in range({number}): os.sched_rr_get_interval(0)"]


def test_events_outside_are_the_hosts(tmp_path: Path, cgroup: Callable[[str], Cgroup]) -> None:
    """Of cgroups older and younger than the agent, there and gone; below the root all have their names."""
    node, outside, inside = cgroup("node"), cgroup("outside"), cgroup("node/inside")
    settings = [*AGENT, "--cgroup-root", str(node.path), "--syscalls", RARE]
    with running_agent(tmp_path / "agent.log", *settings) as (_, port):

        def page() -> Page:
            return Page(get(f"http://127.0.0.1:{port}/metrics"))

        def unattributed() -> dict[str, float]:
            return {reason: page().sum(UNATTRIBUTED, reason=reason) for reason in ("host", "filtered", "unresolved")}

        outside.run(*calls(211))
        inside.run(*calls(101))
        eventually(lambda: unattributed()["host"] + unattributed()["unresolved"] == 211)
        eventually(lambda: page().sum(COUNT, pod="inside") == 101)
        for name, number in {"young": 307, "node/young": 53, "node/young/nested": 7}.items():
            cgroup(name).run(*calls(number))
        for name, number in {"gone": 17, "node/gone": 19}.items():
            passing = cgroup(name)
            passing.run(*calls(number))
            passing.destroy()
        eventually(lambda: page().sum(COUNT, pod="gone") == 19)
        eventually(lambda: page().sum(COUNT, pod="young") == 53)
        eventually(lambda: page().sum(COUNT, pod="young/nested") == 7)
        eventually(lambda: unattributed() == {"host": 211 + 307 + 17, "filtered": 0, "unresolved": 0})
        outside.run(*calls(23))
        eventually(lambda: unattributed() == {"host": 211 + 307 + 17 + 23, "filtered": 0, "unresolved": 0})
        assert page().sum(COUNT) == 101 + 53 + 7 + 19
