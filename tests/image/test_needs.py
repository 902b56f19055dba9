"""Each right and each mount in the chart is needed: without it something is off, and one line says what and why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.collectors import registered
from kpod_metrics.metrics import Profile
from kpod_metrics.reference import declared
from tests.image.cluster import Cluster
from tests.image.pod import Object
from tests.image.test_counts import HOGS

UP = "kpod_collector_up"
CONTROLLERS = {"", *Path(find_root(), "cgroup.controllers").read_text().split()}
PROGRAMS = {name for name, kind in registered().items() if kind.uses_bpf and kind.controller in CONTROLLERS}
PROFILES = [profile.name.lower() for profile in Profile]
BPF = {
    profile: {name for name, _, metric in declared() if name in PROGRAMS and metric.profile <= Profile[profile.upper()]}
    for profile in PROFILES
}
"""Collectors with BPF programs, by profile. Without their controller they load none."""
HIDDEN = "the processes of other containers are not seen: the agent needs the host's PID namespace"


def without_capability(name: str) -> Callable[[Object], None]:
    def change(pod: Object) -> None:
        pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"].remove(name)

    return change


def without_mount(name: str) -> Callable[[Object], None]:
    def change(pod: Object) -> None:
        container = pod["spec"]["containers"][0]
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != name]

    return change


def without_host_pid(pod: Object) -> None:
    del pod["spec"]["hostPID"]


def off(cluster: Cluster, profile: str, change: Callable[[Object], None]) -> tuple[set[str], set[str]]:
    """The collectors that are off, and the lines of /readyz about them."""
    with cluster.agent(cluster.render(f"config.profile={profile}"), change) as agent, cluster.three(*HOGS):
        page = agent.next_page()
        down = {dict(labels)["collector"] for labels, up in page.find(UP).items() if not up}
        first, *lines = agent.ready().splitlines()
        assert first == "ready"
        return down, set(lines)


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_more_is_given_than_is_tried_here(profile: str, cluster: Cluster) -> None:
    pod = cluster.render(f"config.profile={profile}").pod["spec"]
    [container] = pod["containers"]
    needed = {"BPF", "PERFMON"} | ({"SYS_PTRACE"} if profile != "minimal" else set())
    assert set(container["securityContext"]["capabilities"]["add"]) == needed
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert pod.get("hostPID", False) is (profile != "minimal")
    assert {mount["name"] for mount in container["volumeMounts"]} == {"config", "cgroup"}
    assert not {"hostNetwork", "hostIPC"} & pod.keys()


@pytest.mark.parametrize("capability", ["BPF", "PERFMON"])
@pytest.mark.parametrize("profile", PROFILES)
def test_without_a_capability_for_programs(profile: str, capability: str, cluster: Cluster) -> None:
    down, lines = off(cluster, profile, without_capability(capability))
    assert down == BPF[profile]
    assert lines == {f"collector {name} is off: EPERM: this process lacks CAP_{capability}" for name in down}


@pytest.mark.parametrize("profile", ["standard", "comprehensive"])
def test_without_the_capability_to_look_at_mounts(profile: str, cluster: Cluster) -> None:
    down, lines = off(cluster, profile, without_capability("SYS_PTRACE"))
    assert down == {"filesystem"}
    assert lines == {"collector filesystem is off: EPERM: this process lacks CAP_SYS_PTRACE"}


@pytest.mark.parametrize("profile", ["standard", "comprehensive"])
def test_without_the_hosts_processes(profile: str, cluster: Cluster) -> None:
    down, lines = off(cluster, profile, without_host_pid)
    assert down == {"filesystem", "net_iface"}
    assert {line.partition(" (")[0] for line in lines} == {f"collector {name} is off: {HIDDEN}" for name in down}


def test_without_the_hosts_processes_and_without_kubernetes(cluster: Cluster) -> None:
    rendered = cluster.render("config.discovery=cgroup", "config.profile=minimal")
    assert rendered.pod["spec"]["hostPID"] is True
    status, lines = cluster.outcome(rendered, without_host_pid)
    assert status == 1
    assert [line.partition(" (")[0] for line in lines] == [f"kpod-metrics: {HIDDEN}"]


@pytest.mark.parametrize("profile", PROFILES)
def test_without_the_hosts_cgroups(profile: str, cluster: Cluster) -> None:
    status, lines = cluster.outcome(cluster.render(f"config.profile={profile}"), without_mount("cgroup"))
    assert status == 1
    [line] = lines
    assert "--cgroup-root" in line


def test_without_the_configuration(cluster: Cluster) -> None:
    status, lines = cluster.outcome(cluster.render(), without_mount("config"))
    assert status == 2
    assert lines == [
        "kpod-metrics: --config: '/etc/kpod-metrics/config.yaml' cannot be read (No such file or directory): "
        "a YAML file is accepted"
    ]


def test_without_the_service_account(cluster: Cluster) -> None:
    def change(pod: Object) -> None:
        pod["spec"]["automountServiceAccountToken"] = False

    status, lines = cluster.outcome(cluster.render(), change)
    assert status == 1
    [line] = lines
    assert line.startswith("kpod-metrics: no Kubernetes here: no service account in /var/run/secrets/kubernetes.io/")


def test_without_the_right_to_list_pods(cluster: Cluster) -> None:
    cluster.api.fail(403, "list", times=1000, message="pods is forbidden")
    with cluster.agent(cluster.render()) as agent:
        [line] = agent.ready().splitlines()[1:]
        assert "403: pods is forbidden" in line
        assert agent.page().sum("kpod_pod_source_connected") == 0


def test_without_root(cluster: Cluster) -> None:
    def change(pod: Any) -> None:
        pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = 1000

    status, lines = cluster.outcome(cluster.render(), change)
    assert status == 1
    assert lines == ["kpod-metrics: uid 1000 may not load BPF programs: run as root, or with CAP_BPF and CAP_PERFMON"]
