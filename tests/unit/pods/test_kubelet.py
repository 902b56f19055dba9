"""The kubelet's list of its pods, polled: what is deleted, what a restarted kubelet forgets, what is refused."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kpod_metrics.pods import kubelet
from kpod_metrics.pods.client import Client
from kpod_metrics.pods.kubelet import KubeletSource
from kpod_metrics.retry import Backoff
from testkit.apiserver import ApiServer
from tests.unit.pods.conftest import NODE, Follower, Waits, until

Follow = Callable[..., Follower]


@pytest.fixture
def follow(connect: Callable[[], Client]) -> Iterator[Follow]:
    """Start a source that polls without a break; it is closed in the end."""
    followers: list[Follower] = []

    def start(**arguments: Any) -> Follower:
        quick: dict[str, Any] = {"backoff": Backoff(0.005, 0.02), "interval": 0.01}
        source = KubeletSource(connect, NODE)
        followers.append(Follower(source))
        for name, value in (quick | arguments).items():
            setattr(source, name, value)
        source.start()
        return followers[-1]

    yield start
    for follower in followers:
        follower.source.close()
        assert not follower.source._thread.is_alive()


def test_pods_come_change_and_go(server: ApiServer, follow: Follow) -> None:
    following = follow()
    following.sees()
    server.create_pod("a", uid="u1", labels={"pod-template-hash": "x"}, owner=("ReplicaSet", "a-x"))
    server.create_pod("virtual", node="virtual-kubelet")
    server.create_pod("etcd", uid="u2", static_hash="6f1a")
    following.sees("a", "etcd")
    ids = tuple(server.run_container("default", "a", "app") for _ in range(3))
    until(lambda: following.pod("a").containers[0].restarts == 2)
    assert following.pod("a").containers[0].ids[-2:] == ids[-2:]
    assert (following.pod("a").owner_kind, following.pod("a").owner) == ("Deployment", "a")
    static = following.pods()["6f1a"]
    assert (static.cgroup_uid, static.owner_kind, static.owner) == ("6f1a", "Node", NODE)
    server.delete_pod("default", "a")
    following.sees("etcd", deleted=("a",))
    assert following.source.relists == 0
    assert following.source.problem() == ""


def test_pod_that_one_list_lacks_is_not_deleted(server: ApiServer, connect: Callable[[], Client]) -> None:
    """A kubelet that was restarted lists no pods until it heard of them again."""
    following = Follower(KubeletSource(connect, NODE))
    client = connect()

    def after_a_poll() -> list[str]:
        following.source._step(client)
        return following.names()

    server.create_pod("a", uid="u1")
    assert after_a_poll() == ["a"]
    server.delete_pod("default", "a")
    assert after_a_poll() == ["a"]
    server.create_pod("a", uid="u1")
    assert after_a_poll() == ["a"]
    server.delete_pod("default", "a")
    assert after_a_poll() == ["a"]
    assert following.deleted == []
    assert after_a_poll() == []
    assert [pod.uid for pod in following.deleted] == ["u1"]
    assert after_a_poll() == []
    assert len(following.deleted) == 1
    client.close()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "/pods: 401: Unauthorized; the token is not valid, or the API server is down, which the kubelet asks"),
        (403, "verb get on resource nodes/pods; before Kubernetes 1.33 nodes/proxy"),
        (500, "/pods: 500: "),
    ],
)
def test_refused(server: ApiServer, follow: Follow, status: int, said: str) -> None:
    server.create_pod("a")
    following = follow()
    following.sees("a")
    server.fail(status, times=10**6, message="Unauthorized" if status == 401 else "no")
    until(lambda: said in following.source.problem())
    assert not following.source.connected
    assert following.names() == ["a"]
    server.heal()
    following.sees("a")
    assert following.source.problem() == ""
    assert following.source.relists == 1


def test_absent_for_a_while(server: ApiServer, follow: Follow) -> None:
    server.create_pod("a")
    following = follow()
    following.sees("a")
    server.stop()
    until(lambda: "Connection refused" in following.source.problem())
    server.delete_pod("default", "a")
    server.create_pod("b")
    server.start()
    following.sees("b", deleted=("a",))


def test_polls_are_jittered(server: ApiServer, follow: Follow) -> None:
    waits = Waits()
    waits.most = 50
    follow(pause=waits, interval=15.0)
    until(lambda: len(waits.seconds) == 50)
    assert all(12 <= wait <= 18 for wait in waits.seconds)
    assert len(set(waits.seconds)) == 50
    assert 200 < 3600 * 50 / sum(waits.seconds) < 290, "requests an hour"


def test_new_cgroup_calls_for_a_poll(server: ApiServer, follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for more than one in so many seconds, and not while the kubelet does not answer."""
    monkeypatch.setattr(kubelet, "MIN_INTERVAL", 0.2)
    following = follow(interval=3600.0)
    following.sees()
    server.create_pod("a")
    following.source.hurry()
    following.sees("a")
    assert len(server.asked("list")) == 2
    began = time.monotonic()
    while len(server.asked("list")) < 6:
        following.source.hurry()
        time.sleep(0.002)
    assert time.monotonic() - began >= 3 * 0.2


def test_hurry_does_not_shorten_the_wait_after_a_failure(server: ApiServer, follow: Follow) -> None:
    server.fail(500, times=10**6)
    following = follow(backoff=Backoff(3600.0, 3600.0, uniform=lambda _, high: high))
    until(lambda: "500" in following.source.problem())
    for _ in range(50):
        following.source.hurry()
        time.sleep(0.002)
    assert len(server.asked("list")) == 1
