"""A fake of an agent's endpoint: it serves known pages, of which a terminal's frame can be told beforehand.

The pages are written by protobuf's own library, not by the agent's code. A live test has a real agent.
"""

import base64
import ssl
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.histogram import BUCKETS, FIRST_INDEX, SCHEMA
from testkit.certificates import Certificates
from tests.client_model import FAMILY

Pod = tuple[str, str, str]
Values = Mapping[str, float | Mapping[int, int] | Mapping[tuple[str, str], Any]]
"""By metric: a number, a histogram as counts by bucket, or either by its own label (its name and value)."""

BEGAN = 1_700_000_000
"""Unix time of cycle 0: 22:13:20 UTC."""
INTERVAL = 10.0


def page(cycle: int, pods: Mapping[Pod, Values], off: Sequence[str] = ()) -> bytes:
    """Write the page of a cycle; `off` are collectors that do not work."""
    families: dict[str, Any] = {}

    def add(name: str, labels: Mapping[str, str], value: float | Mapping[int, int]) -> None:
        metric = families.setdefault(name, FAMILY(name=name)).metric.add()
        for key, text in labels.items():
            metric.label.add(name=key, value=text)
        if isinstance(value, Mapping):
            _fill(metric.histogram, value)
        elif name.endswith("_total"):
            metric.counter.value = value
        else:
            metric.gauge.value = value

    add("kpod_last_cycle_timestamp_seconds", {}, BEGAN + cycle * INTERVAL)
    add("kpod_poll_interval_seconds", {}, INTERVAL)
    for collector in ("run_queue", *off):
        add("kpod_collector_up", {"collector": collector}, collector not in off)
    for pod, values in pods.items():
        labels = dict(zip(("namespace", "pod", "container"), pod, strict=True)) | {"node": "node-1"}
        for name, value in values.items():
            children = value.items() if isinstance(value, Mapping) else ()
            if own := {key: inner for key, inner in children if isinstance(key, tuple)}:
                for key, inner in own.items():
                    add(name, labels | {key[0]: key[1]}, inner)
            else:
                add(name, labels, value)  # type: ignore[arg-type]
    messages = (family.SerializeToString() for family in families.values())
    return b"".join(_length(message) + message for message in messages)


def _fill(histogram: Any, counts: Mapping[int, int]) -> None:
    histogram.schema, histogram.zero_threshold = SCHEMA, 2.0**-20
    histogram.sample_count = sum(counts.values())
    histogram.sample_sum = sum(count * 2.0 ** (bucket / 4 - 20) for bucket, count in counts.items())
    histogram.zero_count = counts.get(0, 0)
    previous = 0
    histogram.positive_span.add(offset=FIRST_INDEX + 1, length=BUCKETS - 1)
    for bucket in range(1, BUCKETS):
        histogram.positive_delta.append(counts.get(bucket, 0) - previous)
        previous = counts.get(bucket, 0)


def _length(message: bytes) -> bytes:
    number, encoded = len(message), bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


class FakeAgent:
    """Serves `page`; may be stopped, and started again at the same port."""

    def __init__(self, certificates: Certificates | None = None, authorization: str = "") -> None:
        """With certificates it speaks TLS; `authorization` is the header without which nobody is let in."""
        self.page = b""
        self.status, self.kind = 200, PROTOBUF
        self.accepted: list[str] = []
        """The Accept header of each request."""
        self._certificates, self._authorization = certificates, authorization
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http{'s' if self._certificates else ''}://127.0.0.1:{self._port}"

    def __enter__(self) -> "FakeAgent":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                let_in = self.headers.get("authorization", "") == fake._authorization and self.path == "/metrics"
                status, body = (fake.status, fake.page) if let_in else (401, b"")
                # After the answer is chosen: a test changes the page once a request is here, for the next one.
                fake.accepted.append(self.headers.get("accept", ""))
                self.send_response(status)
                self.send_header("content-type", fake.kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        if self._certificates:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._certificates.signed("agent"))
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def basic(user: str, password: str) -> str:
    """The Authorization header of a user."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
