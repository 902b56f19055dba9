"""The page at `/` as HTML: what is on it, what never is, how large it may be."""

import re
import time
from html.parser import HTMLParser

import pytest

from kpod_metrics import health
from kpod_metrics.exposition.recent import Comparison
from kpod_metrics.landing import page
from kpod_metrics.pods.model import Identity
from monitoring.alerts import ALERTS
from tests.conftest import REPOSITORY
from tests.unit.landing.fixture import A_POD, Node, grown, healthy

HOSTILE = (
    '<script>alert("1")</script>',
    "\"'><img src=x onerror=alert(2)>",
    "a\nb\tc\x00d\x1b[31m",
    "</title></style><style>*{display:none}",
    "not UTF-8: \udcff\udc80",
    "lone \ud800",
    "right-to-left \N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "日本語 é &amp; &lt;",
    "x" * 300,
)
VOID = {"meta", "link"}


class Parsed(HTMLParser):
    """Fails for an element that is not closed where it should be; keeps texts by element, links, and attributes."""

    def __init__(self, document: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(document.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def links(self) -> list[str]:
        return [attributes["href"] or "" for tag, attributes in self.tags if tag == "a"]


def parsed(node: Node, problems: tuple[str, ...] = (), most: int = page.DEFAULT_PODS, name: str = "n1") -> Parsed:
    return Parsed(page.render(node.compared, problems, name, most))


def test_content() -> None:
    node = grown(
        {
            "cpu_runqueue_latency_seconds": 20.0,
            "cpu_usage_seconds_total": 5.0,
            "net_tcp_retransmits_total": 3.0,
            "net_tcp_segments_sent_total": 1e6,
            "mem_major_page_faults_total": 12.5,
            "pressure_io_stalled_seconds_total": 0.05,
        }
    )
    healthy(node)
    node.cycle()
    node.saw(A_POD, cpu_runqueue_latency_seconds=20.0, cpu_usage_seconds_total=5.0, net_tcp_retransmits_total=3.0)
    node.saw(
        A_POD, net_tcp_segments_sent_total=1e6, mem_major_page_faults_total=12.5, pressure_io_stalled_seconds_total=0.05
    )
    node.cycle()
    found = parsed(node, name="node-7")
    assert "Node node-7" in found.text
    assert "1 of 1 pod is over the threshold of an alert." in found.text
    assert "The worst first, over the last 10 s." in found.text
    heads, row = found.rows[:2]
    assert heads[:2] == ["Pod", "Waits for"]
    assert row == [
        "web-1shop",
        "CPU: in the run queue 80 % of the time, 2 tasks on average",
        *("2", "-", "0.3", "1.25", "-", "<1 %", "-"),
    ]
    assert len(heads) == len(row)
    for said in (
        "Working collectors 2 of 2",
        "Duration of the cycle 34 ms, every 30 s",
        "Source of pods kubernetes, connected",
        "Events of unknown pods 0",
        "Failed map updates 0",
    ):
        assert said in found.text
    assert ["run_queue", "works", "2.1 ms", "0"] in found.rows
    assert ["run_queue", "512 of 10240", "5 %"] in found.rows
    assert {"metrics", "readyz", "healthz"} <= set(found.links)
    assert f"{page.DOCS}/runbook#kpodrunqueuesaturated" in found.links


def test_what_is_wrong_with_the_agent() -> None:
    node = Node()
    healthy(node)
    node.agent(health.COLLECTORS, ("disk",), 0, 0.0, 4)
    node.agent(health.SOURCE, ("kubernetes",), 0, 3)
    node.agent(health.UNATTRIBUTED, ("disk", "unresolved"), 12)
    node.agent(health.MAPS, ("full",), 9000, 10240, 5, 2, 1)
    node.cycle()
    found = parsed(node, ("collector disk is off: EPERM",))
    for said in (
        "Not working collector disk is off: EPERM",
        "Working collectors 1 of 2",
        "kubernetes, disconnected",
        "Events of unknown pods 12",
        "Failed map updates 5",
        "Evicted map entries 2",
    ):
        assert said in found.text
    assert ["disk", "fails", "0.0 ms", "4"] in found.rows
    assert ["full", "9000 of 10240", "88 %"] in found.rows
    assert [attributes.get("class") for tag, attributes in found.tags if tag == "dd"].count("bad") >= 5


def test_many_problems_are_few_lines() -> None:
    found = parsed(grown({"mem_oom_kills_total": 0.0}), tuple(f"problem {at}." for at in range(500)))
    assert "problem 29." in found.text
    assert "problem 30." not in found.text
    assert "470 more" in found.text


def test_an_empty_node() -> None:
    node = Node()
    healthy(node)
    node.cycle()
    node.cycle()
    found = parsed(node)
    assert "There are no pods on this node." in found.text
    assert "None of 0 pods is over the threshold of an alert." in found.text


def test_before_the_first_cycle_and_the_second() -> None:
    assert "The first cycle is not over yet." in Parsed(page.render(None, [], "n1")).text
    node = Node()
    node.saw(A_POD, cpu_runqueue_latency_seconds=9.0)
    node.cycle()
    found = parsed(node)
    assert "Rates need a second cycle: reload this page then." in found.text
    assert found.rows[1] == ["web-1shop", "unknown yet", *"-------"]


def test_hostile_names() -> None:
    node = Node()
    for again in range(2):
        for at, name in enumerate(HOSTILE):
            identity = Identity(HOSTILE[-1 - at], name, name)
            node.saw(identity, cpu_runqueue_latency_seconds=20.0 * again, cpu_usage_seconds_total=5.0 * again)
            node.agent(health.COLLECTORS, (name,), 0, 0.0, 0)
        node.cycle()
    document = page.render(node.compared, HOSTILE, HOSTILE[0], cluster=HOSTILE[3])
    found = Parsed(document)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "img"})
    assert [tag for tag, _ in found.tags].count("style") == 1
    assert all(not name.startswith("on") and name != "style" for _, attributes in found.tags for name in attributes)
    assert {c for c in document.decode() if not c.isprintable()} == {"\n"}
    for shown in (*HOSTILE[:2], HOSTILE[3], *HOSTILE[7:]):
        assert found.texts.count(shown) >= 3  # a pod, a collector, a line of what does not work
    for shown in (r"a\nb\tc\x00d\x1b[31m", r"not UTF-8: \xff\x80", r"lone \ud800", r"right-to-left \u202egnp.exe"):
        assert found.texts.count(shown) >= 3


@pytest.fixture(scope="module")
def many() -> Node:
    """1,234 pods: number n is in the run queue n thousandths of the time."""
    node = Node()
    for again in range(2):
        for at in range(1234):
            identity = Identity("many", f"pod-{at}", "app")
            waited, used = 10.0 * at * again, 10.0 * (1234 - at) * again
            node.saw(identity, cpu_runqueue_latency_seconds=waited, cpu_usage_seconds_total=used)
        healthy(node)
        node.cycle()
    return node


def test_many_pods(many: Node) -> None:
    document = page.render(many.compared, [], "n1")
    found = Parsed(document)
    pods = [row[0] for row in found.rows if row[0].endswith("many")]
    assert pods == [f"pod-{at}many" for at in range(1233, 1233 - 50, -1)]
    # Of the 1,184 others, those that wait less than half of 30 % of the time wait for nothing: 0 to 185.
    assert "1184 more pods, 186 of them wait for nothing. Show 200" in found.text
    assert "?pods=200" in found.links
    assert "863 of 1234 pods are over the threshold of an alert." in found.text
    assert len(document) < 60_000


def test_as_many_pods_as_there_may_be(many: Node) -> None:
    document = page.render(many.compared, [], "n1", page.MAX_PODS)
    found = Parsed(document)
    assert sum(row[0].endswith("many") for row in found.rows) == 1000
    assert "234 more pods, 186 of them wait for nothing." in found.text
    assert not any(link.startswith("?") for link in found.links)
    assert len(document) < 1_000_000


def test_made_once_a_second_at_most(many: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = time.time()
    monkeypatch.setattr(time, "time", lambda: wall)  # pages say how old they are
    now = 100.0
    pages = page.Pages(lambda: now)

    def get(compared: Comparison | None, *problems: str, limit: int = page.DEFAULT_PODS) -> bytes:
        body = pages.get(compared, problems, "n1", limit, "")
        assert body is not None
        return body

    first = get(many.compared)
    assert first == page.render(many.compared, [], "n1")
    now = 100.9
    assert get(many.compared) is first
    assert get(many.compared, "broken") is not first
    assert b"broken" in get(many.compared, "broken")
    assert len(get(many.compared, limit=1)) < len(first) / 2
    assert pages.get(many.compared, (), "n1", 2, "") is None
    again = get(many.compared)
    assert again is first
    now = 101.0
    assert get(many.compared) is not again
    assert b"not over yet" in get(None)
    newer = many.compared._replace(at=many.compared.at + 1, seconds=many.compared.seconds + 1)
    assert b"over the last 11 s" in get(newer)


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", 50), ("pods=1", 1), ("pods=1000", 1000), ("x=2&pods=7", 7), ("pods=3&pods=4", 4), ("pods=0099", 99)],
)
def test_query(query: str, expected: int) -> None:
    assert page.limit_of(query) == expected


@pytest.mark.parametrize(
    "said", ["", "0", "1001", "-1", "1e3", "10 ", "99999999999999999999", "²", "<script>", "x" * 5000]
)
def test_wrong_query(said: str) -> None:
    with pytest.raises(ValueError, match=r"^pods: '.{0,40}' is not accepted; accepted: 1 to 1000$"):
        page.limit_of(f"pods={said}")


def test_it_needs_nothing_else(many: Node) -> None:
    """No script, and nothing that a browser would fetch."""
    found = parsed(many)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "img", "iframe", "object", "form", "base"})
    assert [attributes["href"] for tag, attributes in found.tags if tag == "link"] == [page._ICON]
    assert page._ICON.startswith("data:")
    assert not re.search(r"url\(|@import|@font-face|expression", page._STYLE)
    policy = page.HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_for_everybody(many: Node) -> None:
    """Language, title, headings of tables, names of regions."""
    found = parsed(many)
    assert ("html", {"lang": "en"}) in found.tags
    assert found.texts[0].strip() or "n1: kpod-metrics" in found.texts
    heads = [attributes for tag, attributes in found.tags if tag == "th"]
    assert heads
    assert {attributes.get("scope") for attributes in heads} == {"col", "row"}
    assert sum(tag == "h1" for tag, _ in found.tags) == 1
    # Where the style makes blocks of a table's parts, they are a table's parts by their roles.
    roles = [attributes.get("role") for _, attributes in found.tags]
    assert {"table", "rowgroup", "row", "columnheader", "rowheader", "cell"} <= set(roles)


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", page._STYLE, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    pairs = [(over, under) for over in ("text", "quiet", "link", "bad", "some", "good") for under in ("page", "card")]
    for over, under in [*pairs, *((name, f"{name}-card") for name in ("bad", "some", "good"))]:
        high, low = sorted((_luminance(colours[over]), _luminance(colours[under])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (over, under)


def test_links_go_where_there_is_something() -> None:
    alerts = {alert.name for alert in ALERTS}
    text = (REPOSITORY / "src/kpod_metrics/diagnosis/causes.py").read_text()
    spoken = set(re.findall(r'"(Kpod\w+)"', text))
    assert spoken
    assert spoken <= alerts
    # Relative, all of them: the agent may be behind a prefix (tests/unit/test_docs_served.py follows each).
    links = parsed(grown({"mem_oom_kills_total": 1.0})).links
    assert {"docs/", "docs/runbook", "docs/metrics", "docs/runbook#kpodoomkill"} <= set(links)
    assert not [link for link in links if link.startswith(("/", "http"))]
