"""Pods from the node's own kubelet, by polling: no load on the API server, for very large clusters."""

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from kpod_metrics.pods.source import Listing, Source
from kpod_metrics.pods.stream import Page

if TYPE_CHECKING:
    from kpod_metrics.pods.client import Client

PATH = "/pods"
MIN_INTERVAL = 1.0
"""Seconds between two polls, if a new cgroup without a name needs one."""
POLL_TIMEOUT = 10.0
"""Seconds without a byte after which a poll fails."""
POLL_SECONDS = 60.0
"""Seconds for a poll, from the request to the last byte."""


class KubeletSource(Source):
    """Polls a kubelet's list of its pods.

    After a restart a kubelet lists only its static pods, until it has the others from the API server. So a pod counts
    as deleted after two lists without it.
    """

    name = "kubelet"
    right = (
        "the right to read a kubelet's pods is missing (a ClusterRole with verb get on resource nodes/pods; before "
        "Kubernetes 1.33 nodes/proxy, which allows far more)"
    )
    reasons: ClassVar[Mapping[int, str]] = {
        **Source.reasons,
        401: "the token is not valid, or the API server is down, which the kubelet asks to verify tokens",
    }

    interval = 15.0
    """Mean seconds between two polls; each interval is up to a fifth longer or shorter."""

    def __init__(self, connect: "Callable[[], Client]", node: str, labels: Iterable[str] = ()) -> None:
        super().__init__(connect, node, labels)
        self._hurried = threading.Event()
        self._seen: frozenset[str] = frozenset()
        """UIDs in the last list."""

    def hurry(self) -> None:
        """Poll soon: a pod that starts and ends between two polls would get no name."""
        self._hurried.set()

    def close(self) -> None:
        """Stop."""
        self._closed.set()
        self._hurried.set()
        super().close()

    def pause(self, seconds: float) -> None:
        """Wait for the next poll, less if `hurry` is called. After a failure nothing shortens the wait."""
        soon = min(MIN_INTERVAL, seconds) if self.connected else seconds
        if not self._closed.wait(soon):
            self._hurried.wait(seconds - soon)

    def _step(self, client: "Client") -> float:
        self._hurried.clear()
        listing = Listing()
        with client.chunks(PATH, {}, POLL_TIMEOUT, POLL_SECONDS) as chunks:
            for item in Page(f"{client.where}{PATH}").items(chunks):
                if pod := self._pod(item):
                    listing.add(pod, item.metadata.resource_version)
        now = listing.versions.keys()
        self._replace(listing, self._seen - now)
        self._seen = frozenset(now)
        self._works()
        self.backoff.reset()
        return random.uniform(0.8 * self.interval, 1.2 * self.interval)
