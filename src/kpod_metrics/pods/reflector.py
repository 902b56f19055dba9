"""Pods by the API server's list and watch of this node's pods.

A watch is ended by the server after `timeoutSeconds` and taken up at the version it was at: no list. Whenever that
version is gone (410), or the stream says ERROR, all pods are listed anew and compared with those known, so that pods
deleted meanwhile are reported as deleted.

A list is taken from the server's cache (resourceVersion 0). Behind several API servers one may lag: a list that is
older than what was seen before would bring back deleted pods and lose new ones, so then, and after a 410, a
consistent list is asked for. Versions are compared as numbers, which Kubernetes promises from 1.35 on (KEP-5504) and
etcd has always made true; where they are none, they are taken as they come.

Silence is no failure: the API server sends a bookmark only if its version has moved since the watch began, so on a
quiet cluster a healthy watch has no byte until its end. A peer that is gone is found by TCP's keepalive. A server whose
kernel is there while it hangs is found by SILENCE, after which a new watch begins at the same version. Only if that
request fails is the source disconnected.

A store that was set back (a restored backup) goes with an end of all connections. Of a version from the future the
server says nothing at all. So the first watch after a failure is a short one, and if nothing comes of it, all pods are
listed.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Callable

from kpod_metrics.errors import RequestError, SilenceError
from kpod_metrics.pods import api
from kpod_metrics.pods.source import Server, Source, decoded
from kpod_metrics.retry import Backoff

PATH = "/api/v1/pods"
WATCH = (300.0, 600.0)
"""Seconds between which a watch's length is drawn: agents that were started together drift apart."""
PROBATION = (60.0, 120.0)
"""The same for the first watch after a failure."""
SILENCE = WATCH[1] + 10.0
"""Seconds without a byte after which a new watch begins: longer than any watch lasts where the server works."""
STEADY = 60.0
"""Seconds that a watch must last to count as working: a server that ends each at once is not asked at full speed."""
LIST_TIMEOUT = 30.0
"""Seconds without a byte after which a list is given up."""
MAX_TOMBSTONES = 10_000
"""UIDs of deleted pods that are remembered, so that a late event does not bring one back."""

# Failures of a watch that say nothing of its version.
_VERSION_STANDS = frozenset({0, 401, 403, 429, 500, 502, 503})


def is_older(version: str, than: str) -> bool:
    """Whether a resourceVersion is known to be older than another."""
    numbers = version.isascii() and version.isdigit() and than.isascii() and than.isdigit()
    return numbers and int(version) < int(than)


class KubernetesSource(Source):
    """Lists and watches the pods of one node."""

    name = "kubernetes"
    right = "the right to list and watch pods is missing (a ClusterRole with verbs list, watch on resource pods)"

    def __init__(
        self,
        connect: Callable[[], Server],
        node: str,
        *,
        backoff: Backoff | None = None,
        pause: Callable[[float], object] | None = None,
        silence: float = SILENCE,
        steady: float = STEADY,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        super().__init__(connect, node, backoff=backoff, pause=pause)
        self._silence = silence
        self._steady = steady
        self._uniform = uniform
        self._selector = {"fieldSelector": f"spec.nodeName={node}"}
        self._version = ""
        """The newest resourceVersion seen in a list, an event or a bookmark."""
        self._lines = 0
        """Events of the last watch."""
        self._must_list = True
        self._doubtful = False
        """Whether nothing came from the server since a failure: its store may have been set back."""
        self._last_list = float("-inf")
        self._versions: dict[str, str] = {}
        self._tombstones: OrderedDict[str, None] = OrderedDict()

    def _step(self, client: Server) -> float:
        if self._must_list:
            self._list(client)
        began = time.monotonic()
        try:
            self._watch(client)
        except SilenceError:
            self._must_list |= self._doubtful
            self._backoff.reset()
            return 0.0
        except RequestError as failure:
            self._doubtful = True
            self._must_list |= failure.status not in _VERSION_STANDS
            # A 410 is the answer of a server that works, and one list is due; not so if there was one just now.
            expired = failure.status == 410 and began - self._last_list >= self._steady
            if expired or time.monotonic() - began >= self._steady:
                self._backoff.reset()
            raise
        self._must_list |= self._doubtful and not self._lines
        if time.monotonic() - began < self._steady:
            return self._backoff.next()
        self._backoff.reset()
        return 0.0

    def _list(self, client: Server) -> None:
        try:
            items, version = self._pages(client, {"resourceVersion": "0"})
            consistent = is_older(version, self._version)
        except RequestError as failure:
            if failure.status != 410:
                raise
            consistent = True
        if consistent:
            items, version = self._pages(client, {})
        self._replace(items)
        self._versions = {item.metadata.uid: item.metadata.resource_version for item in items}
        self._tombstones.clear()
        self._version = version
        self._must_list = self._doubtful = False
        self._last_list = time.monotonic()

    def _pages(self, client: Server, first: dict[str, str]) -> tuple[list[api.Item], str]:
        """Return a whole list and its version. No limit is asked for: a node's pods are few."""
        items: list[api.Item] = []
        more = first
        while True:
            page = decoded(api.items_of, client.get(PATH, {**self._selector, **more}, min(LIST_TIMEOUT, self._silence)))
            items += page.items or ()
            if not page.metadata.more:
                return items, page.metadata.resource_version
            more = {"continue": page.metadata.more}

    def _watch(self, client: Server) -> None:
        """Follow the events until the server ends the watch."""
        query = {
            **self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(round(self._uniform(*(PROBATION if self._doubtful else WATCH)))),
        }
        self._lines = 0
        with client.lines(PATH, query, self._silence) as lines:
            self._works()
            for line in lines:
                self._lines += 1
                self._take(line)
                self._doubtful = False
                self._hear()

    def _take(self, line: bytes) -> None:
        """Take an event of the watch."""
        try:
            event = decoded(api.event_of, line)
            if event.type == "ERROR":
                refusal = decoded(api.refusal_of, event.object)
                raise RequestError(f"watch of pods: {refusal.code}: {refusal.message}", refusal.code)
            item = decoded(api.item_of, event.object)
        except RequestError:
            # Whatever it was, the events after this version are not to be had: a list is.
            self._must_list = True
            raise
        uid, version = item.metadata.uid, item.metadata.resource_version
        if event.type == "DELETED":
            self._remove(uid)
            self._versions.pop(uid, None)
            self._tombstones[uid] = None
            if len(self._tombstones) > MAX_TOMBSTONES:
                self._tombstones.popitem(last=False)
        elif event.type in ("ADDED", "MODIFIED"):
            if uid in self._tombstones or is_older(version, self._versions.get(uid, "")):
                return
            self._put(item)
            self._versions[uid] = version
        if not is_older(version, self._version):
            self._version = version
