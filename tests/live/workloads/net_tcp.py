"""Connections that come and go, and one that carries data."""

import socket
from pathlib import Path

from testkit.vm.events import exchange
from tests.live.workloads import Event


def connect(times: int, file: Path) -> None:
    """Open a connection, close it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(times):
            with socket.create_connection(server.getsockname()):
                server.accept()[0].close()


EVENTS = {
    "a byte there and back by TCP": Event(lambda times, _: exchange(times), 5_000),
    "a TCP connection": Event(connect, 500),
}
