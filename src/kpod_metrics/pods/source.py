"""What the sources of Kubernetes' pods have in common: the thread, the waits, the pods they know, what they say."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import ClassVar, Protocol, TypeVar

import msgspec

from kpod_metrics.errors import KpodError, RequestError
from kpod_metrics.pods.api import Item, merge, pod_of
from kpod_metrics.pods.model import Pod
from kpod_metrics.retry import Backoff

log = logging.getLogger(__name__)

FORBIDDEN = 3
"""403s in a row that are a missing right, which a person has to give: from then on the waits are long. An API server
that starts answers 403 until it has read its roles."""

MAX_DELETIONS = 10_000
"""Deleted pods that wait for the next poll; 1,000 a minute come in a storm."""


class Server(Protocol):
    """What a source asks for pods: a `client.Client`, which is not imported here as it costs 10 MB of memory."""

    requests: int
    """HTTP requests sent."""

    def get(self, path: str, query: Mapping[str, str], silence: float) -> bytes:
        """Return an answer's body; raises RequestError, also after `silence` seconds without a byte."""
        ...

    def lines(self, path: str, query: Mapping[str, str], silence: float) -> AbstractContextManager[Iterator[bytes]]:
        """Return an answer's lines as they come; raises RequestError as `get`, and for a last line without its end."""
        ...

    def abort(self) -> None:
        """From any thread: end the answer that another thread reads, and every later one."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


Decoded = TypeVar("Decoded")


def decoded(decode: Callable[[bytes | msgspec.Raw], Decoded], body: bytes | msgspec.Raw) -> Decoded:
    """Decode what a server sent; raises RequestError."""
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(f"what the server sent is not what Kubernetes sends: {error}") from None


class Source:
    """Runs `_step` on a thread, over and over; after a failure it waits and connects anew.

    Configuration, certificates and tokens are read with each new connection, so a rotated one is found by itself.
    """

    name = ""
    right = ""
    """The right that is missing if a 403 comes again and again."""
    reasons: ClassVar[Mapping[int, str]] = MappingProxyType(
        {403: "a server that has just started refuses everything for a while"}
    )
    """What else an HTTP status can mean."""

    def __init__(
        self,
        connect: Callable[[], Server],
        node: str,
        *,
        backoff: Backoff | None = None,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        """`connect` may raise KpodError at any time; `pause` waits for so many seconds (default: or until closed)."""
        self.connected = False
        self.relists = 0
        self.deletions_lost = 0
        """Deleted pods that nobody polled for and that made room for newer ones."""
        self._connect = connect
        self._client: Server | None = None
        self._past_requests = 0
        self._node = node
        self._backoff = backoff or Backoff()
        self._closed = threading.Event()
        self._pause = pause or self._closed.wait
        self._lock = threading.RLock()
        self._pods: dict[str, Pod] = {}
        self._view: Mapping[str, Pod] | None = None
        self._deleted: deque[Pod] = deque()
        self._forbidden = 0
        """403s in a row."""
        self._problem = "no answer yet"
        self._since = self._heard = time.monotonic()
        self._listed = False
        self._thread = threading.Thread(target=self._run, name=f"pods-{self.name}", daemon=True)

    @property
    def requests(self) -> int:
        """HTTP requests sent so far, those that failed too."""
        client = self._client
        return self._past_requests + (client.requests if client else 0)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def poll(self) -> tuple[Mapping[str, Pod], tuple[Pod, ...]]:
        """Return the pods by UID, which is not changed later, and those deleted since the last call."""
        with self._lock:
            if self._view is None:
                self._view = MappingProxyType(dict(self._pods))
            deleted = tuple(self._deleted)
            self._deleted.clear()
            return self._view, deleted

    def hurry(self) -> None:
        """Take note that news is wanted; nothing to do where the server tells it by itself."""

    def problem(self) -> str:
        """What does not work and for how long, one line; empty while it works."""
        with self._lock:
            if not self._problem:
                return ""
            now = time.monotonic()
            known = f"pods as of {now - self._heard:.0f} s ago" if self._listed else "no pods yet"
            return f"{self._problem}, for {now - self._since:.0f} s ({known})"

    def close(self) -> None:
        """End; returns within a second. A request that hangs on is left to its timeout."""
        self._closed.set()
        if client := self._client:
            client.abort()
        if self._thread.is_alive():
            self._thread.join(0.9)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                if self._client is None:
                    self._client = self._connect()
                    if self._closed.is_set():  # `close` may have come before there was a client to abort
                        break
                wait = self._step(self._client)
            except Exception as error:  # a defect must not end the thread: without names all is "unresolved"
                wait = self._failed(error)
            if wait > 0:
                self._pause(wait)
        self._disconnect()

    def _step(self, client: Server) -> float:
        """Do the next thing; return the seconds to wait after it. Raises KpodError."""
        raise NotImplementedError

    def _failed(self, error: Exception) -> float:
        """Take note of a failure; return the seconds to wait."""
        self._disconnect()
        if self._closed.is_set():
            return 0.0
        failure = error if isinstance(error, RequestError) else RequestError(str(error) or type(error).__name__)
        text = failure.text
        self._forbidden = self._forbidden + 1 if failure.status == 403 else 0
        slow = self._forbidden >= FORBIDDEN
        if slow:
            text = f"{text}; {self.right}"
        elif reason := self.reasons.get(failure.status):
            text = f"{text}; {reason}"
        with self._lock:
            if not self._problem:
                self._since = time.monotonic()
            if self._problem != text:
                log.warning("source of pods: %s", text, exc_info=None if isinstance(error, KpodError) else error)
            self._problem = text
            self.connected = False
        return self._backoff.next(failure.retry_after, slow=slow)

    def _disconnect(self) -> None:
        if client := self._client:
            self._client = None
            self._past_requests += client.requests
            client.close()

    def _works(self) -> None:
        """Take note that the server answers as it should."""
        self._forbidden = 0
        with self._lock:
            if self._problem and self._listed:
                log.info("source of pods: %s works", self.name)
            self._problem = ""
            self.connected = True
            self._hear()

    def _hear(self) -> None:
        """Take note that the pods are known as of now."""
        self._heard = time.monotonic()

    def _put(self, item: Item) -> None:
        """Add or change a pod; one of another node (a virtual one's, a server that ignores selectors) is left out."""
        if item.spec.node_name != self._node:
            return
        with self._lock:
            old = self._pods.get(item.metadata.uid)
            new = merge(old, pod_of(item))
            if new != old:
                self._pods[new.uid] = new
                self._view = None

    def _remove(self, uid: str) -> None:
        """Take out a pod, if it is known."""
        with self._lock:
            pod = self._pods.pop(uid, None)
            if pod is None:
                return
            self._view = None
            if len(self._deleted) >= MAX_DELETIONS:
                self._deleted.popleft()
                self.deletions_lost += 1
            self._deleted.append(pod)

    def _replace(self, items: Sequence[Item]) -> None:
        """Take a whole list: what it lacks was deleted."""
        listed = {item.metadata.uid for item in items}
        with self._lock:
            for uid in self._pods.keys() - listed:
                self._remove(uid)
            for item in items:
                self._put(item)
            self.relists += self._listed and not self.connected
            self._listed = True
            self._hear()
