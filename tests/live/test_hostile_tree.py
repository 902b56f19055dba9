"""Trees that the owner of one delegated cgroup makes, which no walk can take whole: the others are counted as ever."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kpod_metrics import agent as agents
from kpod_metrics.cgroup.processes import others_are_hidden
from kpod_metrics.cgroup.tree import Tree
from kpod_metrics.collectors import registered
from kpod_metrics.headroom import own_cgroup
from kpod_metrics.pods.resolver import Resolver
from kpod_metrics.pods.standalone import StandaloneNamer
from kpod_metrics.settings import load
from tests.live.agents import Page, eventually, get, running_agent, whole_cycle
from tests.live.harness import Cgroup, go, stop_point
from tests.nesting import nest, unnest

FAULTS = "kpod_mem_major_page_faults_total"
SKIPPED = "kpod_discovery_skipped_cgroups"
NOBODY = 65534
AGENT = ["--poll-interval", "200ms", "--profile", "custom", "--collectors-page-faults-enabled", "true"]
DEEP, LONG = ["d"] * 1_100, ["x" * 255] * 20


@contextmanager
def nested(owned: Cgroup, names: list[str]) -> Iterator[None]:
    """Cgroups in one another, made by the unprivileged owner of the one that they are in."""
    os.chown(owned.path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        nest(str(owned.path), names)
    finally:
        os.seteuid(0)
    try:
        yield
    finally:
        unnest(str(owned.path), names[0])


@pytest.fixture
def faulting(
    workload: Callable[[str], str], on_disk: Path, children: list["subprocess.Popen[bytes]"]
) -> Callable[[Cgroup, int], "subprocess.Popen[bytes]"]:
    """Start what faults so many pages in from disk, once it goes on."""

    def start(group: Cgroup, pages: int) -> "subprocess.Popen[bytes]":
        process = group.start(workload("faults"), str(on_disk), str(pages), stdout=subprocess.PIPE)
        children.append(process)
        stop_point(process)
        return process

    return start


@pytest.mark.slow
def test_trees_without_end_blind_nobody(
    tmp_path: Path,
    cgroup: Callable[[str], Cgroup],
    cgroup_root: str,
    faulting: Callable[[Cgroup, int], "subprocess.Popen[bytes]"],
    tell: Callable[..., None],
) -> None:
    deep, long = cgroup("deep"), cgroup("long")

    def counted(group: Cgroup, pages: int, port: int) -> None:
        """Fault so many pages in from disk in a cgroup; the page says the same."""
        process = faulting(group, pages)
        pod = str(group.path.relative_to(cgroup_root))
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: Page(get(f"{url}/metrics")).find(FAULTS, pod=pod))
        whole_cycle(lambda: Page(get(f"{url}/metrics")))
        # A machine that reclaims pages has the program itself come from disk.
        start = Page(get(f"{url}/metrics")).sum(FAULTS, pod=pod)
        go(process)
        stop_point(process)
        eventually(lambda: Page(get(f"{url}/metrics")).sum(FAULTS, pod=pod) == start + pages)

    def page(port: int) -> Page:
        assert get(f"http://127.0.0.1:{port}/readyz") == "ready\n"
        found = Page(get(f"http://127.0.0.1:{port}/metrics"))
        assert found.sum("kpod_discovery_errors_total") == found.sum("kpod_collection_cycle_errors_total") == 0
        return found

    def skipped(port: int, **expected: int) -> None:
        wanted = {"depth": 0, "path": 0, "number": 0, "unreadable": 0} | expected
        eventually(lambda: {reason: page(port).sum(SKIPPED, reason=reason) for reason in wanted} == wanted)

    with running_agent(tmp_path / "agent.log", *AGENT) as (_, port):
        counted(cgroup("before"), 101, port)
        with nested(deep, DEEP), nested(long, LONG):
            skipped(port, depth=1, path=1)
            counted(cgroup("meanwhile"), 211, port)
            with running_agent(tmp_path / "second.log", *AGENT) as (_, second):
                skipped(second, depth=1, path=1)
                counted(cgroup("restarted"), 151, second)
            assert not others_are_hidden(cgroup_root)
            # A process in one that is left out is not found, and no fault of ours.
            assert own_cgroup(cgroup_root) == own(cgroup_root)
        skipped(port)
        counted(cgroup("after"), 53, port)
    said = (tmp_path / "agent.log").read_text()
    assert re.search(r"WARNING .*the walk skips cgroups \(depth\), among them 1 below '/kpod-test-", said)
    assert "Traceback" not in said
    tell(
        "Faults",
        "The owner of a delegated cgroup nests 1,100 cgroups, and creates 20 with names of 255 bytes",
        1,
        "cgroups more than 64 levels down or with a path of more than 4,000 bytes are skipped; the others are exact, "
        "also new ones, and also with an agent that starts afterwards",
        "events of skipped cgroups are unresolved",
    )


def own(cgroup_root: str) -> str:
    """The own cgroup as the kernel has it; "" for the root's."""
    [line] = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    return line.removeprefix("0::").rstrip("/") or "/"


@pytest.mark.parametrize("mode", [0o000, 0o700], ids=oct)
def test_a_cgroup_that_its_owner_shuts_blinds_nobody(
    tmp_path: Path, cgroup: Callable[[str], Cgroup], cgroup_root: str, mode: int
) -> None:
    """The agent has given up the right to read everything by then."""
    shut = cgroup("shut")
    cgroup("shut/below")
    with running_agent(tmp_path / "agent.log", *AGENT) as (_, port):
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: Page(get(f"{url}/metrics")).find("kpod_last_cycle_timestamp_seconds"))
        os.chown(shut.path, NOBODY, NOBODY)
        shut.path.chmod(mode)
        new = cgroup("new")
        pod = str(new.path.relative_to(cgroup_root))
        eventually(lambda: list(Page(get(f"{url}/metrics")).find(FAULTS, pod=pod).values()) == [0])
        eventually(lambda: Page(get(f"{url}/metrics")).sum(SKIPPED, reason="unreadable") == 1)
        assert get(f"{url}/readyz") == "ready\n"


@pytest.mark.parametrize("fault", ["walk", "names", "snapshot", "cycle"])
def test_a_fault_that_nobody_foresaw_is_told_and_keeps_the_last_snapshot(
    monkeypatch: pytest.MonkeyPatch, cgroup: Callable[[str], Cgroup], fault: str
) -> None:
    """In process, as only a defect can do it: it ends with its cause, and the agent says so meanwhile."""
    idle = cgroup("idle")
    flags = {"cgroup_root": str(idle.path.parent), "profile": "custom", "collectors_pressure_enabled": "true"}
    flags |= {"poll_interval": "100ms", "collector_deadline": "10s"}
    settings, _ = load(flags, {}, None, list(registered()))
    agent = agents.build(settings)
    broken = {"now": False}
    kind, name = {
        "walk": (Tree, "walk"),
        "names": (StandaloneNamer, "snapshot"),
        "snapshot": (Resolver, "update"),
        "cycle": (agents.Agent, "_charge_known"),
    }[fault]
    real = getattr(kind, name)

    def call(*arguments: Any) -> Any:
        if broken["now"]:
            raise RecursionError("planted")
        return real(*arguments)

    monkeypatch.setattr(kind, name, call)

    def page() -> Page:
        return Page(agent.published.get("text/plain; version=0.0.4; charset=utf-8", False).decode())

    child = idle.start("sleep", "1000")
    try:
        agent.open()
        agent.start()
        eventually(lambda: agent.last_cycle)
        eventually(lambda: page().find("kpod_pressure_io_waiting_seconds_total", pod="idle"))
        assert agent.problems() == []
        kinds = {dict(labels)["what"]: value for labels, value in page().find("kpod_discovery_forgotten_total").items()}
        assert kinds == {"deletion": 0, "pod": 0, "excess": 0, "cgroup": 0, "waiting": 0, "outside": 0}
        broken["now"] = True
        failed = "kpod_collection_cycle_errors_total" if fault == "cycle" else "kpod_discovery_errors_total"
        said = (
            "the last cycle failed, its page was not published: RecursionError: planted"
            if fault == "cycle"
            else "source of pods (cgroup): RecursionError: planted"
        )
        eventually(lambda: agent.problems() == [said])
        if fault != "cycle":
            eventually(lambda: page().sum(failed) > 2)
            assert page().sum("kpod_pod_source_connected") == 0
            assert page().find("kpod_pressure_io_waiting_seconds_total", pod="idle")
        broken["now"] = False
        eventually(lambda: agent.problems() == [])
        eventually(lambda: page().sum(failed) > 0)
        eventually(lambda: page().sum("kpod_pod_source_connected") == 1)
        assert page().find("kpod_pressure_io_waiting_seconds_total", pod="idle")
    finally:
        agent.stop()
        child.kill()
        child.wait()
