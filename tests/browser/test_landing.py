"""The page at `/` in a real browser, on a telephone and on a desk, by day and by night."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpod_metrics import health
from kpod_metrics.agent import Agent
from kpod_metrics.landing import page
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import Identity
from kpod_metrics.pods.standalone import StandaloneNamer
from kpod_metrics.server import Application, bind
from kpod_metrics.settings import Settings
from kpod_metrics.web.endpoint import Endpoint
from kpod_metrics.web.limits import Limits
from tests.browser.chromium import Chromium, Tab
from tests.served import served
from tests.unit.landing.fixture import Node, healthy
from tests.unit.landing.test_page import HOSTILE

WIDTHS = (320, 360, 768, 1280, 1920)


def busy_node() -> Node:
    """Pods that wait for everything there is, quiet ones, and such with hostile names."""
    node = Node()
    growths: dict[Identity, dict[str, float]] = {
        Identity("checkout", "payments-7d9c5b6f4-x2v4q", "app"): {
            "cpu_runqueue_latency_seconds": 20.0,
            "cpu_usage_seconds_total": 5.0,
            "fsync__syscall_latency_seconds": 0.6,
        },
        Identity("checkout", "cart-5f7c9d-lm2kd", "app"): {
            "cpu_periods_total": 100.0,
            "cpu_throttled_periods_total": 71.0,
            "cpu_runqueue_latency_seconds": 9.0,
            "cpu_usage_seconds_total": 4.0,
        },
        Identity("search", "index-0", "elastic"): {
            "mem_major_page_faults_total": 4200.0,
            "pressure_io_stalled_seconds_total": 7.1,
            "pressure_memory_waiting_seconds_total": 4.4,
        },
        Identity("edge", "proxy-x7k2p", "envoy"): {
            "net_tcp_retransmits_total": 130.0,
            "net_tcp_segments_sent_total": 1000.0,
            "mem_major_page_faults_total": 3.0,
        },
        Identity("batch", "report-28411020-qq8rt", "job"): {"mem_oom_kills_total": 2.0},
    }
    for at in range(40):
        growths[Identity("web", f"frontend-6c8d7f-{at:05x}", "app")] = {
            "cpu_runqueue_latency_seconds": 0.1 * (at % 7),
            "cpu_usage_seconds_total": 3.0,
        }
    for at, name in enumerate(HOSTILE):
        growths[Identity(HOSTILE[-1 - at], name, name)] = {"mem_major_page_faults_total": 400.0}
    for factor in (0.0, 1.0):
        for identity, growth in growths.items():
            node.saw(identity, **{name: value * factor for name, value in growth.items()})
        healthy(node)
        node.agent(health.COLLECTORS, ("filesystem",), 0, 5.0, 3)
        node.cycle()
    return node


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the agent's own server has that node's page."""
    settings = Settings(node_name="ip-10-0-31-7.eu-central-1.compute.internal")
    agent = Agent(settings, Finder(str(tmp_path_factory.mktemp("cgroup")), StandaloneNamer()), [])
    agent.recent = busy_node().recent
    agent.source.error = "filesystem: late: no answer within its 5 s deadline"
    with bind(("127.0.0.1", 0)) as listener:
        where = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with served(Endpoint(listener, Application(agent), agent.http, Limits())):
            yield where


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_fits_and_nothing_complains(browser: Chromium, address: str, width: int, scheme: str, tmp_path: Path) -> None:
    tab = Tab(browser, address, width, 740, scheme)
    assert tab.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    # Nor is anything cut off within the page.
    assert (
        tab.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => e.scrollWidth > e.clientWidth + 1 "
            "&& getComputedStyle(e).overflow != 'visible' && e.clientWidth > 1).map(e => e.outerHTML)"
        )
        == []
    )
    assert (
        tab.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > "
            "innerWidth + 1).map(e => e.outerHTML)"
        )
        == []
    )
    assert tab.complaints == []
    assert tab.requests == [address]
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    declared = re.findall(r"--page: #(\w\w)(\w\w)(\w\w)", page._STYLE)[scheme == "dark"]
    assert colour == f"rgb({', '.join(str(int(part, 16)) for part in declared)})"
    tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


@pytest.mark.parametrize("width", [360, 1280])
def test_assistive_technology_is_told_of_tables(browser: Chromium, address: str, width: int) -> None:
    """Also where rows look like cards."""
    roles = Tab(browser, address, width, 740, "light").roles()
    names = {name for role, name in roles if role == "rowheader"}
    assert {"payments-7d9c5b6f4-x2v4q checkout", "run_queue"} <= names
    assert [role for role, _ in roles].count("table") == 3
    assert ("columnheader", "Waits for") in roles
    assert ("navigation", "This agent") in roles
    assert ("heading", "Node ip-10-0-31-7.eu-central-1.compute.internal") in roles
