"""Pushing to a receiver that is there, down, slow, refuses, or takes a part: bounded memory, losses counted."""

import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from kpod_metrics import USER_AGENT
from kpod_metrics.agent import exporter_of
from kpod_metrics.errors import SettingError
from kpod_metrics.exposition.page import Page, Renderer
from kpod_metrics.exposition.pages import Published
from kpod_metrics.metrics import Label, Scope, Table, counter
from kpod_metrics.otlp import push as pushing
from kpod_metrics.otlp.push import QUEUE_BYTES, Exporter
from kpod_metrics.retry import Backoff
from kpod_metrics.settings import Settings
from kpod_metrics.store import Store
from testkit.certificates import Certificates
from tests.fakes.hostile import Hostile, forever, response
from tests.fakes.otlp import Fault, Receiver, partial, points_of
from tests.unit.imports import imported_by_an_agent

POINTS = 50
TABLE = Table((counter("kpod_test_total", "Test.", "test"),), (Label("at", per="test"),), Scope.AGENT)


class Pages:
    """A new page each time that it is asked, until it is stopped."""

    def __init__(self) -> None:
        self.made = 0
        self.stopped = False
        self._last: Page | None = None

    def __call__(self) -> Page:
        if self._last is None or not self.stopped:
            store = Store([TABLE], frozenset(TABLE.metrics))
            self.made += 1
            for at in range(POINTS):
                store.set(TABLE, (f"{at}-{'x' * 50}",), (self.made,))
            self._last = Renderer({"node": "n1"}).render(store)
        return self._last


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as there:
        yield there


Push = Callable[..., Exporter]


@pytest.fixture
def push(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> Iterator[Push]:
    """Start an exporter with these settings, that makes a page every tenth of a second and waits no longer to retry."""
    started = []

    def start(endpoint: str, queue_bytes: int = QUEUE_BYTES, **settings: Any) -> Exporter:
        chosen = Settings(otlp_endpoint=endpoint, **{"otlp_interval": 0.1, "otlp_timeout": 5.0, **settings})
        monkeypatch.setattr(pushing, "QUEUE_BYTES", queue_bytes)
        exporter = Exporter(chosen, pages, 1)
        exporter.backoff = Backoff(0.05, 0.1)
        started.append(exporter)
        exporter.start()
        return exporter

    yield start
    for exporter in started:
        exporter.stop(5)


def eventually(what: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def accounted(exporter: Exporter, pages: Pages) -> bool:
    """Whether every point that was made was sent or dropped; at the end."""
    return not exporter.queued_bytes and exporter.sent + exporter.dropped == pages.made * POINTS


def test_pages_arrive_in_order(receiver: Receiver, pages: Pages, push: Push) -> None:
    exporter = push(receiver.url, otlp_headers=(("authorization", "Bearer t1"), ("x-scope", "a b")))
    eventually(lambda: exporter.sent >= 3 * POINTS)
    values = []
    for taken in receiver.pushes:
        assert taken.path == "/v1/metrics"
        assert taken.headers["authorization"] == "Bearer t1"
        assert taken.headers["x-scope"] == "a b"
        assert taken.headers["user-agent"] == USER_AGENT
        assert taken.headers["content-encoding"] == "gzip"
        [value] = {point.point.as_int for point in points_of(taken.request)}
        values.append(value)
    assert values == list(range(1, len(values) + 1))
    assert (exporter.dropped, exporter.problem) == (0, "")
    metric: Metric = points_of(receiver.pushes[0].request)[0].metric
    assert metric.name == "kpod_test_total"


def test_path_and_compression_are_the_settings(receiver: Receiver, push: Push) -> None:
    exporter = push(f"{receiver.url}/otlp/metrics", otlp_compression="none")
    eventually(lambda: exporter.sent)
    assert receiver.pushes[0].path == "/otlp/metrics"
    assert "content-encoding" not in receiver.pushes[0].headers


def test_first_page_is_waited_for(receiver: Receiver, push: Push, pages: Pages) -> None:
    published = Published()
    exporter = Exporter(Settings(otlp_endpoint=receiver.url), lambda: published.page, 1)
    exporter.start()
    time.sleep(0.3)
    assert receiver.requests == 0
    published.publish(pages())
    eventually(lambda: exporter.sent == POINTS, 2)
    exporter.stop()


def test_same_page_is_not_sent_twice(receiver: Receiver, pages: Pages) -> None:
    page = pages()
    exporter = Exporter(Settings(otlp_endpoint=receiver.url, otlp_interval=0.05), lambda: page, 1)
    exporter.start()
    time.sleep(0.5)
    exporter.stop()
    assert receiver.requests == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retried(status: int, receiver: Receiver, push: Push) -> None:
    receiver.faults = [Fault(status)] * 3
    exporter = push(receiver.url, otlp_interval=60.0)
    eventually(lambda: exporter.problem == f"HTTP {status}")
    eventually(lambda: exporter.sent == POINTS)
    assert (receiver.requests, exporter.dropped) == (4, 0)
    assert exporter.problem == ""


def test_retry_after_is_waited_for(receiver: Receiver, push: Push) -> None:
    receiver.faults = [Fault(429, {"Retry-After": "1"})]
    exporter = push(receiver.url, otlp_interval=60.0)
    began = time.monotonic()
    eventually(lambda: exporter.sent)
    assert time.monotonic() - began > 0.9


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 413, 500, 501])
def test_refused_is_dropped(status: int, receiver: Receiver, push: Push, caplog: Any) -> None:
    body = b"\x12\x08not\x07 now"  # google.rpc.Status
    receiver.faults = [Fault(status, {"location": "/elsewhere"}, body)]
    exporter = push(receiver.url, otlp_interval=0.3)
    eventually(lambda: exporter.dropped == POINTS and exporter.sent)
    assert rf"HTTP {status}: not\x07 now" in caplog.text
    assert exporter.dropped == POINTS
    assert exporter.problem == ""


def test_partial_success_counts_what_was_rejected(receiver: Receiver, push: Push, caplog: Any) -> None:
    receiver.faults = [partial(7, "too old"), partial(10**9, "all")]
    exporter = push(receiver.url)
    eventually(lambda: exporter.sent >= 2 * POINTS - 7)
    assert exporter.dropped == 7 + POINTS
    assert "7 points rejected: too old" in caplog.text
    assert receiver.requests >= 3


@pytest.mark.parametrize("body", [b"\xff" * 20, b"ok", b"x" * 10**6, b""])
def test_answer_that_is_none_is_a_success(body: bytes, receiver: Receiver, push: Push) -> None:
    receiver.always = Fault(body=body)
    exporter = push(receiver.url)
    eventually(lambda: exporter.sent >= 2 * POINTS)
    assert exporter.dropped == 0


def test_connection_that_is_dropped(receiver: Receiver, push: Push) -> None:
    receiver.faults = [Fault(drop=True)] * 2
    exporter = push(receiver.url)
    eventually(lambda: exporter.sent)
    assert exporter.dropped == 0


def test_receiver_that_comes_back(pages: Pages, push: Push) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    exporter = push(f"http://127.0.0.1:{port}")
    eventually(lambda: "refused" in exporter.problem and pages.made > 3)
    assert exporter.queued_bytes > 0
    with Receiver(port=port) as receiver:
        eventually(lambda: exporter.sent >= 4 * POINTS)
        assert exporter.dropped == 0
        first = points_of(receiver.pushes[0].request)[0]
        assert first.point.as_int == 1


@pytest.mark.parametrize(
    "fault",
    [None, Fault(429), Fault(503), Fault(delay=5.0), Fault(drop=True)],
    ids=["down", "429", "503", "slow", "cut"],
)
def test_queue_is_bounded_and_losses_counted(fault: Fault | None, pages: Pages, push: Push) -> None:
    with Receiver() as receiver:
        receiver.always = fault
        url = receiver.url if fault else "http://127.0.0.1:1"
        exporter = push(url, 4000, otlp_interval=0.02, otlp_compression="none", otlp_timeout=0.2)
        most = 0
        end = time.monotonic() + 30
        while not exporter.dropped or pages.made <= 15:  # nobody waits for the receiver
            assert time.monotonic() < end
            most = max(most, exporter.queued_bytes)
            time.sleep(0.005)
        assert most <= 4000
        assert all(thread.is_alive() for thread in exporter._threads)
        # A thread of an exporter that a test before ended may still be on its last request.
        eventually(lambda: len([thread for thread in threading.enumerate() if thread.name.startswith("otlp")]) == 2)
        # When it is back, what is still queued arrives, and every point is accounted for.
        pages.stopped = True
        receiver.always = None
        if fault:
            eventually(lambda: accounted(exporter, pages))


def test_end_does_not_wait_for_a_slow_receiver(receiver: Receiver, push: Push) -> None:
    receiver.always = Fault(delay=60.0)
    exporter = push(receiver.url, otlp_timeout=4.0)
    eventually(lambda: receiver.requests)
    exporter.stop()
    assert any(thread.is_alive() for thread in exporter._threads)  # the request is still on its way


# Where a handshake fails the HTTP client leaves its socket to the garbage collector, as with the API server's.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls(certificates: Certificates, push: Push) -> None:
    mine = certificates.signed("agent")
    with Receiver(certificate=certificates.signed("otlp"), client_ca=certificates.ca) as receiver:
        files = {"otlp_certificate": mine[0], "otlp_key": mine[1]}
        exporter = push(receiver.url, otlp_ca=certificates.ca, **files)
        eventually(lambda: exporter.sent)
        unverified = push(receiver.url, **files)
        eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in unverified.problem)
        unknown = push(receiver.url, otlp_ca=certificates.ca)
        eventually(lambda: unknown.problem)
        assert unverified.sent == unknown.sent == 0
    for exporter in (unverified, unknown):
        exporter.stop()
    gc.collect()  # here, where it is expected


def test_files_that_cannot_be_used_are_one_line(tmp_path: Path, certificates: Certificates) -> None:
    nothing = tmp_path / "empty.pem"
    nothing.write_text("")
    files: list[dict[str, Any]] = [
        {"otlp_ca": str(nothing)},
        {"otlp_certificate": str(nothing)},
        {"otlp_certificate": certificates.ca},
    ]
    for wrong in files:
        with pytest.raises(SettingError, match=rf"^{next(iter(wrong))}: '.*cannot be used: .*; accepted: ") as caught:
            exporter_of(Settings(otlp_endpoint="https://x", **wrong), Published())
        assert str(caught.value).isprintable()
    with pytest.raises(SettingError, match=r"^otlp_key: .* with otlp_certificate only$"):
        exporter_of(Settings(otlp_key=str(nothing)), Published())


def test_probe(receiver: Receiver) -> None:
    for fault, said in ((None, ""), (Fault(401), "HTTP 401")):
        receiver.always = fault
        exporter = Exporter(Settings(otlp_endpoint=receiver.url), lambda: None, 1)
        assert exporter.probe() == said
        exporter.stop()
    assert points_of(receiver.pushes[0].request) == []


def test_without_an_endpoint_nothing_is_imported(tmp_path: Path) -> None:
    """The HTTP client would cost memory."""
    heavy = ("kpod_metrics.otlp", "httpx2", "httpcore2", "google.protobuf", "opentelemetry")
    assert imported_by_an_agent(tmp_path, "kpod_metrics.server", *heavy) == ""


def test_with_an_endpoint_no_protobuf_library_is_imported() -> None:
    code = (
        "import sys, kpod_metrics.otlp.push\n"
        "sys.exit('imported' if {'google.protobuf', 'opentelemetry'} & set(sys.modules) else 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# A hostile receiver


def test_answer_that_drips(push: Push) -> None:
    """Every read gets a byte, so the timeout of a read never comes; without a status the request is repeated."""

    def head(_: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nx: "
        yield from forever(b"y", 0.01)

    def informational(_: bytes) -> Iterator[bytes]:
        yield from forever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.01)

    for answer in (head, informational):
        with Hostile(answer) as server:
            exporter = push(server.url, otlp_timeout=0.3)
            eventually(lambda: exporter.problem == "no answer within 0.3 s")  # noqa: B023
            assert (exporter.sent, exporter.dropped) == (0, 0)


def test_status_counts_even_if_the_body_does_not_end(push: Push) -> None:
    def body(_: bytes) -> Iterator[bytes]:
        yield from response()
        yield from forever(b"y", 0.01)

    with Hostile(body) as server:
        exporter = push(server.url, otlp_timeout=0.3)
        eventually(lambda: exporter.sent >= POINTS)
        assert (exporter.problem, exporter.dropped) == ("", 0)


def test_answer_of_headers_only_is_bounded(push: Push) -> None:
    def informational(_: bytes) -> Iterator[bytes]:
        yield from forever(b"HTTP/1.1 100 Continue\r\nx: " + b"y" * 1000 + b"\r\n\r\n")

    with Hostile(informational) as server:
        exporter = push(server.url)
        eventually(lambda: exporter.problem == f"the response is larger than {pushing._MAX_RECEIVED} bytes")


def test_cookies_of_a_receiver_are_not_kept(push: Push) -> None:
    with Hostile(lambda _: response(set_cookie="name=value")) as server:
        exporter = push(server.url, otlp_interval=0.1)
        eventually(lambda: len(server.heads) >= 3)
        assert len(exporter._http.cookies) == 0
        assert not any(b"cookie" in head.lower() for head in server.heads)
