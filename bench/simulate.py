"""The page of a simulated node: the agent's own store and renderer, with simulated pods.

The same numbers every time, for a seed. `python -m bench.simulate PORT PROFILE` serves such pages at /NUMBER, of which
each differs from the others in its node's and its pods' names only.
"""

import argparse
import http.server
import random
import threading
import time
from array import array
from collections.abc import Iterator

from isal import isal_zlib

from kpod_metrics import agent, settings
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.exposition.page import Renderer
from kpod_metrics.exposition.pages import GZIP
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import TEXT
from kpod_metrics.histogram import BUCKETS, Histogram
from kpod_metrics.metrics import Kind, Metric, Profile, Row, Scope, Table, Value
from kpod_metrics.pods.info import INFO, TABLES
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import Store

NUMBER = 99_999
"""The node whose page is written. Other pages are made by replacing its number with another of the same length."""
NAMES = {"device": "nvme0n1", "interface": "eth0", "mountpoint": "/", "gpu": "0"}
"""One value for each label without fixed values."""
OBSERVATIONS = 20
"""Observations of a container in each histogram per cycle, in about six neighbouring buckets."""


class Node:
    """A node with pods of one container, all of them active in every cycle."""

    def __init__(self, profile: str, pods: int, *, classic: bool = True, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._pods = [self._identity(number) for number in range(pods)]
        self._totals: dict[tuple[Table, int, tuple[str, ...]], list[Value]] = {}
        chosen = [kind(Environment(syscalls=settings.DEFAULT_SYSCALLS)) for kind in registered().values()]
        level = Profile[profile.upper()]
        wanted = frozenset(m for collector in chosen for m in collector.wanted if m.profile <= level and not m.optional)
        self._tables = [t for c in chosen for t in c.tables if any(metric in wanted for metric in t.metrics)]
        every = wanted.union(*(table.metrics for table in TABLES))
        self._wanted = wanted
        self.store = Store([*TABLES, *self._tables], every)
        self.store.discover(set(self._pods))
        self.renderer = Renderer({"node": f"node-{NUMBER}"}, classic=classic)

    def _identity(self, number: int) -> Identity:
        names = ("checkout", "catalogue", "payments", "search", "frontend")
        name, hashed = names[number % len(names)], f"{self._random.getrandbits(32):08x}"
        return Identity(f"team-{number % 20}", f"{name}-{hashed}-{NUMBER}{number:03}", "app")

    def cycle(self) -> None:
        """Let every pod be active, and put its rows into the store."""
        put = self.store.put
        for table in (*TABLES, *self._tables):
            self.store.begin_cycle(table)
        for number, pod in enumerate(self._pods):
            workload = ("Deployment", pod.pod.split("-")[0], "Burstable")
            for table in TABLES:
                put(Row(table, number, workload if table is INFO else (), (1 if table is INFO else 0,)), pod)
            for table in self._tables:
                for labels in combinations(table):
                    put(Row(table, number, labels, self._values(table, number, labels)), pod)

    def _values(self, table: Table, number: int, labels: tuple[str, ...]) -> list[Value]:
        values = [self._value(metric) for metric in table.metrics]
        if not table.of_gauges:
            before = self._totals.get((table, number, labels), [None] * len(values))
            values = [*map(_sum, before, values)]
            self._totals[table, number, labels] = values
        return values

    def _value(self, metric: Metric) -> Value:
        if metric not in self._wanted:
            return None
        if metric.kind is Kind.HISTOGRAM:
            first = self._random.randrange(BUCKETS // 4, BUCKETS // 2)
            buckets = [0] * 6
            for _ in range(OBSERVATIONS):
                buckets[min(5, int(abs(self._random.gauss(2, 1.5))))] += 1
            return Histogram(buckets, self._random.randrange(10**5, 10**7), first)
        if metric.name.endswith("_seconds_total"):
            return round(self._random.expovariate(1), 6)
        return self._random.randrange(2**28) if "bytes" in metric.name else self._random.randrange(1000)


def _sum(total: Value, more: Value) -> Value:
    if total is None or more is None:
        return more
    if not isinstance(total, Histogram):
        return total + more  # type: ignore[operator]
    both = total + more  # type: ignore[operator]
    return Histogram(array("I", both.counts), both.sum_ns, both.first)  # as it is read from a map


def squeezed(page: bytes) -> bytes:
    """The bytes of a page."""
    return isal_zlib.compress(page, 1, wbits=GZIP)


def combinations(table: Table) -> Iterator[tuple[str, ...]]:
    """Return the label values of a container in a table: the declared ones, or one."""
    found: list[tuple[str, ...]] = [()]
    for label in table.labels:
        values = label.values or (NAMES.get(label.name, label.name),)
        found = [(*before, value) for before in found for value in values]
    return iter(found) if table.scope is not Scope.AGENT else iter(())


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, port: int, profile: str, classic: bool) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self._node = Node(profile, 100, classic=classic)
        self._lock = threading.Lock()
        self._made = 0.0
        self._written: dict[str, bytes] = {}

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a Prometheus that ended during a scrape."""

    def page(self, number: int, content_type: str) -> bytes:
        """Return the page of a node. The numbers of all nodes grow together, at most once per second."""
        with self._lock:
            if time.monotonic() - self._made > 1:
                self._node.cycle()
                page = self._node.renderer.render(self._node.store)
                self._written = {TEXT: b"".join(page.pieces(TEXT)), PROTOBUF: b"".join(page.pieces(PROTOBUF))}
                self._made = time.monotonic()
            body = self._written[content_type]
        return squeezed(body.replace(b"%d" % NUMBER, b"%05d" % number))


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content_type = PROTOBUF if "application/vnd.google.protobuf" in self.headers.get("Accept", "") else TEXT
        body = self.server.page(int(self.path[1:]), content_type)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("profile")
    parser.add_argument("--no-classic", action="store_true")
    options = parser.parse_args()
    agent.tune_process()
    _Server(options.port, options.profile, not options.no_classic).serve_forever()


if __name__ == "__main__":
    main()
