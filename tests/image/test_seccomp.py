"""The runtimes' own seccomp profiles, from their packages, and ours: what the agent can do under each."""

import pytest

from tests.image import seccomp
from tests.image.cluster import Cluster
from tests.image.test_counts import HOGS, switched
from tests.image.test_needs import BPF

LETS_BPF = ["containerd-1.6", "containerd-1.7", "docker-26.1"]
REFUSES_PERF = ["containers-common-0.62"]
REFUSES_BPF = ["docker-20.10", "containers-common-0.50"]


def test_every_profile_is_tried() -> None:
    assert sorted(LETS_BPF + REFUSES_PERF + REFUSES_BPF) == sorted(seccomp.PROFILES)


@pytest.mark.parametrize("name", seccomp.PROFILES)
def test_every_profile_lets_paths_of_pods_be_looked_up(name: str) -> None:
    rules = seccomp.of(seccomp.profile(name), ())["syscalls"]
    allowed = {call for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for call in rule["names"]}
    assert allowed >= {"openat2", "statx", "fstatfs"}


@pytest.mark.parametrize("name", LETS_BPF + REFUSES_PERF)
def test_runtime_default_is_enough(name: str, cluster: Cluster) -> None:
    """If perf events are refused, major faults are read from files. The test machine has none, which is reported."""
    cluster.node.seccomp = seccomp.profile(name)
    with cluster.agent(cluster.render("config.profile=comprehensive")) as agent, cluster.three(*HOGS) as three:
        switched(agent, three)
        page = agent.page()
        down = {dict(labels)["collector"] for labels, up in page.find("kpod_collector_up").items() if not up}
        lines = agent.ready().splitlines()[1:]
        if name in REFUSES_PERF and lines:
            [line] = lines
            assert down == {"page_faults"}
            assert line.startswith("collector page_faults is off: perf_event_open on CPU 0: EPERM")
            assert line.endswith("no memory controller's memory.stat to read")
        else:
            assert not lines
            assert not down


@pytest.mark.parametrize("name", REFUSES_BPF)
def test_runtime_default_of_old_is_not(name: str, cluster: Cluster) -> None:
    cluster.node.seccomp = seccomp.profile(name)
    with cluster.agent(cluster.render()) as agent:
        page = agent.next_page()
        down = {dict(labels)["collector"] for labels, up in page.find("kpod_collector_up").items() if not up}
        assert down == BPF["standard"]
        lines = [line for line in agent.ready().splitlines() if line.startswith("collector ")]
        assert len(lines) == len(down)
        assert all("EPERM" in line and "seccomp" in line for line in lines), lines


@pytest.mark.parametrize("profile", ["minimal", "standard", "comprehensive"])
def test_ours_is_enough_everywhere(profile: str, cluster: Cluster) -> None:
    rendered = cluster.render(
        f"config.profile={profile}",
        "seccompProfile.type=Localhost",
        "seccompProfile.localhostProfile=kpod-metrics.json",
    )
    with cluster.agent(rendered) as agent, cluster.three(*HOGS) as three:
        switched(agent, three)
        assert agent.ready() == "ready\n"
