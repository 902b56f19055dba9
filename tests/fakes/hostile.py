"""A fake HTTP server that sends any bytes: bombs, drips, endless headers. Only the request's head is read."""

import gzip
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

Answer = Iterator[bytes]
"""The bytes of a response. The connection is closed after them, or when the client closes it."""


class Hostile:
    """The server. Each connection has one request, and a thread."""

    def __init__(self, answer: Callable[[bytes], Answer]) -> None:
        """`answer` takes the head of a request."""
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self.heads: list[bytes] = []
        """What was requested."""
        self.sent = 0
        """Bytes that the clients' kernels took."""
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _run(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.add(connection)
                self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            self.heads.append(head)
            for piece in self._answer(head):
                connection.sendall(piece)
                self.sent += len(piece)
        self._open.discard(connection)


def response(*pieces: bytes, status: str = "200 OK", **headers: str) -> Answer:
    """A response that ends with its connection."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()), "", ""]
    yield "\r\n".join(lines).encode()
    yield from pieces


def forever(piece: bytes, seconds: float = 0.0) -> Answer:
    """The same bytes again and again."""
    while True:
        yield piece
        time.sleep(seconds)


def bomb(piece: bytes, times: int, before: bytes = b"") -> bytes:
    """Gzip data of some bytes, and then of the same bytes many times."""
    packed = io.BytesIO()
    with gzip.open(packed, "wb", 1) as file:
        file.write(before)
        for _ in range(times):
            file.write(piece)
    return packed.getvalue()
