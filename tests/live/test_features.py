"""The kernel features that are declared: what this kernel has is used, a refusal is shown in its own words."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hatch_build import compile_objects
from kpod_metrics import agent as agents
from kpod_metrics.agent import assembly
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import BpfCollector, Environment
from kpod_metrics.collectors.net_tcp import NetTcp
from kpod_metrics.errors import UnavailableError
from kpod_metrics.features import FEATURES, SOCKET_ITERATOR, TP_BTF, with_dependent
from kpod_metrics.kernel.programs import OBJECTS
from kpod_metrics.settings import DEFAULT_SYSCALLS, load
from tests import forced
from tests.live.harness import COMPILED, opened

CHECK = [sys.executable, "-m", "kpod_metrics", "check", "--discovery", "cgroup", "--json"]


@pytest.mark.parametrize("name", FEATURES)
def test_what_this_kernel_has_is_not_given_up_in_silence(name: str, cgroup_root: str) -> None:
    """If a feature is required, the kernel's refusal is an error; without one, all that can use the feature use it."""
    if reason := forced.lacking(name):
        pytest.skip(f"needs kernel feature {name}: {reason}")
    users = [kind for kind in registered().values() if name in kind.features]
    assert users
    for kind in users:
        with opened(kind(Environment(cgroup_root=cgroup_root, syscalls=DEFAULT_SYSCALLS))) as collector:
            if isinstance(collector, BpfCollector):
                assert name not in collector.without, kind.name
            else:
                assert collector.environment.tasks.is_open(collector), kind.name


@pytest.mark.parametrize("name", FEATURES)
def test_what_is_forced_off_is_not_used(name: str, cgroup_root: str) -> None:
    """Each collector works without it, or says what it needs."""
    for kind in registered().values():
        if name not in kind.features:
            continue
        off = frozenset({name})
        collector = kind(Environment(cgroup_root=cgroup_root, syscalls=DEFAULT_SYSCALLS, forced_off=off))
        try:
            assert not [signal.problem for signal in collector.open() if signal.problem]
            if isinstance(collector, BpfCollector):
                assert with_dependent({name}) <= collector.without
                if collector._loaded is None:
                    assert collector.controller, "nothing else keeps it from loading"
                    continue
                sections = {p.section for p in collector._loaded.object.programs.values() if p.loaded}
                assert name not in sections
            else:
                assert not collector.environment.tasks.is_open(collector)
        except UnavailableError as refused:
            if "there is no memory controller's memory.stat to read" not in str(refused):
                raise
        finally:
            collector.close()


def check(*arguments: str) -> dict[str, dict[str, object]]:
    done = subprocess.run([*CHECK, *arguments], env=forced.variables(), capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return {one["name"]: one for one in json.loads(done.stdout)["features"]}


def test_check_lists_every_feature() -> None:
    """Available or not does not depend on the switch."""
    found = check()
    assert found.keys() == FEATURES.keys()
    assert {name: one["forced"] for name, one in found.items()} == dict.fromkeys(FEATURES) | dict.fromkeys(
        forced.OFF, "off"
    )
    assert all(bool(one["refusal"]) != one["available"] for one in found.values())
    switched = check("--kernel-features-off", "iter/*,batch")
    assert {name for name, one in switched.items() if one["forced"] == "off"} == {
        *("iter/bpf_sk_storage_map", "iter/task", "iter/task_file", "batch"),
    }
    assert {name: one["available"] for name, one in switched.items()} == {
        name: one["available"] for name, one in found.items()
    }


@pytest.fixture
def refused_iterator(tmp_path: Path) -> str:
    """Objects of which the kernel refuses the iterator over sockets, as a hardened build does: the folder."""
    if COMPILED:
        pytest.skip("a machine without a compiler")
    text = (Path(__file__).parents[2] / "bpf" / "net_tcp.bpf.c").read_text()
    old = "\tif (!sk || !socket)\n\t\treturn 0;\n"
    assert text.count(old) == 1
    (tmp_path / "net_tcp.bpf.c").write_text(text.replace(old, "\t(void)*(volatile __u64 *)socket;\n"))
    for path in Path(OBJECTS).glob("*.bpf.o"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "net_tcp.bpf.o").unlink()
    compile_objects([tmp_path / "net_tcp.bpf.c"], tmp_path)
    return str(tmp_path)


REFUSED = r"net_tcp\.bpf\.o: load: EACCES .*R\d invalid mem access.* prog 'tcp_totals': failed to load: -13"
"""The number, and the verifier's last lines."""


def test_an_iterator_that_is_refused_is_done_without(refused_iterator: str) -> None:
    """It alone: the rest is as good as ever."""
    with opened(NetTcp(Environment(objects=refused_iterator))) as collector:
        assert isinstance(collector, NetTcp)
        assert collector.without == with_dependent({SOCKET_ITERATOR, *forced.OFF})
        assert collector._totals is None


@forced.needs(SOCKET_ITERATOR)
def test_what_is_required_and_refused_is_reported(refused_iterator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the collector, by the agent's readiness, and nothing stands in for it."""
    insisting = Environment(objects=refused_iterator, forced_on=frozenset({SOCKET_ITERATOR}))
    collector = NetTcp(insisting)
    try:
        with pytest.raises(UnavailableError, match=REFUSED):
            collector.open()
    finally:
        collector.close()

    real = assembly.environment_of
    monkeypatch.setattr(assembly, "environment_of", lambda *given: replace(real(*given), objects=refused_iterator))
    settings, _ = load({"kernel_features_on": SOCKET_ITERATOR}, {}, None, list(registered()))
    agent = agents.build(settings)
    try:
        agent.open()
        agent.cycle()
        [problem] = [one for one in agent.problems() if "net_tcp" in one]
        assert re.fullmatch("collector net_tcp is off: " + REFUSED, problem)
    finally:
        agent.stop()


@forced.needs(SOCKET_ITERATOR)
def test_what_is_required_and_exists_is_used() -> None:
    with opened(NetTcp(Environment(forced_on=frozenset({SOCKET_ITERATOR})))) as collector:
        assert isinstance(collector, NetTcp)
        assert collector._totals is not None


def test_a_feature_that_needs_another() -> None:
    """The iterator over sockets goes over their storage, which takes typed arguments."""
    assert SOCKET_ITERATOR in with_dependent({TP_BTF})
    environment = Environment(forced_on=frozenset({SOCKET_ITERATOR}), forced_off=frozenset({TP_BTF}))
    collector = NetTcp(environment)
    try:
        with pytest.raises(UnavailableError, match=rf"{SOCKET_ITERATOR}.*: required"):
            collector.open()
    finally:
        collector.close()
