"""Pushes pages to an OTLP receiver over HTTP, on two threads of its own, so that no cycle waits for the receiver.

One thread encodes the newest page once per interval and queues it, the other sends. If the receiver is busy, a request
is retried with backoff. Points that it rejects, or that do not fit into the queue (the oldest first), are dropped and
counted. As totals are cumulative, a dropped point costs time resolution, but no event.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import httpx2
from isal import isal_zlib

from kpod_metrics import USER_AGENT
from kpod_metrics.errors import shown
from kpod_metrics.exposition.page import Page
from kpod_metrics.exposition.pages import GZIP
from kpod_metrics.http_bounds import Bounds, no_cookies
from kpod_metrics.otlp.encode import Encoder, Request, refusal, rejected
from kpod_metrics.retry import Backoff, retry_after
from kpod_metrics.settings import Settings
from kpod_metrics.tls_client import context

log = logging.getLogger(__name__)

PATH = "/v1/metrics"
QUEUE_BYTES = 4 << 20
"""Size of the queue: 19 compressed pushes of 100 pods in profile comprehensive."""
_MAX_ANSWER_BYTES = 64 << 10
"""Bytes of a receiver's answer that are read. Usually it is empty."""
_MAX_RECEIVED = 256 << 10
"""Bytes of it that may arrive, with all headers."""
_RETRYABLE = frozenset({429, 502, 503, 504})
"""Statuses after which a retry can succeed (opentelemetry.io/docs/specs/otlp, "Retryable")."""
_FIRST_PAGE_INTERVAL = 0.2
"""Seconds between two checks for the first page."""


class _Answer(NamedTuple):
    """The result of a request: `problem` is empty if all points but `rejected` were accepted."""

    problem: str = ""
    retry: bool = False
    retry_after: float = 0.0
    rejected: int = 0


class Exporter:
    """The two threads and their queue."""

    def __init__(self, settings: Settings, page: Callable[[], Page | None], started_ns: int) -> None:
        """`page` returns the newest page. Raises SettingError if a certificate or key is invalid."""
        url = httpx2.URL(settings.otlp_endpoint)
        self.endpoint = str(url if url.path.strip("/") else url.copy_with(path=PATH))
        self._interval = settings.otlp_interval
        self._timeout = settings.otlp_timeout
        self._gzip = settings.otlp_compression == "gzip"
        self._page = page
        self._encoder = Encoder(started_ns, settings.pod_labels)
        self.backoff = Backoff()
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
        self._http = httpx2.Client(
            headers=headers, verify=verify, timeout=httpx2.Timeout(self._timeout), cookies=no_cookies()
        )
        self._bounds = Bounds(self._http)
        self._changed = threading.Condition()
        self._queue: deque[Request] = deque()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.queued_bytes = 0
        self.sent = 0
        """Data points that the receiver accepted."""
        self.dropped = 0
        """Data points that it rejected, or that did not fit into the queue."""
        self.problem = ""
        """Why the last request failed; empty if it succeeded."""

    def start(self) -> None:
        """Start the threads."""
        for run, name in ((self._encode, "otlp-encode"), (self._deliver, "otlp-send")):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
            self._threads[-1].start()

    def stop(self, timeout: float = 0.5) -> None:
        """End the threads; do not wait longer than `timeout` seconds for a request in progress."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            self._http.close()

    def probe(self) -> str:
        """Send an empty request; return the problem, or ""."""
        return self._send(self._packed(Request(b"", 0))).problem

    def _encode(self) -> None:
        last: Page | None = None
        wait = 0.0
        while not self._stop.wait(wait):
            began = time.monotonic()
            page = self._page()
            if page is None:
                wait = _FIRST_PAGE_INTERVAL
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
        """Queue a request, or put it back at the front; if the queue is full, drop the oldest ones."""
        with self._changed:
            (self._queue.appendleft if back else self._queue.append)(request)
            self.queued_bytes += len(request.body)
            while self.queued_bytes > QUEUE_BYTES:
                oldest = self._queue.popleft()
                self.queued_bytes -= len(oldest.body)
                self.dropped += oldest.points
            self._changed.notify_all()

    def _take(self) -> Request | None:
        """Wait for the oldest request and return it; None at the end."""
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
            self._report(answer.problem)
            if answer.retry:
                self._put(request, back=True)
                self._stop.wait(self.backoff.next(answer.retry_after))
                continue
            self.backoff.reset()
            lost = min(answer.rejected, request.points)
            with self._changed:
                self.dropped += lost
                self.sent += request.points - lost

    def _report(self, problem: str) -> None:
        """Keep the problem, and log it if it has changed."""
        if problem != self.problem:
            if problem:
                log.error("OTLP to %s: %s", self.endpoint, problem)
            else:
                log.info("OTLP to %s: works again", self.endpoint)
        self.problem = problem

    def _send(self, request: Request) -> _Answer:
        self._bounds.begin(self._timeout, _MAX_RECEIVED)
        body = bytearray()
        try:
            with (
                self._http.stream("POST", self.endpoint, content=request.body) as response,
                suppress(httpx2.TimeoutException),  # the status counts, even if the body does not end
            ):
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > _MAX_ANSWER_BYTES:
                        break
        except httpx2.TimeoutException:
            return _Answer(f"no answer within {self._timeout:g} s", retry=True)
        except (httpx2.HTTPError, OSError) as error:
            return _Answer(shown(" ".join(str(error).split()) or type(error).__name__), retry=True)
        except Exception as error:
            # An unexpected error must not end the thread: the next request may succeed.
            log.exception("OTLP to %s", self.endpoint)
            return _Answer(shown(f"{type(error).__name__}: {error}"), rejected=request.points)
        status = response.status_code
        if status in _RETRYABLE:
            wait = retry_after(response.headers.get("retry-after", ""))
            return _Answer(f"HTTP {status}", retry=True, retry_after=wait)
        if not 200 <= status < 300:
            text = shown(refusal(bytes(body)))
            return _Answer(f"HTTP {status}{': ' if text else ''}{text}", rejected=request.points)
        count, message = rejected(bytes(body))
        if count:
            text = shown(message)
            return _Answer(f"{count} points rejected{': ' if text else ''}{text}", rejected=count)
        return _Answer()
