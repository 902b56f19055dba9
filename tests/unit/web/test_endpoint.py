"""The endpoint over real sockets: slow, idle, many, greedy and malformed clients; what is refused is counted."""

import asyncio
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpod_metrics.server import bind
from kpod_metrics.web.answers import PLAIN, Answer
from kpod_metrics.web.counts import Counts
from kpod_metrics.web.endpoint import Endpoint
from kpod_metrics.web.limits import MAX_HEAD, MAX_TARGET, Limits
from tests.served import WITHOUT_BUFFERS, orphans, served

SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass
class Target:
    """An endpoint and what it counted."""

    address: tuple[str, int]
    counts: Counts
    endpoint: Endpoint

    @property
    def answering(self) -> int:
        """Pages that are being sent."""
        return sum(one.page_taken is not None for one in list(self.endpoint._open))

    def connect(self, *, small: bool = False) -> socket.socket:
        client = socket.socket()
        client.settimeout(20)
        if small:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(self.address)
        return client

    def exchange(self, sent: bytes) -> bytes:
        """All that comes back until the endpoint closes."""
        with self.connect() as client:
            client.sendall(sent)
            return rest(client)

    def refused(self) -> dict[str, int]:
        """What was refused, by reason, without the zeros."""
        return {reason: count for reason, count in self.counts.refused.items() if count}

    def settled(self, **refused: int) -> None:
        """Wait until this was refused, and no more, and every connection is closed."""
        end = time.monotonic() + 20
        while (self.counts.connections or self.refused() != refused) and time.monotonic() < end:
            time.sleep(0.01)
        assert (self.refused(), self.counts.connections) == (refused, 0)


def rest(client: socket.socket) -> bytes:
    """All that comes until the end, or until the connection is reset."""
    parts = []
    with suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def statuses(received: bytes) -> list[int]:
    """Of all answers in what came back; the pages of these tests do not look like a status line."""
    return [int(line.split()[1]) for line in received.split(b"\n") if line.startswith(b"HTTP/1.1 ")]


@contextmanager
def target(
    limits: Limits, body: bytes = b"page\n", hold: threading.Event | None = None, *, small: bool = False
) -> Iterator[Target]:
    """An endpoint whose /metrics has this body; pages wait for `hold`; the kernel's buffers are `small`."""

    async def answer(method: str, target: str, headers: Mapping[str, str]) -> Answer:
        if target.partition("?")[0] != "/metrics":
            return Answer(404, PLAIN, b"not found\n")
        if hold is not None:
            await asyncio.to_thread(hold.wait, 20)
        return Answer(200, PLAIN, body)

    counts = Counts()
    with bind(("127.0.0.1", 0)) as listener:
        if small:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)  # an accepted socket has the same
        endpoint = Endpoint(listener, answer, counts, limits, limited=frozenset({"/metrics"}))
        with served(endpoint):
            yield Target(listener.getsockname(), counts, endpoint)


@pytest.fixture
def quick() -> Iterator[Target]:
    """One with short deadlines."""
    with target(Limits(receive=0.5, send=0.5)) as found:
        yield found


@pytest.fixture
def usual() -> Iterator[Target]:
    with target(Limits()) as found:
        yield found


@pytest.fixture(scope="module")
def lasting() -> Iterator[Target]:
    with target(Limits()) as found:
        yield found


def test_answers_on_one_connection(usual: Target) -> None:
    received = usual.exchange(SCRAPE + LAST)
    assert statuses(received) == [200, 200]
    assert received.count(b"page\n") == 2
    assert received.count(b"content-length: 5\r\n") == 2
    usual.settled()


def test_head_is_get_without_body(usual: Target) -> None:
    received = usual.exchange(LAST.replace(b"GET", b"HEAD"))
    assert statuses(received) == [200]
    assert b"content-length: 5\r\n" in received
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"HEAD /" + b"x" * MAX_TARGET + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde", 413),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n", 400),
        (b"HEAD / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
    ],
)
def test_refused_head_has_no_body_either(sent: bytes, status: int, usual: Target) -> None:
    received = usual.exchange(sent)
    assert statuses(received) == [status]
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "asked",
    [
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
        b"GET /metrics?a=/../b HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_other_offers_are_let_pass(asked: bytes, usual: Target) -> None:
    assert statuses(usual.exchange(asked + LAST)) == [200, 200]


def test_no_tunnel(usual: Target) -> None:
    assert statuses(usual.exchange(b"CONNECT metrics:80 HTTP/1.1\r\nHost: x\r\n\r\n" + LAST)) == [404, 200]


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        (b"GET http://n:9090/metrics", "/metrics"),
        (b"GET HTTPS://n/metrics?a=b", "/metrics?a=b"),
        (b"GET http://[fd00::1]:9090/a/b", "/a/b"),
        (b"HEAD http://n:9090", "/"),
        (b"GET http://n:?pods=5", "/?pods=5"),
        (b"GET http://a.%41-b/http://c/", "/http://c/"),
        (b"GET /http://n/metrics", "/http://n/metrics"),
        (b"OPTIONS *", "*"),
    ],
)
def test_forms_of_a_target(asked: bytes, target: str) -> None:
    """RFC 9112 3.2: those that every server has to accept, and what is made of them."""
    found: list[str] = []

    async def answer(method: str, target: str, headers: Mapping[str, str]) -> Answer:
        found.append(target)
        return Answer(200, PLAIN, b"")

    with bind(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(listener, answer, Counts(), Limits())
        with served(endpoint), socket.create_connection(listener.getsockname(), 20) as client:
            client.sendall(asked + b" HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n")
            assert statuses(rest(client)) == [200]
    assert found == [target]


@pytest.mark.parametrize("asked", [b"http://n:9090/metrics", b"http://n/metrics?a=b"])
def test_page_asked_for_by_a_whole_url_is_one_of_the_limited(asked: bytes) -> None:
    hold = threading.Event()
    with target(Limits(requests=1), hold=hold) as found, found.connect() as first:
        first.sendall(LAST)
        while not found.answering:
            time.sleep(0.01)
        assert statuses(found.exchange(LAST.replace(b"/metrics", asked))) == [503]
        hold.set()
        assert statuses(rest(first)) == [200]


@pytest.mark.parametrize("asked", [LAST, b"GET /metrics HTTP/1.0\r\n\r\n"])
@pytest.mark.parametrize("pause", [0.2, 1.5])
def test_end_of_an_answer_that_is_taken_slowly(asked: bytes, pause: float, caplog: pytest.LogCaptureFixture) -> None:
    """What is in the endpoint's own buffer when it closes comes to the client, and the end of that is no error."""
    body = b"x" * 60_000
    with target(Limits(), body, small=True) as found, found.connect(small=True) as client:
        client.sendall(asked)
        time.sleep(pause)
        assert rest(client).endswith(b"\r\n\r\n" + body)
        found.settled()
    assert [record.getMessage() for record in caplog.records] == []


def test_end_of_an_answer_that_is_never_taken(caplog: pytest.LogCaptureFixture) -> None:
    with target(Limits(send=0.5), b"x" * 60_000, small=True) as found, found.connect(small=True) as client:
        client.sendall(LAST)
        found.settled(timeout=1)
        assert len(rest(client)) < 60_000
    assert [record.getMessage() for record in caplog.records] == []


def test_client_that_goes_before_the_end_of_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    with target(Limits(), b"x" * 60_000, small=True) as found:
        for asked in (LAST, SCRAPE, b"GET /metrics HTTP/1.0\r\n\r\n"):
            with found.connect(small=True) as client:
                client.sendall(asked)
                assert client.recv(100)
        found.settled()
    assert [record.getMessage() for record in caplog.records] == []


def test_http_1_0(usual: Target) -> None:
    received = usual.exchange(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert statuses(received) == [200]
    assert received.endswith(b"\r\n\r\npage\n")


def test_http_1_0_connection_ends_though_it_was_to_be_kept(usual: Target) -> None:
    received = usual.exchange(b"GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert statuses(received) == [200]
    assert b"connection: close\r\n" in received.lower()


@pytest.mark.parametrize("asked", [SCRAPE, LAST, SCRAPE * 3, b"GET /metrics HTTP/1.0\r\n\r\n"])
def test_client_that_has_ended_what_it_sends_is_answered(asked: bytes, usual: Target) -> None:
    with usual.connect() as client:
        client.sendall(asked)
        client.shutdown(socket.SHUT_WR)
        assert statuses(rest(client)) == [200] * asked.count(b"GET")
    usual.settled()


def test_body_that_waits_to_be_let_is_refused_unsent(usual: Target) -> None:
    with usual.connect() as client:
        client.sendall(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert statuses(rest(client)) == [413]
    usual.settled(size=1)


def test_pipelined_requests_are_answered_in_turn(usual: Target) -> None:
    """Also 1,000 of them, of which the client reads nothing before it has sent all."""
    requests = [b"/metrics" if number % 3 else b"/x" for number in range(1000)]
    sent = b"".join(SCRAPE.replace(b"/metrics", path) for path in requests[:-1])
    received = usual.exchange(sent + LAST.replace(b"/metrics", requests[-1]))
    assert statuses(received) == [200 if path == b"/metrics" else 404 for path in requests]
    usual.settled()


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"GET /" + b"x" * MAX_TARGET + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "size"),
        (b"GET /" + b"x" * (MAX_HEAD + 5000), 414, "size"),
        (b"GET /" + b"x" * (1 << 20), 414, "size"),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431, "size"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * (MAX_HEAD // 4), 431, "size"),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"x" * (1 << 20), 431, "size"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde", 413, "size"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413, "size"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde", 413, "size"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400, "malformed"),
        (b"\0" * 100 + b"\r\n\r\n", 400, "malformed"),
        (b"GET\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\na b: c\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: b\0c\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505, "malformed"),
        (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"GET metrics HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"GET ftp://x/metrics HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        *(
            (b"GET http://" + authority + b"/metrics HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed")
            for authority in (
                b"",
                b":80",
                b"n:x",
                b"n:65536",
                b"u:p@n",
                b"[::1",
                b"[::::]",
                b"[]",
                b"[n]:1",
                b"a[::1]",
                b"n%",
                b"n#",
            )
        ),
    ],
)
def test_what_is_no_request_here(sent: bytes, status: int, reason: str, usual: Target) -> None:
    received = usual.exchange(sent)
    assert statuses(received) == [status]
    assert b"connection: close\r\n" in received
    usual.settled(**{reason: 1})


@given(st.binary(min_size=1, max_size=200), st.booleans())
@settings(deadline=None, max_examples=100)
def test_any_bytes_get_an_answer_or_an_end(lasting: Target, sent: bytes, after: bool) -> None:
    with lasting.connect() as client:
        client.sendall((SCRAPE if after else b"") + sent)
        client.shutdown(socket.SHUT_WR)
        found = statuses(rest(client))
    assert found[: int(after)] == [200] * int(after)
    assert set(found[int(after) :]) <= {400, 404}
    assert statuses(lasting.exchange(LAST)) == [200]


def test_defect_is_an_answer_and_no_end(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(method: str, path: str, headers: Mapping[str, str]) -> Answer:
        if path == "/metrics":
            raise KeyError("x")
        return Answer(404, PLAIN, b"not found\n")

    with bind(("127.0.0.1", 0)) as listener:
        counts = Counts()
        endpoint = Endpoint(listener, answer, counts, Limits())
        with served(endpoint):
            found = Target(listener.getsockname(), counts, endpoint)
            assert statuses(found.exchange(SCRAPE)) == [500]
            assert statuses(found.exchange(LAST.replace(b"/metrics", b"/x"))) == [404]
    assert [record.getMessage() for record in caplog.records] == ["/metrics cannot be answered"]


def test_header_that_drips(quick: Target) -> None:
    """A byte now and then keeps no connection: the deadline is the whole request's."""
    with ExitStack() as stack:
        clients = [stack.enter_context(quick.connect()) for _ in range(50)]
        ended: set[int] = set()
        for byte in SCRAPE[:-2] + b"a: b" * 1000:
            for number, client in enumerate(clients):
                if number not in ended:
                    try:
                        client.sendall(bytes([byte]))
                    except OSError:
                        ended.add(number)
            if len(ended) == len(clients):
                break
            time.sleep(0.02)
            if quick.counts.refused["timeout"] == len(clients):
                break
        assert statuses(quick.exchange(LAST)) == [200]
        assert [statuses(rest(client)) for client in clients] == [[408]] * len(clients)
    quick.settled(timeout=50)


def test_header_that_drips_after_a_silence() -> None:
    """The time of a connection's first request is counted from the connection on: it ends before a later one's."""
    with target(Limits(receive=4.0)) as found, found.connect() as drips:
        time.sleep(1.5)
        with found.connect() as later:
            time.sleep(0.5)
            drips.sendall(b"G")  # had its time begun here, it would end after the later one's
            first, _, _ = select.select([drips, later], [], [], 20)
            assert first == [drips]
            assert statuses(rest(drips)) == [408]
            assert rest(later) == b""
        found.settled(timeout=2)


def test_body_that_drips_is_not_waited_for(quick: Target) -> None:
    with quick.connect() as client:
        client.sendall(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\na")
        assert statuses(rest(client)) == [413]
    quick.settled(size=1)


def test_silent_client_is_sent_away(quick: Target) -> None:
    with quick.connect() as client:
        assert rest(client) == b""
    quick.settled(timeout=1)


def test_reader_that_does_not_read() -> None:
    """20 clients read 50 MB each slowly: the endpoint buffers a small part, and cuts them off later."""
    body = b"x" * (50 << 20)
    with target(Limits(send=1.0), body) as found, ExitStack() as stack:
        before = resident()
        clients = [stack.enter_context(found.connect()) for _ in range(20)]
        for client in clients:
            client.sendall(SCRAPE)
        end = time.monotonic() + 20
        most = 0
        while found.counts.refused["timeout"] < 20 and time.monotonic() < end:
            most = max(most, resident() - before)
            time.sleep(0.02)
        # 20 x 50 MB would be 1 GB; what is kept is 64 KiB of each, and what the allocator does with it.
        assert most < 50 << 20
        assert statuses(found.exchange(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) == [404]
        found.settled(timeout=20)
        # Neither a buffer of megabytes for each, nor one that outlives its connection.
        for client in clients:
            assert len(rest(client)) < 4 << 20
        states = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        assert {state for local, _, state in states if local.endswith(f":{found.address[1]:04X}")} <= WITHOUT_BUFFERS


def test_readers_that_do_not_read_keep_no_scraper_out() -> None:
    """They have all pages that can be sent at one time, and each is replaced by a new request."""
    limits = Limits(requests=5)
    with target(limits, b"x" * (50 << 20)) as found, ExitStack() as stack:
        deaf = [stack.enter_context(found.connect()) for _ in range(5)]
        for client in deaf:
            client.sendall(SCRAPE)
        while found.answering < 5:
            time.sleep(0.01)
        for _ in range(5):
            while (received := found.exchange(LAST))[:12] != b"HTTP/1.1 200":
                assert statuses(received) == [503]
                time.sleep(0.05)
            assert len(received) > 50 << 20
        # One of them was cut off for the first; that room was there for the others.
        assert found.counts.refused["timeout"] == 1
        assert found.answering == 4


@pytest.mark.parametrize("asked", [b"GET /metrics HTTP/1.0\r\n\r\n", LAST, SCRAPE])
@pytest.mark.parametrize("ends", [False, True])
def test_answer_that_is_never_read_leaves_no_orphan(asked: bytes, ends: bool) -> None:
    """A page that fits into the kernel's buffers: it waits there, and within the limit of connections, to be read."""
    with target(Limits(send=0.5, idle=0.5), b"x" * 100_000) as found, ExitStack() as stack:
        clients = [stack.enter_context(found.connect(small=True)) for _ in range(20)]
        for client in clients:
            client.sendall(asked)
            if ends:
                client.shutdown(socket.SHUT_WR)
        for client in clients:
            assert client.recv(10)
        end = time.monotonic() + 20
        while found.counts.connections and time.monotonic() < end:
            assert orphans(found.address[1]) == 0
            time.sleep(0.02)
        assert (found.counts.connections, orphans(found.address[1])) == (0, 0)
        for client in clients:
            assert len(rest(client)) < 100_000


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_idle_connections_make_room_for_one_that_asks() -> None:
    with target(Limits(connections=100)) as found, ExitStack() as stack:
        before = resident()
        idle = [stack.enter_context(found.connect()) for _ in range(1000)]
        assert statuses(found.exchange(LAST)) == [200]
        # The newest 99 are as they were; all before made room, one each.
        assert found.counts.connections <= 100
        assert found.counts.refused["connections"] >= 901
        assert found.refused().keys() == {"connections"}
        assert resident() - before < 30 << 20
        idle[-1].sendall(LAST)
        assert statuses(rest(idle[-1])) == [200]


@pytest.mark.parametrize("steps", range(12))
def test_end_while_a_connection_makes_room(steps: int) -> None:
    """So many steps of the loop after the only client has left: none of them loses the cancellation."""

    async def answer(method: str, target: str, headers: Mapping[str, str]) -> Answer:
        raise AssertionError(target)

    async def ended(listener: socket.socket) -> bool:
        counts = Counts()
        endpoint = Endpoint(listener, answer, counts, Limits(connections=1))
        serving = asyncio.create_task(endpoint.run())
        with socket.create_connection(listener.getsockname(), 20):
            while counts.connections == 0:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
        for _ in range(steps):
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait({serving}, timeout=1)
        await endpoint.close(1)
        return serving.done()

    with bind(("127.0.0.1", 0)) as listener:
        assert asyncio.run(ended(listener))


def test_idle_connections_of_one_address_do_not_cost_another_its_own() -> None:
    with target(Limits(connections=10)) as found, ExitStack() as stack:
        scraper = stack.enter_context(socket.create_connection(found.address, 20, ("127.0.0.2", 0)))
        scraper.sendall(SCRAPE)
        assert b"page\n" in scraper.recv(1000)
        for _ in range(100):
            stack.enter_context(found.connect())
        assert statuses(found.exchange(LAST)) == [200]
        assert found.counts.refused["connections"] >= 91
        scraper.sendall(LAST)
        assert statuses(rest(scraper)) == [200]


def test_two_hundred_scrapes_at_once() -> None:
    """40 pages are in progress. All others are refused and counted; health checks are answered meanwhile."""
    hold = threading.Event()
    with target(Limits(connections=300), hold=hold) as found, ExitStack() as stack:
        clients = [stack.enter_context(found.connect()) for _ in range(200)]
        for client in clients:
            client.sendall(LAST)
        while found.counts.refused["requests"] < 160:
            time.sleep(0.01)
        assert statuses(found.exchange(LAST.replace(b"/metrics", b"/other"))) == [404]
        hold.set()
        received = [rest(client) for client in clients]
        assert Counter(status for one in received for status in statuses(one)) == {200: 40, 503: 160}
        assert sum(b"retry-after: 1\r\n" in one for one in received) == 160
        found.settled(requests=160)


def test_two_hundred_scrapes_through_few_connections() -> None:
    """More than there are connections: they wait for their turn, and each is answered."""
    with target(Limits(connections=20, requests=20)) as found:
        clients = []
        for _ in range(200):
            client = found.connect()
            client.sendall(LAST)
            clients.append(client)
        received = [rest(client) for client in clients]
        for client in clients:
            client.close()
        assert Counter(status for one in received for status in statuses(one)) == {200: 200}
        found.settled()


def test_end_lets_an_answer_out() -> None:
    """The endpoint ends while a page is on its way, and idle connections are there."""
    hold = threading.Event()
    with ExitStack() as stack:
        with target(Limits(), hold=hold) as found:
            idle, busy = stack.enter_context(found.connect()), stack.enter_context(found.connect())
            busy.sendall(LAST)
            while found.counts.connections < 2 or not found.answering:
                time.sleep(0.01)
            threading.Timer(0.2, hold.set).start()
        assert statuses(rest(busy)) == [200]
        assert rest(idle) == b""
        assert found.counts.connections == 0
