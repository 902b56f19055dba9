"""Events whose cost is counted in a virtual machine whose clock counts instructions."""

import os
import socket
from collections.abc import Callable

Doing = Callable[[int], None]
Event = tuple[str, Doing, int]
"""The collector to load, the function that makes the events, and how many."""


def switch(times: int) -> None:
    """Send a byte to another process and wait for the answer; the other process waits too."""
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        for _ in range(times):
            os.write(back[1], os.read(there[0], 1))
        os._exit(0)
    for _ in range(times):
        os.write(there[1], b"x")
        os.read(back[0], 1)
    os.waitpid(child, 0)
    for end in (*there, *back):
        os.close(end)


def read(times: int) -> None:
    """Call read, which is tracked."""
    with open("/dev/zero", "rb", buffering=0) as file:
        for _ in range(times):
            os.read(file.fileno(), 1)


def getppid(times: int) -> None:
    """Call getppid, which is not tracked."""
    for _ in range(times):
        os.getppid()


def exchange(times: int) -> None:
    """Send a byte over a TCP connection and back."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            for _ in range(times):
                client.sendall(b"x")
                accepted.sendall(accepted.recv(1))
                client.recv(1)


EVENTS: dict[str, Event] = {
    "a message there and back": ("run_queue", switch, 5_000),
    "a tracked syscall": ("syscall", read, 20_000),
    "another syscall": ("syscall", getppid, 20_000),
    "a byte there and back by TCP": ("net_tcp", exchange, 5_000),
}
"""By what is done."""
