"""TCP counters against known numbers of bytes, TCP_INFO, and the kernel's own trace of tcp_probe."""

import ctypes
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest

from kpod_metrics import histogram
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.net_tcp import CONNECTIONS, TRAFFIC, NetTcp
from kpod_metrics.features import FILE_ITERATOR, SOCKET_ITERATOR
from tests.forced import lacking, needs
from tests.live.harness import SCALE, Cgroup, Totals, go, opened, proves, stop_point

SENT, RECEIVED, SEGMENTS, RETRANSMITS, FAILURES, RTT = (metric.name for metric in TRAFFIC.metrics)
[CONNECTED] = (metric.name for metric in CONNECTIONS.metrics)

OLDEST = ("socket_storage", "batch")
"""What the oldest kernels lack."""
EVERY_WAY = pytest.mark.parametrize(
    "forced_off", [(), (SOCKET_ITERATOR,), OLDEST, ("tp_btf",)], ids=["newest", "hooks", "oldest", "raw"]
)

Process = subprocess.Popen[bytes]


class Counted(NamedTuple):
    """All counters of a cgroup."""

    sent: float = 0
    received: float = 0
    segments: float = 0
    retransmits: float = 0
    failures: float = 0
    outbound: float = 0
    inbound: float = 0


def counted(totals: Totals, cgroup: Cgroup) -> Counted:
    return Counted(
        *(totals.number(cgroup, name) for name in (SENT, RECEIVED, SEGMENTS, RETRANSMITS, FAILURES)),
        *(totals.number(cgroup, CONNECTED, direction) for direction in ("outbound", "inbound")),
    )


def assert_counted(totals: Totals, expected: dict[Cgroup, Counted]) -> None:
    """Read until all is there, for the last acknowledgement may be on its way; then once more: it must stay so."""
    deadline = time.monotonic() + 10
    while {c: counted(totals.read(), c) for c in expected} != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {c.path.name: counted(totals.read(), c) for c in expected} == {c.path.name: expected[c] for c in expected}


def are_late(totals: Totals, expected: dict[Cgroup, Counted]) -> bool:
    """Whether nothing differs but one sent segment of a cgroup, of at most 64 KiB, that is not counted yet."""
    for cgroup, whole in expected.items():
        now = counted(totals, cgroup)
        late = whole.segments - now.segments
        if late not in {0, 1} or not 0 <= whole.sent - now.sent <= late * 65536:
            return False
        if now._replace(sent=whole.sent, segments=whole.segments) != whole:
            return False
    return True


def line(process: Process) -> int:
    """The number on the next line that a workload prints."""
    assert process.stdout is not None
    return int(process.stdout.readline())


class Info(NamedTuple):
    """What TCP_INFO says of sockets, as `tcp_peer.c` prints it."""

    retransmits: int = 0
    segments: int = 0

    @staticmethod
    def of(process: Process) -> "Info":
        """Those of the next line that it prints."""
        assert process.stdout is not None
        return Info(*map(int, process.stdout.readline().split()))


class Network:
    """Starts workloads in a network and keeps them for the end of the test."""

    def __init__(self, workload: Callable[[str], str], children: list[Process]) -> None:
        self._workload, self._children = workload, children
        self._enter: tuple[str, ...] = ()
        self.server_address = self.client_goes_to = "127.0.0.1"

    def start(self, owner: Cgroup, name: str, *arguments: object) -> Process:
        return self.enter(owner, self._workload(name), *map(str, arguments))

    def enter(self, owner: Cgroup, *command: str) -> Process:
        """Start any program there."""
        process = owner.start(*self._enter, *command, stdout=subprocess.PIPE)
        self._children.append(process)
        return process

    def lay_wire(self, owner: Cgroup, delay_us: int = 0, drop_every: int = 0, syns: int = 0, syn_acks: int = 0) -> int:
        """Have the peers talk by a wire of `tcp_wire.c`; return the process id of who forwards."""
        wire = self.start(owner, "tcp_wire", delay_us, drop_every, syns, syn_acks)
        assert wire.stdout is not None
        assert wire.stdout.readline() == b"up\n"
        self._enter = ("nsenter", f"--net=/proc/{wire.pid}/ns/net")
        self.server_address, self.client_goes_to = "10.0.0.1", "10.0.0.2"
        return wire.pid


class Peers:
    """A client and a server with known numbers of bytes: see `tcp_peer.c`."""

    def __init__(
        self,
        network: Network,
        client: Cgroup,
        server: Cgroup,
        *,
        connections: int,
        traffic: tuple[int, int],
        how: str = "send",
        end: str = "close",
        extra: int = 0,
        rounds: int = 2,
    ) -> None:
        self.owners = (client, server)
        self.connections = connections
        self.to_server, self.to_client = to_server, to_client = traffic
        self.rounds, self.end, self.extra = rounds, end, extra
        last = (rounds, how, end, extra)
        self.server = network.start(
            server, "tcp_peer", "server", network.server_address, 0, connections, to_client, to_server, *last
        )
        self.port = line(self.server)
        self.client = network.start(
            client, "tcp_peer", "client", network.client_goes_to, self.port, connections, to_server, to_client, *last
        )
        self.told = (Info(), Info())
        """Of the client and of the server."""

    def round_over(self) -> None:
        """Wait for the end of a round; both have stopped then."""
        stop_point(self.client)
        stop_point(self.server)
        self.told = (Info.of(self.client), Info.of(self.server))

    def go(self) -> None:
        go(self.server)
        go(self.client)

    def finish(self) -> None:
        """Have the connections ended, after the last round."""
        self.go()
        assert self.client.wait(30) == 0
        assert self.server.wait(30) == 0

    def expected(self, rounds: int, *, ended: bool = False) -> dict[Cgroup, Counted]:
        """What both must have after so many rounds."""
        to_server, to_client = (self.connections * n * rounds for n in (self.to_server, self.to_client))
        if ended:
            to_server += self.connections * self.extra * (self.end == "reset")
            to_client += self.connections * self.extra * (self.end == "half")
        client, server = self.owners
        of_client, of_server = self.told
        return {
            client: Counted(to_server, to_client, of_client.segments, of_client.retransmits, outbound=self.connections),
            server: Counted(to_client, to_server, of_server.segments, of_server.retransmits, inbound=self.connections),
        }


@pytest.fixture
def network(workload: Callable[[str], str], children: list[Process]) -> Network:
    return Network(workload, children)


def collector(*forced_off: str, map_entries: int = 0) -> NetTcp:
    return NetTcp(Environment(forced_off=frozenset(forced_off), map_entries=map_entries))


@proves(SENT, RECEIVED)
@pytest.mark.parametrize(
    ("how", "end", "forced_off"),
    [
        ("write", "close", ()),
        ("send", "half", ()),
        ("sendmsg", "reset", ()),
        ("sendfile", "close", ()),
        ("splice", "half", ()),
        ("write", "half", (SOCKET_ITERATOR,)),
        ("sendfile", "reset", (SOCKET_ITERATOR,)),
        ("send", "reset", OLDEST),
        ("splice", "close", OLDEST),
        ("sendmsg", "half", ("tp_btf",)),
    ],
)
def test_bytes_are_exact(
    cgroup: Callable[[str], Cgroup], network: Network, how: str, end: str, forced_off: tuple[str, ...]
) -> None:
    """Not a byte more or less, with the connections open and after their end; C has none."""
    a, b, c = cgroup("a"), cgroup("b"), cgroup("c")
    with opened(collector(*forced_off)) as net_tcp:
        totals = Totals(net_tcp)
        peers = Peers(network, a, b, connections=3, traffic=(1_000_003, 300_007), how=how, end=end, extra=54_321)
        for done in (1, 2):
            peers.round_over()
            expected = peers.expected(done) | {c: Counted()}
            try:
                assert_counted(totals, expected)
            except AssertionError:
                # Without the iterator, hooks read a socket when a segment arrives. Rarely the last one is not seen: the
                # next one, or the end of the connection, makes up for it.
                assert isinstance(net_tcp, NetTcp)
                if net_tcp._totals is not None or not are_late(totals, expected):
                    raise
            if done == 1:
                peers.go()
        peers.finish()
        # Nobody can ask a closed socket for its segments: those are another test's.
        totals.read()
        of_a, of_b = (Info(*(int(totals.number(c, name)) for name in (RETRANSMITS, SEGMENTS))) for c in (a, b))
        peers.told = (of_a, of_b)
        assert_counted(totals, peers.expected(2, ended=True) | {c: Counted()})


@needs(SOCKET_ITERATOR)
def test_this_kernel_has_the_iterator() -> None:
    """Where a kernel has it, that it is not given up in silence; else the other tests of it would try the hooks."""
    with opened(collector()) as net_tcp:
        assert isinstance(net_tcp, NetTcp)
        assert net_tcp._totals is not None


@proves(SENT, SEGMENTS, CONNECTED)
def test_sockets_that_are_connected_again_while_they_are_looked_at(
    cgroup: Callable[[str], Cgroup], network: Network
) -> None:
    a = cgroup("a")
    times = max(3, 60 // SCALE)
    with opened(collector()) as net_tcp, ThreadPoolExecutor(1) as beside:
        totals = Totals(net_tcp)
        with socket.create_server(("127.0.0.1", 0)) as server:

            def again() -> int:
                segments = 0
                for _ in range(times):
                    client = network.start(a, "tcp_peer", "again", "127.0.0.1", server.getsockname()[1], 9000)
                    stop_point(client)
                    segments += Info.of(client).segments + Info.of(client).segments
                return segments

            done = beside.submit(again)
            while not done.done():
                assert totals.read().number(a, SENT) <= 12_000 * times
            segments = done.result()
            assert segments >= 2 * times
            assert_counted(totals, {a: Counted(sent=12_000 * times, segments=segments, outbound=2 * times)})


class Work(NamedTuple):
    """Connections at a time, bytes per end and repetitions; sockets that the iterator reads at once."""

    connections: int
    bytes_each: int
    times: int
    at_a_time: int = 2048


@proves(SENT, RECEIVED, SEGMENTS)
@pytest.mark.parametrize(
    "work",
    [Work(2, 100_000_003, 6), Work(64, 1003, 40), Work(64, 1003, 10, at_a_time=7)],
    ids=["long", "short", "in pieces"],
)
def test_looks_at_sockets_in_use_count_each_byte_once(
    cgroup: Callable[[str], Cgroup],
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
    work: Work,
) -> None:
    """Looked at without a pause while they send, receive, end: sockets are locked then, and their totals in motion."""
    monkeypatch.setattr("kpod_metrics.collectors.net_tcp._SOCKETS_AT_A_TIME", work.at_a_time)
    a, b = cgroup("a"), cgroup("b")
    each = work.bytes_each // SCALE
    with opened(collector()) as net_tcp, ThreadPoolExecutor(1) as beside:
        totals = Totals(net_tcp)
        whole, seen = {a: Counted(), b: Counted()}, set()
        for _ in range(max(3, work.times // SCALE)):
            peers = Peers(network, a, b, connections=work.connections, traffic=(each, each), rounds=1)

            def to_the_end(peers: Peers = peers) -> None:
                peers.round_over()
                peers.finish()

            expected = {
                owner: Counted(*map(sum, zip(was, whole[owner], strict=True)))
                for owner, was in peers.expected(1).items()
            }
            done = beside.submit(to_the_end)
            while not done.done():
                totals.read()
                for owner in (a, b):
                    now = counted(totals, owner)
                    assert whole[owner].sent <= now.sent <= expected[owner].sent
                    assert whole[owner].received <= now.received <= expected[owner].received
                seen.add(counted(totals, b).received)
            done.result()
            totals.read()
            # All data was acknowledged when the peers were asked; a FIN may have been retransmitted since.
            whole = {
                owner: now._replace(
                    segments=whole[owner].segments + peers.expected(1)[owner].segments,
                    retransmits=totals.number(owner, RETRANSMITS),
                )
                for owner, now in expected.items()
            }
            assert_counted(totals, whole)
        assert len(seen) > 5, "bytes are counted while they are sent, not only at the end"


@proves(RETRANSMITS, SEGMENTS)
@EVERY_WAY
def test_retransmits_and_segments_equal_tcp_info(
    cgroup: Callable[[str], Cgroup], network: Network, forced_off: tuple[str, ...]
) -> None:
    """Every 20th segment with data is lost, in both directions."""
    a, b, c, d = cgroup("a"), cgroup("b"), cgroup("c"), cgroup("d")
    network.lay_wire(d, delay_us=1000, drop_every=20)
    with opened(collector(*forced_off)) as net_tcp:
        totals = Totals(net_tcp)
        peers = Peers(network, a, b, connections=2, traffic=(200_001, 100_003))
        for done in (1, 2):
            peers.round_over()
            # Of 2 x 138 and 2 x 69 full segments a round, 20 are lost.
            assert sum(told.retransmits for told in peers.told) >= 20 * done
            assert min(told.retransmits for told in peers.told) > 0
            for told, least in zip(peers.told, (138, 69), strict=True):
                assert told.segments >= 2 * least * done + told.retransmits
            assert_counted(totals, peers.expected(done) | {c: Counted(), d: Counted()})
            if done == 1:
                peers.go()


@proves(RETRANSMITS)
@EVERY_WAY
def test_retransmits_of_the_handshake(
    cgroup: Callable[[str], Cgroup], network: Network, forced_off: tuple[str, ...]
) -> None:
    """A lost SYN is the client's, a lost SYN-ACK the server's; E's SYNs are never answered."""
    a, b, c, d, e = (cgroup(name) for name in "abcde")
    network.lay_wire(d, syns=1, syn_acks=1)
    with opened(collector(*forced_off)) as net_tcp:
        totals = Totals(net_tcp)
        silent = network.start(e, "tcp_peer", "silent", "10.0.0.99", 1, 1)
        peers = Peers(network, a, b, connections=1, traffic=(1003, 1007))
        deadline = time.monotonic() + 10
        while not totals.read().number(e, RETRANSMITS) and time.monotonic() < deadline:
            time.sleep(0.05)
        # Seen as they happen, though nothing was ever received: before the connect fails.
        assert counted(totals, e)._replace(retransmits=0) == Counted()
        peers.round_over()
        stop_point(silent)
        unanswered = Info.of(silent).retransmits
        assert min(*(told.retransmits for told in peers.told), unanswered) >= 1
        nothing = {c: Counted(), d: Counted(), e: Counted(retransmits=unanswered, failures=1)}
        assert_counted(totals, peers.expected(1) | nothing)
        peers.go()
        peers.round_over()
        assert_counted(totals, peers.expected(2) | nothing)


def test_missed_changes_are_made_up_for(cgroup: Callable[[str], Cgroup], network: Network) -> None:
    """The kernel misses a run inside a run; here the program goes away while connects are under way."""
    a, b, d, e = (cgroup(name) for name in "abde")
    wire = network.lay_wire(d, delay_us=450_000)
    with opened(collector()) as net_tcp:
        assert isinstance(net_tcp, NetTcp)
        assert net_tcp._loaded is not None
        totals = Totals(net_tcp)
        silent = network.start(e, "tcp_peer", "silent", "10.0.0.99", 1, 1)
        peers = Peers(network, a, b, connections=1, traffic=(10_003, 10_007))  # of several segments
        syn_sent = re.compile(r"^ *\d+: \S+ \S+ 02 ", re.MULTILINE)
        deadline = time.monotonic() + 10
        while len(syn_sent.findall(Path(f"/proc/{wire}/net/tcp").read_text())) != 2:
            assert time.monotonic() < deadline
        net_tcp._loaded.links[0].close()  # tcp_state
        peers.round_over()
        stop_point(silent)
        client, server = peers.expected(1).values()
        assert_counted(
            totals,
            {
                a: client,
                b: server._replace(inbound=0),  # its birth was missed too: it is taken for an older one
                e: Counted(retransmits=Info.of(silent).retransmits, failures=1),
            },
        )


@proves(CONNECTED, FAILURES)
@EVERY_WAY
def test_connections_by_direction(
    cgroup: Callable[[str], Cgroup], network: Network, forced_off: tuple[str, ...]
) -> None:
    """What A opens B accepts; what nobody accepts is a failure of A alone."""
    a, b, c = cgroup("a"), cgroup("b"), cgroup("c")
    with opened(collector(*forced_off)) as net_tcp, socket.socket() as deaf:
        totals = Totals(net_tcp)
        deaf.bind(("127.0.0.1", 0))  # and never listens
        so_far = refused = 0
        for connections, failures in ((7, 5), (11, 3)):
            peers = Peers(network, a, b, connections=connections, traffic=(1, 1), rounds=1)
            peers.round_over()
            peers.finish()
            port = deaf.getsockname()[1]
            stop_point(network.start(a, "tcp_peer", "refused", "127.0.0.1", port, failures))
            so_far += connections
            refused += failures
            assert_counted(
                totals,
                {
                    a: Counted(so_far, so_far, so_far, 0, refused, outbound=so_far),
                    b: Counted(so_far, so_far, so_far, inbound=so_far),
                    c: Counted(),
                },
            )


@proves(CONNECTED)
def test_a_connect_at_both_ends_is_outbound(cgroup: Callable[[str], Cgroup], network: Network) -> None:
    """SYNs cross, from SYN_SENT by SYN_RECV to ESTABLISHED, and nobody listened: here they are one socket's."""
    a, b = cgroup("a"), cgroup("b")
    with opened(collector()) as net_tcp:
        totals = Totals(net_tcp)
        for done in (1, 2):
            stop_point(network.start(a, "tcp_peer", "self", "127.0.0.1", 0, 1003))
            assert_counted(totals, {a: Counted(1003 * done, 1003 * done, done, outbound=done), b: Counted()})


@proves(SENT, SEGMENTS, CONNECTED)
@EVERY_WAY
def test_a_socket_has_another_connection(
    cgroup: Callable[[str], Cgroup], network: Network, forced_off: tuple[str, ...]
) -> None:
    """Its totals began again at 0. The server never accepts, but its kernel receives the bytes."""
    a, b = cgroup("a"), cgroup("b")
    with opened(collector(*forced_off)) as net_tcp, socket.create_server(("127.0.0.1", 0)) as server:
        totals = Totals(net_tcp)
        segments = 0
        for done in (1, 2):
            client = network.start(a, "tcp_peer", "again", "127.0.0.1", server.getsockname()[1], 9000)
            stop_point(client)
            segments += Info.of(client).segments + Info.of(client).segments
            of_a = Counted(sent=12_000 * done, segments=segments, outbound=2 * done)
            assert_counted(totals, {a: of_a, b: Counted()})


NEVER_ACCEPTS = """
import socket, time
server = socket.create_server(("10.0.0.1", 0))
print(server.getsockname()[1], flush=True)
time.sleep(1000)
"""


@proves(SENT, SEGMENTS, RETRANSMITS, CONNECTED)
@EVERY_WAY
def test_a_socket_has_another_connection_that_retransmits_too(
    cgroup: Callable[[str], Cgroup], network: Network, forced_off: tuple[str, ...]
) -> None:
    """The wire loses data of both: what the first retransmitted is not the second's, and neither is lost."""
    a, b, d = cgroup("a"), cgroup("b"), cgroup("d")
    network.lay_wire(d, drop_every=4)
    with opened(collector(*forced_off)) as net_tcp:
        totals = Totals(net_tcp)
        port = line(network.enter(b, sys.executable, "-c", NEVER_ACCEPTS))
        retransmitted = segments = 0
        for done in (1, 2):
            client = network.start(a, "tcp_peer", "again", network.client_goes_to, port, 30_000)
            stop_point(client)
            first, second = Info.of(client), Info.of(client)
            assert first.retransmits
            assert second.retransmits
            retransmitted += first.retransmits + second.retransmits
            segments += first.segments + second.segments
            of_a = Counted(40_000 * done, 0, segments, retransmitted, outbound=2 * done)
            # Not b: hooks count what nobody reads with the next segment or at the end.
            assert_counted(totals, {a: of_a, d: Counted()})


class Probe(NamedTuple):
    """One event of the kernel's trace of tcp_probe."""

    current: int
    local_port: int
    remote_port: int
    srtt_us: int


@contextmanager
def traced(into: list[Probe]) -> Iterator[Callable[[], None]]:
    """Have the kernel trace tcp_probe; what is yielded takes what was traced so far.

    The tracefs is attached nowhere: it is gone with its descriptor.
    """
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    fsopen, fsconfig, fsmount, create = 430, 431, 432, 6
    context = syscall(fsopen, b"tracefs", 0)
    assert context >= 0, os.strerror(ctypes.get_errno())
    assert syscall(fsconfig, context, create, None, None, 0) == 0, os.strerror(ctypes.get_errno())
    mount = syscall(fsmount, context, 0, 0)
    assert mount >= 0, os.strerror(ctypes.get_errno())
    os.close(context)
    instance = Path(f"/proc/self/fd/{mount}/instances/kpod-test-{os.getpid()}-{time.monotonic_ns()}")
    instance.mkdir()
    event = re.compile(r"^.{16}-(\d+) .* tcp_probe: .*src=\S+:(\d+) dest=\S+:(\d+) .* srtt=(\d+) ", re.MULTILINE)

    def take() -> None:
        text = (instance / "trace").read_text()
        (instance / "trace").write_text("")
        into.extend(Probe(*map(int, found)) for found in event.findall(text))

    try:
        (instance / "events/tcp/tcp_probe/enable").write_text("1")
        yield take
    finally:
        (instance / "events/tcp/tcp_probe/enable").write_text("0")
        instance.rmdir()
        os.close(mount)


@proves(RTT)
@pytest.mark.parametrize("forced_off", [(), ("tp_btf",)], ids=["newest", "raw"])
def test_rtt_equals_the_trace_and_is_charged_to_the_socket(
    cgroup: Callable[[str], Cgroup], network: Network, forced_off: tuple[str, ...]
) -> None:
    """A known delay, and segments that arrive while D's process runs: what is charged to current is charged to D."""
    a, b, c, d = cgroup("a"), cgroup("b"), cgroup("c"), cgroup("d")
    one_way_us = 66_000
    rtt = 2 * one_way_us / 1e6
    wire = network.lay_wire(d, delay_us=one_way_us)
    probes: list[Probe] = []
    with opened(collector(*forced_off)) as net_tcp, traced(probes) as take:
        totals = Totals(net_tcp)
        peers = Peers(network, a, b, connections=5, traffic=(101, 203))
        for done in (1, 2):
            peers.round_over()
            before = -1
            while before != len(probes):
                before = len(probes)
                time.sleep(0.3)  # delayed acknowledgements
                take()
            assert_counted(totals, peers.expected(done) | {c: Counted(), d: Counted()})
            of_a = [probe for probe in probes if probe.remote_port == peers.port]
            of_b = [probe for probe in probes if probe.local_port == peers.port]
            for owner, of_owner in ((a, of_a), (b, of_b)):
                observed = totals.histogram(owner, RTT)
                assert observed.count == sum(1 for probe in of_owner if probe.srtt_us)
                assert observed.count >= 5 * done
                assert observed.sum_ns == sum(probe.srtt_us for probe in of_owner) * 1000
                buckets = [*accumulate(observed.buckets)]
                median = next(bucket for bucket, below in enumerate(buckets) if 2 * below >= observed.count)
                true = sorted(probe.srtt_us for probe in of_owner if probe.srtt_us)[(observed.count - 1) // 2] / 1e6
                assert histogram.upper_bound(median - 1) < true <= histogram.upper_bound(median)
                assert true >= rtt
            for nobody in (c, d):
                assert totals.histogram(nobody, RTT).count == 0
            if done == 1:
                peers.go()
        current = [probe.current for probe in of_a + of_b]
        assert current.count(wire) > 0.5 * len(current)


@needs(FILE_ITERATOR)
@proves(SENT, RECEIVED, SEGMENTS, RETRANSMITS)
@EVERY_WAY
def test_older_connections_count_from_now_on(
    cgroup: Callable[[str], Cgroup], network: Network, forced_off: tuple[str, ...]
) -> None:
    """In a network namespace that the agent is not in; the connections themselves were made before."""
    a, b, c, d = cgroup("a"), cgroup("b"), cgroup("c"), cgroup("d")
    network.lay_wire(d, delay_us=500, drop_every=10)
    peers = Peers(network, a, b, connections=3, traffic=(200_003, 100_007), rounds=3)
    peers.round_over()
    before = peers.told
    assert all(told.retransmits for told in before)
    with opened(collector(*forced_off)) as net_tcp:
        totals = Totals(net_tcp)
        assert_counted(totals, {a: Counted(), b: Counted(), c: Counted(), d: Counted()})
        for done in (1, 2):
            peers.go()
            peers.round_over()
            expected = {
                owner: now._replace(
                    segments=now.segments - was.segments,
                    retransmits=now.retransmits - was.retransmits,
                    outbound=0,
                    inbound=0,
                )
                for (owner, now), was in zip(peers.expected(done).items(), before, strict=True)
            }
            assert_counted(totals, expected | {c: Counted(), d: Counted()})


@needs(FILE_ITERATOR)
@proves(CONNECTED)
def test_an_older_connect_counts_when_it_is_answered(cgroup: Callable[[str], Cgroup], network: Network) -> None:
    """Begun before we watch; its SYN was lost, and the next one is."""
    a, b, d = cgroup("a"), cgroup("b"), cgroup("d")
    wire = network.lay_wire(d, syns=3)
    peers = Peers(network, a, b, connections=1, traffic=(1003, 2007), rounds=1)

    def syns_again() -> int:
        """How often its SYN was retransmitted while it is not answered (/proc/PID/net/tcp, state 2); else -1."""
        lines = Path(f"/proc/{wire}/net/tcp").read_text().splitlines()[1:]
        return next((int(fields[6], 16) for fields in map(str.split, lines) if fields[3] == "02"), -1)

    end = time.monotonic() + 10
    while syns_again() != 2 and time.monotonic() < end:
        time.sleep(0.02)
    with opened(collector()) as net_tcp:
        assert syns_again() == 2  # four seconds pass before the one that is answered
        totals = Totals(net_tcp)
        assert_counted(totals, {a: Counted(), b: Counted(), d: Counted()})
        peers.round_over()
        expected = peers.expected(1)
        assert expected[a].retransmits == 3
        assert_counted(totals, expected | {a: expected[a]._replace(retransmits=1), d: Counted()})


READ_AFTER_THE_END = textwrap.dedent("""
    import os, signal, socket, time
    os.kill(os.getpid(), signal.SIGSTOP)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    client.sendall(bytes(1003))
    client.shutdown(socket.SHUT_WR)
    while server.recv(1 << 16): pass
    server.sendall(bytes(2007))
    server.close()
    while client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0] != 7: time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGSTOP)
    while client.recv(100): pass
    os.kill(os.getpid(), signal.SIGSTOP)
""")
"""Both ends of a connection of which one reads when it is over for the kernel (TCP_CLOSE, net/tcp_states.h)."""


@proves(SENT, RECEIVED)
@EVERY_WAY
@pytest.mark.alone
def test_what_is_read_after_the_end_is_not_counted_again(
    cgroup: Callable[[str], Cgroup], children: list[Process], forced_off: tuple[str, ...]
) -> None:
    a = cgroup("a")
    both = a.start(sys.executable, "-c", READ_AFTER_THE_END)
    children.append(both)
    stop_point(both)
    with opened(collector(*forced_off)) as net_tcp:
        assert isinstance(net_tcp, NetTcp)
        assert net_tcp._loaded is not None
        states = net_tcp._loaded.object.maps["tcp_sockets_by_address"]
        before = set(states.iterate()) if states.created else set()
        totals = Totals(net_tcp)
        for _ in range(2):
            go(both)
            stop_point(both)
            assert_counted(totals, {a: Counted(1003 + 2007, 1003 + 2007, 2, outbound=1, inbound=1)})
        # Where states are in a hash: nothing would take it out again. Others' are known from the iterator alone.
        if states.created and not lacking(FILE_ITERATOR):
            assert set(states.iterate()) <= before


END_WITH_MORE_TO_SEND = textwrap.dedent("""
    import os, signal, socket, time
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    client.setblocking(False)
    written = 0
    try:
        while True: written += client.send(bytes(65536))
    except BlockingIOError: pass
    client.shutdown(socket.SHUT_WR)
    def told(one, at, size):
        return int.from_bytes(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)[at:at + size], "little")
    seen = []
    while len(seen) < 5 or len(set(seen[-5:])) > 1:  # while the last of the window is being filled
        seen.append((told(client, 144, 4) - 1, written - told(server, 128, 8)))
        time.sleep(0.4)
    print(*seen[-1], told(client, 100, 4), told(client, 156, 4), flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    while server.recv(1 << 20): pass
    print(told(client, 100, 4), told(client, 156, 4), flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
""")
"""Both ends of a connection whose one end has said that it will send no more, and still has: a FIN waits behind it.

Prints tcpi_notsent_bytes (less the FIN), what is not received yet by tcpi_bytes_received, tcpi_total_retrans and
tcpi_data_segs_out, these once more at the end (linux/tcp.h)."""


@needs(FILE_ITERATOR)
@proves(SENT, RECEIVED)
@EVERY_WAY
def test_an_older_connection_that_is_ending_counts_its_rest(
    cgroup: Callable[[str], Cgroup], children: list[Process], forced_off: tuple[str, ...]
) -> None:
    a, b = cgroup("a"), cgroup("b")
    both = a.start(sys.executable, "-c", END_WITH_MORE_TO_SEND, stdout=subprocess.PIPE)
    children.append(both)
    stop_point(both)
    assert both.stdout is not None
    not_sent, not_received, *before = map(int, both.stdout.readline().split())
    assert not_sent > 0
    with opened(collector(*forced_off)) as net_tcp:
        totals = Totals(net_tcp)
        assert_counted(totals, {a: Counted(), b: Counted()})
        go(both)
        stop_point(both)
        now, was = Info.of(both), Info(*before)
        segments, again = now.segments - was.segments, now.retransmits - was.retransmits
        assert segments > 0
        assert_counted(totals, {a: Counted(not_sent, not_received, segments, again), b: Counted()})


@pytest.mark.alone
def test_sockets_that_end_make_room_for_others(cgroup: Callable[[str], Cgroup], network: Network) -> None:
    """One after another in a hash for sixteen: each leaves it at its end, also where the next has its address."""
    a, b = cgroup("a"), cgroup("b")
    with opened(collector("socket_storage", map_entries=16)) as net_tcp:
        assert isinstance(net_tcp, NetTcp)
        assert net_tcp._loaded is not None
        states = net_tcp._loaded.object.maps["tcp_sockets_by_address"]
        before = set(states.iterate())  # of others' connections
        totals = Totals(net_tcp)
        for done in range(1, 13):
            peers = Peers(network, a, b, connections=1, traffic=(1003, 1003), rounds=1)
            peers.round_over()
            peers.finish()
            one = Counted(1003 * done, 1003 * done, done)
            assert_counted(totals, {a: one._replace(outbound=done), b: one._replace(inbound=done)})
        errors = {health.name: health.update_errors for health in net_tcp.maps()}
        assert errors["tcp_sockets_by_address"] == 0
        if not lacking(FILE_ITERATOR):  # else others' older sockets come in when a hook meets them
            assert set(states.iterate()) <= before


@pytest.mark.alone
def test_sockets_without_room_are_counted(cgroup: Callable[[str], Cgroup], network: Network) -> None:
    """In a hash for four sockets, failed inserts are counted, and everything else is exact."""
    a, b = cgroup("a"), cgroup("b")
    with opened(collector("socket_storage", map_entries=4)) as net_tcp:

        def errors() -> int:
            return next(map_.update_errors or 0 for map_ in net_tcp.maps() if map_.name == "tcp_sockets_by_address")

        before = errors()  # of others' connections
        peers = Peers(network, a, b, connections=8, traffic=(1003, 1003), rounds=1)
        peers.round_over()
        assert errors() - before >= 2 * 8 - 4
