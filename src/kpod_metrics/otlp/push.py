"""Pushes pages to an OTLP receiver over HTTP, on two threads of its own: nothing here is waited for by a cycle.

One thread encodes the newest page once an interval and queues it, the other sends. What the receiver cannot take now is
tried again, later and later; what it refuses, and what the queue has no room for (the oldest goes), is dropped and
counted. As totals are cumulative, a dropped point costs resolution in time, and no event.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import httpx2
from isal import isal_zlib

from kpod_metrics import USER_AGENT
from kpod_metrics.exposition.page import Page
from kpod_metrics.exposition.pages import GZIP
from kpod_metrics.otlp.encode import Encoder, Request, refusal, rejected
from kpod_metrics.retry import Backoff, retry_after
from kpod_metrics.settings import Settings
from kpod_metrics.tls_client import context

log = logging.getLogger(__name__)

PATH = "/v1/metrics"
QUEUE_BYTES = 4 << 20
"""Most that waits, as it is sent: 19 pushes of 100 pods in profile comprehensive, compressed."""
_ANSWER_BYTES = 64 << 10
_RETRYABLE = frozenset({429, 502, 503, 504})
"""All others mean that the same request will be refused again (opentelemetry.io/docs/specs/otlp, "Retryable")."""
_FIRST_PAGE = 0.2
"""Seconds between two looks for the first page."""


class _Answer(NamedTuple):
    """What became of a request: `problem` is empty if it was taken, wholly or but for the points `rejected`."""

    problem: str = ""
    retry: bool = False
    retry_after: float = 0.0
    rejected: int = 0


class Exporter:
    """The two threads and their queue."""

    def __init__(
        self,
        settings: Settings,
        page: Callable[[], Page | None],
        started_ns: int,
        *,
        queue_bytes: int = QUEUE_BYTES,
        backoff: Backoff | None = None,
    ) -> None:
        """`page` returns the newest page. Raises SettingError for files of certificates that cannot be used."""
        url = httpx2.URL(settings.otlp_endpoint)
        self.endpoint = str(url if url.path.strip("/") else url.copy_with(path=PATH))
        self._interval = settings.otlp_interval
        self._timeout = settings.otlp_timeout
        self._gzip = settings.otlp_compression == "gzip"
        self._page = page
        self._encoder = Encoder(started_ns, settings.pod_labels)
        self._most = queue_bytes
        self._backoff = backoff or Backoff()
        headers = {
            "user-agent": USER_AGENT,
            **dict(settings.otlp_headers),
            "content-type": "application/x-protobuf",
            "accept-encoding": "identity",
        }
        if self._gzip:
            headers["content-encoding"] = "gzip"
        verify = (
            context(settings.otlp_ca, settings.otlp_certificate, settings.otlp_key, prefix="otlp_")
            if url.scheme == "https"
            else True
        )
        self._http = httpx2.Client(headers=headers, verify=verify, timeout=httpx2.Timeout(self._timeout))
        self._changed = threading.Condition()
        self._queue: deque[Request] = deque()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.queued_bytes = 0
        self.sent = 0
        """Data points that the receiver took."""
        self.dropped = 0
        """Data points that it refused, or that there was no room for."""
        self.problem = ""
        """Why the last request was not taken; empty if it was."""

    def start(self) -> None:
        """Begin to push."""
        for run, name in ((self._encode, "otlp-encode"), (self._deliver, "otlp-send")):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
            self._threads[-1].start()

    def stop(self, timeout: float = 0.5) -> None:
        """End; a request that is on its way for longer than `timeout` seconds is left behind."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            self._http.close()

    def probe(self) -> str:
        """Send a request with nothing in it; return what is wrong, or nothing."""
        return self._send(self._packed(Request(b"", 0))).problem

    def _encode(self) -> None:
        last: Page | None = None
        wait = 0.0
        while not self._stop.wait(wait):
            began = time.monotonic()
            page = self._page()
            if page is None:
                wait = _FIRST_PAGE
                continue
            try:
                if page is not last:
                    for request in self._encoder.requests(page):
                        self._put(self._packed(request))
            except Exception:
                log.exception("a page could not be encoded for OTLP")
            last = page
            wait = max(0.0, began + self._interval - time.monotonic())

    def _packed(self, request: Request) -> Request:
        return request._replace(body=isal_zlib.compress(request.body, 1, wbits=GZIP)) if self._gzip else request

    def _put(self, request: Request, *, back: bool = False) -> None:
        """Queue a request, or put one back to where it came from; the oldest are dropped for want of room."""
        with self._changed:
            (self._queue.appendleft if back else self._queue.append)(request)
            self.queued_bytes += len(request.body)
            while self.queued_bytes > self._most:
                oldest = self._queue.popleft()
                self.queued_bytes -= len(oldest.body)
                self.dropped += oldest.points
            self._changed.notify_all()

    def _take(self) -> Request | None:
        """Return the oldest request, when there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stop.is_set())
            if self._stop.is_set():
                return None
            request = self._queue.popleft()
            self.queued_bytes -= len(request.body)
            return request

    def _deliver(self) -> None:
        while (request := self._take()) is not None:
            answer = self._send(request)
            self._say(answer.problem)
            if answer.retry:
                self._put(request, back=True)
                self._stop.wait(self._backoff.next(answer.retry_after))
                continue
            self._backoff.reset()
            lost = min(answer.rejected, request.points)
            with self._changed:
                self.dropped += lost
                self.sent += request.points - lost

    def _say(self, problem: str) -> None:
        """Keep what is wrong, and log it when it is another thing than before."""
        if problem != self.problem:
            if problem:
                log.error("OTLP to %s: %s", self.endpoint, problem)
            else:
                log.info("OTLP to %s: works again", self.endpoint)
        self.problem = problem

    def _send(self, request: Request) -> _Answer:
        end = time.monotonic() + self._timeout
        try:
            with self._http.stream("POST", self.endpoint, content=request.body) as response:
                status = response.status_code
                body = b""
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > _ANSWER_BYTES or time.monotonic() > end:
                        break
        except httpx2.TimeoutException:
            return _Answer(f"no answer within {self._timeout:g} s", retry=True)
        except (httpx2.HTTPError, OSError) as error:
            return _Answer(" ".join(str(error).split()) or type(error).__name__, retry=True)
        except Exception as error:
            # What the client has no name for must not end the thread: the next request may do better.
            log.exception("OTLP to %s", self.endpoint)
            return _Answer(f"{type(error).__name__}: {error}", rejected=request.points)
        if status in _RETRYABLE:
            wait = retry_after(response.headers.get("retry-after", ""))
            return _Answer(f"HTTP {status}", retry=True, retry_after=wait)
        if not 200 <= status < 300:
            said = "".join(char for char in refusal(body) if char.isprintable())[:200]
            return _Answer(f"HTTP {status}{': ' if said else ''}{said}", rejected=request.points)
        count, said = rejected(body)
        if count:
            said = "".join(char for char in said if char.isprintable())[:200]
            return _Answer(f"{count} points rejected{': ' if said else ''}{said}", rejected=count)
        return _Answer()
