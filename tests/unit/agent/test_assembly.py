"""From settings to the parts of an agent."""

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from kpod_metrics.agent import assembly, build, environment_of, exporter_of, kept_files, namer_of, select
from kpod_metrics.bounds import Ledger
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.errors import RefusedError, SettingError
from kpod_metrics.exposition.pages import Published
from kpod_metrics.kernel import rights
from kpod_metrics.metrics import Profile
from kpod_metrics.pods.cluster import Filter
from kpod_metrics.pods.kubelet_tree import KubeletTree
from kpod_metrics.pods.standalone import StandaloneNamer
from kpod_metrics.settings import Settings, load


def loaded(**flags: str) -> Settings:
    return load(flags, {}, None, list(registered()))[0]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (100, 0),
        (511, 0),
        (512, 0),
        (519, 1),
        (1024, 73),
        (65536, 9_289),
        (1 << 20, 10_000),
        (resource.RLIM_INFINITY, 10_000),
    ],
)
def test_files_are_kept_open_as_the_limit_allows(monkeypatch: pytest.MonkeyPatch, limit: int, kept: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda of: {resource.RLIMIT_NOFILE: (limit, -1)}[of])
    assert kept_files() == kept


def test_environment_is_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "kept_files", lambda: 7)
    settings = loaded(
        proc_root="/",
        sys_root="/",
        bpf_map_entries="33",
        syscalls="read",
        kernel_features_off="batch",
        kernel_features_on="tp_btf",
    )
    assert environment_of(settings, "/cgroup") == Environment(
        cgroup_root="/cgroup",
        proc_root="/",
        sys_root="/",
        map_entries=33,
        kept_files=7,
        syscalls=("read",),
        # What the tests do without is in every environment.
        forced_off=frozenset({"batch"}) | Environment().forced_off,
        forced_on=frozenset({"tp_btf"}),
    )


def chosen(**flags: str) -> dict[str, set[Profile]]:
    """The collectors that are on, with the profiles of the metrics that are wanted of each."""
    found = select(loaded(**flags), Environment(syscalls=("read",)))
    return {collector.name: {metric.profile for metric in collector.wanted} for collector in found}


def lowest() -> dict[str, Profile]:
    environment = Environment(syscalls=("read",))
    return {
        name: min(metric.profile for table in kind.declare(environment) for metric in table.metrics)
        for name, kind in registered().items()
    }


@pytest.mark.parametrize("profile", Profile)
def test_profile_has_what_is_declared_for_it_and_below(profile: Profile) -> None:
    found = chosen(profile=profile.name.lower())
    assert list(found) == [name for name, least in lowest().items() if least <= profile]
    assert all(max(profiles) <= profile for profiles in found.values())


def test_switches_add_collectors_and_take_them_away() -> None:
    assert chosen(profile="custom") == {}
    on = chosen(profile="custom", collectors_syscall_enabled="true", collectors_disk_enabled="true")
    assert on == {"disk": {Profile.MINIMAL}, "syscall": {Profile.COMPREHENSIVE}}
    assert "disk" not in chosen(profile="minimal", collectors_disk_enabled="false")
    # One that the profile has stays as the profile has it.
    assert chosen(profile="minimal", collectors_disk_enabled="true") == chosen(profile="minimal")
    more = chosen(profile="minimal", collectors_syscall_enabled="true")
    assert more == chosen(profile="minimal") | {"syscall": {Profile.COMPREHENSIVE}}


def test_collector_without_settings_is_as_the_profile_says() -> None:
    settings = loaded(profile="minimal")
    settings.collectors.pop("disk")
    assert "disk" in [collector.name for collector in select(settings, Environment())]


def test_collector_that_has_nothing_to_collect_is_off() -> None:
    assert select(loaded(profile="custom", collectors_syscall_enabled="true"), Environment()) == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "cgroup.controllers").touch()
    return tmp_path


def test_agent_is_built_of_the_settings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "kept_files", lambda: 7)
    agent = build(loaded(cgroup_root=str(root), profile="custom", collectors_disk_enabled="true", sys_root="/"))
    assert [state.name for state in agent.states] == ["disk"]
    assert agent.states[0].collector.environment.cgroup_root == str(root)
    assert agent.source.root == str(root)
    assert agent.source.name == "cgroup"
    assert agent.source.events is not None


def test_root_is_found_where_none_is_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "find_root", {"/proc": str(root)}.__getitem__)
    assert build(loaded(profile="custom", collectors_disk_enabled="true")).source.root == str(root)


def test_processes_of_others_have_to_be_seen_without_kubernetes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def hidden(path: str) -> bool:
        asked.append(path)
        return True

    monkeypatch.setattr(assembly, "others_are_hidden", hidden)
    with pytest.raises(RefusedError, match="hostPID"):
        build(loaded(cgroup_root=str(root)))
    assert asked == [str(root)]


@pytest.mark.parametrize(
    ("who", "switched_on", "refused"),
    [
        ((1000, ()), "syscall", True),
        ((1000, (rights.CAP_BPF,)), "syscall", True),
        ((1000, (rights.CAP_BPF, rights.CAP_PERFMON)), "syscall", False),
        ((0, ()), "syscall", False),
        ((1000, ()), "disk", False),
    ],
)
def test_user_who_may_not_load_programs_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, who: tuple[int, tuple[int, ...]], switched_on: str, refused: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: who[0])
    monkeypatch.setattr(rights, "effective", {"/proc": rights.mask(*who[1])}.__getitem__)
    flags = {"cgroup_root": str(root), "profile": "custom", f"collectors_{switched_on}_enabled": "true"}
    if refused:
        with pytest.raises(RefusedError, match=r"^uid 1000 may not load BPF programs: run as root, or with CAP_BPF"):
            build(loaded(**flags))
    else:
        assert len(build(loaded(**flags)).states) == 1


def test_names_come_from_the_tree_or_from_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(namer_of(loaded(), Ledger()), StandaloneNamer)
    source = object()
    given: list[tuple[object, Filter, float]] = []
    trees: list[KubeletTree] = []

    def make(*of: Any, tree: KubeletTree) -> None:
        given.append(of)
        trees.append(tree)

    monkeypatch.setattr(assembly, "ClusterNamer", make)
    flags = {"namespaces": "a,b", "exclude_namespaces": "c", "pod_selector": "app=web", "pod_labels": "app"}
    monkeypatch.setattr(assembly, "kubernetes_source", lambda settings: (source, settings.discovery))
    namer_of(loaded(discovery="kubelet", grace_period="7s", kubelet_cgroup_root="/a/b", **flags), Ledger())
    assert trees[0].root == "a/b"
    [(asked, wanted, grace)] = given
    assert (asked, grace) == ((source, "kubelet"), 7)
    assert (wanted.namespaces, wanted.without, wanted.labels) == (frozenset("ab"), frozenset("c"), ("app",))
    assert [wanted.selector({"app": value}) for value in ("web", "db")] == [True, False]


def test_exporter_is_there_where_it_is_set() -> None:
    assert exporter_of(Settings(), Published()) is None
    exporter = exporter_of(Settings(otlp_endpoint="http://otlp:4318"), Published())
    assert exporter is not None
    assert exporter.endpoint == "http://otlp:4318/v1/metrics"


def test_key_of_the_exporter_takes_a_certificate() -> None:
    said = r"^otlp_key: '/key' is not accepted; accepted: with otlp_certificate only$"
    with pytest.raises(SettingError, match=said):
        exporter_of(Settings(otlp_key="/key"), Published())
    assert exporter_of(Settings(otlp_key="/key", otlp_certificate="/cert"), Published()) is None
