"""A pod that goes over a limit of its own is named."""

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


def test_only_declared_limits_count() -> None:
    with pytest.raises(KeyError):
        Ledger().add(1, "none")
