"""TCP bytes, segments, retransmits, connections and round-trip times, from `bpf/net_tcp.bpf.c`."""

from collections.abc import Iterable, Sequence

from kpod_metrics.collectors.kit import BpfCollector, Environment, Question, Signal
from kpod_metrics.columns import Column
from kpod_metrics.errors import UnavailableError
from kpod_metrics.features import BATCH, FILE_ITERATOR, SOCKET_ITERATOR, SOCKET_STORAGE, TP_BTF
from kpod_metrics.kernel import libbpf
from kpod_metrics.kernel.maps import Entry
from kpod_metrics.kernel.programs import attach_all, kernel_knows
from kpod_metrics.metrics import LATENCY_EXPONENTS, Label, Row, Table, counter, latency
from kpod_metrics.pods.model import Group

TRAFFIC = Table(
    (
        counter(
            "kpod_net_tcp_bytes_sent_total",
            "Payload bytes sent over TCP, without retransmits.",
            "advance of tcp_sock.snd_nxt, without SYN and FIN",
            advice=(
                "Near the bandwidth of the link, or its limit: this is the bottleneck. Divide by "
                "kpod_net_tcp_segments_sent_total to get the size of a segment."
            ),
        ),
        counter(
            "kpod_net_tcp_bytes_received_total",
            "Payload bytes received over TCP, without duplicates, even if the application has not read them.",
            "tcp_sock.bytes_received, without FIN",
            advice=("Compare it with kpod_net_iface_rx_bytes_total, which also counts headers and duplicates."),
        ),
        counter(
            "kpod_net_tcp_segments_sent_total",
            "Sent TCP segments with payload, retransmits included.",
            "tcp_sock.data_segs_out, as tcpi_data_segs_out of TCP_INFO",
            advice="Divide kpod_net_tcp_retransmits_total by it.",
        ),
        counter(
            "kpod_net_tcp_retransmits_total",
            "Retransmitted TCP segments, including SYNs, and SYN-ACKs of established connections.",
            "tcp_sock.total_retrans, as tcpi_total_retrans of TCP_INFO",
            events=True,
            advice="More than 2 % of the segments: packets are lost, or the peer does not answer (KpodTcpRetransmits).",
        ),
        counter(
            "kpod_net_tcp_connect_failures_total",
            "Failed TCP connects: refused, timed out, unreachable or aborted.",
            "inet_sock_set_state: SYN_SENT to CLOSE",
            events=True,
            advice=(
                "Grows with retransmits: the peer does not answer (it is down, or a policy drops packets). Without "
                "retransmits: the peer refuses (KpodTcpConnectFailures)."
            ),
        ),
        latency(
            "kpod_net_tcp_rtt_seconds",
            "Smoothed TCP round-trip time, observed at each segment that an established connection receives.",
            "tcp_probe: tcp_sock.srtt_us",
            # Few buckets, to limit the series of a pod: one from 4 to 64 s, as no normal round trip takes so long, and
            # none below a microsecond, the kernel's unit.
            exponents=(*LATENCY_EXPONENTS[1:-2], LATENCY_EXPONENTS[-1]),
            advice="Twice its usual value: a queue on the path, another zone, or a throttled peer (KpodTcpRttRise).",
        ),
    )
)
CONNECTIONS = Table(
    (
        counter(
            "kpod_net_tcp_connections_total",
            "Established TCP connections: outbound by connect, inbound on a listening socket.",
            "inet_sock_set_state: SYN_SENT or SYN_RECV to ESTABLISHED",
            events=True,
            advice=(
                "Many outbound connections for few requests: keep them open. Each costs a round trip, or more with TLS."
            ),
        ),
    ),
    (Label("direction", ("outbound", "inbound")),),
)


_COUNTERS = ("bytes_sent", "bytes_received", "segments_sent", "retransmits", "connect_failures")
"""Fields of struct net_tcp_value, in the order of the table's metrics."""
_SOCKETS_AT_A_TIME = 2048
"""Sockets that the kernel reads before it lets other tasks run on the CPU: a millisecond or two."""
_MAX_PAUSES = 16
"""Maximum number of such pauses: after each, the kernel walks a list from its beginning."""
_OWNER_MAY_BE_GONE = "owner_refcnt"
"""A struct member of kernels (7.0, 0be08389c7f2, "bpf: Switch to bpf_selem_unlink_nofail") with an unsafe iterator: it
can reach a socket that is being destroyed, and then reads the owner through a NULL pointer."""


class NetTcp(BpfCollector):
    """TCP traffic of each cgroup."""

    name = "net_tcp"
    description = "TCP bytes, segments, retransmits, connections, round-trip time"
    question = Question.NETWORK
    columns = (
        Column(
            "retransmits", "RETR/s", "RETRANSMITS/S", "TCP retransmits", ("kpod_net_tcp_retransmits_total",), place=50
        ),
        Column(
            "network",
            "TCP B/s",
            "TCP_BYTES/S",
            "TCP payload, sent and received",
            ("kpod_net_tcp_bytes_sent_total", "kpod_net_tcp_bytes_received_total"),
            place=60,
        ),
    )
    features = (TP_BTF, SOCKET_STORAGE, SOCKET_ITERATOR, FILE_ITERATOR, BATCH)
    extras = (SOCKET_ITERATOR,)
    _totals: libbpf.Link | None = None
    """The iterator over sockets; None if hooks read them."""
    _sockets = 0
    """The number of sockets in the last read."""

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return a table for the totals, and one for connections by direction."""
        return (TRAFFIC, CONNECTIONS)

    def _iterates(self) -> bool:
        """Whether an iterator over their storage reads the sockets."""
        return SOCKET_ITERATOR not in self.without

    def close(self) -> None:
        """Detach and unload."""
        self._totals = None
        super().close()

    def prepare(self, bpf: libbpf.Object) -> None:
        """Load the programs of the iterator over sockets or, if it is not safe, those that read sockets in hooks."""
        if kernel_knows(_OWNER_MAY_BE_GONE, self.environment.sys_root):
            if SOCKET_ITERATOR in self._required():
                raise UnavailableError(f"{SOCKET_ITERATOR}: not safe on this kernel: it has {_OWNER_MAY_BE_GONE} (7.0)")
            self.without.add(SOCKET_ITERATOR)
        bpf.set_rodata("kpod_socket_iterator", bytes([self._iterates()]))
        by_iterator = ("tcp_totals", "tcp_state", "tcp_end")
        by_hooks = ("tcp_state_unshared", "tcp_end_unshared", "tcp_retransmit", "tcp_read")
        for name in by_hooks if self._iterates() else by_iterator:
            bpf.programs[name].disable_autoload()

    def attach(self, bpf: libbpf.Object, links: list[libbpf.Link]) -> list[Signal]:
        """Attach first to changes of state, to miss no new connection; then read existing ones; then count."""
        programs = bpf.programs
        if self._iterates():
            state, end = programs["tcp_state"], programs["tcp_end"]
            counting = [programs["tcp_totals"]]
        else:
            state, end = programs["tcp_state_unshared"], programs["tcp_end_unshared"]
            counting = [programs["tcp_retransmit"], programs["tcp_read"]]
        segment = programs["tcp_segment"]
        attach_all((state, programs["existing_sockets"]), links)
        if self._iterates():
            self._totals = counting[0].attach_iterator_over(bpf.maps["tcp_sockets"])
            links.append(self._totals)
            self._read_sockets(self._totals)  # raises if the kernel refuses to run it
        else:
            attach_all(counting, links)
        attach_all((end, segment), links)
        *totals, failures, rtt = TRAFFIC.metrics
        return [
            Signal(tuple(totals), ", ".join(hook.hook for hook in (state, end, *counting, segment))),
            Signal((failures, *CONNECTIONS.metrics), state.hook),
            Signal((rtt,), segment.hook),
        ]

    def _read_sockets(self, totals: libbpf.Link) -> None:
        """Read the totals of every socket; the program writes a byte for each."""
        self._sockets = len(totals.run_iterator(max(_SOCKETS_AT_A_TIME, self._sockets // _MAX_PAUSES)))

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Read the totals of all sockets, then the map."""
        if self._totals is not None:
            self._read_sockets(self._totals)
        return super().collect(groups)

    def rows(self, entry: Entry) -> Iterable[Row]:
        """Yield one row per cgroup, and one per direction."""
        owner, epoch = entry.key[0], entry.epoch
        yield Row(TRAFFIC, owner, (), (*map(entry.number, _COUNTERS), entry.histogram("rtt")), epoch)
        for direction in CONNECTIONS.labels[0].values:
            yield Row(CONNECTIONS, owner, (direction,), (entry.number(direction),), epoch)
