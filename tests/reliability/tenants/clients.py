"""Attacks by HTTP clients of the agent."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.reliability.tenants.declared import Attack
from tests.reliability.tenants.inside import Tenant

if TYPE_CHECKING:
    from tests.reliability.tenants.node import Fight

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
BUFFER = 256 << 10
"""Bytes of the kernel for one client: the kernel doubles what a process asks for (socket(7), SO_SNDBUF)."""


class DeafClients(Attack):
    name = "clients that do not read"
    does = "A pod opens hundreds of connections, asks for a page on each, and never reads"
    bound = "128 KiB in the kernel for a connection, and `web_max_connections`"
    at_bound = "the connection is reset after 30 s, or for a new one"
    metric = 'kpod_http_refused_total{reason="connections"}'
    sizes = (140, 256, 500)
    namespaces = ("mount",)

    def before(self, fight: Fight) -> None:
        """A page of more than a megabyte."""
        fight.crowd(60)

    def line(self, fight: Fight) -> str:
        """The port."""
        return str(fight.node.port)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Its own buffers are as small as can be."""
        yield
        clients = []
        for _ in range(size):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.connect(("127.0.0.1", int(tenant.line)))
            client.sendall(REQUEST * 3)
            clients.append(client)
        yield
        for client in clients:
            client.close()
        yield

    def check(self, fight: Fight) -> None:
        """What the kernel holds for all sockets of the agent's port, also those that no process has any more."""
        fight.node.whole_cycles()
        told = subprocess.check_output(["ss", "-tanmH", "sport", "=", str(fight.node.port)], text=True)
        queued = sum(int(part.partition(",w")[2].partition(",")[0]) for part in told.split("skmem:(")[1:])
        assert queued <= 1.1 * 128 * BUFFER
        assert fight.node.page().sum("kpod_http_refused_total", reason="connections") > 0


ATTACKS = (DeafClients,)
