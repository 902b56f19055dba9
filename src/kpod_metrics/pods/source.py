"""Base of the sources of Kubernetes' pods: the thread, the retries, the known pods, the reported problem."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from kpod_metrics.errors import KpodError, RequestError
from kpod_metrics.pods.api import Item, Labels, decoded, merge, pod_of
from kpod_metrics.pods.model import Pod
from kpod_metrics.retry import Backoff

if TYPE_CHECKING:  # this import takes 10 MB of memory, see `discovery`
    from kpod_metrics.pods.client import Client

log = logging.getLogger(__name__)

FORBIDDEN = 3
"""After so many consecutive 403 responses the right is missing, and retries are rare, because a person must grant it.
An API server that is starting answers 403 until it has loaded its roles."""

MAX_PODS = 10_000
"""Pods that are known at once. A node has some hundred, the most that a distribution supports are 2,500; but a cluster
keeps 12,500 ended pods, and they may be of one node."""

MAX_DELETIONS = 10_000
"""Deleted pods that are kept for the next poll; on a busy node 1,000 pods a minute start and end."""


class Listing:
    """The pods of a list: at most MAX_PODS, and of ended ones only as many as there is room for."""

    def __init__(self) -> None:
        self._running: dict[str, Pod] = {}
        self._ended: dict[str, Pod] = {}
        self.versions: dict[str, str] = {}
        """The resourceVersion of each pod, by UID."""
        self.excess = 0
        """Number of pods beyond MAX_PODS."""

    def add(self, pod: Pod, version: str) -> None:
        """Add a pod of the list."""
        into = self._ended if pod.ended else self._running
        if pod.uid not in into and len(into) >= MAX_PODS:
            self.excess += not pod.ended
            return
        into[pod.uid] = pod
        self.versions[pod.uid] = version

    def __iter__(self) -> Iterator[Pod]:
        """Iterate over the pods, those that run first."""
        return iter((*self._running.values(), *self._ended.values()))


class Source:
    """Runs `_step` on a thread in a loop. After a failure it waits and connects again.

    It reads configuration, certificates and tokens again with every new connection, because they can be rotated.
    """

    name = ""
    right = ""
    """The right that is missing if every response is 403."""
    reasons: ClassVar[Mapping[int, str]] = MappingProxyType(
        {403: "a server that has just started refuses all requests for some time"}
    )
    """Other possible reasons for an HTTP status."""

    def __init__(self, connect: "Callable[[], Client]", node: str, labels: Iterable[str] = ()) -> None:
        """`connect` may raise KpodError; `labels` are those of pods that the settings need."""
        self.connected = False
        self.relists = 0
        """How often all pods were listed again after a failure."""
        self.deletions_lost = 0
        """Deleted pods that were dropped before the agent polled."""
        self.excess = 0
        """Reports of pods that were dropped because MAX_PODS are known."""
        self._full = False
        """Whether the last list had more than MAX_PODS, or an event since."""
        self._connect = connect
        self._client: Client | None = None
        self._past_requests = 0
        self._node = node
        self._labels = Labels(labels)
        self.backoff = Backoff()
        self._closed = threading.Event()
        self._lock = threading.RLock()
        self._pods: dict[str, Pod] = {}
        self._view: Mapping[str, Pod] | None = None
        self._deleted: deque[Pod] = deque()
        self._forbidden = 0
        """Consecutive 403 responses."""
        self._problem = "no answer yet"
        self._since = self._heard = time.monotonic()
        self._listed = False
        self._thread = threading.Thread(target=self._run, name=f"pods-{self.name}", daemon=True)

    @property
    def requests(self) -> int:
        """HTTP requests so far, with the failed ones."""
        client = self._client
        return self._past_requests + (client.requests if client else 0)

    def start(self) -> None:
        """Start the thread; returns immediately."""
        self._thread.start()

    def poll(self) -> tuple[Mapping[str, Pod], tuple[Pod, ...]]:
        """Return the pods by UID (this mapping does not change later), and those deleted since the last call.

        A pod that started and was deleted between two calls is among the deleted ones.
        """
        with self._lock:
            if self._view is None:
                self._view = MappingProxyType(dict(self._pods))
            deleted = tuple(self._deleted)
            self._deleted.clear()
            return self._view, deleted

    def pause(self, seconds: float) -> None:
        """Wait; return early when closed."""
        self._closed.wait(seconds)

    def hurry(self) -> None:
        """Ask for news soon. Nothing to do here: the server sends news by itself."""

    def problem(self) -> str:
        """The current problem and how long it lasts, in one line; empty if there is none."""
        with self._lock:
            if not self._problem:
                return f"more than {MAX_PODS} pods: those beyond have no names" if self._full else ""
            now = time.monotonic()
            known = f"pods as of {now - self._heard:.0f} s ago" if self._listed else "no pods yet"
            return f"{self._problem}, for {now - self._since:.0f} s ({known})"

    def close(self) -> None:
        """Stop; returns within a second. A request that hangs ends at its timeout."""
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
                    if self._closed.is_set():  # `close` may have been called before there was a client to abort
                        break
                wait = self._step(self._client)
            except Exception as error:  # a defect must not end the thread: no pod would get a name
                wait = self._failed(error)
            if wait > 0:
                self.pause(wait)
        self._disconnect()

    def _step(self, client: "Client") -> float:
        """Do one step; return the seconds to wait after it. Raises KpodError."""
        raise NotImplementedError

    def _failed(self, error: Exception) -> float:
        """Record a failure; return the seconds to wait."""
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
        return self.backoff.next(failure.retry_after, slow=slow)

    def _disconnect(self) -> None:
        if client := self._client:
            self._client = None
            self._past_requests += client.requests
            client.close()

    def _works(self) -> None:
        """Record that the server works."""
        self._forbidden = 0
        with self._lock:
            if self._problem and self._listed:
                log.info("source of pods: %s works", self.name)
            self._problem = ""
            self.connected = True
            self._hear()

    def _hear(self) -> None:
        """Record that the known pods are up to date now."""
        self._heard = time.monotonic()

    def _pod(self, item: Item) -> Pod | None:
        """Translate a pod. None if it is of another node: some servers ignore the field selector."""
        if item.spec.node_name != self._node:
            return None
        return decoded(pod_of, item, self._labels)

    def _put(self, pod: Pod) -> None:
        """Add or change a pod, if there is room; ended pods make room for others."""
        with self._lock:
            old = self._pods.get(pod.uid)
            if old is None and len(self._pods) >= MAX_PODS:
                if pod.ended:
                    return
                for ended in [one for one in self._pods.values() if one.ended]:
                    self._remove(ended.uid)
                if len(self._pods) >= MAX_PODS:
                    self._drop(1)
                    return
            new = merge(old, pod)
            if new != old:
                self._pods[new.uid] = new
                self._view = None

    def _drop(self, number: int) -> None:
        self.excess += number
        if number and not self._full:
            log.warning("source of pods: more than %d pods: those beyond have no names", MAX_PODS)
        self._full = number > 0

    def _remove(self, uid: str) -> None:
        """Remove a pod, if it is known."""
        with self._lock:
            pod = self._pods.pop(uid, None)
            if pod is None:
                return
            self._view = None
            if len(self._deleted) >= MAX_DELETIONS:
                self._deleted.popleft()
                self.deletions_lost += 1
            self._deleted.append(pod)

    def _replace(self, listing: Listing, spared: Collection[str] = ()) -> None:
        """Take a complete list: known pods that are neither in it nor `spared` were deleted."""
        with self._lock:
            for uid in self._pods.keys() - listing.versions.keys() - set(spared):
                self._remove(uid)
            self._drop(listing.excess)
            for pod in listing:
                self._put(pod)
            self.relists += self._listed and not self.connected
            self._listed = True
            self._hear()
