"""The endpoint, for any bytes that a client may send: what comes back is read as HTTP by another's reader.

It is the real one, with a web configuration, and the real application of an agent after a cycle, over a pair of
sockets. Everything is made once; each input is one connection.
"""

import asyncio
import base64
import hashlib
import io
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from http.client import HTTPResponse
from typing import NamedTuple, cast

from kpod_metrics.agent import Agent
from kpod_metrics.exposition.page import Renderer
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.standalone import StandaloneNamer
from kpod_metrics.server import PAGES, Application
from kpod_metrics.settings import Settings
from kpod_metrics.web.answers import Answer
from kpod_metrics.web.counts import Counts
from kpod_metrics.web.endpoint import Endpoint, _Connection
from kpod_metrics.web.guard import Guard, Passwords
from kpod_metrics.web.limits import MAX_HEAD, MAX_TARGET, Limits
from tests.unit.exposition.fixture import CONSTANT, filled

PATHS = {"/", "/metrics", "/actuator/prometheus", "/healthz", "/readyz"}
"""All that there is, by docs/security.md."""
REASONS = {401: "auth", 413: "size", 414: "size", 431: "size", 400: "malformed", 505: "malformed"}
"""What the endpoint refuses that waits for nobody, and has one client, by what it counts it as."""
STATUSES = {200, 404, 405, *REASONS}
TOKEN, PASSWORD = b"fuzz-token-5f2c91", b"fuzz-password-83ad07"
BASIC = base64.b64encode(b"scraper:" + PASSWORD)
_CONFIG = f"""\
bearer_tokens: {{fuzz: {hashlib.sha256(TOKEN).hexdigest()}}}
basic_auth_users: {{scraper: $2b$04${"a" * 53}}}
http_server_config: {{headers: {{X-Frame-Options: deny}}}}
"""


class _Plain(Passwords):
    """Has no hashes compared, each of which would take 50 ms: they are of bcrypt, not of what a client sends."""

    async def right(self, hashed: bytes, password: bytes) -> bool:
        return password == PASSWORD


class _Said(logging.Handler):
    """Keeps what is logged as an error or a warning, or given up by the event loop."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter().format(record))


class _Served:
    """What is asked."""

    def __init__(self) -> None:
        settings = Settings(poll_interval=86_400.0, node_name="n1")  # no cycle comes due, and none is missed
        agent = Agent(settings, Finder("", StandaloneNamer()), [])
        page = Renderer(CONSTANT).render(filled())
        agent.published.publish(page)
        agent.recent.note(page)
        agent.last_cycle = time.monotonic()
        self._application = Application(agent)
        self.asked: list[tuple[str, str, int]] = []
        """Method, target and status of what came through to the application."""
        # A file that goes with the process, however that ends.
        file = os.memfd_create("web-config.yaml")
        os.write(file, _CONFIG.encode())
        self.counts = Counts()
        guard = Guard(f"/proc/self/fd/{file}", self.counts)
        guard._passwords = _Plain()
        # Nobody is accepted: the listener is only one that it has.
        self._endpoint = Endpoint(socket.socket(), self._answer, self.counts, Limits(), guard=guard, limited=PAGES)
        self._loop = asyncio.new_event_loop()

    async def _answer(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        answer = await self._application(method, target, headers)
        self.asked.append((method, target, answer.status))
        return answer

    def exchange(self, data: bytes) -> bytes:
        """All that comes back until the endpoint closes."""
        self.asked.clear()
        return self._loop.run_until_complete(self._exchange(data))

    async def _exchange(self, data: bytes) -> bytes:
        client, accepted = socket.socketpair()
        received = []
        with client:
            client.setblocking(False)
            accepted.setblocking(False)
            one = _Connection(accepted, b"fuzz")
            one.task = self._loop.create_task(self._endpoint._serve(one))
            sending = self._loop.create_task(self._send(client, data))
            try:
                # The client is there and ends what it sends: nobody has anything to wait for.
                async with asyncio.timeout(5):
                    with suppress(ConnectionResetError):  # it has left something unread
                        while part := await self._loop.sock_recv(client, 1 << 20):
                            received.append(part)
                    await one.task
                    await sending
            finally:
                one.task.cancel()
                sending.cancel()
        return b"".join(received)

    async def _send(self, client: socket.socket, data: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it does not want all
            await self._loop.sock_sendall(client, data)
            client.shutdown(socket.SHUT_WR)


_served = cache(_Served)


class _Answered(NamedTuple):
    status: int
    whole: bool
    """Whether its body was there: HEAD's is not."""
    application: bool
    """Whether it has the headers of the page for people, whose query may be refused too."""


class _Bytes(io.BytesIO):
    """What http.client takes for a socket and for its file; it stays open for the next answer."""

    def makefile(self, *_: object) -> "_Bytes":
        return self

    def close(self) -> None:
        pass


def answers(received: bytes) -> Iterator[_Answered]:
    """Read answers, one after another to the end; raises whatever is wrong with one."""
    source = _Bytes(received)
    while source.tell() < len(received):
        response = HTTPResponse(cast("socket.socket", source))
        response.begin()
        assert response.version == 11
        assert not response.msg.defects
        length = int(response.headers["content-length"])
        assert response.headers["content-type"]
        assert response.headers["x-frame-options"] == "deny"
        at = source.tell()
        # What we send does not begin like another answer; what is cut off is not nothing at all.
        whole = at < len(received) and not received.startswith(b"HTTP/1.1 ", at)
        if whole:
            assert len(response.read()) == length
        yield _Answered(response.status, whole or not length, "content-security-policy" in response.headers)


def check_requests(data: bytes) -> None:
    """Whatever a client sends before it ends."""
    served = _served()
    before = Counter(served.counts.refused)
    said = _Said()
    logging.getLogger().addHandler(said)
    try:
        received = served.exchange(data)
    finally:
        logging.getLogger().removeHandler(said)
    assert not said.lines, said.lines
    for secret in (TOKEN, PASSWORD, BASIC):
        assert secret not in received
    found = list(answers(received))
    assert {one.status for one in found} <= STATUSES, found
    heads = sum(method == "HEAD" for method, *_ in served.asked)
    assert heads <= sum(not one.whole for one in found) <= data.count(b"HEAD ")
    refused = Counter(REASONS[one.status] for one in found if one.status in REASONS and not one.application)
    assert Counter(served.counts.refused) - before == refused
    # An answered request has one of these targets and known credentials. A complete URL may lack the first slash.
    for method, target, status in served.asked:
        assert f"{method} ".encode("latin-1") in data
        assert f"{target.removeprefix('/')} HTTP/1.".encode("latin-1") in data
        assert b"authorization" in data.lower()
        assert status != 200 or target.partition("?")[0] in PATHS
    assert sum(one.status == 200 for one in found) == sum(status == 200 for *_, status in served.asked)


def _request(line: bytes, *headers: bytes, shown: bytes = b"Bearer " + TOKEN) -> bytes:
    return b"\r\n".join((line, b"Host: n1:9090", b"Authorization: " + shown, *headers, b"", b""))


_OPENMETRICS = b"Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1"
_PROTOBUF = b"Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6"
REQUESTS = (
    _request(b"GET /metrics HTTP/1.1", _OPENMETRICS, b"Accept-Encoding: gzip", b"User-Agent: Prometheus/3.5.0"),
    _request(b"GET /actuator/prometheus HTTP/1.1", _PROTOBUF, shown=b"Basic " + BASIC),
    _request(b"GET /healthz HTTP/1.1") * 3 + _request(b"HEAD /metrics HTTP/1.1") + _request(b"GET /readyz HTTP/1.1"),
    _request(b"HEAD / HTTP/1.1") + _request(b"GET /?pods=100 HTTP/1.1", b"Connection: close"),
    _request(b"GET /nothing HTTP/1.0", b"Connection: keep-alive") + _request(b"OPTIONS * HTTP/1.1"),
    _request(b"POST /metrics HTTP/1.1", b"Transfer-Encoding: chunked") + b"5\r\nabcde\r\n0\r\na: b\r\n\r\n",
    _request(b"POST /metrics HTTP/1.1", b"Content-Length: 5", b"Expect: 100-continue") + b"abcde",
    _request(b"GET /metrics HTTP/1.1", b"a: " + b"x" * MAX_HEAD),
    _request(b"GET /" + b"x" * MAX_TARGET + b" HTTP/1.1"),
    _request(b"GET / HTTP/9.9"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    _request(b"GET http://n1:9090/metrics HTTP/1.1") + _request(b"HEAD HTTPS://[::1]?pods=9 HTTP/1.1"),
    _request(b"GET http://u@n1/ HTTP/1.1") + _request(b"CONNECT n1:80 HTTP/1.1"),
    _request(b"GET /healthz HTTP/1.1", b"a: b", b"\tc", b"Connection: Upgrade", b"Upgrade: h2c"),
    _request(b"GET /healthz HTTP/1.1", shown=b"Basic c2NyYXBlcjp3cm9uZw=="),
)
