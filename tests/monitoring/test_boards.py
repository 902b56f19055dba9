"""Dashboards: every panel's query has an answer where every declared metric is exported."""

import re
import subprocess
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kpod_metrics import histogram
from kpod_metrics.exposition.page import Page, Renderer
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import TEXT
from kpod_metrics.histogram import Histogram
from kpod_metrics.metrics import Kind, Metric, Scope, Value
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import Store
from monitoring import ROOT, recording
from monitoring.boards import METRICS, TITLES
from tests.boards import Panel, asked, boards, panels
from tests.growth import grow
from tests.live.agents import eventually
from tests.live.prometheus import Prometheus, running_prometheus
from tests.monitoring.test_names import check
from tests.promtool import promtool_test, write
from tests.unit.exposition.fixture import label_sets, tables

PANELS = list(panels())
VARIABLES = {"cluster", "node", "namespace", "pod", "instance", "syscall"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.id)
def test_panels_speak_of_what_there_is(panel: Panel) -> None:
    for expression in panel.expressions:
        check(expression.replace("$__rate_interval", "5m"))


def test_every_metric_is_on_a_panel() -> None:
    text = " ".join(expression for panel in PANELS for expression in panel.expressions)
    assert [name for name in METRICS if name not in text] == []


def test_titles_are_of_metrics() -> None:
    assert METRICS.keys() >= TITLES.keys()


def test_boards_are_complete() -> None:
    found = boards()
    assert len(found) == 5
    for uid, board in found.items():
        assert board["uid"] == uid
        variables = [variable["name"] for variable in board["templating"]["list"]]
        assert variables[:2] == ["datasource", "cluster"]
        assert ("namespace" in variables) == (uid != "kpod-metrics-agent")
        shown = [panel for panel in board["panels"] if panel["type"] != "row"]
        ids = [panel["id"] for panel in shown]
        assert len(set(ids)) == len(ids)
        for panel in shown:
            assert panel["title"]
            assert panel["description"]
            assert panel["datasource"]["uid"] == "$datasource"
        used = " ".join(target["expr"] for panel in shown for target in panel["targets"])
        used += " ".join(variable.get("query", "") for variable in board["templating"]["list"])
        assert {name for name in VARIABLES if f"${name}" in used} <= set(variables)
        assert {name for name in variables if name != "datasource" and f"${name}" not in used} == set()


def test_histograms_have_heatmaps() -> None:
    drawn = " ".join(expression for panel in PANELS if panel.type == "heatmap" for expression in panel.expressions)
    assert [name for name, (_, metric) in METRICS.items() if metric.kind is Kind.HISTOGRAM and name not in drawn] == []


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    x, y, w, h = one
    u, v, a, b = other
    return x < u + a and u < x + w and y < v + b and v < y + h


def test_panels_do_not_overlap() -> None:
    for board in boards().values():
        places = [tuple(panel["gridPos"].get(side, 0) for side in "xywh") for panel in board["panels"]]
        for at, place in enumerate(places):
            assert place[0] + place[2] <= 24
            assert not any(_overlap(place, other) for other in places[:at]), board["panels"][at]["title"]


def _value(metric: Metric) -> Value:
    if metric.kind is Kind.HISTOGRAM:
        return Histogram([3] * histogram.BUCKETS, 10**9)
    return 7


class _Everything:
    """Every declared metric, of a container and of an agent; counters grow by each scrape."""

    def __init__(self) -> None:
        self._tables = tables()
        self._store = Store(self._tables, frozenset(metric for table in self._tables for metric in table.metrics))
        self._scrapes = 0

    def page(self) -> Page:
        self._scrapes += 1
        for table in self._tables:
            running = table.scope is Scope.AGENT
            values = [
                7 * self._scrapes if metric.kind is Kind.COUNTER and running else _value(metric)
                for metric in table.metrics
            ]
            for labels in label_sets(table):
                if table.scope is Scope.AGENT:
                    self._store.set(table, labels, values)
                else:
                    grow(self._store, table, Identity("shop", "cart-0", "app"), labels, values)
        return Renderer({"node": "n1"}, classic=False).render(self._store)


class _Exporter(BaseHTTPRequestHandler):
    everything: _Everything

    def do_GET(self) -> None:
        native = "protobuf" in self.headers["Accept"]
        page = self.everything.page()
        self.send_response(200)
        self.send_header("Content-Type", PROTOBUF if native else TEXT)
        self.end_headers()
        self.wfile.write(b"".join(page.pieces(PROTOBUF)) if native else b"".join(page.pieces(TEXT)))

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module", params=["classic", "native"])
def everything(
    request: pytest.FixtureRequest, prometheus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that keeps either kind of histogram, and evaluates the rules."""
    _Exporter.everything = _Everything()
    flags = ["--enable-feature=native-histograms"] if request.param == "native" else []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Exporter) as exporter:
        threading.Thread(target=exporter.serve_forever, daemon=True).start()
        folder, target = tmp_path_factory.mktemp("everything") / "prometheus", f"127.0.0.1:{exporter.server_port}"
        rules = sorted((ROOT / "rules").glob("*.yaml"))
        with running_prometheus(prometheus, folder, target, *flags, rules=rules) as server:
            eventually(lambda: server.has("count_over_time(kpod_build_info[1m]) >= 4"), 20)
            classic = request.param == "classic"
            eventually(lambda: server.has("kpod_cpu_runqueue_latency_seconds_bucket") == classic)
            yield server
        exporter.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.id)
def test_panels_have_data(panel: Panel, everything: Prometheus) -> None:
    eventually(lambda: any(everything.has(asked(expression, "30s")) for expression in panel.expressions))


def test_heatmaps_have_one_kind_of_histogram(everything: Prometheus) -> None:
    for panel in PANELS:
        if panel.type == "heatmap":
            expressions = [asked(expression, "30s") for expression in panel.expressions]
            eventually(lambda those=expressions: [*map(everything.has, those)].count(True) == 1)  # type: ignore[misc]


@pytest.mark.parametrize("rule", recording.RULES, ids=lambda rule: rule.record)
def test_recordings_have_data(rule: recording.Rule, everything: Prometheus) -> None:
    found = eventually(lambda: everything.query(rule.record))
    assert {"namespace": "shop", "pod": "cart-0", "container": "app", "node": "n1"}.items() <= found[0][0].items()


IDLE = {
    'kpod_cpu_runqueue_latency_seconds_sum{pod="idle"}': "0+0.06x30",
    'kpod_cpu_usage_seconds_total{pod="idle"}': "0+0.002x30",
    'kpod_cpu_periods_total{pod="idle"}': "0+2x30",
    'kpod_cpu_throttled_periods_total{pod="idle"}': "0+2x30",
    'kpod_syscall_count_total{pod="idle",syscall="openat"}': "0+1x30",
    'kpod_syscall_errors_total{pod="idle",syscall="openat"}': "0+1x30",
    'kpod_net_tcp_segments_sent_total{pod="idle"}': "0+2x30",
    'kpod_net_tcp_retransmits_total{pod="idle"}': "0+2x30",
}
"""A pod with nearly nothing to do, that waits, is throttled, fails or sends again nearly each time."""
BUSY = {
    'kpod_cpu_runqueue_latency_seconds_sum{pod="busy"}': "0+30x30",
    'kpod_cpu_usage_seconds_total{pod="busy"}': "0+30x30",
    'kpod_cpu_periods_total{pod="busy"}': "0+600x30",
    'kpod_cpu_throttled_periods_total{pod="busy"}': "0+150x30",
    'kpod_syscall_count_total{pod="busy",syscall="read"}': "0+6000x30",
    'kpod_syscall_errors_total{pod="busy",syscall="read"}': "0+1500x30",
    'kpod_net_tcp_segments_sent_total{pod="busy"}': "0+6000x30",
    'kpod_net_tcp_retransmits_total{pod="busy"}': "0+1500x30",
}
"""One that waits half of the time, and is throttled, fails and sends again a quarter of the times."""
OF_BUSY = {
    "kpod_cpu_runqueue_latency_seconds_sum": 0.5,
    "kpod_cpu_throttled_periods_total": 0.25,
    "kpod_syscall_errors_total": 0.25,
    "kpod_net_tcp_retransmits_total": 0.25,
}


def _asked(expressions: Iterable[str], answer: float, path: Path, promtool: Path) -> str:
    """Have promtool ask for the largest value among idle and busy pods; return what it says is wrong."""
    case = {"series": IDLE | BUSY}
    test = promtool_test("idle pods", case, None)
    test["promql_expr_test"] = [
        {"expr": f"max({expr})", "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": answer}]}
        for expr in expressions
    ]
    done = subprocess.run(
        [promtool, "test", "rules", write(path / "idle.yaml", [test])], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


SHARES = {
    panel.id: (name, expression)
    for panel in PANELS
    for expression in panel.expressions
    if " / (" in expression and "rate(" in expression
    for name in OF_BUSY
    if name in expression.partition(" / (")[0]
}


def test_all_shares_of_rates_are_tried() -> None:
    divided = [
        panel.id
        for panel in PANELS
        for expression in panel.expressions
        if re.search(r"rate\(.*/", expression.replace("\n", " ")) and "histogram" not in expression.partition("/")[2]
    ]
    assert sorted(SHARES) == sorted(divided)
    assert divided


@pytest.mark.parametrize("panel", sorted(SHARES))
def test_idle_pods_are_not_on_top_of_shares(panel: str, promtool: Path, tmp_path: Path) -> None:
    name, expression = SHARES[panel]
    assert _asked([asked(expression, "5m")], OF_BUSY[name], tmp_path, promtool) == ""


@pytest.mark.parametrize("board", ["node", "pod"])
def test_idle_pods_are_not_on_top_of_waits(board: str, promtool: Path, tmp_path: Path) -> None:
    """Of the first panel, which ranks the pods of a node: half a task waits in the busy one."""
    first = next(panel for panel in PANELS if panel.board == board)
    assert _asked([asked(one, "5m") for one in first.expressions], 0.5, tmp_path, promtool) == ""


def test_idle_pods_are_not_on_top_of_recordings(promtool: Path, tmp_path: Path) -> None:
    wait = "container:kpod_cpu_runqueue_wait:ratio_rate5m"
    assert _asked([wait], 0.5, tmp_path, promtool) == ""


def test_variables_have_values(everything: Prometheus) -> None:
    for board in boards().values():
        for variable in board["templating"]["list"]:
            if variable["type"] != "query":
                continue
            selector, label = variable["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            values = f"count by ({label}) ({asked(selector, '30s')})"
            eventually(lambda values=values: everything.has(values))  # type: ignore[misc]
