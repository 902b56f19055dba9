"""Pods of this node from the API server, by list and watch.

The server ends a watch after `timeoutSeconds`. The next watch continues at the last version, without a list. If the
server no longer has that version (410), or the stream has an ERROR, all pods are listed and compared with the known
ones, to find the deleted pods.

A list comes from the server's cache (resourceVersion 0). With several API servers one can be behind: a list that is
older than what was seen before would restore deleted pods and lose new ones. Then, and after a 410, the source asks
for a consistent list. Versions are compared as numbers: Kubernetes guarantees this from 1.35 on (KEP-5504), and with
etcd it was always true. Versions that are not numbers are accepted in the order in which they arrive.

Silence is not a failure: the API server sends a bookmark only if its version changed since the watch began, so on a
quiet cluster a healthy watch sends no byte. TCP keepalive detects a lost peer. `silence` detects a server that hangs
while its kernel still answers: then a new watch begins at the same version. Only if that request fails, the source is
disconnected.

If the server's store is restored from a backup, all connections end, and the server sends nothing for a version that
it does not have yet. So the first watch after a failure is short. If it returns nothing, all pods are listed.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kpod_metrics.errors import RequestError, SilenceError, shown
from kpod_metrics.pods import api
from kpod_metrics.pods.source import Listing, Source
from kpod_metrics.pods.stream import Page

if TYPE_CHECKING:
    from kpod_metrics.pods.client import Client

PATH = "/api/v1/pods"
WATCH = (300.0, 600.0)
"""Minimum and maximum seconds of a watch, chosen at random: so a thousand agents do not reconnect together."""
PROBATION = (60.0, 120.0)
"""The same for the first watch after a failure."""
LIST_TIMEOUT = 30.0
"""Seconds without a byte after which a list fails."""
LIST_SECONDS = 60.0
"""Seconds for a list, from the request for its first page to the last byte of its last one."""
MAX_PAGES = 100
"""Pages of a list. Usually there is one, because the agent sets no limit; servers that set one send 500 pods a page."""
WATCH_MARGIN = 60.0
"""Seconds after the end of a watch that the server has to end it."""
MAX_TOMBSTONES = 10_000
"""UIDs of deleted pods that are remembered, so that a late event does not restore one."""

# Statuses of a failed watch after which its version is still valid.
_VERSION_STANDS = frozenset({0, 401, 403, 429, 500, 502, 503})


def is_older(version: str, than: str) -> bool:
    """Whether a resourceVersion is known to be older than another. They have at most 253 characters."""
    numbers = version.isascii() and version.isdigit() and than.isascii() and than.isdigit()
    return numbers and int(version) < int(than)


class KubernetesSource(Source):
    """Lists and watches the pods of one node."""

    name = "kubernetes"
    right = "the right to list and watch pods is missing (a ClusterRole with verbs list, watch on resource pods)"

    silence = WATCH[1] + 10.0
    """Seconds without a byte after which a new watch begins: longer than a watch lasts at a server that works."""
    steady = 60.0
    """Seconds after which a watch counts as successful: else a server that ends each at once would get no backoff."""

    def __init__(self, connect: "Callable[[], Client]", node: str, labels: Iterable[str] = ()) -> None:
        super().__init__(connect, node, labels)
        self._selector = {"fieldSelector": f"spec.nodeName={node}"}
        self._version = ""
        """The newest resourceVersion seen in a list, an event or a bookmark."""
        self._lines = 0
        """Number of events of the last watch."""
        self._must_list = True
        self._doubtful = False
        """Whether there was no event since a failure: the server's store may have been restored from a backup."""
        self._last_list = float("-inf")
        self._versions: dict[str, str] = {}
        self._tombstones: OrderedDict[str, None] = OrderedDict()

    def _step(self, client: "Client") -> float:
        if self._must_list:
            self._list(client)
        began = time.monotonic()
        try:
            self._watch(client)
        except SilenceError:
            self._must_list |= self._doubtful
            self.backoff.reset()
            return 0.0
        except RequestError as failure:
            self._doubtful = True
            self._must_list |= failure.status not in _VERSION_STANDS
            # A server that works can answer 410, and then one list is due; but not again right after a list.
            expired = failure.status == 410 and began - self._last_list >= self.steady
            if expired or time.monotonic() - began >= self.steady:
                self.backoff.reset()
            raise
        self._must_list |= self._doubtful and not self._lines
        if time.monotonic() - began < self.steady:
            return self.backoff.next()
        self.backoff.reset()
        return 0.0

    def _list(self, client: "Client") -> None:
        try:
            listing, version = self._pages(client, {"resourceVersion": "0"})
            consistent = is_older(version, self._version)
        except RequestError as failure:
            if failure.status != 410:
                raise
            consistent = True
        if consistent:
            listing, version = self._pages(client, {})
        self._replace(listing)
        self._versions = listing.versions
        self._tombstones.clear()
        self._version = version
        self._must_list = self._doubtful = False
        self._last_list = time.monotonic()

    def _pages(self, client: "Client", first: dict[str, str]) -> tuple[Listing, str]:
        """Return a complete list and its version. It sets no limit: a node has few pods."""
        listing = Listing()
        where = f"{client.where}{PATH}"
        end = time.monotonic() + LIST_SECONDS
        tokens: set[str] = set()
        more, size = first, 0
        for _ in range(MAX_PAGES):
            page = Page(where, size)
            silence = min(LIST_TIMEOUT, self.silence)
            with client.chunks(PATH, {**self._selector, **more}, silence, end - time.monotonic()) as chunks:
                for item in page.items(chunks):
                    if pod := self._pod(item):
                        listing.add(pod, item.metadata.resource_version)
            if not page.more:
                return listing, page.version
            if page.more in tokens:
                raise RequestError(f"{where}: the list repeats a page")
            tokens.add(page.more)
            more, size = {"continue": page.more}, page.size
        raise RequestError(f"{where}: the list has more than {MAX_PAGES} pages")

    def _watch(self, client: "Client") -> None:
        """Follow the events until the server ends the watch."""
        query = {
            **self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(round(random.uniform(*(PROBATION if self._doubtful else WATCH)))),
        }
        self._lines = 0
        with client.lines(PATH, query, self.silence, WATCH[1] + WATCH_MARGIN) as lines:
            self._works()
            for line in lines:
                self._lines += 1
                self._take(line)
                self._doubtful = False
                self._hear()

    def _remove(self, uid: str) -> None:
        super()._remove(uid)
        self._versions.pop(uid, None)

    def _take(self, line: bytearray) -> None:
        """Process an event of the watch."""
        try:
            event = api.decoded(api.event_of, line)
            if event.type == "ERROR":
                refusal = api.decoded(api.refusal_of, event.object)
                raise RequestError(f"watch of pods: {refusal.code}: {shown(refusal.message)}", refusal.code)
            item = api.decoded(api.item_of, event.object)
        except RequestError:
            # The events after this version are lost: a list has the result.
            self._must_list = True
            raise
        uid, version = item.metadata.uid, item.metadata.resource_version
        if event.type == "DELETED":
            self._remove(uid)
            self._tombstones[uid] = None
            if len(self._tombstones) > MAX_TOMBSTONES:
                self._tombstones.popitem(last=False)
        elif event.type in ("ADDED", "MODIFIED"):
            if uid in self._tombstones or is_older(version, self._versions.get(uid, "")):
                return
            if pod := self._pod(item):
                self._put(pod)
                if uid in self._pods:
                    self._versions[uid] = version
        if not is_older(version, self._version):
            self._version = version
