"""A collector with its own interval reads in the nearest cycle; the clock is the test's."""

import time
from collections.abc import Callable, Sequence

import pytest

from kpod_metrics import agent as agents
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.pressure import Pressure
from kpod_metrics.metrics import Row
from kpod_metrics.pods.model import Group
from kpod_metrics.settings import load
from tests.live.harness import Cgroup


def test_collector_is_asked_in_the_cycle_nearest_to_its_time(
    cgroup: Callable[[str], Cgroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    # Cycles every 30 s, never to the dot.
    cycles = [1000.0, 1030.2, 1060.1, 1090.3, 1119.9, 1150.0, 1180.4]
    now = [cycles[0]]

    def collect(self: Pressure, groups: Sequence[Group]) -> list[Row]:
        asked.append(now[0])
        return []

    monkeypatch.setattr(Pressure, "collect", collect)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    flags = {
        "cgroup_root": str(cgroup("a").path),
        "profile": "custom",
        "collectors_pressure_enabled": "true",
        "collectors_pressure_interval": "60s",
    }
    settings, _ = load(flags, {}, None, list(registered()))
    agent = agents.build(settings)
    agent.open()
    try:
        for now[0] in cycles:
            agent.cycle()
    finally:
        agent.close()
    assert asked == [1000.0, 1060.1, 1119.9, 1180.4]
