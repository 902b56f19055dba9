"""What a table of metrics is not."""

import pytest

from kpod_metrics.metrics import Metric, Scope, Table, counter, gauge, latency

EVENTS = counter("kpod_events_total", "Events.", "test")
LEVEL = gauge("kpod_level_bytes", "Level.", "test")
WAIT = latency("kpod_wait_seconds", "Wait.", "test")


@pytest.mark.parametrize("metrics", [(EVENTS, LEVEL), (LEVEL, WAIT)])
def test_gauges_of_a_pod_are_alone(metrics: tuple[Metric, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{metrics[0].name}: a pod's gauges have their own table$"):
        Table(metrics)
    assert Table(metrics, scope=Scope.AGENT).of_gauges is False
    assert Table((LEVEL,)).of_gauges


def test_events_are_counted_by_container() -> None:
    """The events of a cgroup without an owner are counted by cgroup, which a pod may have several of."""
    events = counter("kpod_some_total", "Test.", "test", events=True)
    with pytest.raises(ValueError, match=r"^kpod_some_total: events are counted by container$"):
        Table((events,), scope=Scope.POD)
