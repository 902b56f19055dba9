"""Pods by polling the node's own kubelet: no load on the API server, for clusters where that is what counts."""

import random
import threading
from collections.abc import Callable, Mapping
from typing import ClassVar

from kpod_metrics.pods import api
from kpod_metrics.pods.source import Server, Source, decoded
from kpod_metrics.retry import Backoff

PATH = "/pods"
INTERVAL = 15.0
"""Seconds between two polls, on average; each is up to a fifth more or less."""
SOON = 1.0
"""Seconds at least between two polls, where a new cgroup calls for one."""
POLL_TIMEOUT = 10.0
"""Seconds without a byte after which a poll is given up."""


class KubeletSource(Source):
    """Polls a kubelet's list of its pods.

    A kubelet that was just restarted lists its static pods only, until it heard from the API server: so a pod is
    deleted when two lists in a row are without it.
    """

    name = "kubelet"
    right = (
        "the right to read a kubelet's pods is missing (a ClusterRole with verb get on resource nodes/pods, which "
        "kubelets know from 1.33 on; on older ones nodes/proxy, which is much more)"
    )
    reasons: ClassVar[Mapping[int, str]] = {
        **Source.reasons,
        401: "the token is not valid, or the API server is down: the kubelet asks it whose the token is",
    }

    def __init__(
        self,
        connect: Callable[[], Server],
        node: str,
        *,
        backoff: Backoff | None = None,
        pause: Callable[[float], object] | None = None,
        interval: float = INTERVAL,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        super().__init__(connect, node, backoff=backoff, pause=pause or self._rest)
        self._hurried = threading.Event()
        self._interval = interval
        self._uniform = uniform
        self._seen: dict[str, api.Item] = {}

    def hurry(self) -> None:
        """Poll soon: a pod that comes and goes between two polls would have no name."""
        self._hurried.set()

    def close(self) -> None:
        """End."""
        self._closed.set()
        self._hurried.set()
        super().close()

    def _rest(self, seconds: float) -> None:
        """Wait for the next poll, or less if one is wanted; after a failure nothing shortens the wait."""
        soon = min(SOON, seconds) if self.connected else seconds
        if not self._closed.wait(soon):
            self._hurried.wait(seconds - soon)

    def _step(self, client: Server) -> float:
        self._hurried.clear()
        items = decoded(api.items_of, client.get(PATH, {}, POLL_TIMEOUT)).items or []
        now = {item.metadata.uid: item for item in items}
        self._replace([*(item for uid, item in self._seen.items() if uid not in now), *items])
        self._seen = now
        self._works()
        self._backoff.reset()
        return self._uniform(0.8 * self._interval, 1.2 * self._interval)
