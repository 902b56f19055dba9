"""Bounds of what an HTTP server can spend of the agent's time and memory. Imported only with an HTTP client.

The timeouts of httpx2 are those of one read: a server that sends one byte from time to time never reaches them, neither
in its headers nor in a body. So every read of a connection also counts its bytes, and ends with the request's time.
"""

import ssl
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore2
import httpx2

from kpod_metrics.errors import RequestError

PIECE = 64 << 10
"""Maximum bytes that are decompressed at once."""
_SLICE = 16 << 10
"""Bytes that are sent at once: less than a socket's buffer, so that a server that reads slowly is noticed."""
_RATE, _BURST = 4 << 20, 64 << 20
"""Cost per second of a paced request, and what it can cost at once. At this rate events take some percent of a CPU. A
pod's event has about 10 KiB, and a node with 2,500 pods that all start sends 100 MiB of events within minutes."""
LINE_COST = 4 << 10
"""Cost of a line besides its bytes: what it takes to process a short one."""


class Bounds:
    """What the current request of a client can still take. For one thread, except `abort`."""

    def __init__(self, http: httpx2.Client) -> None:
        """Apply to all connections of this client, which has none yet."""
        self.aborted = threading.Event()
        self.begin(0.0, 0)
        # There is no public way to replace the network of a client. A proxy of the environment has its own transport.
        for transport in (http._transport, *http._mounts.values()):
            if isinstance(transport, httpx2.HTTPTransport):
                transport._pool._network_backend = _Backend(self, transport._pool._network_backend)

    def begin(self, seconds: float, most: int, *, paced: bool = False) -> None:
        """Begin a request that ends after some seconds, and after `most` bytes unless it is paced."""
        self.seconds, self._end = seconds, time.monotonic() + seconds
        self.most, self._received = most, 0
        self._paced, self._paid, self._debt = paced, time.monotonic(), 0.0

    @property
    def over(self) -> bool:
        """Whether the request's time is over."""
        return time.monotonic() >= self._end

    def left(self, timeout: float | None) -> float:
        """Return the seconds for the next operation; raises ReadTimeout if the request's time is over."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout
        return left if timeout is None else min(timeout, left)

    def received(self, size: int) -> None:
        """Count bytes; raises ReadError if there are too many, and waits if they are paced."""
        if self._paced:
            self.spend(size)
            return
        self._received += size
        if self._received > self.most:
            raise httpcore2.ReadError(f"the response is larger than {self.most} bytes")

    def spend(self, cost: int) -> None:
        """Wait while a paced request costs too much: then TCP makes the server wait too."""
        now = time.monotonic()
        self._debt = max(0.0, self._debt - (now - self._paid) * _RATE) + cost
        self._paid = now
        if self._debt > _BURST:
            self.aborted.wait((self._debt - _BURST) / _RATE)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream, bounds: Bounds) -> None:
        self._inner, self._bounds = inner, bounds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._inner.read(max_bytes, self._bounds.left(timeout))
        self._bounds.received(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), _SLICE):
            self._inner.write(buffer[at : at + _SLICE], self._bounds.left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, self._bounds.left(timeout)), self._bounds)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, bounds: Bounds, inner: httpcore2.NetworkBackend) -> None:
        self._bounds, self._inner = bounds, inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        timeout = self._bounds.left(timeout)
        return _Stream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options), self._bounds)


def no_cookies() -> CookieJar:
    """Return a store that takes no cookies: a server could add one with every answer."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


def beginning(response: httpx2.Response, most: int) -> bytes:
    """Return at most so many decoded bytes of a body, whatever comes after them; b"" if it cannot be decoded."""
    start = b""
    try:
        for piece in pieces(response, ""):
            start += piece
            if len(start) >= most:
                break
    except RequestError:
        return b""
    return start[:most]


def pieces(response: httpx2.Response, where: str) -> Iterator[bytes]:
    """Yield a body, decoded: at most PIECE bytes at once, or as many as arrived.

    Raises RequestError for an unknown coding, and for data that are not of it.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        yield from response.iter_raw()
        return
    if coding != "gzip":
        raise RequestError(
            f"{where}: the response has a Content-Encoding that was not requested; accepted: gzip, identity"
        )
    unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        for raw in response.iter_raw():
            piece = unzip.decompress(raw, PIECE)
            while piece:
                yield piece
                piece = unzip.decompress(unzip.unconsumed_tail, PIECE)
            if unzip.unused_data:
                raise RequestError(f"{where}: the response has bytes after the end of its gzip data")
    except zlib.error:
        raise RequestError(f"{where}: the response is not gzip, although its Content-Encoding is") from None
    if not unzip.eof:
        raise RequestError(f"{where}: the gzip data of the response ends too early")
