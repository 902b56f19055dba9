"""The HTTP endpoint: which format for whom, what the probes say; once over a real socket."""

import asyncio
import gzip
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.agent import Agent
from kpod_metrics.errors import RefusedError
from kpod_metrics.exposition.page import Renderer
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import OPENMETRICS, TEXT
from kpod_metrics.landing import page
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.standalone import StandaloneNamer
from kpod_metrics.server import Application, accepts_gzip, bind, negotiate, serve
from kpod_metrics.settings import Settings
from tests.unit.exposition.fixture import CONSTANT, filled
from tests.unit.imports import imported_by_an_agent
from tests.unit.landing.fixture import grown

PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3_5 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
DELIMITED = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
# With --enable-feature=native-histograms.
NATIVE_2_42 = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
NATIVE_3_5 = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.1"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_2_42, OPENMETRICS),
        (PROMETHEUS_3_5, OPENMETRICS),
        (BROWSER, TEXT),
        (NATIVE_2_42, PROTOBUF),
        (NATIVE_3_5, PROTOBUF),
        ('Application/vnd.google.Protobuf; encoding="delimited"; proto = io.prometheus.client.MetricFamily', PROTOBUF),
        ("application/vnd.google.protobuf", TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text", TEXT),
        ("application/vnd.google.protobuf;proto=other.Message;encoding=delimited", TEXT),
        (f"{DELIMITED};q=0.4,text/plain;q=0.5", TEXT),
        (f"{DELIMITED};q=0", TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text ; version=1.0.0", OPENMETRICS),
        ("text/plain;q=0.5, application/openmetrics-text;q=0.4", TEXT),
        ("text/plain;q=0.4, application/openmetrics-text;q=0.5", OPENMETRICS),
        ("text/plain;Q=0.4, application/openmetrics-text; q=0.5", OPENMETRICS),
        ("application/openmetrics-text;q=0.1, */*;q=0.9", TEXT),
        ("application/openmetrics-text;q=0.1, text/*;q=0.2", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0, */*;q=0", TEXT),
        ("application/openmetrics-text;q=1.2.3", TEXT),
        ("application/openmetrics-text;q=.,text/plain;q=.1", TEXT),
        (";;q=,,,/", TEXT),
    ],
)
def test_negotiation(accept: str, expected: str) -> None:
    assert negotiate(accept) == expected


@given(st.text() | st.text("aplictonxe/;q=01.,* -"))
def test_any_header_gives_a_format(header: str) -> None:
    assert negotiate(header) in {TEXT, OPENMETRICS, PROTOBUF}
    assert accepts_gzip(header) in {True, False}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=1.0, *;q=0.5", True),
        ("*", True),
        ("gzip;q=0.001", True),
        ("gzip, *;q=0", True),
        ("*;q=0, gzip", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("x-gzip, zstd", False),
    ],
)
def test_gzip_negotiation(header: str, expected: bool) -> None:
    assert accepts_gzip(header) is expected


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """An agent without collectors, before its first cycle."""
    return Agent(Settings(poll_interval=1.0), Finder(str(tmp_path), StandaloneNamer()), [])


@pytest.fixture
def running(agent: Agent) -> Agent:
    """An agent after a cycle."""
    agent.published.publish(Renderer(CONSTANT).render(filled()))
    agent.last_cycle = time.monotonic()
    return agent


def ask(agent: Agent, path: str, method: str = "GET", **headers: str) -> Answer:
    """Call the application as the endpoint does."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = asyncio.run(Application(agent)(method, path, given))
    named = {name.decode(): value.decode() for name, value in answer.headers}
    return Answer(answer.status, named | {"content-type": answer.kind}, answer.body)


def test_page_by_accept(running: Agent) -> None:
    text = ask(running, "/metrics")
    assert (text.status, text.headers["content-type"]) == (200, TEXT)
    assert text.body == b"".join(Renderer(CONSTANT).render(filled()).pieces(TEXT))
    assert text.headers["vary"] == "accept, accept-encoding"
    assert "content-encoding" not in text.headers
    openmetrics = ask(running, "/metrics", accept=PROMETHEUS_2_42)
    assert (openmetrics.status, openmetrics.headers["content-type"]) == (200, OPENMETRICS)
    assert openmetrics.body == b"".join(Renderer(CONSTANT).render(filled()).pieces(OPENMETRICS))
    protobuf = ask(running, "/metrics", accept=NATIVE_2_42)
    assert (protobuf.status, protobuf.headers["content-type"]) == (200, PROTOBUF)
    assert protobuf.body == b"".join(Renderer(CONSTANT).render(filled()).pieces(PROTOBUF))


@pytest.mark.parametrize("accept", ["", PROMETHEUS_3_5, NATIVE_3_5])
def test_gzip(running: Agent, accept: str) -> None:
    plain = ask(running, "/metrics", accept=accept)
    zipped = ask(running, "/metrics", accept=accept, accept_encoding="gzip")
    assert zipped.headers["content-encoding"] == "gzip"
    assert len(zipped.body) < len(plain.body) / 3
    assert gzip.decompress(zipped.body) == plain.body


@pytest.mark.parametrize(
    "headers", [{}, {"accept": PROMETHEUS_2_42}, {"accept_encoding": "gzip"}], ids=["text", "openmetrics", "gzip"]
)
def test_actuator_is_the_same(running: Agent, headers: dict[str, str]) -> None:
    assert ask(running, "/actuator/prometheus", **headers) == ask(running, "/metrics", **headers)


def test_new_page_is_served(running: Agent) -> None:
    for zipped in ("", "gzip"):
        assert len(ask(running, "/metrics", accept_encoding=zipped).body) > 100
    running.published.publish(Renderer({}).render(filled()))
    expected = b"".join(Renderer({}).render(filled()).pieces(TEXT))
    assert ask(running, "/metrics").body == expected
    assert gzip.decompress(ask(running, "/metrics", accept_encoding="gzip").body) == expected


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/metrics/x", "//", ""])
def test_not_found(running: Agent, path: str) -> None:
    answer = ask(running, path)
    assert (answer.status, answer.body) == (404, b"not found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/metrics", "/", "/healthz"])
def test_method_not_allowed(running: Agent, path: str, method: str) -> None:
    answer = ask(running, path, method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


def test_before_the_first_cycle(agent: Agent) -> None:
    assert ask(agent, "/metrics").status == 503
    ready = ask(agent, "/readyz")
    assert (ready.status, ready.body) == (503, b"the first cycle is not over yet\n")
    assert ask(agent, "/healthz").status == 200


def test_ready_says_what_does_not_work(running: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(running, "/readyz")[::2] == (200, b"ready\n")
    monkeypatch.setattr(running, "problems", lambda: ["collector x is off: EPERM", "lone \udc80"])
    assert ask(running, "/readyz")[::2] == (200, b"ready\ncollector x is off: EPERM\nlone ?\n")


def test_source_that_does_not_answer_is_a_problem(running: Agent) -> None:
    running.source.error = "gone"
    assert ask(running, "/readyz").body == b"ready\nsource of pods (cgroup): gone\n"


@pytest.mark.parametrize(("late", "status"), [(0.0, 200), (2.9, 200), (3.1, 503)])
def test_health_after_missed_cycles(running: Agent, late: float, status: int) -> None:
    running.last_cycle = time.monotonic() - late
    answer = ask(running, "/healthz")
    assert answer.status == status
    assert answer.body == (b"ok\n" if status == 200 else b"three cycles were missed\n")


def test_landing_page(running: Agent) -> None:
    running.settings.node_name, running.settings.otlp_headers = "node-3", (("authorization", "Bearer s3cr3t"),)
    running.source.error = "<script>\"&'</script>\udc80"
    first = ask(running, "/")
    assert (first.status, first.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"Node node-3" in first.body
    assert b"The first cycle is not over yet." in first.body
    assert rb"source of pods (cgroup): &lt;script&gt;&quot;&amp;&#x27;&lt;/script&gt;\x80" in first.body
    for header, value in page.HEADERS.items():
        assert first.headers[header] == value
    assert (first.headers["cache-control"], first.headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert first.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    node = grown({"cpu_runqueue_latency_seconds": 20.0})
    running.recent = node.recent
    second = ask(running, "/")
    assert b"web-1" in second.body
    assert b"s3cr3t" not in second.body
    assert b"authorization" not in second.body.lower()


@pytest.mark.parametrize(("query", "status"), [("pods=7", 200), ("pods=1001", 400), ("pods=%FF", 400)])
def test_landing_page_of_so_many_pods(running: Agent, query: str, status: int) -> None:
    answer = ask(running, f"/?{query}")
    assert answer.status == status
    if status == 400:
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert re.fullmatch(rb"pods: '.*' is not accepted; accepted: 1 to 1000\n", answer.body)
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert ask(running, f"/?{query}", "HEAD").status == status


def test_few_landing_pages_are_rendered_in_a_second(running: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.5)
    application = Application(running)

    async def ask_for_many() -> list[int]:
        answers = [await application("GET", f"/?pods={pods}", {}) for pods in (1, 2, 3, 4, 3, 5)]
        assert {answer.counted for answer in answers if answer.status == 503} == {"requests"}
        return [answer.status for answer in answers]

    assert asyncio.run(ask_for_many()) == [200, 200, 200, 503, 200, 503]


def test_scrapes_do_not_wait_for_pages_for_people(running: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    application = Application(running)
    hold = threading.Event()
    monkeypatch.setattr(application, "_docs", lambda below: hold.wait(60))

    async def ask_for_both() -> int:
        waiting = [asyncio.ensure_future(application("GET", "/docs/", {})) for _ in range(100)]
        status = (await application("GET", "/metrics", {})).status
        assert not any(task.done() for task in waiting)
        hold.set()
        await asyncio.gather(*waiting)
        return status

    assert asyncio.run(ask_for_both()) == 200


def test_landing_page_is_not_imported_before_it_is_asked_for(tmp_path: Path) -> None:
    """Nor is what makes the documentation."""
    heavy = ("kpod_metrics.landing", "properdocs", "markdown", "jinja2")
    assert imported_by_an_agent(tmp_path, "kpod_metrics.server", *heavy) == ""


def test_probes_are_told_a_word_and_nothing_else(running: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "problems", lambda: ["collector x is off: EPERM"])

    def probed(path: str, method: str = "GET") -> tuple[int, bytes]:
        answer = asyncio.run(Application(running).probe(method, path, {}))
        return answer.status, answer.body

    assert probed("/healthz") == (200, b"ok\n")
    assert probed("/readyz") == (200, b"ready\n")
    assert probed("/readyz", "POST")[0] == 405
    for path in ("/metrics", "/actuator/prometheus", "/", "/nothing"):
        assert probed(path) == (404, b"not found\n")


SETS = "; --listen HOST:PORT sets another address"


def test_address_in_use_is_refused() -> None:
    with bind(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        # A second agent, that starts while the first one still loads its programs.
        with pytest.raises(
            RefusedError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: Address already in use{SETS}$"
        ):
            bind(("127.0.0.1", port))
    with bind(("::", 0)) as every, pytest.raises(RefusedError, match=r"in use; --probe-listen HOST:PORT sets another"):
        bind(("127.0.0.1", every.getsockname()[1]), "--probe-listen")


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("203.0.113.1", "Cannot assign requested address"),
        ("ü..b", "not a host name"),
        ("a" * 64, "not a host name"),
        ("nothing.invalid", ""),
        ("fe80::1%nothing", ""),
        ("2001:db8::1", ""),
    ],
)
def test_address_that_is_not_here_is_refused(host: str, said: str) -> None:
    shown = f"[{host}]" if ":" in host else host
    with pytest.raises(RefusedError, match=f"^cannot listen on {re.escape(shown)}:0: .*{said}.*{SETS}$") as caught:
        bind((host, 0))
    assert str(caught.value).isprintable()


def test_address_family_that_the_kernel_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(
        RefusedError, match=rf"^cannot listen on \[::1\]:0: Address family not supported by protocol{SETS}$"
    ):
        bind(("::1", 0))
    with pytest.raises(
        RefusedError, match=rf"^cannot listen on \[::\]:0: Address family not supported by protocol{SETS}$"
    ):
        bind(("::", 0))


@pytest.fixture
def in_thread() -> Iterator[Callable[[Callable[[], None]], list[BaseException]]]:
    """Run a function on a thread; what it raises is in the list at the end."""
    threads: list[threading.Thread] = []

    def run(function: Callable[[], None]) -> list[BaseException]:
        raised: list[BaseException] = []

        def guarded() -> None:
            try:
                function()
            except BaseException as error:
                raised.append(error)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        threads.append(threading.Thread(target=guarded))
        threads[-1].start()
        return raised

    yield run
    for thread in threads:
        thread.join()


def test_over_a_socket_until_sigterm(
    running: Agent, in_thread: Callable[[Callable[[], None]], list[BaseException]]
) -> None:
    answers: list[Answer] = []
    with bind(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def scrape() -> None:
            # One connection for all: it must be kept open, also after an answer without a body.
            connection = HTTPConnection("127.0.0.1", port, timeout=10)
            for method, path in (("GET", "/metrics"), ("HEAD", "/metrics"), ("GET", "/nothing"), ("GET", "/healthz")):
                connection.request(method, path, headers={"Accept": PROMETHEUS_2_42, "Accept-Encoding": "gzip"})
                answer = connection.getresponse()
                answers.append(Answer(answer.status, dict(answer.getheaders()), answer.read()))
            connection.close()

        raised = in_thread(scrape)
        serve(running, listener)
    assert raised == []
    assert [answer.status for answer in answers] == [200, 200, 404, 200]
    assert gzip.decompress(answers[0].body) == b"".join(Renderer(CONSTANT).render(filled()).pieces(OPENMETRICS))
    assert answers[0].headers["content-type"] == OPENMETRICS
    assert "server" not in answers[0].headers
    assert answers[1].headers["content-length"] == answers[0].headers["content-length"]
    assert answers[3].body == b"ok\n"
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
