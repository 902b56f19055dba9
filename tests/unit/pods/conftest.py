"""A fake API server, a kubeconfig that leads to it, and one that follows a source as the agent does."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpod_metrics.pods.client import Client, to_server
from kpod_metrics.pods.model import Pod
from kpod_metrics.pods.reflector import KubernetesSource
from kpod_metrics.retry import Backoff
from kpod_metrics.settings import Settings
from testkit.apiserver import ApiServer

NODE = "node-1"
TIMEOUT = 60.0
"""Seconds until a test gives up; no test needs a tenth of it."""


def until(true: Callable[[], object], what: str = "") -> None:
    """Wait until something is true."""
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end, f"in vain: {what or true}"
        time.sleep(0.003)


def fetched(client: Client, path: str) -> bytes:
    """The body of a response."""
    with client.chunks(path, {}, 5.0, 60.0) as chunks:
        return b"".join(chunks)


class Follower:
    """Polls a source and keeps what it was told was deleted."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.deleted: list[Pod] = []

    def pods(self) -> Mapping[str, Pod]:
        pods: Mapping[str, Pod]
        pods, deleted = self.source.poll()
        self.deleted += deleted
        return pods

    def names(self) -> list[str]:
        return sorted(pod.name for pod in self.pods().values())

    def sees(self, *names: str, deleted: tuple[str, ...] = ()) -> None:
        """Wait for exactly these pods; then exactly those were deleted so far, each once."""
        until(
            lambda: self.source.connected and self.names() == sorted(names),
            f"pods {names}, got {self.names()}: {self.source.problem()}",
        )
        assert sorted(pod.name for pod in self.deleted) == sorted(deleted)

    def pod(self, name: str) -> Pod:
        return next(pod for pod in self.pods().values() if pod.name == name)


class Waits:
    """Stands for the waits between attempts: notes how long each would be, and takes no time."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.most = 10**6
        self._enough = threading.Event()

    def __call__(self, seconds: float) -> None:
        if len(self.seconds) >= self.most:
            self._enough.wait(0.01)
            return
        self.seconds.append(seconds)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """The file of the client's token, as the kubelet writes it."""
    path = tmp_path / "token"
    path.write_text("first")
    return path


def kubeconfig(path: Path, url: str, user: Mapping[str, Any] | None = None, **cluster: Any) -> str:
    """Write a kubeconfig; return its path."""
    tree = {
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "test", "user": dict(user or {})}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path.write_text(yaml.safe_dump(tree))
    return str(path)


@pytest.fixture
def connect(server: ApiServer, token: Path, tmp_path: Path) -> Callable[[], Client]:
    # Without the system's CAs, which take 25 ms to load for every client.
    without = {"insecure-skip-tls-verify": True}
    file = kubeconfig(tmp_path / "kubeconfig", server.url, {"tokenFile": str(token)}, **without)
    return partial(to_server, Settings(kubeconfig=file, node_name=NODE))


@pytest.fixture
def follow(connect: Callable[[], Client]) -> Iterator[Callable[..., Follower]]:
    """Start a source that loses no time; it is closed in the end."""
    followers: list[Follower] = []

    def start(**arguments: Any) -> Follower:
        quick: dict[str, Any] = {"backoff": Backoff(0.005, 0.02), "steady": 0.0, "silence": 5.0}
        source = KubernetesSource(connect, NODE, ("app",))
        followers.append(Follower(source))
        for name, value in (quick | arguments).items():
            setattr(source, name, value)
        source.start()
        return followers[-1]

    yield start
    for follower in followers:
        follower.source.close()
        assert not follower.source._thread.is_alive()
