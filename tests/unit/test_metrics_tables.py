"""What a table of metrics is not."""

import pytest

from kpod_metrics.metrics import Metric, Scope, Table, counter, gauge, latency

EVENTS = counter("kpod_events_total", "Events.", "test")
LEVEL = gauge("kpod_level_bytes", "Level.", "test")
WAIT = latency("kpod_wait_seconds", "Wait.", "test")


@pytest.mark.parametrize("metrics", [(EVENTS, LEVEL), (LEVEL, WAIT)])
def test_gauges_of_a_pod_are_alone(metrics: tuple[Metric, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{metrics[0].name}: a pod's gauges have a table of their own$"):
        Table(metrics)
    assert Table(metrics, scope=Scope.AGENT).of_gauges is False
    assert Table((LEVEL,)).of_gauges


@pytest.mark.parametrize("metric", [LEVEL, WAIT])
def test_running_totals_are_counters(metric: Metric) -> None:
    with pytest.raises(ValueError, match=rf"^{metric.name}: running totals are counters$"):
        Table((metric,), totals=True)
