"""A fake OTLP receiver for tests: it speaks the real protocol over HTTP(S), and fails in every way that one can.

Requests are decoded with OpenTelemetry's own messages; one that they do not wholly understand is answered with 400.
"""

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric


class Push(NamedTuple):
    """A request that was taken."""

    path: str
    headers: Mapping[str, str]
    request: ExportMetricsServiceRequest


class Point(NamedTuple):
    """One data point with its labels and its metric."""

    resource: dict[str, str]
    metric: Metric
    attributes: dict[str, str]
    point: Any


@dataclass
class Fault:
    """An answer instead of the right one."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    """Seconds before the answer."""
    drop: bool = False
    """Whether the connection ends instead of it."""


def partial(rejected: int, message: str) -> Fault:
    """The answer that says that some points were rejected."""
    response = ExportMetricsServiceResponse()
    response.partial_success.rejected_data_points = rejected
    response.partial_success.error_message = message
    return Fault(body=response.SerializeToString())


def points_of(request: ExportMetricsServiceRequest) -> list[Point]:
    """The data points of a request."""
    return [
        Point(strings(resource.resource.attributes), metric, strings(point.attributes), point)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in getattr(metric, metric.WhichOneof("data") or "").data_points
    ]


def strings(attributes: Any) -> dict[str, str]:
    """Attributes, all of which are text, none of which is there twice."""
    found = {one.key: one.value.string_value for one in attributes}
    assert len(found) == len(attributes)
    return found


class Receiver:
    """The receiver and what it took. Methods are safe from any thread."""

    def __init__(self, *, port: int = 0, certificate: tuple[str, str] | None = None, client_ca: str = "") -> None:
        """`certificate`: files of certificate and key, for HTTPS; `client_ca`: whose clients alone are let in."""
        self.pushes: list[Push] = []
        self.requests = 0
        """All that came, taken or not."""
        self.always: Fault | None = None
        self.faults: list[Fault] = []
        """For the next requests, one each."""
        self.lock = threading.Lock()
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.receiver = self
        scheme = "http"
        if certificate:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            if client_ca:
                context.load_verify_locations(client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            self._http.context = context
        self.port: int = self._http.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def points(self) -> int:
        """Data points in all that was taken."""
        with self.lock:
            return sum(len(points_of(push.request)) for push in self.pushes)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    receiver: Receiver
    context: ssl.SSLContext | None = None

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.context:
            # The handler does the handshake: one that hangs must not block the listener.
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        receiver = self.server.receiver
        body = self.rfile.read(int(self.headers["content-length"]))
        with receiver.lock:
            receiver.requests += 1
            fault = receiver.faults.pop(0) if receiver.faults else receiver.always
        if fault is not None:
            time.sleep(fault.delay)
            if fault.drop:
                self.close_connection = True
                return
        if fault is None or fault.status == 200:
            try:
                request = self._decoded(body)
            except (DecodeError, AssertionError, OSError):
                self._answer(400, {}, b"")
                raise
            with receiver.lock:
                receiver.pushes.append(Push(self.path, {k.lower(): v for k, v in self.headers.items()}, request))
        fault = fault or Fault(body=ExportMetricsServiceResponse().SerializeToString())
        self._answer(fault.status, fault.headers, fault.body)

    def _decoded(self, body: bytes) -> ExportMetricsServiceRequest:
        assert self.headers["content-type"] == "application/x-protobuf"
        if self.headers["content-encoding"] == "gzip":
            body = gzip.decompress(body)
        request = ExportMetricsServiceRequest.FromString(body)
        known = ExportMetricsServiceRequest.FromString(body)
        known.DiscardUnknownFields()
        assert known.ByteSize() == request.ByteSize()
        return request

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/x-protobuf", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""
