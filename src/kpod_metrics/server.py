"""The answers of the HTTP endpoint, and its life. It reads what the agent published and never waits for a cycle."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from kpod_metrics.agent import Agent
from kpod_metrics.errors import RefusedError
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import OPENMETRICS, TEXT
from kpod_metrics.web.address import host_port, listening
from kpod_metrics.web.answers import BUSY, PLAIN, Answer
from kpod_metrics.web.endpoint import Endpoint
from kpod_metrics.web.guard import Guard
from kpod_metrics.web.limits import Limits

if TYPE_CHECKING:
    from kpod_metrics.landing.page import Pages

PAGES = frozenset({"/metrics", "/actuator/prometheus"})
PROBES = frozenset({"/healthz", "/readyz"})
_LOOP_DESCRIPTORS = 4
"""Descriptors of an event loop, and one for a first client."""

_QUALITY = re.compile(r";\s*q=([0-9.]+)", re.IGNORECASE)
_MEDIA = {
    "application/openmetrics-text": OPENMETRICS,
    "application/vnd.google.protobuf": PROTOBUF,
    "text/plain": TEXT,
    "text/*": TEXT,
    "*/*": TEXT,
}
_DELIMITED = {"proto=io.prometheus.client.metricfamily", "encoding=delimited"}
"""Required parameters of protobuf, which has other encodings and messages."""
_HTML = "text/html; charset=utf-8"
_VARY = (b"vary", b"accept, accept-encoding")
_ZIPPED = (b"content-encoding", b"gzip")
NOT_FOUND = Answer(404, PLAIN, b"not found\n")
NOT_ALLOWED = Answer(405, PLAIN, b"method not allowed: GET, HEAD\n", ((b"allow", b"GET, HEAD"),))
_CLOSE_TIMEOUT = 0.5
"""Seconds in which a client can read its answer when the agent ends."""
_PROBE_LIMITS = Limits(connections=16, receive=5.0, send=5.0)


def bind(address: tuple[str, int], flag: str = "--listen") -> socket.socket:
    """Bind the socket of the endpoint; raises RefusedError with the address and the flag that sets it."""
    try:
        return listening(*address)
    except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
    raise RefusedError(f"cannot listen on {host_port(*address)}: {reason}; {flag} HOST:PORT sets another address")


def negotiate(accept: str) -> str:
    """Return the format for an Accept header: the one with the highest quality, by default the text format."""
    best, chosen = 0.0, TEXT
    for part in accept.split(","):
        media, *parameters = (word.strip().lower() for word in part.split(";"))
        match = _QUALITY.search(part)
        try:
            quality = float(match[1]) if match else 1.0
        except ValueError:
            continue
        kind = _MEDIA.get(media)
        given = {word.replace(" ", "").replace('"', "") for word in parameters}
        if kind is PROTOBUF and not given.issuperset(_DELIMITED):
            continue
        if kind and quality > best:
            best, chosen = quality, kind
    return chosen


def accepts_gzip(header: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip."""
    allowed: dict[str, bool] = {}
    for part in header.split(","):
        match = _QUALITY.search(part)
        allowed[part.split(";")[0].strip().lower()] = not (match and re.fullmatch(r"0*(\.0*)?", match[1]))
    return allowed.get("gzip", allowed.get("*", False))


class Application:
    """Answers requests with what the agent published."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._pages: Pages | None = None
        self._for_people = ThreadPoolExecutor(1, "page")
        """The thread for the landing page and the documentation: a scrape does not wait for them."""
        self._routes: dict[str, Callable[[Mapping[str, str]], Awaitable[Answer]]] = {
            **dict.fromkeys(PAGES, self._metrics),
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }

    async def __call__(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        """Answer one request; `target` is its path and query, or `*`."""
        path, _, query = target.partition("?")
        route = self._routes.get(path)
        documentation = path == "/docs" or path.startswith("/docs/")
        if route is None and path not in {"/", "*"} and not documentation:
            return NOT_FOUND
        if method not in {"GET", "HEAD"}:
            return NOT_ALLOWED
        if route is not None:
            return await route(headers)
        answer, what = (self._docs, path.removeprefix("/docs")) if documentation else (self._landing, query)
        return await asyncio.get_running_loop().run_in_executor(self._for_people, answer, what)

    async def probe(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        """Answer a probe, without authentication: the status and the first line only."""
        if target.partition("?")[0] not in {*PROBES, "*"}:
            return NOT_FOUND
        answer = await self(method, target, headers)
        return replace(answer, body=answer.body.partition(b"\n")[0] + b"\n")

    async def _metrics(self, headers: Mapping[str, str]) -> Answer:
        if self._agent.published.page is None:
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
        ready = self._agent.published.page is not None
        lines = ["ready" if ready else "the first cycle is not over yet", *self._agent.problems()]
        return Answer(200 if ready else 503, PLAIN, ("\n".join(lines) + "\n").encode("utf-8", "replace"))

    def _docs(self, below: str) -> Answer:
        """Read a page of the documentation."""
        from kpod_metrics import docs  # noqa: PLC0415 - few agents get such a request

        if not below:  # relative, as all links: the agent may be behind a prefix
            return Answer(308, PLAIN, b"see docs/\n", ((b"location", b"docs/"), *docs.HEADERS))
        found = docs.read(below.removeprefix("/"))
        return NOT_FOUND if found is None else Answer(200, *found, docs.HEADERS)

    def _landing(self, query: str) -> Answer:
        """Make the page for people; the first request imports its module."""
        from kpod_metrics.landing import page  # noqa: PLC0415 - few agents get such a request

        if self._pages is None:
            self._pages = page.Pages()
        settings = self._agent.settings
        headers = tuple((name.encode(), value.encode()) for name, value in page.HEADERS.items())
        try:
            pods = page.limit_of(query)
        except ValueError as error:
            return Answer(400, PLAIN, f"{error}\n".encode(), headers)
        problems = self._agent.problems()
        body = self._pages.get(self._agent.recent.newest, problems, settings.node_name, pods, settings.cluster)
        return BUSY if body is None else Answer(200, _HTML, body, headers)


def _event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop; raises RefusedError without enough descriptors: asyncio would leave half a loop."""
    spare: list[int] = []
    try:
        for _ in range(_LOOP_DESCRIPTORS):
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
    """Serve until SIGTERM or SIGINT, then close the listeners.

    `probes` serves `/healthz` and `/readyz` only, without authentication.
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
        await asyncio.gather(*(endpoint.close(_CLOSE_TIMEOUT) for endpoint in endpoints))
        for task in ended:
            task.result()

    # Not asyncio.run: it waits for its threads, and one may be comparing a password.
    loop = _event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
