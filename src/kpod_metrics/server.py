"""The HTTP endpoint: plain ASGI under uvicorn; it reads what the agent published and never waits for a cycle."""

import asyncio
import contextlib
import logging
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from kpod_metrics.agent import Agent
from kpod_metrics.errors import RefusedError
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import OPENMETRICS, TEXT

if TYPE_CHECKING:
    from kpod_metrics.landing.page import Pages

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

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
_PLAIN = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"


def bind(address: tuple[str, int]) -> socket.socket:
    """Bind the endpoint's socket; raises RefusedError with the address."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener: socket.socket | None = None
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Not left to uvicorn: until somebody listens, SO_REUSEADDR lets a second agent bind the same address.
        listener.listen(128)
    except (OSError, UnicodeError, TypeError) as error:  # TypeError: what bind() makes of a UnicodeError
        if listener is not None:
            listener.close()
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise RefusedError(f"cannot listen on {host}:{port}: {reason}") from None
    listener.set_inheritable(True)
    return listener


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
    """The ASGI application."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._pages: Pages | None = None
        self._routes: dict[str, Callable[[dict[str, str]], Awaitable[tuple[int, str, bytes, bool]]]] = {
            "/metrics": self._metrics,
            "/actuator/prometheus": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        landing = scope["path"] == "/"
        route = self._routes.get(scope["path"])
        extra: list[tuple[bytes, bytes]] = []
        if route is None and not landing:
            status, kind, body, zipped = 404, _PLAIN, b"not found\n", False
        elif scope["method"] not in {"GET", "HEAD"}:
            status, kind, body, zipped = 405, _PLAIN, b"method not allowed: GET, HEAD\n", False
            extra.append((b"allow", b"GET, HEAD"))
        elif route is not None:
            status, kind, body, zipped = await route(headers)
        else:
            status, kind, body, extra = await asyncio.to_thread(self._landing, scope.get("query_string", b""))
            zipped = False
        if zipped:
            extra.append((b"content-encoding", b"gzip"))
        if route == self._metrics:
            extra.append((b"vary", b"accept, accept-encoding"))
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", kind.encode()),
                    (b"content-length", str(len(body)).encode()),
                    *extra,
                ],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _metrics(self, headers: dict[str, str]) -> tuple[int, str, bytes, bool]:
        if not self._agent.published.ready:
            return 503, _PLAIN, b"the first cycle is not over yet\n", False
        kind = negotiate(headers.get("accept", ""))
        zipped = accepts_gzip(headers.get("accept-encoding", ""))
        body = await asyncio.to_thread(self._agent.published.get, kind, zipped)
        return 200, kind, body, zipped

    async def _healthz(self, headers: dict[str, str]) -> tuple[int, str, bytes, bool]:
        if self._agent.missed_cycles():
            return 503, _PLAIN, b"three cycles were missed\n", False
        return 200, _PLAIN, b"ok\n", False

    async def _readyz(self, headers: dict[str, str]) -> tuple[int, str, bytes, bool]:
        ready = self._agent.published.ready
        lines = ["ready" if ready else "the first cycle is not over yet", *self._agent.problems()]
        return 200 if ready else 503, _PLAIN, ("\n".join(lines) + "\n").encode("utf-8", "replace"), False

    def _landing(self, query: bytes) -> tuple[int, str, bytes, list[tuple[bytes, bytes]]]:
        """Make the page for a person; the first to ask has its module imported."""
        from kpod_metrics.landing import page  # noqa: PLC0415 - most agents are never asked

        if self._pages is None:
            self._pages = page.Pages()
        settings = self._agent.settings
        headers = [(name.encode(), value.encode()) for name, value in page.HEADERS.items()]
        try:
            most = page.asked(query.decode("latin-1"))
        except ValueError as error:
            return 400, _PLAIN, f"{error}\n".encode(), headers
        problems = self._agent.problems()
        body = self._pages.get(self._agent.recent.view, problems, settings.node_name, most, settings.cluster)
        return 200, _HTML, body, headers


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which is the process's own business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(agent: Agent, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""

    async def main() -> None:
        config = uvicorn.Config(
            Application(agent),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)

        def end() -> None:
            server.should_exit = True
            # Who has not read its page by then is cut off, and uvicorn calls that an error, with a traceback.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        await server.serve(sockets=[listener])

    asyncio.run(main())
