"""What the HTTP endpoint answers, and its life: it reads what the agent published and never waits for a cycle."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kpod_metrics.agent import Agent
from kpod_metrics.errors import RefusedError
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import OPENMETRICS, TEXT
from kpod_metrics.web.address import host_port, listening
from kpod_metrics.web.answers import PLAIN, Answer
from kpod_metrics.web.endpoint import Endpoint
from kpod_metrics.web.guard import Guard
from kpod_metrics.web.limits import Limits

if TYPE_CHECKING:
    from kpod_metrics.landing.page import Pages

PAGES = frozenset({"/metrics", "/actuator/prometheus"})
PROBES = frozenset({"/healthz", "/readyz"})
_OF_A_LOOP = 4
"""Descriptors that an event loop takes, and one for a first client."""

_QUALITY = re.compile(r";\s*q=([0-9.]+)", re.IGNORECASE)
_MEDIA = {
    "application/openmetrics-text": OPENMETRICS,
    "application/vnd.google.protobuf": PROTOBUF,
    "text/plain": TEXT,
    "text/*": TEXT,
    "*/*": TEXT,
}
_DELIMITED = {"proto=io.prometheus.client.metricfamily", "encoding=delimited"}
"""What must be said of protobuf: it has other encodings and could be any message."""
_HTML = "text/html; charset=utf-8"
_VARY = (b"vary", b"accept, accept-encoding")
_ZIPPED = (b"content-encoding", b"gzip")
NOT_FOUND = Answer(404, PLAIN, b"not found\n")
NOT_ALLOWED = Answer(405, PLAIN, b"method not allowed: GET, HEAD\n", ((b"allow", b"GET, HEAD"),))
_PATIENCE = 0.5
"""Seconds that a client has to read its answer when the agent ends."""
_PROBE_LIMITS = Limits(connections=16, receive=5.0, send=5.0)


def bind(address: tuple[str, int], flag: str = "--listen") -> socket.socket:
    """Bind the endpoint's socket; raises RefusedError with the address and the flag that sets it."""
    try:
        return listening(*address)
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be encoded
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
    raise RefusedError(f"cannot listen on {host_port(*address)}: {reason}; {flag} HOST:PORT sets another address")


def negotiate(accept: str) -> str:
    """Choose the format for an Accept header: the one with the highest quality, the text format by default."""
    best, chosen = 0.0, TEXT
    for part in accept.split(","):
        media, *parameters = (word.strip().lower() for word in part.split(";"))
        match = _QUALITY.search(part)
        try:
            quality = float(match[1]) if match else 1.0
        except ValueError:
            continue
        kind = _MEDIA.get(media)
        said = {word.replace(" ", "").replace('"', "") for word in parameters}
        if kind is PROTOBUF and not said.issuperset(_DELIMITED):
            continue
        if kind and quality > best:
            best, chosen = quality, kind
    return chosen


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    allowed: dict[str, bool] = {}
    for part in header.split(","):
        match = _QUALITY.search(part)
        allowed[part.split(";")[0].strip().lower()] = not (match and re.fullmatch(r"0*(\.0*)?", match[1]))
    return allowed.get("gzip", allowed.get("*", False))


class Application:
    """What the endpoint answers: it reads what the agent published."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._pages: Pages | None = None
        self._routes: dict[str, Callable[[Mapping[str, str]], Awaitable[Answer]]] = {
            **dict.fromkeys(PAGES, self._metrics),
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }

    async def __call__(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        """Answer one request; `target` is its path, and a query if it has one (and `*` for OPTIONS of the server)."""
        path, _, query = target.partition("?")
        route = self._routes.get(path)
        documentation = path == "/docs" or path.startswith("/docs/")
        if route is None and path not in {"/", "*"} and not documentation:
            return NOT_FOUND
        if method not in {"GET", "HEAD"}:
            return NOT_ALLOWED
        if documentation:
            return await asyncio.to_thread(self._docs, path.removeprefix("/docs"))
        return await route(headers) if route is not None else await asyncio.to_thread(self._landing, query)

    async def probe(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        """Answer one request of somebody who need show nothing: whether it is well, in a word."""
        if target.partition("?")[0] not in {*PROBES, "*"}:
            return NOT_FOUND
        answer = await self(method, target, headers)
        return replace(answer, body=answer.body.partition(b"\n")[0] + b"\n")

    async def _metrics(self, headers: Mapping[str, str]) -> Answer:
        if not self._agent.published.ready:
            return Answer(503, PLAIN, b"the first cycle is not over yet\n", (_VARY,))
        kind = negotiate(headers.get("accept", ""))
        zipped = accepts_gzip(headers.get("accept-encoding", ""))
        body = await asyncio.to_thread(self._agent.published.get, kind, zipped)
        return Answer(200, kind, body, (*((_ZIPPED,) if zipped else ()), _VARY))

    async def _healthz(self, headers: Mapping[str, str]) -> Answer:
        if self._agent.missed_cycles():
            return Answer(503, PLAIN, b"three cycles were missed\n")
        return Answer(200, PLAIN, b"ok\n")

    async def _readyz(self, headers: Mapping[str, str]) -> Answer:
        ready = self._agent.published.ready
        lines = ["ready" if ready else "the first cycle is not over yet", *self._agent.problems()]
        return Answer(200 if ready else 503, PLAIN, ("\n".join(lines) + "\n").encode("utf-8", "replace"))

    def _docs(self, below: str) -> Answer:
        """Read a page of the documentation."""
        from kpod_metrics import docs  # noqa: PLC0415 - most agents are never asked

        if not below:  # relative, as all links are: the agent may be behind a prefix
            return Answer(308, PLAIN, b"see docs/\n", ((b"location", b"docs/"), *docs.HEADERS))
        found = docs.read(below.removeprefix("/"))
        return NOT_FOUND if found is None else Answer(200, *found, docs.HEADERS)

    def _landing(self, query: str) -> Answer:
        """Make the page for a person; the first to ask has its module imported."""
        from kpod_metrics.landing import page  # noqa: PLC0415 - most agents are never asked

        if self._pages is None:
            self._pages = page.Pages()
        settings = self._agent.settings
        headers = tuple((name.encode(), value.encode()) for name, value in page.HEADERS.items())
        try:
            most = page.asked(query)
        except ValueError as error:
            return Answer(400, PLAIN, f"{error}\n".encode(), headers)
        problems = self._agent.problems()
        body = self._pages.get(self._agent.recent.newest, problems, settings.node_name, most, settings.cluster)
        return Answer(200, _HTML, body, headers)


def _event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop; raises RefusedError where its descriptors cannot be had (asyncio leaves half a loop)."""
    spare: list[int] = []
    try:
        for _ in range(_OF_A_LOOP):
            spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401 - it may fail midway
    except OSError as error:
        raise RefusedError(f"nothing can be served: {error.strerror}") from None
    finally:
        for descriptor in spare:
            os.close(descriptor)
    return asyncio.new_event_loop()


def serve(
    agent: Agent, listener: socket.socket, probes: socket.socket | None = None, guard: Guard | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, and `/healthz` and `/readyz` also on `probes`, for whoever asks there.

    The listeners are closed at the end.
    """
    settings = agent.settings
    limits = Limits(settings.web_max_connections, settings.web_max_requests, settings.web_request_timeout)
    application = Application(agent)
    endpoints = [Endpoint(listener, application, agent.http, limits, guard=guard, limited=PAGES)]
    if probes is not None:
        endpoints.append(Endpoint(probes, application.probe, agent.http, _PROBE_LIMITS))

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        accepting = [loop.create_task(endpoint.run()) for endpoint in endpoints]
        stopping = loop.create_task(stop.wait())
        await asyncio.wait([*accepting, stopping], return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in accepting if task.done()]
        for task in accepting:
            task.cancel()
        for one in filter(None, (listener, probes)):
            one.close()
        await asyncio.gather(*(endpoint.close(_PATIENCE) for endpoint in endpoints))
        for task in ended:
            task.result()

    # Not asyncio.run: that waits for its threads, of which one may compare a password.
    loop = _event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
