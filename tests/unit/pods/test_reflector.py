"""The API server's list and watch, through every fault of one: the right pods in the end, each deletion told once."""

import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kpod_metrics.pods import reflector, source
from kpod_metrics.pods.client import Client, to_server
from kpod_metrics.pods.reflector import KubernetesSource, is_older
from kpod_metrics.retry import Backoff
from kpod_metrics.settings import Settings
from testkit.apiserver import ApiServer
from tests.unit.pods.conftest import NODE, Follower, Waits, kubeconfig, until

Follow = Callable[..., Follower]


def watching(server: ApiServer) -> None:
    until(lambda: server.watches == 1, "a watch")


# What it sees


def test_pods_come_change_and_go(server: ApiServer, follow: Follow) -> None:
    server.create_pod("a", namespace="shop", uid="u1", labels={"app": "a"}, owner=("Job", "j"))
    first = server.run_container("shop", "a", "app")
    following = follow()
    following.sees("a")
    before = following.pods()
    pod = before["u1"]
    assert (pod.namespace, pod.owner_kind, pod.owner, pod.labels) == ("shop", "Job", "j", {"app": "a"})
    second = server.run_container("shop", "a", "app")
    until(lambda: following.pod("a").containers[0].restarts == 1)
    assert following.pod("a").containers[0].ids == (first, second)
    assert before["u1"].containers[0].ids == (first,), "a mapping that was given out has changed"
    server.create_pod("b")
    following.sees("a", "b")
    server.delete_pod("shop", "a")
    following.sees("b", deleted=("a",))
    assert following.deleted[0].containers[0].ids == (first, second)
    assert following.source.problem() == ""
    assert [request.query["resourceVersion"] for request in server.asked("list")] == ["0"]
    assert len(server.asked("watch")) == 1
    assert following.source.requests == 2
    assert following.source.relists == 0


def test_what_is_asked(server: ApiServer, follow: Follow) -> None:
    follow()
    watching(server)
    listed, watched = server.asked("list")[0].query, server.asked("watch")[0].query
    assert listed == {"resourceVersion": "0", "fieldSelector": f"spec.nodeName={NODE}"}
    assert 300 <= int(watched.pop("timeoutSeconds")) <= 600
    assert watched == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "1000",
        "fieldSelector": f"spec.nodeName={NODE}",
    }


def test_same_name_again_is_another_pod(server: ApiServer, follow: Follow) -> None:
    server.create_pod("db-0", uid="u1")
    following = follow()
    following.sees("db-0")
    server.delete_pod("default", "db-0")
    server.create_pod("db-0", uid="u2")
    until(lambda: list(following.pods()) == ["u2"])
    assert [pod.uid for pod in following.deleted] == ["u1"]


def test_short_life_between_two_polls_is_told(server: ApiServer, follow: Follow) -> None:
    following = follow()
    watching(server)
    server.create_pod("short")
    container = server.run_container("default", "short", "app")
    server.delete_pod("default", "short")
    until(lambda: following.pods() is not None and following.deleted)
    following.sees(deleted=("short",))
    assert following.deleted[0].containers[0].ids == (container,)


def test_deletions_that_nobody_asks_for_are_bounded_and_counted(
    server: ApiServer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_DELETIONS", 3)
    for number in range(5):
        server.create_pod(f"p{number}")
    following = follow()
    watching(server)
    for number in range(5):
        server.delete_pod("default", f"p{number}")
    until(lambda: following.source.deletions_lost == 2)
    following.sees(deleted=("p2", "p3", "p4"))


def test_terminal_pod_stays_until_deleted(server: ApiServer, follow: Follow) -> None:
    server.create_pod("done")
    following = follow()
    following.sees("done")
    version = server.update_pod("default", "done", lambda pod: pod["status"].update(phase="Succeeded"))
    server.create_pod("later")
    following.sees("done", "later")
    assert version["status"]["phase"] == "Succeeded"


def test_pods_of_other_nodes_are_left_out(server: ApiServer, follow: Follow) -> None:
    """A server that ignores the selector, and virtual nodes, whose pods run elsewhere."""
    server.ignores_selectors = True
    server.create_pod("virtual", node="virtual-kubelet")
    server.create_pod("mine")
    following = follow()
    following.sees("mine")
    server.create_pod("virtual-2", node="virtual-kubelet")
    server.create_pod("mine-2")
    following.sees("mine", "mine-2")
    server.delete_pod("default", "virtual")
    server.delete_pod("default", "mine")
    following.sees("mine-2", deleted=("mine",))


def test_pod_that_is_scheduled_later_is_seen(server: ApiServer, follow: Follow) -> None:
    server.create_pod("pending", node="")
    following = follow()
    following.sees()
    server.update_pod("default", "pending", lambda pod: pod["spec"].update(nodeName=NODE))
    following.sees("pending")


def test_pages(server: ApiServer, follow: Follow) -> None:
    server.page_size = 3
    for number in range(10):
        server.create_pod(f"p{number}")
    follow().sees(*(f"p{number}" for number in range(10)))
    queries = [request.query for request in server.asked("list")]
    assert ["continue" in query for query in queries] == [False, True, True, True]
    assert all(("continue" in query) != ("resourceVersion" in query) for query in queries)


def test_events_in_small_pieces(server: ApiServer, follow: Follow) -> None:
    server.chunk_size, server.chunk_delay = 1000, 0.001
    following = follow()
    watching(server)
    for number in range(5):
        server.create_pod(f"ü{number}")
    following.sees(*(f"ü{number}" for number in range(5)))
    assert len(server.asked("watch")) == 1


# Faults


@pytest.mark.parametrize("cleanly", [False, True])
def test_cut_in_mid_event(server: ApiServer, follow: Follow, cleanly: bool) -> None:
    server.create_pod("a")
    following = follow()
    following.sees("a")
    watching(server)
    server.end_watches(b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"na', cleanly)
    server.delete_pod("default", "a")
    server.create_pod("b")
    following.sees("b", deleted=("a",))
    assert len(server.asked("list")) == 1, "the watch goes on where it was"


def test_hang_without_bytes(server: ApiServer, follow: Follow) -> None:
    server.create_pod("a")
    following = follow(silence=0.15)
    following.sees("a")
    watching(server)
    server.hang_watches()
    server.delete_pod("default", "a")
    server.create_pod("b")
    following.sees("b", deleted=("a",))


def quiet(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings that were logged."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_silence_of_a_quiet_cluster_is_no_failure(
    server: ApiServer, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    """The server sends no bookmark while its version does not move: watch again at the same version."""
    server._bookmark_interval = 0.01
    server.create_pod("a")
    following = follow(silence=0.3)
    following.sees("a")
    states: set[tuple[bool, str]] = set()
    while len(server.asked("watch")) <= 5:
        states.add((following.source.connected, following.source.problem()))
        time.sleep(0.003)
    assert states == {(True, "")}
    assert len(server.asked("list")) == 1
    assert {request.query["resourceVersion"] for request in server.asked("watch")} == {str(server.version)}
    assert following.source.relists == 0
    assert quiet(caplog) == []
    server.create_pod("b")
    following.sees("a", "b")


def test_silence_and_a_new_watch_that_fails(server: ApiServer, follow: Follow) -> None:
    """As of a peer that is gone: its connections are silent, and new ones are not made."""
    server.create_pod("a")
    following = follow(silence=0.5)
    following.sees("a")
    watching(server)
    server.hang_watches()
    server.fail(500, "watch", times=10**6)
    until(lambda: "500: injected" in following.source.problem())
    assert not following.source.connected
    assert len(server.asked("list")) == 1


def test_peer_that_is_gone_is_looked_for(server: ApiServer, follow: Follow) -> None:
    following = follow()
    watching(server)
    until(lambda: following.source._client._socket)
    connection = following.source._client._socket
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    assert [connection.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [30, 10, 3]


def test_names_are_as_of_the_last_event(server: ApiServer, follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events and bookmarks move the time that a problem tells later."""
    server._bookmark_interval = 0.01
    clock = [1000.0]
    monkeypatch.setattr(source, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    following = follow()
    until(lambda: server.watches == 1 and following.source._heard == 1000.0, "a watch")
    clock[0] = 1100.0
    server.create_pod("a")
    until(lambda: following.source._heard == 1100.0, "an event")
    clock[0] = 1200.0
    until(lambda: following.source._heard == 1200.0, "a bookmark")
    clock[0] = 1250.0
    server.fail(500, times=10**6)
    server.end_watches()
    until(following.source.problem)
    assert following.source.problem().endswith(", for 0 s (pods as of 50 s ago)")


def test_hang_before_any_answer(server: ApiServer, follow: Follow) -> None:
    """Its port is open and nobody speaks, as of a server that is stopped by a debugger or out of memory."""
    port = server.port
    server.stop()
    with socket.create_server(("127.0.0.1", port), reuse_port=True):
        following = follow(silence=0.5)
        until(lambda: "no answer (ReadTimeout)" in following.source.problem())
        assert not following.source.connected
    server.create_pod("a")
    server.start()
    following.sees("a")


def test_rotated_token(server: ApiServer, follow: Follow, token: Path) -> None:
    server.tokens = {"first"}
    server.create_pod("a")
    following = follow()
    following.sees("a")
    watching(server)
    token.write_text("second\n")
    server.tokens = {"second"}
    server.end_watches(cleanly=True)
    server.create_pod("b")
    following.sees("a", "b")
    assert following.source.problem() == ""
    assert [request.authorization for request in server.asked("watch")] == [
        "Bearer first",
        "Bearer first",
        "Bearer second",
    ]
    assert len(server.asked("list")) == 1


def test_token_that_is_rotated_late(server: ApiServer, follow: Follow, token: Path) -> None:
    server.tokens = {"second"}
    server.create_pod("a")
    following = follow()
    until(lambda: "401: Unauthorized" in following.source.problem())
    assert not following.source.connected
    token.unlink()
    until(lambda: "cannot be read: No such file" in following.source.problem())
    token.write_text("second")
    following.sees("a")


@pytest.mark.parametrize("kind", ["list", "watch"])
def test_missing_right(server: ApiServer, follow: Follow, kind: str) -> None:
    server.create_pod("a")
    server.fail(403, kind, times=10**6, message='pods is forbidden: User "x" cannot list resource "pods"')
    waits = Waits()
    waits.most = 5
    following = follow(pause=waits, backoff=Backoff(uniform=lambda _, high: high), steady=60.0)
    until(lambda: len(waits.seconds) == 5)
    problem = following.source.problem()
    assert '/api/v1/pods: 403: pods is forbidden: User "x" cannot list resource "pods"; the right to list' in problem
    assert "verbs list, watch on resource pods" in problem
    assert "\n" not in problem
    assert waits.seconds == [1.0, 2.0, 60.0, 60.0, 60.0], "slow from the third in a row"
    server.heal()
    waits.most = 10**6
    following.sees("a")
    assert following.source.problem() == ""


def test_forbidden_by_a_server_that_starts(server: ApiServer, follow: Follow) -> None:
    """It has not read its roles yet: no long wait, and no word of a missing right."""
    server.create_pod("a")
    waits = Waits()
    following = follow(pause=waits, backoff=Backoff(uniform=lambda _, high: high), steady=60.0)
    following.sees("a")
    watching(server)
    for status in (403, 403, 500, 403, 403):
        server.fail(status, "watch")
    problems: set[str] = set()
    server.end_watches()
    while len(server.asked("watch")) < 7 or not server.watches:
        problems.add(following.source.problem())
        time.sleep(0.003)
    assert waits.seconds == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert not [problem for problem in problems if "right" in problem]
    following.sees("a")


def test_gone_in_the_list(server: ApiServer, follow: Follow) -> None:
    server.create_pod("a")
    server.fail(410, "list")
    following = follow()
    following.sees("a")
    assert [request.query.get("resourceVersion") for request in server.asked("list")] == ["0", None]


def test_gone_between_two_pages(server: ApiServer, follow: Follow) -> None:
    server.page_size = 1
    for name in "abc":
        server.create_pod(name)
    server.fail(410, "page")
    following = follow()
    following.sees("a", "b", "c")
    assert following.source.relists == 0


@pytest.mark.parametrize("http", [False, True])
def test_gone_in_the_watch(server: ApiServer, follow: Follow, http: bool) -> None:
    """What was deleted while the watch was down is found by comparing."""
    for name in "abc":
        server.create_pod(name)
    following = follow()
    following.sees("a", "b", "c")
    watching(server)
    server.stop()
    server.delete_pod("default", "b")
    server.create_pod("d")
    if http:
        server.fail(410, "watch")
    else:
        server.compact()
    server.start()
    following.sees("a", "c", "d", deleted=("b",))
    assert following.source.relists == 1
    assert len(server.asked("list")) == 2


def test_deleted_while_the_watch_was_down(server: ApiServer, follow: Follow) -> None:
    server.create_pod("a", uid="u1")
    server.create_pod("b")
    following = follow()
    following.sees("a", "b")
    watching(server)
    server.stop()
    until(lambda: not following.source.connected)
    assert following.names() == ["a", "b"], "what is known stays known"
    server.delete_pod("default", "a")
    server.delete_pod("default", "b")
    server.create_pod("a", uid="u2")
    server.start()
    until(lambda: following.source.connected and list(following.pods()) == ["u2"])
    assert sorted(pod.name for pod in following.deleted) == ["a", "b"]
    assert len(server.asked("list")) == 1


@pytest.mark.parametrize(
    ("header", "least"),
    [("7", 7.0), ("86400", 600.0), ("Thu, 01 Jan 2026 00:00:00 GMT", 0.0), ("Fri, 31 Dec 9999 00:00:00 GMT", 600.0)],
)
def test_too_many_requests(server: ApiServer, follow: Follow, header: str, least: float) -> None:
    server.create_pod("a")
    server.fail(429, "list", headers={"Retry-After": header})
    waits = Waits()
    following = follow(pause=waits, backoff=Backoff(0.5, 2.0))
    following.sees("a")
    assert least <= waits.seconds[0] <= least + 0.5


def test_server_errors_for_a_minute(server: ApiServer, follow: Follow) -> None:
    server.create_pod("a")
    following = follow()
    following.sees("a")
    watching(server)
    server.fail(500, times=20)
    server.end_watches()
    server.delete_pod("default", "a")
    server.create_pod("b")
    until(lambda: "500: injected" in following.source.problem())
    following.sees("b", deleted=("a",))
    assert len(server.asked("list")) == 1


def test_error_event(server: ApiServer, follow: Follow) -> None:
    server.create_pod("a")
    following = follow()
    following.sees("a")
    watching(server)
    with server.at_once():
        server.send("ERROR", {"kind": "Status", "status": "Failure", "message": "etcd leader changed", "code": 500})
        server.delete_pod("default", "a")
        server.create_pod("b")
    following.sees("b", deleted=("a",))
    until(lambda: following.source.relists == 1)
    server.delete_pod("default", "b")
    following.sees(deleted=("a", "b"))


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"ERROR","object":{"status":"Failure"}}\n',
        b'{"type":"ERROR","object":null}\n',
        b"<html>\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"ADDED","object":{"metadata":[]}}\n',
        b'{"type":"ADDED","object":{"metadata":{"uid":"\xff"}}}\n',
    ],
)
def test_nonsense_in_the_stream(server: ApiServer, follow: Follow, line: bytes) -> None:
    server.create_pod("a")
    following = follow()
    following.sees("a")
    watching(server)
    server.send_raw(line)
    until(lambda: following.source.relists == 1)
    server.create_pod("b")
    following.sees("a", "b")


@pytest.mark.parametrize("line", [b"\n", b'{"type":"LATER","object":{"kind":"New"}}\n'])
def test_what_is_not_known_is_skipped(server: ApiServer, follow: Follow, line: bytes) -> None:
    following = follow()
    watching(server)
    server.send_raw(line)
    server.create_pod("a")
    following.sees("a")
    assert len(server.asked("watch")) == 1


def test_duplicate_and_stale_events(server: ApiServer, follow: Follow) -> None:
    server.create_pod("gone", uid="u1")
    server.create_pod("a", uid="u2")
    stale = server.get_pod("default", "a")
    following = follow()
    following.sees("a", "gone")
    gone = server.get_pod("default", "gone")
    ids = [server.run_container("default", "a", "app") for _ in range(2)]
    until(lambda: following.pods()["u2"].containers[0].restarts == 1)
    server.delete_pod("default", "gone")
    following.sees("a", deleted=("gone",))
    newest = server.get_pod("default", "a")
    for kind, shape in (
        ("MODIFIED", newest),
        ("ADDED", newest),
        ("MODIFIED", stale),
        ("ADDED", stale),
        ("ADDED", gone),
        ("MODIFIED", gone),
        ("DELETED", gone),
        ("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "1"}}),
    ):
        server.send(kind, shape)
    server.create_pod("last")
    following.sees("a", "last", deleted=("gone",))
    assert following.pods()["u2"].containers[0].ids == tuple(ids)
    assert following.pods()["u2"].containers[0].restarts == 1
    server.end_watches()
    until(lambda: len(server.asked("watch")) == 2)
    assert server.asked("watch")[1].query["resourceVersion"] == str(server.version), "not that of a stale event"
    following.sees("a", "last", deleted=("gone",))


def test_absent_at_start(server: ApiServer, follow: Follow) -> None:
    server.stop()
    following = follow()
    until(lambda: "Connection refused" in following.source.problem())
    assert following.source.problem().endswith("(no pods yet)")
    assert not following.source.connected
    server.create_pod("a")
    server.start()
    following.sees("a")
    assert following.source.problem() == ""
    assert following.source.relists == 0


@pytest.mark.parametrize("leap", [-86400.0, 86400.0])
def test_clock_jumps(server: ApiServer, follow: Follow, leap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    server.create_pod("a")
    following = follow()
    following.sees("a")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + leap)
    server.create_pod("b")
    following.sees("a", "b")
    watching(server)
    server.end_watches()
    server.delete_pod("default", "a")
    following.sees("b", deleted=("a",))


def test_list_of_a_server_that_lags_behind(server: ApiServer, follow: Follow) -> None:
    """It would bring back what was deleted, and lose what is new."""
    server.create_pod("a")
    server.create_pod("b")
    old = server.version
    following = follow()
    following.sees("a", "b")
    server.delete_pod("default", "a")
    server.create_pod("c")
    following.sees("b", "c", deleted=("a",))
    server.list_lags_at = old
    server.compact()
    server.leap(1)
    server.compact()
    server.end_watches()
    until(lambda: following.source.relists == 1)
    following.sees("b", "c", deleted=("a",))
    assert [request.query.get("resourceVersion") for request in server.asked("list")] == ["0", "0", None]


def test_store_that_was_set_back(server: ApiServer, follow: Follow) -> None:
    """Of a version from the future a server says nothing at all."""
    server.create_pod("a")
    server.create_pod("b")
    server.leap(1000)
    following = follow(silence=0.5)
    following.sees("a", "b")
    watching(server)
    server.leap(-500)
    server.end_watches()
    server.delete_pod("default", "a")
    following.sees("b", deleted=("a",))
    assert [60 <= int(request.query["timeoutSeconds"]) <= 120 for request in server.asked("watch")[:2]] == [False, True]


@pytest.mark.parametrize(
    ("version", "than", "expected"),
    [("9", "10", True), ("10", "9", False), ("7", "7", False), ("", "1", False), ("1", "", False), ("a", "b", False)],
)
def test_versions(version: str, than: str, expected: bool) -> None:
    assert is_older(version, than) is expected


# Load


def test_expired_watch_is_taken_up_without_a_list(follow: Follow, server: ApiServer) -> None:
    server._time_scale = 1e-4
    following = follow()
    until(lambda: len(server.asked("watch")) >= 4)
    server.create_pod("a")
    following.sees("a")
    assert len(server.asked("list")) == 1
    assert following.source.connected
    assert following.source.problem() == ""


class Scaled:
    """A client whose seconds are shorter, as the server's are; it notes how long each watch of silence would last."""

    def __init__(self, client: Client, scale: float, seconds: list[float]) -> None:
        self._client, self._scale, self._seconds = client, scale, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def lines(self, path: str, query: dict[str, str], silence: float, seconds: float) -> Any:
        self._seconds.append(min(float(query["timeoutSeconds"]), silence))
        return self._client.lines(path, query, silence * self._scale, seconds)


def test_requests_an_hour_of_a_quiet_cluster(
    server: ApiServer, connect: Callable[[], Client], caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    """Client and server have the same short seconds, so the hours are those that the watches would last."""
    scale, seconds = 3e-4, list[float]()
    server._time_scale = scale
    server._bookmark_interval = 60 * scale
    following = Follower(KubernetesSource(lambda: Scaled(connect(), scale, seconds), NODE))  # type: ignore[arg-type, return-value]
    following.source.steady = 0.0
    following.source.start()
    until(lambda: len(seconds) > 20)
    requests = len([one for one in server.requests if one.kind in ("watch", "list")][:21])
    following.source.close()
    an_hour = 3600 * requests / sum(seconds[:20])
    record_property("requests an hour", an_hour)
    assert len(server.asked("list")) == 1
    assert 6 <= an_hour <= 12 * 21 / 20, "one list, once"
    assert following.source.problem() == ""
    assert quiet(caplog) == []


def test_requests_an_hour_of_a_busy_cluster(follow: Follow, server: ApiServer, record_property: Any) -> None:
    """A watch takes a ten thousandth of the time it asks for, so the hours are those that it asks for."""
    server._time_scale = 1e-4
    following = follow()
    while len(server.asked("watch")) <= 40:
        server.leap(1)
        time.sleep(0.003)
    hours = sum(int(request.query["timeoutSeconds"]) for request in server.asked("watch")[:40]) / 3600
    lists = len(server.asked("list"))
    an_hour = (40 + lists - 1) / hours
    record_property("requests an hour", an_hour)
    assert lists == 1
    assert 6 <= an_hour <= 12
    assert following.source.problem() == ""


def test_requests_during_an_outage(server: ApiServer, follow: Follow) -> None:
    """Waits take no time here, so the hours are those that were waited for."""
    server.fail(503, times=10**6)
    waits = Waits()
    waits.most = 400
    following = follow(pause=waits, backoff=Backoff())
    until(lambda: len(waits.seconds) == waits.most)
    steady = waits.seconds[10:]
    an_hour = 3600 * len(steady) / sum(steady)
    assert 90 < an_hour < 160, "30 s on average: 120 an hour"
    first_minute = next(n for n in range(1, 400) if sum(waits.seconds[:n]) > 60)
    assert first_minute <= 20
    assert following.source.requests == pytest.approx(400, abs=1)


def test_server_that_ends_each_watch_at_once_is_not_asked_at_full_speed(server: ApiServer, follow: Follow) -> None:
    server._time_scale = 0.0
    waits = Waits()
    waits.most = 10
    follow(pause=waits, backoff=Backoff(uniform=lambda _, high: high), steady=60.0)
    until(lambda: len(waits.seconds) == 10)
    assert waits.seconds[:7] == [1, 2, 4, 8, 16, 32, 60]


def test_server_that_says_gone_to_everything_is_not_asked_at_full_speed(server: ApiServer, follow: Follow) -> None:
    server.fail(410, "watch", times=10**6)
    waits = Waits()
    waits.most = 10
    follow(pause=waits, backoff=Backoff(uniform=lambda _, high: high), steady=60.0)
    until(lambda: len(waits.seconds) == 10)
    assert waits.seconds[-4:] == [60] * 4


# End


@pytest.mark.parametrize("state", ["watching", "waiting", "never started"])
def test_close_is_prompt(server: ApiServer, connect: Callable[[], Client], state: str) -> None:
    closing = KubernetesSource(connect, NODE)
    if state == "waiting":
        server.fail(403, times=10**6)
    if state != "never started":
        closing.start()
        until(lambda: "403" in closing.problem() if state == "waiting" else server.watches)
    closing.close()
    assert not closing._thread.is_alive()


def test_close_at_any_moment(server: ApiServer, connect: Callable[[], Client]) -> None:
    """Also between two requests, and while a client is made."""
    for delay in range(30):
        closing = KubernetesSource(connect, NODE)
        closing.start()
        time.sleep(delay / 2000)
        closing.close()
        assert not closing._thread.is_alive()


def test_close_while_nobody_answers(server: ApiServer, tmp_path: Path) -> None:
    """The request is left to its timeout: the thread does not delay the end of the process."""
    server.stop()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        file = kubeconfig(tmp_path / "silent", f"http://127.0.0.1:{silent.getsockname()[1]}")
        hanging = KubernetesSource(partial(to_server, Settings(kubeconfig=file)), NODE)
        hanging.silence = 60
        hanging.start()
        until(lambda: hanging.requests)
        hanging.close()
        assert hanging._thread.is_alive()
        assert hanging._thread.daemon
    hanging._thread.join()  # its connection is reset with the listener's end


def test_defect_does_not_end_the_thread(
    server: ApiServer, follow: Follow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.create_pod("a")
    monkeypatch.setattr(reflector, "PATH", None)
    following = follow()
    until(lambda: following.source.problem().startswith("Invalid type for url"))
    monkeypatch.undo()
    following.sees("a")
    assert "Traceback" in caplog.text
