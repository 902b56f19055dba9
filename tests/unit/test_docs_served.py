"""The documentation that the agent serves: every page, every link, every anchor, by the real server."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import pytest

from kpod_metrics import docs
from kpod_metrics.agent import Agent
from kpod_metrics.exposition.page import Renderer
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.standalone import StandaloneNamer
from kpod_metrics.server import Application, bind
from kpod_metrics.settings import Settings
from kpod_metrics.web.endpoint import Endpoint
from kpod_metrics.web.limits import Limits
from monitoring.alerts import ALERTS
from tests.conftest import REPOSITORY
from tests.served import served
from tests.unit.exposition.fixture import CONSTANT, filled
from tests.unit.imports import imported_by_an_agent
from tests.unit.landing.fixture import grown

NAMES = {path.stem for path in (REPOSITORY / "docs").glob("*.md")}
TAGS = {
    *("a", "body", "br", "code", "em", "h1", "h2", "h3", "head", "header", "html", "img", "li", "link", "main", "meta"),
    *("nav", "ol", "p", "pre", "strong", "table", "tbody", "td", "th", "thead", "title", "tr", "ul"),
}
"""What Markdown makes of the pages. A name in angle brackets that was not escaped would be another."""
VOID = {"br", "img", "link", "meta"}


class Parsed(HTMLParser):
    """Links, anchors, and what a browser fetches by itself; fails for an element that is not closed."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        for name, value in attrs:
            if name in {"href", "src"}:
                self.links.append(value or "")
            if name == "id":
                self.anchors.add(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:  # as in `<br />`
            assert self.open.pop() == tag


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[HTTPConnection]:
    """A client of an agent's endpoint, after a cycle in which a pod waited."""
    agent = Agent(Settings(poll_interval=1.0), Finder(str(tmp_path), StandaloneNamer()), [])
    agent.published.publish(Renderer(CONSTANT).render(filled()))
    agent.recent = grown({"cpu_runqueue_latency_seconds": 20.0, "mem_major_page_faults_total": 9000.0}).recent
    listener = bind(("127.0.0.1", 0))
    with served(Endpoint(listener, Application(agent), agent.http, Limits())):
        client = HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=10)
        yield client
        client.close()
    listener.close()


def ask(connection: HTTPConnection, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection.request(method, path)
    answer = connection.getresponse()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, headers, answer.read().decode()


def test_every_link_and_anchor_is_there(connection: HTTPConnection) -> None:
    """From the page at `/`, all that it leads to here; links to other hosts are not followed."""
    pages: dict[str, Parsed] = {}
    asked, waiting = set(), ["/"]
    wanted: set[tuple[str, str]] = set()
    while waiting:
        path = waiting.pop()
        asked.add(path)
        status, headers, body = ask(connection, path)
        assert status == 200, path
        if headers["content-type"] != "text/html; charset=utf-8":
            continue
        pages[path] = Parsed(body)
        for link in pages[path].links:
            if re.match(r"https?:|data:", link):
                continue
            to, anchor = urldefrag(urljoin(path, link))
            if anchor:
                wanted.add((to, anchor))
            if to.partition("?")[0] not in {one.partition("?")[0] for one in (*asked, *waiting)}:
                waiting.append(to)
    assert {path for path in pages if path.startswith("/docs/")} == {
        f"/docs/{'' if name == 'index' else name}" for name in NAMES
    }
    assert {"/docs/style.css", "/docs/data-path.svg", "/docs/performance/tools.svg", "/metrics"} <= asked
    assert ("/docs/runbook", "kpodrunqueuesaturated") in wanted
    assert len(wanted) > 100
    assert [(to, anchor) for to, anchor in wanted if anchor not in pages[to].anchors] == []


def test_every_alert_has_its_anchor(connection: HTTPConnection) -> None:
    anchors = Parsed(ask(connection, "/docs/runbook")[2]).anchors
    assert [alert.name for alert in ALERTS if alert.anchor not in anchors] == []


@pytest.mark.parametrize("name", sorted(NAMES - {"index"}))
def test_page(name: str, connection: HTTPConnection) -> None:
    status, headers, body = ask(connection, f"/docs/{name}")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    for header, value in docs.HEADERS:
        assert headers[header.decode()] == value.decode()
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    heading = (REPOSITORY / "docs" / f"{name}.md").read_text().partition("\n")[0].removeprefix("# ")
    assert f"<title>{heading.replace('`', '')}: kpod-metrics</title>" in body
    found = Parsed(body)
    assert found.tags <= TAGS
    assert found.attributes <= {
        *("align", "alt", "aria-label", "charset", "class", "content", "href", "id", "lang")
    } | {*("name", "rel", "src", "style", "title")}
    # Asked for by HEAD: the same, without a body.
    head = ask(connection, f"/docs/{name}", "HEAD")
    assert (head[0], head[1], head[2]) == (200, headers, "")


def test_index(connection: HTTPConnection) -> None:
    status, _, body = ask(connection, "/docs/")
    assert status == 200
    assert "<title>kpod-metrics: kpod-metrics</title>" in body
    status, headers, _ = ask(connection, "/docs?x=1")
    assert (status, headers["location"]) == (308, "docs/")
    assert ask(connection, "/docs/?x=1")[0] == 200


@pytest.mark.parametrize(
    ("name", "kind"),
    [("style.css", "text/css; charset=utf-8"), ("data-path.svg", "image/svg+xml")],
)
def test_what_pages_fetch(name: str, kind: str, connection: HTTPConnection) -> None:
    status, headers, body = ask(connection, f"/docs/{name}")
    assert (status, headers["content-type"]) == (200, kind)
    assert body.startswith((":root {", "<svg "))


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/docs/nothing",
            "/docs/index",
            "/docs/runbook/",
            "/docs/runbook.html",
            "/docs/runbook.md",
            "/docsx",
            "/docs//",
        ),
        *("/docs/../docs.py", "/docs/../site/runbook", "/docs/./runbook", "/docs//etc/passwd", "/docs/%2e%2e/docs.py"),
        *("/docs/performance/", "/docs/runbook%00", "/docs/runbook\\", "/docs/style"),
    ],
)
def test_nothing_else(path: str, connection: HTTPConnection) -> None:
    assert ask(connection, path)[::2] == (404, "not found\n")


def test_only_read(connection: HTTPConnection) -> None:
    status, headers, _ = ask(connection, "/docs/runbook", "POST")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_is_not_imported_before_it_is_asked_for(tmp_path: Path) -> None:
    assert imported_by_an_agent(tmp_path, "kpod_metrics.server", "kpod_metrics.docs", "markdown") == ""
