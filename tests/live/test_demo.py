"""`demo`: each workload moves the metrics that it announces, the sleeper moves none."""

import time
from collections.abc import Iterator

import pytest

from kpod_metrics import agent as agents
from kpod_metrics.collectors import registered
from kpod_metrics.demo.catalogue import WORKLOADS, Effect, Workload
from kpod_metrics.demo.groups import Workloads
from kpod_metrics.demo.work import WORK
from kpod_metrics.metrics import Kind
from kpod_metrics.reference import declared
from kpod_metrics.settings import load
from tests.live.agents import Page, eventually
from tests.live.harness import ONLY_THERE

TEXT = "text/plain; version=0.0.4; charset=utf-8"
KINDS = {metric.name: metric.kind for _, _, metric in declared()}
SIGNALS = [pytest.param(work, one, id=f"{work.name}-{one.metric}") for work in WORKLOADS for one in work.effects]
SLEEPER = next(work for work in WORKLOADS if work.name == "sleeper")


def test_each_has_something_to_do_and_moves_what_is_declared() -> None:
    assert [work.name for work in WORKLOADS] == list(WORK)
    assert {one.metric for work in WORKLOADS for one in work.effects} <= KINDS.keys()
    assert SLEEPER.effects == ()


class Growth:
    """What the demo's workloads did while an agent looked on."""

    def __init__(self, workloads: Workloads) -> None:
        self.workloads = workloads
        self.before, self.now = Page(""), Page("")
        self.seconds = 0.0

    def of(self, work: Workload, one: Effect) -> float:
        """A second's growth; of a gauge its value."""
        before, now = (self._total(page, work, one) for page in (self.before, self.now))
        return now if KINDS[one.metric] is Kind.GAUGE else (now - before) / self.seconds

    def _total(self, page: Page, work: Workload, one: Effect) -> float:
        name = one.metric + ("_sum" if KINDS[one.metric] is Kind.HISTOGRAM else "")
        label = {"syscall": one.label} if one.label else {}
        return page.sum(name, pod=f"{self.workloads.name}/{work.name}", **label)


@pytest.fixture(scope="module")
def growth(cgroup_root: str) -> Iterator[Growth]:
    flags = {"discovery": "cgroup", "profile": "comprehensive", "collector_deadline": "10s"}
    settings, _ = load(flags, {}, None, list(registered()))
    agent = agents.build(settings)

    def cycle() -> Page:
        agent.cycle()
        return Page(agent.published.get(TEXT, False).decode())

    try:
        agent.open()
        with Workloads(cgroup_root) as workloads:
            found = Growth(workloads)
            found.seconds = 1.0
            chosen = [(work, one) for work in workloads.chosen for one in work.effects if _there(one, workloads)]

            def all_begun() -> bool:
                found.now = cycle()
                return all(found.of(work, one) > 0 for work, one in chosen)

            eventually(all_begun, 60)
            began, found.before = time.monotonic(), found.now
            time.sleep(15)
            found.now = cycle()
            found.seconds = time.monotonic() - began
            assert workloads.ended() == []
            yield found
    finally:
        agent.stop()


def _there(one: Effect, workloads: Workloads) -> bool:
    return not one.controller or one.controller in workloads.controllers


@pytest.mark.one_kernel
@pytest.mark.parametrize(("work", "one"), SIGNALS)
def test_workload_moves_its_signal_and_the_sleeper_does_not(work: Workload, one: Effect, growth: Growth) -> None:
    needed = one.controller or work.needs
    if needed and needed not in growth.workloads.controllers:
        pytest.skip(f"the cgroup v2 tree is without {needed}: {ONLY_THERE}")
    assert growth.of(work, one) > one.minimum
    if "seconds" in one.metric:
        # It wakes once per second, and on a busy machine it is then in the run queue.
        assert growth.of(SLEEPER, one) < growth.of(work, one) / 4
    elif KINDS[one.metric] is Kind.COUNTER:
        assert growth.of(SLEEPER, one) == 0
