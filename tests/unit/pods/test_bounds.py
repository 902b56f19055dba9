"""What a hostile API server or kubelet costs: bounded memory and time, one line of error, and the known pods stay."""

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from kpod_metrics import http_bounds
from kpod_metrics.errors import RequestError, SilenceError
from kpod_metrics.pods import api, client, kubelet, reflector, source, stream
from kpod_metrics.pods.api import Labels, item_of, pod_of
from kpod_metrics.pods.client import Client, to_server
from kpod_metrics.pods.kubelet import KubeletSource
from kpod_metrics.pods.reflector import KubernetesSource
from kpod_metrics.pods.stream import MAX_OBJECT, Page
from kpod_metrics.settings import Settings
from testkit.apiserver import ApiServer, pod_object
from tests.fakes.hostile import Hostile, bomb, forever, response
from tests.unit.pods.conftest import NODE, Follower, fetched, kubeconfig, until

MIB = 1 << 20
START = b'{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":['
BUFFERS = 2 * MIB
"""Bytes that a client needs besides what it keeps: buffers of sockets, pieces of decompressed data."""

Serve = Callable[..., Client]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server with an answer; return a client of it."""
    running: list[Any] = []

    def start(answer: Callable[[bytes], Iterator[bytes]]) -> Client:
        server = Hostile(answer).__enter__()
        made = to_server(Settings(kubeconfig=kubeconfig(tmp_path / "k", server.url), node_name=NODE))
        running.extend((server, made))
        return made

    yield start
    for server, made in zip(running[::2], running[1::2], strict=True):
        made.close()
        server.__exit__(None, None, None)


def listed(made: Client) -> list[api.Item]:
    """The pods of a page."""
    with made.chunks("/api/v1/pods", {}, 5.0, 60.0) as chunks:
        return list(Page(f"{made.where}/api/v1/pods").items(chunks))


def refused(act: Callable[[], object], said: str) -> int:
    """Check that it is refused in one line; return the most bytes that were allocated at once."""
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as caught:
            act()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value) == said
    assert str(caught.value).isprintable()
    return peak


# Bytes


def test_gzip_bomb(serve: Serve) -> None:
    """400 KB that are 400 MB decompressed: one pod with an endless name."""
    data = bomb(b"x" * MIB, 400, START + b'{"metadata":{"name":"')
    made = serve(lambda _: response(data, content_encoding="gzip"))
    peak = refused(lambda: listed(made), f"{made.where}/api/v1/pods: a pod is larger than {MAX_OBJECT} bytes")
    assert peak < 1.2 * MAX_OBJECT + BUFFERS


def test_bomb_between_pods_takes_no_memory(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_LIST", 100 * MIB)
    data = bomb(b" " * MIB, 400, START)
    made = serve(lambda _: response(data, content_encoding="gzip"))
    peak = refused(lambda: listed(made), f"{made.where}/api/v1/pods: the list is larger than {100 * MIB} bytes")
    assert peak < BUFFERS


def test_endless_body_without_compression(serve: Serve) -> None:
    made = serve(lambda _: (*response(START), *()).__iter__())
    refused(lambda: listed(made), f"{made.where}/api/v1/pods: the list ends in the middle of a pod")

    def endless(_: bytes) -> Iterator[bytes]:
        yield from response(b'{"kind":"')
        yield from forever(b"x" * 65536)

    made = serve(endless)
    said = f"{made.where}/api/v1/pods: the list without its pods is larger than {MIB} bytes"
    assert refused(lambda: listed(made), said) < 2 * MIB + BUFFERS


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "500 Oops"])
def test_bomb_in_a_refusal(serve: Serve, status: str) -> None:
    """Only the beginning of it is read, for the message."""
    data = bomb(b"x\x1b[1m" * 1000, 50_000)
    made = serve(lambda _: response(data, status=status, content_encoding="gzip"))
    shown = ("x\\x1b[1m" * 50)[: 50 * 8]
    assert refused(lambda: fetched(made, "/a"), f"{made.where}/a: {status[:3]}: {shown[:320]}...") < BUFFERS


@pytest.mark.parametrize("coding", ["gzip, gzip", "br", "deflate"])
def test_coding_that_was_not_requested(serve: Serve, coding: str) -> None:
    made = serve(lambda _: response(b"x", content_encoding=coding))
    said = f"{made.where}/a: the response has a Content-Encoding that was not requested; accepted: gzip, identity"
    refused(lambda: fetched(made, "/a"), said)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bomb(b"x", 1)[:-1], "the gzip data of the response ends too early"),
        (bomb(b"x", 1) + b"y", "the response has bytes after the end of its gzip data"),
        (b"no gzip", "the response is not gzip, although its Content-Encoding is"),
    ],
    ids=["short", "long", "other"],  # the data have the time in them, and all workers must have the same names
)
def test_data_that_are_not_gzip(serve: Serve, data: bytes, said: str) -> None:
    made = serve(lambda _: response(data, content_encoding="gzip"))
    refused(lambda: fetched(made, "/a"), f"{made.where}/a: {said}")


def test_raw_bytes_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty blocks of deflate: however many arrive, they are nothing decompressed."""
    monkeypatch.setattr(client, "MAX_LIST", 4 * MIB)

    def empty_blocks(_: bytes) -> Iterator[bytes]:
        yield from response(b"\x1f\x8b\x08" + bytes(7), content_encoding="gzip")
        yield from forever(b"\0\0\0\xff\xff" * 10_000)

    made = serve(empty_blocks)
    refused(lambda: fetched(made, "/a"), f"{made.where}/a: the response is larger than {4 * MIB} bytes")


def test_headers_without_end(serve: Serve) -> None:
    def endless(_: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        yield from (b"x-%d: y\r\n" % number for number in count())

    made = serve(endless)
    with pytest.raises(RequestError) as caught:
        fetched(made, "/a")
    assert str(caught.value) == f"{made.where}/a: Receive buffer too long"


def test_cookies_are_not_kept(serve: Serve) -> None:
    """A server could add some with every answer, for months."""
    numbers = count()
    made = serve(lambda _: response(b"x", set_cookie=f"name{next(numbers)}=value"))
    for _ in range(3):
        assert fetched(made, "/a") == b"x"
    assert len(made._http.cookies) == 0


def test_redirect_is_not_followed(serve: Serve) -> None:
    made = serve(lambda _: response(status="302 Found", location="http://127.0.0.1:1/"))
    refused(lambda: fetched(made, "/a"), f"{made.where}/a: 302: Found")


# Time


def test_list_that_drips(serve: Serve) -> None:
    """Every read gets a byte, so the timeout of a read never comes."""

    def drip(_: bytes) -> Iterator[bytes]:
        yield from response(START)
        yield from forever(b" ", 0.01)

    def head(_: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nx: "
        yield from forever(b"y", 0.01)

    def informational(_: bytes) -> Iterator[bytes]:
        yield from forever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.01)

    def extension(_: bytes) -> Iterator[bytes]:
        yield from response(b"1;x=", transfer_encoding="chunked")
        yield from forever(b"y", 0.01)

    for answer in (drip, head, informational, extension):
        made = serve(answer)
        with pytest.raises(RequestError) as caught, made.chunks("/a", {}, 5.0, 0.3) as chunks:
            list(chunks)
        assert str(caught.value) == f"{made.where}/a: the response did not end within 0.3 s"


def watched(made: Client, seconds: float = 60.0) -> list[bytes]:
    """The lines of a watch."""
    with made.lines("/watch", {}, 5.0, seconds) as lines:
        return [bytes(line) for line in lines]


def test_watch_whose_event_never_ends(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def long(_: bytes) -> Iterator[bytes]:
        yield from response(b"{}\n")
        yield from forever(b"x" * 65536)

    made = serve(long)
    peak = refused(lambda: watched(made), f"{made.where}: an event is larger than {MAX_OBJECT} bytes")
    assert peak < 1.2 * MAX_OBJECT + BUFFERS

    monkeypatch.setattr(client, "LINE_TIMEOUT", 0.2)

    def drip(_: bytes) -> Iterator[bytes]:
        yield from response(b"{}\n")
        yield from forever(b"x", 0.01)

    made = serve(drip)
    refused(lambda: watched(made), f"{made.where}: an event did not end within 0.2 s")


def test_watch_that_the_server_does_not_end(serve: Serve) -> None:
    """As one that is silent: the next one begins, and it is no failure."""

    def endless(_: bytes) -> Iterator[bytes]:
        yield from response()
        yield from forever(b"{}\n", 0.01)

    made = serve(endless)
    with pytest.raises(SilenceError) as caught:
        watched(made, 0.3)
    assert str(caught.value) == f"{made.where}/watch: the response did not end within 0.3 s"


def test_compressed_watch_is_refused(serve: Serve) -> None:
    made = serve(lambda _: response(bomb(b"x", 1), content_encoding="gzip"))
    refused(lambda: watched(made), f"{made.where}/watch: a watch has a Content-Encoding; accepted: identity")


@pytest.mark.parametrize("piece", [b"\n" * 65536, b'{"type":"BOOKMARK","object":{}}\n' * 2000])
def test_flood_of_events_is_slowed_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    """Beyond a burst the agent reads as fast as a rate allows, and TCP makes the server wait."""
    waits: list[float] = []
    monkeypatch.setattr(http_bounds, "time", SimpleNamespace(monotonic=lambda: 0.0))
    with Hostile(lambda _: response(*[piece] * 100)) as server:
        made = to_server(Settings(kubeconfig=kubeconfig(tmp_path / "k", server.url)))
        monkeypatch.setattr(made._bounds.aborted, "wait", waits.append)
        assert len(watched(made)) == (0 if piece.startswith(b"\n") else 200_000)
        cost = server.sent + 100 * piece.count(b"\n") * http_bounds.LINE_COST
        made.close()
    assert max(waits) == (cost - http_bounds._BURST) / http_bounds._RATE


def test_usual_events_are_not_slowed_down(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 events of 10 KiB at once."""
    waits: list[float] = []
    made = serve(lambda _: response(*[b"x" * 10_240 + b"\n"] * 2000))
    monkeypatch.setattr(made._bounds.aborted, "wait", waits.append)
    assert len(watched(made)) == 2000
    assert waits == []


# Lists


def pod_bytes(name: str, **keys: Any) -> bytes:
    """A pod in JSON."""
    return json.dumps(pod_object(name, uid=name, **keys)).encode()


def pages(made: Client, monkeypatch: pytest.MonkeyPatch, seconds: float = 60.0) -> list[str]:
    """The names of the pods of a list."""
    monkeypatch.setattr(reflector, "LIST_SECONDS", seconds)
    listing, _ = KubernetesSource(lambda: made, NODE)._pages(made, {})
    return [pod.name for pod in listing]


def page(token: str, *pods: bytes) -> Iterator[bytes]:
    """A page of a list."""
    meta = json.dumps({"resourceVersion": "7", "continue": token}).encode()
    return response(b'{"metadata":' + meta + b',"items":[' + b",".join(pods) + b"]}")


def test_pages_without_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count()
    made = serve(lambda _: page(f"t{next(numbers)}", pod_bytes("a")))
    said = f"{made.where}/api/v1/pods: the list has more than 100 pages"
    assert refused(lambda: pages(made, monkeypatch), said) < BUFFERS
    made = serve(lambda _: page("again"))
    refused(lambda: pages(made, monkeypatch), f"{made.where}/api/v1/pods: the list repeats a page")
    made = serve(lambda _: page("t" * 5000))
    refused(
        lambda: pages(made, monkeypatch),
        "the server's response is not of Kubernetes: Expected `str` of length <= 4096 - at `$.metadata.continue`",
    )


def test_all_pages_have_one_deadline(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count()

    def slow(_: bytes) -> Iterator[bytes]:
        time.sleep(0.1)
        return page(f"t{next(numbers)}")

    made = serve(slow)
    with pytest.raises(RequestError, match="did not end within"):
        pages(made, monkeypatch, 0.5)
    assert next(numbers) < 6


def test_large_list_is_read_pod_by_pod(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may create pods decides how large they are: the others keep their names, and the agent its memory."""
    large = pod_bytes("large")
    large = large[:-1] + b', "unknown": ["' + b'\\"<x' * (MIB // 4) + b'"]}'

    def many(_: bytes) -> Iterator[bytes]:
        yield from response(START + pod_bytes("a"))
        for number in range(100):
            yield b"," + large.replace(b'"large"', b'"large%d"' % number)
        yield b"," + pod_bytes("b") + b"]}"

    made = serve(many)
    tracemalloc.start()
    names = pages(made, monkeypatch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert names == ["a", *(f"large{number}" for number in range(100)), "b"]
    assert peak < 6 * MIB + BUFFERS


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("indent", [None, 2])
def test_list_in_chunks_of_any_size(size: int, indent: int | None) -> None:
    names = [f'{"{"}{number}"\\]' for number in range(20)]
    body = json.dumps(
        {
            "items": [pod_object("a", uid=str(number), labels={"app": name}) for number, name in enumerate(names)],
            "metadata": {"resourceVersion": "7"},
        },
        indent=indent,
    ).encode()
    one = Page("")
    found = list(one.items(body[at : at + size] for at in range(0, len(body), size)))
    assert [pod_of(item, Labels(("app",))).labels for item in found] == [{"app": name} for name in names]
    assert (one.version, one.more) == ("7", "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"items":{}}',
        b'{"items":[1]}',
        b'{"items":[{}}]}',
        b'{"items":[{}]',
        b'{"items":[' + b'{"a":' * 100_000,
        b'{"items":[' + b'{"a":' * 30 + b"1" + b"}" * 30 + b"]}",
        b'{"items":[]} x',
        b'{"items":[{"metadata":{"uid":1}}]}',
        b'{"items":[{"metadata":{"name":"' + b"x" * 254 + b'"}}]}',
        b'{"items":[{"status":{"containerStatuses":[{"restartCount":1' + b"0" * 10_000 + b"}]}}]}",
        b'{"metadata":{"resourceVersion":"' + b"1" * 5000 + b'"},"items":[]}',
    ],
)
def test_body_that_is_no_list_is_one_line(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        [pod_of(item, Labels()) for item in Page("http://x").items([body])]
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


# Pods


def test_pod_with_too_many_objects_has_its_name_only() -> None:
    """Kubernetes does not limit a pod's containers: the pod loses its own detail, and the list is read."""
    containers = b",".join(b'{"name":"c%d"}' % number for number in range(20_000))
    body = (
        b'{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","labels":{"app":"x"},'
        b'"ownerReferences":[{"controller":true,"kind":"Job","name":"j"}]},'
        b'"spec":{"nodeName":"node-1","containers":[' + containers + b"]}}"
    )
    tracemalloc.start()
    item = item_of(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pod = pod_of(item, Labels(("app",)))
    assert (pod.name, pod.namespace, pod.uid, pod.labels) == ("a", "n", "u", {"app": "x"})
    assert (item.spec.node_name, item.metadata.resource_version, pod.containers) == ("node-1", "7", ())
    assert peak < 0.2 * MIB


def test_only_the_labels_of_the_settings_take_memory() -> None:
    labels = b",".join(b'"l%d":"v"' % number for number in range(100_000))
    body = b'{"metadata":{"name":"a","labels":{"app":"x",' + labels + b',"tier":"y"}}}'
    wanted = Labels(("app", "tier", "other"))
    tracemalloc.start()
    pod = pod_of(item_of(body), wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pod.labels == {"app": "x", "tier": "y"}
    assert peak < 0.1 * MIB


def test_texts_that_users_choose_are_cut() -> None:
    """The API server checks neither the name of an owner nor the value of an annotation."""
    shape = pod_object("a", uid="u", owner=("K" * 1000, "n" * 10**6))
    shape["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "m" * 10**5}
    pod = pod_of(item_of(json.dumps(shape)), Labels())
    assert (len(pod.owner_kind), len(pod.owner), pod.cgroup_uid) == (200, 200, "u")


def test_pods_without_end(server: ApiServer, connect: Callable[[], Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond the bound get no name, which is counted and reported; ended pods make room for others."""
    monkeypatch.setattr(source, "MAX_PODS", 3)
    for name in ("a", "b"):
        server.create_pod(name)
    server.create_pod("done")
    server.update_pod("default", "done", lambda pod: pod["status"].update(phase="Failed"))
    made = KubernetesSource(connect, NODE)
    following = Follower(made)
    made.start()
    try:
        following.sees("a", "b", "done")
        server.create_pod("c")
        following.sees("a", "b", "c", deleted=("done",))
        assert (made.problem(), made.excess) == ("", 0)
        server.create_pod("d")
        until(lambda: made.excess == 1)
        assert made.problem() == "more than 3 pods: those beyond have no names"
        assert following.names() == ["a", "b", "c"]
        assert set(made._versions) == {pod.uid for pod in following.pods().values()}
    finally:
        made.close()
    again = KubernetesSource(connect, NODE)
    following = Follower(again)
    again.start()
    try:
        until(lambda: again.connected)
        assert (following.names(), again.excess) == (["a", "b", "c"], 1)
        server.delete_pod("default", "a")
        following.sees("b", "c", deleted=("a",))
    finally:
        again.close()


@pytest.mark.parametrize("kind", [KubernetesSource, KubeletSource])
def test_known_pods_stay_when_the_server_turns_hostile(kind: Any, tmp_path: Path) -> None:
    answers: list[Callable[[], Iterator[bytes]]] = [lambda: page("", pod_bytes("a"))]

    def answer(head: bytes) -> Iterator[bytes]:
        if b"watch=true" in head:
            return response(b"x\n")
        return (answers.pop(0) if len(answers) > 1 else answers[0])()

    with Hostile(answer) as server:
        connect = partial(to_server, Settings(kubeconfig=kubeconfig(tmp_path / "k", server.url), node_name=NODE))
        made = kind(connect, NODE)
        made.pause = lambda seconds: time.sleep(0.005)
        following = Follower(made)
        made.start()
        try:
            until(lambda: following.names() == ["a"])
            answers.append(lambda: response(bomb(b"x" * MIB, 20, START + b'{"a":"'), content_encoding="gzip"))
            path = reflector.PATH if kind is KubernetesSource else kubelet.PATH
            until(
                lambda: made.problem().startswith(f"{server.url}{path}: a pod is larger than {MAX_OBJECT} bytes, for")
            )
            assert not made.connected
            assert following.names() == ["a"]
            assert following.deleted == []
        finally:
            made.close()


def test_bounds_apply_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(_: bytes) -> Iterator[bytes]:
        yield from response(START)
        yield from forever(b" ", 0.01)

    with Hostile(drip) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        made = to_server(Settings(kubeconfig=kubeconfig(tmp_path / "k", "http://192.0.2.1"), node_name=NODE))
        with pytest.raises(RequestError) as caught, made.chunks("/a", {}, 5.0, 0.3) as chunks:
            list(chunks)
        assert str(caught.value) == "http://192.0.2.1/a: the response did not end within 0.3 s"
        assert proxy.heads[0].startswith(b"GET http://192.0.2.1/a HTTP/1.1")
        made.close()


def test_token_is_in_no_message(tmp_path: Path) -> None:
    """httpx2 would print the whole header."""
    (tmp_path / "token").write_text("secret\x07secret")
    made = to_server(
        Settings(kubeconfig=kubeconfig(tmp_path / "k", "http://127.0.0.1:1", {"tokenFile": f"{tmp_path}/token"}))
    )
    said = f"the token in '{tmp_path}/token' has characters that are not allowed in a header"
    refused(lambda: fetched(made, "/a"), f"http://127.0.0.1:1/a: {said}")
    (tmp_path / "token").write_text("x" * 10**6)
    refused(
        lambda: fetched(made, "/a"),
        f"http://127.0.0.1:1/a: the token's file '{tmp_path}/token' is larger than 65536 bytes",
    )
    made.close()
    file = kubeconfig(tmp_path / "k", "http://127.0.0.1:1", {"token": "secret\nsecret"})
    with pytest.raises(Exception, match="credentials or CA cannot be used: the token has characters") as caught:
        to_server(Settings(kubeconfig=file))
    assert "secret" not in str(caught.value)


def test_httpx2_is_the_one_whose_network_is_replaced() -> None:
    """The replacement has no public interface: a new version of httpx2 must not silently leave it out."""
    http = httpx2.Client()
    http_bounds.Bounds(http)
    transport = http._transport
    assert isinstance(transport, httpx2.HTTPTransport)
    assert isinstance(transport._pool._network_backend, http_bounds._Backend)
    http.close()
