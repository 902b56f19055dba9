"""Every panel of every dashboard asks a real Prometheus that scrapes the demo: what a newcomer sees first."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from monitoring import ROOT
from tests.boards import Panel, asked, panels
from tests.live.agents import COMMAND, eventually, free_port, get, process
from tests.live.prometheus import Prometheus, running_prometheus
from tests.live.test_monitoring import NO_DATA

pytestmark = pytest.mark.slow

_KUBERNETES = "only Kubernetes tells it"
_OTLP = "the demo pushes nothing"
_STATISTICS = "kernel.bpf_stats_enabled is off, as it costs something"
NOT_IN_DEMO = {
    "agent: Losses / Dropped OTLP points": _OTLP,
    "agent: Losses / Limits that pods went over": "no pod of the demo goes over a limit of its own",
    "agent: All other metrics / OTLP points sent": _OTLP,
    "agent: All other metrics / Size of the OTLP queue": _OTLP,
    "agent: All other metrics / CPU time of BPF programs": _STATISTICS,
    "agent: All other metrics / Runs of BPF programs": _STATISTICS,
    "agent: All other metrics / Valid web configuration": "the demo has no web configuration",
    "pod: Which pod is it? / Owner and QoS class": _KUBERNETES,
    "pod: Which pod is it? / Restarts": _KUBERNETES,
}
"""Panels that may have no data in the demo, and why; test_monitoring.py has it for them."""


def test_panels_without_data_are_panels() -> None:
    assert NOT_IN_DEMO.keys() <= {panel.id for panel in panels()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, prometheus: Path) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("demo")
    port = free_port()
    flags = ("--listen", f"127.0.0.1:{port}", "--profile", "comprehensive", "--poll-interval", "500ms")
    with process([COMMAND, "demo", *flags], folder / "demo.log") as started:
        eventually(lambda: get(f"http://127.0.0.1:{port}/readyz").startswith("ready"), 60)
        rules = sorted((ROOT / "rules").glob("*.yaml"))
        with running_prometheus(prometheus, folder / "prometheus", f"127.0.0.1:{port}", rules=rules) as there:
            eventually(lambda: there.query("sum(rate(kpod_net_tcp_retransmits_total[30s])) > 0"), 60)
            yield there
        started.terminate()  # killed, it leaves its cgroups to the next one
        started.wait(20)


@pytest.mark.parametrize("panel", list(panels()), ids=lambda panel: panel.id)
def test_panel_has_data(panel: Panel, demo: Prometheus) -> None:
    def found() -> bool:
        return any(demo.has(asked(expression, "30s")) for expression in panel.expressions)

    why = NO_DATA.get(panel.id) or NOT_IN_DEMO.get(panel.id)
    if why and not found():
        pytest.skip(why)
    eventually(found)
