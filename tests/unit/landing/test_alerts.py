"""What an alert about a pod is pending for is on the page: the series with which each alert's test has it fire."""

import math
import re
from typing import Any

import pytest

from kpod_metrics import histogram
from kpod_metrics.diagnosis.causes import node_causes
from kpod_metrics.histogram import Histogram
from kpod_metrics.landing import page, waits
from kpod_metrics.pods.model import Identity
from monitoring.alerts import POD_ALERTS, Alert
from tests.promtool import CASES
from tests.unit.landing.fixture import Node

OF_HOURS = {"KpodMemoryGrowsToLimit", "KpodTcpRttRise"}
"""Compare with hours before, which no agent keeps: the page cannot say these."""
MINUTES = {"m": 1, "h": 60}


def expand(notation: str) -> list[float]:
    """Return the values of promtool's notation, one a minute: a+bxN are N + 1 of them."""
    values: list[float] = []
    for word in notation.split():
        # What is not there yet has counted nothing.
        first, step, times = re.fullmatch(r"([-\d.]+?)(?:([+-][\d.]+))?(?:x(\d+))?", word.replace("_", "0")).groups()  # type: ignore[union-attr]
        values += [float(first) + at * float(step or 0) for at in range(int(times or 0) + 1)]
    return values


@pytest.mark.parametrize(
    ("notation", "values"),
    [
        ("0+2x2", [0, 2, 4]),
        ("7x1 8", [7, 7, 8]),
        ("500+3x1 -1", [500, 503, -1]),
        ("0 0 1", [0, 0, 1]),
        ("_x1 3", [0, 0, 3]),
    ],
)
def test_notation(notation: str, values: list[float]) -> None:
    assert expand(notation) == values


def window(alert: Alert) -> int:
    """How many minutes it looks back."""
    found = re.findall(r"\[(\d+)([mh])\]", alert.expr)
    return max((int(number) * MINUTES[unit] for number, unit in found), default=5)


def growth(series: dict[str, Any], end: int, minutes: int) -> dict[str, dict[str, float | Histogram]]:
    """Return by pod how metrics grow within those minutes, and what gauges are, in the words of `Node.saw`."""
    found: dict[str, dict[str, float | Histogram]] = {}
    below: dict[tuple[str, str], dict[int, float]] = {}
    sums: dict[tuple[str, str], float] = {}
    for text, notation in series.items():
        name, labels = re.fullmatch(r"kpod_(\w+)(?:\{(.*)\})?", text).groups()  # type: ignore[union-attr]
        if name.endswith("_count"):  # of a histogram, whose buckets say it too
            continue
        own = dict(re.findall(r'(\w+)="([^"]*)"', labels or ""))
        pod, le = own.pop("pod", "cart-0"), own.pop("le", "")
        values = expand(str(notation))
        now, was = values[min(end, len(values) - 1)], values[max(0, end - minutes)]
        key = "__".join((*own.values(), re.sub(r"_(bucket|sum)$", "", name)))
        if le:
            bucket = (
                histogram.BUCKETS - 1 if le == "+Inf" else histogram.bucket_of_exponent(round(math.log2(float(le))))
            )
            below.setdefault((pod, key), {})[bucket] = now - was
        elif name.endswith("_sum"):
            sums[pod, key] = now - was
        else:
            found.setdefault(pod, {})[key] = now - was if name.endswith("_total") or "restarts" in name else now
    for (pod, key), total in sums.items():
        buckets, last = [0] * histogram.BUCKETS, 0.0
        for bucket, count in sorted(below.get((pod, key), {0: 1.0}).items()):
            buckets[bucket], last = round(count - last), count
        found.setdefault(pod, {})[key] = Histogram(buckets, round(total * 1e9))
    return found


def minute(case: dict[str, Any]) -> int:
    return int(case.get("at", "30m").removesuffix("m"))


def node_of(alert: Alert, case: dict[str, Any]) -> Node:
    node, minutes = Node(), window(alert)
    grown = growth(case["series"], minute(case), minutes)
    for pod, values in grown.items():
        node.saw(Identity("shop", pod, "app"), **dict.fromkeys(values, 0.0))
    node.cycle()
    for pod, values in grown.items():
        node.saw(Identity("shop", pod, "app"), **values)
    node.cycle(after=60.0 * minutes)
    return node


def over(node: Node) -> set[str]:
    """Return the alerts whose limits are reached, as the page has them."""
    containers = waits.rates(node.compared)
    found = [*node_causes(containers.values()), *(cause for pod in waits.pods(containers) for cause in pod.causes)]
    return {cause.alert for cause in found if cause.severity >= 1}


@pytest.mark.parametrize("alert", POD_ALERTS, ids=lambda alert: alert.name)
def test_what_is_pending_is_on_the_page(alert: Alert) -> None:
    node = node_of(alert, CASES[alert.name]["fires"])
    if alert.name in OF_HOURS:
        assert over(node) == set()
        return
    assert over(node) == {alert.name}
    document = page.render(node.compared, (), "n1").decode()
    assert f"runbook#{alert.name.lower()}" in document


SILENT = [
    (alert, case)
    for alert in POD_ALERTS
    for case in CASES[alert.name]["silent"]
    # Not what is silent for its time alone: the page has no patience.
    if "at" not in case and alert.name not in OF_HOURS
]


@pytest.mark.parametrize(("alert", "case"), SILENT, ids=lambda value: getattr(value, "name", None))
def test_what_is_not_pending_is_not_over_a_limit(alert: Alert, case: dict[str, Any]) -> None:
    assert over(node_of(alert, case)) == ({case["fires"]} if "fires" in case else set())
