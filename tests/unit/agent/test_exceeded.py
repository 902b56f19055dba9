"""A pod that goes over a limit of its own is named."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from kpod_metrics.bounds import Ledger
from kpod_metrics.pods.model import Identity
from tests.unit.agent.hub import EVENTS, Counting, Hub

NAME = "kpod_pod_limit_exceeded_total"


def test_the_pod_is_named_at_zero_and_then_with_its_count(tmp_path: Path) -> None:
    hub = Hub(tmp_path, Counting("one", EVENTS))
    hub.agent.open()
    one = hub.cgroup("one", Identity("n", "one", "c"))
    host = hub.cgroup("host", "host")
    hub.cgroup("other", Identity("n", "other", "c"))
    for owner in (one, host):
        hub.agent.source.exceeded.add(owner, "series", 3)
    assert {key: value for key, value in hub.cycle().items() if key[0] == NAME} == {(NAME, "one"): 0}
    assert {key: value for key, value in hub.cycle().items() if key[0] == NAME} == {(NAME, "one"): 3}
    hub.agent.source.exceeded.add(one, "series")
    assert {key: value for key, value in hub.cycle().items() if key[0] == NAME} == {(NAME, "one"): 4}
    hub.remove("one")
    hub.cycle()
    assert {key: value for key, value in hub.cycle().items() if key[0] == NAME} == {}


class Crowded(Counting):
    """Its tables are full: what is below a container makes room."""

    def make_room(self, containers: Mapping[int, int]) -> None:
        """Count each cgroup."""
        for container in containers.values():
            self.environment.exceeded.add(container, "map_entries")


def test_cgroups_below_containers_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crowded = Crowded("one", EVENTS)
    hub = Hub(tmp_path, crowded)
    hub.agent.open()
    one = hub.cgroup("one", Identity("n", "one", "c"))
    for below in ("one/a", "one/b"):
        hub.cgroup(below, Identity("n", "one", "c"))
    named = hub.names.snapshot
    monkeypatch.setattr(hub.names, "snapshot", lambda *args: replace(named(*args), holders={one: 0}))
    hub.cycle()
    rows = [(row.owner, row.labels, row.values) for row in crowded.environment.exceeded.rows()]
    assert rows == [(one, ("map_entries",), (2,))]


def test_only_declared_limits_count() -> None:
    with pytest.raises(KeyError):
        Ledger().add(1, "none")
