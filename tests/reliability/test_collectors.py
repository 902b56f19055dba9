"""A collector that gives nonsense, in a real agent: the others' values change, and the fault is reported."""

import logging
import random
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from kpod_metrics import agent as agents
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.pressure import TABLE as PRESSURE
from kpod_metrics.collectors.pressure import Pressure
from kpod_metrics.histogram import Histogram
from kpod_metrics.metrics import Row, counter
from kpod_metrics.pods.model import Group
from kpod_metrics.settings import load
from tests.live.agents import Page
from tests.live.harness import Cgroup
from tests.reliability.conftest import LONG, SEED

ROUNDS = 5000 if LONG else 300
_STRANGE: list[Any] = [
    *(
        None,
        True,
        -1,
        1 << 200,
        1.5,
        float("nan"),
        float("-inf"),
        "5",
        b"\xff",
        "a\nb",
        [],
        {},
        object(),
        Row,
        PRESSURE,
    ),
    *((), (1,), Histogram([1], 1), Histogram(["a"], 1), counter),  # type: ignore[list-item]
]


def strange_rows(chance: random.Random, good: list[Row]) -> Any:
    """Rows of which something is not as it should be."""
    kind = chance.randrange(8)
    strange = chance.choice(_STRANGE)
    if kind == 0:
        return strange
    rows: list[Any] = list(good)
    at = chance.randrange(len(rows))
    if kind == 1:
        rows[at] = strange
    elif kind == 2:
        rows[at] = rows[at]._replace(table=strange)
    elif kind == 3:
        rows[at] = rows[at]._replace(owner=strange)
    elif kind == 4:
        rows[at] = rows[at]._replace(labels=chance.choice([strange, (strange,), (strange, strange)]))
    elif kind == 5:
        rows[at] = rows[at]._replace(source=strange)
    else:
        values = list(rows[at].values)
        values[chance.randrange(len(values))] = strange
        rows[at] = rows[at]._replace(values=chance.choice([values, values[1:], [*values, strange], strange]))
    return rows


@pytest.mark.timeout(600)
def test_a_collector_that_gives_nonsense(
    monkeypatch: pytest.MonkeyPatch,
    cgroup: Callable[[str], Cgroup],
    children: list[subprocess.Popen[bytes]],
    caplog: pytest.LogCaptureFixture,
    tell: Callable[..., None],
) -> None:
    caplog.set_level(logging.CRITICAL)
    groups = [cgroup("one"), cgroup("two")]
    children += [group.start("sleep", "1000") for group in groups]
    root = groups[0].path.parent
    chance = random.Random(SEED)
    real = Pressure.collect
    plant = False

    def collect(self: Pressure, found: list[Group]) -> Any:
        rows = list(real(self, found))
        assert len(rows) == len(groups)
        return strange_rows(chance, rows) if plant else rows

    monkeypatch.setattr(Pressure, "collect", collect)
    flags = {"cgroup_root": str(root), "profile": "custom", "grace_period": "0"}
    flags |= {f"collectors_{name}_enabled": "true" for name in ("pressure", "filesystem", "cpu")}
    settings, _ = load(flags, {}, None, list(registered()))
    agent = agents.build(settings)

    def cycle() -> Page:
        agent.cycle()
        published = agent.published.get("text/plain; version=0.0.4; charset=utf-8", False)
        return Page(published.decode())

    try:
        agent.open()
        before = cycle()
        told = 0
        for _ in range(ROUNDS):
            plant = True
            page = cycle()
            failed = page.sum("kpod_collector_up", collector="pressure") == 0
            told += failed
            assert len(page.find("kpod_fs_capacity_bytes", mountpoint="/")) == 2
            assert page.sum("kpod_collector_up", collector="filesystem") == 1
            plant = False
            after = cycle()
            assert page.sum("kpod_last_cycle_timestamp_seconds") < after.sum("kpod_last_cycle_timestamp_seconds")
            assert after.sum("kpod_collector_up", collector="pressure") == 1
            for key, value in after.samples.items():
                if key[0].startswith("kpod_pressure"):
                    assert value >= before.samples.get(key, 0)
            before = after
        assert told > ROUNDS // 2
        assert after.sum("kpod_collector_errors_total", collector="pressure") == told
    finally:
        agent.stop()
    tell(
        "Faults",
        "A collector returns invalid rows: not a row, wrong labels, values of a wrong type, negative, NaN",
        ROUNDS,
        f"{told} times it was reported as failing, otherwise the rows were usable; all other collectors continued, its "
        "own valid rows were used, and the next valid read was exact",
        "the invalid rows",
    )
