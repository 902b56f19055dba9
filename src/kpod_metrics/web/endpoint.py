"""HTTP/1.1 for scrapers and probes: few connections, short timeouts, small requests, bounded memory. h11 parses it.

Every wait has a timeout, all memory has a limit, and each refusal is counted. Nothing here blocks: the agent's cycles
run on other threads. At the limit of connections, a new one replaces one that waits for a request: the oldest one of
the network (of an IPv6 client, its /64) that has the most. So idle connections cannot keep a scraper out.
"""

import asyncio
import fcntl
import logging
import math
import socket
import struct
import sys
import termios
import time
from collections import Counter
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11

from kpod_metrics.web.address import network_of
from kpod_metrics.web.answers import BUSY, FAILED, FAULTY, TOO_OFTEN, Answer, Answerer, refusal
from kpod_metrics.web.counts import Counts
from kpod_metrics.web.guard import BusyError, Guard
from kpod_metrics.web.limits import MAX_HEAD, Limits
from kpod_metrics.web.request import origin_form, receive

log = logging.getLogger(__name__)

_CHUNK = 64 << 10
"""Bytes of an answer that are written at a time: a client that does not read cannot make the agent buffer more."""
_GRACE = 0.25
"""Seconds after which a connection without a request is idle."""
_STALL_TIMEOUT = 1.0
"""Seconds in which a client reads nothing of its page, after which another request can replace it."""
_LONGEST_PAUSE = 0.05
"""Seconds between two looks at a buffer that a client has not read."""
_LINGER = 1.0
"""Seconds in which the rest of a refused request is read and dropped: a reset connection would lose the answer."""


class _Connection:
    """One client."""

    def __init__(self, client: socket.socket, network: bytes) -> None:
        """`network` is where the client comes from: all connections of one client have the same."""
        self.socket, self.network = client, network
        self.task: asyncio.Task[None] | None = None
        self.waits_since: float | None = time.monotonic()
        """When it began to wait for a request; None while a request is answered."""
        self.page_taken: float | None = None
        """When the client last read a part of a page; None while no page is sent."""
        self.lost = False
        """Whether the transport is closed."""

    def unread(self) -> int:
        """Return the bytes that the kernel has for the client, and that the client's kernel has not taken."""
        if self.socket.fileno() < 0:
            return 0
        return int.from_bytes(fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def drop_at_close(self, drop: bool) -> None:
        """Choose whether the kernel drops its buffer when the socket is closed, by whatever closes it.

        Else what the client has not read stays in memory for minutes, and no limit counts it.
        """
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", drop, 0))


class _Protocol(asyncio.StreamReaderProtocol):
    """Notes when the connection is closed, and leaves nothing behind."""

    def __init__(self, reader: asyncio.StreamReader, one: _Connection) -> None:
        super().__init__(reader)
        self._one = one

    def eof_received(self) -> bool | None:
        keeps_open = super().eof_received()
        if not keeps_open and not self._one.unread():  # with TLS, the transport now closes the socket
            self._one.drop_at_close(False)
        return keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self._one.lost = True
        super().connection_lost(exc)


async def _taken(one: _Connection, writer: asyncio.StreamWriter) -> None:
    """Wait until the client's kernel has taken the whole answer, or the client has gone."""
    if writer.can_write_eof():
        writer.write_eof()
    pause = 0.001
    while not one.lost and (writer.transport.get_write_buffer_size() or one.unread()):
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    one.drop_at_close(False)


class Endpoint:
    """Serves one listener, on one event loop."""

    def __init__(
        self,
        listener: socket.socket,
        answer: Answerer,
        counts: Counts,
        limits: Limits,
        *,
        guard: Guard | None = None,
        limited: frozenset[str] = frozenset(),
    ) -> None:
        """`limited` are the paths of which `limits.requests` can be answered at the same time."""
        self._listener, self._answer, self._counts = listener, answer, counts
        self._limits, self._guard, self._limited = limits, guard, limited
        self._open: set[_Connection] = set()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        failed = False
        while True:
            await self._make_room()
            try:
                client, address = await loop.sock_accept(self._listener)
                failed = False
            except OSError as error:  # no descriptors or memory left, or the client has gone already
                if not failed:
                    log.error("a connection cannot be accepted: %s", error.strerror)
                failed = True
                await asyncio.sleep(0.1)
                continue
            client.setblocking(False)
            one = _Connection(client, network_of(address[0]))
            self._open.add(one)
            self._counts.connections += 1
            one.task = loop.create_task(self._serve(one))
            one.task.add_done_callback(lambda _, one=one: self._end(one))  # type: ignore[misc]

    async def close(self, timeout: float) -> None:
        """End all connections: idle ones at once, those with an answer in progress after `timeout` seconds."""
        tasks = {one.task for one in self._open if one.task is not None}
        for one in self._open:
            if one.waits_since is not None and one.task is not None:
                one.task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=timeout)

    def _end(self, one: _Connection) -> None:
        self._open.discard(one)
        self._counts.connections -= 1
        self._freed.set()
        if one.task is not None and not one.task.cancelled() and (error := one.task.exception()):
            log.error("a connection failed", exc_info=error)

    async def _make_room(self) -> None:
        while len(self._open) >= self._limits.connections:
            self._freed.clear()
            of = Counter(one.network for one in self._open)
            waiting = [(-of[one.network], one.waits_since, one) for one in self._open if one.waits_since is not None]
            _, since, oldest = min(waiting, key=lambda found: found[:2], default=(0, math.inf, None))
            if oldest is not None and time.monotonic() - since > _GRACE:
                oldest.waits_since = None
                self._counts.refused["connections"] += 1
                assert oldest.task is not None
                oldest.task.cancel()
            # Not wait_for: up to Python 3.11 it can lose the cancellation that ends the endpoint (CPython issue 86296).
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE / 5):
                    await self._freed.wait()

    async def _serve(self, one: _Connection) -> None:
        """Answer one client until it has gone, then close its connection."""
        writer: asyncio.StreamWriter | None = None
        try:
            opened = await self._secure(one)
            if opened is None:
                return
            reader, writer = opened
            one.drop_at_close(True)
            await self._converse(one, reader, writer)
            one.waits_since = time.monotonic()
            # The end of the last answer may still be in a buffer: a slow client has time to read it.
            try:
                async with asyncio.timeout(self._limits.send):
                    await _taken(one, writer)
                    writer.close()
                    await writer.wait_closed()
            except TimeoutError:
                self._counts.refused["timeout"] += 1
        except (OSError, TimeoutError):  # the client has gone, or does not read (an SSLError is an OSError)
            pass
        finally:
            if writer is None:
                one.socket.close()
            elif not one.lost:
                writer.transport.abort()

    async def _secure(self, one: _Connection) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Make streams of a socket, with TLS if it is configured; None if the client is refused."""
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if self._guard is not None and self._guard.secure:
            if not self._guard.refresh():
                self._counts.refused["config"] += 1
                return None
            options = {"ssl": self._guard.context, "ssl_handshake_timeout": self._limits.receive}
            options["ssl_shutdown_timeout"] = self._limits.send
        reader = asyncio.StreamReader(limit=MAX_HEAD, loop=loop)
        protocol = _Protocol(reader, one)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, one.socket, **options)
        except (OSError, TimeoutError):
            # A wrong certificate, another protocol, a timeout, or the client has gone.
            self._counts.refused["tls"] += 1
            return None
        transport.set_write_buffer_limits(_CHUNK)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        if self._guard is not None and not self._guard.admits(transport.get_extra_info("peercert")):
            self._counts.refused["tls"] += 1
            transport.abort()
            return None
        return reader, writer

    async def _converse(self, one: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        first = True
        while True:
            one.waits_since = time.monotonic()
            request, answer = await receive(http, reader, self._limits, self._counts, first=first)
            if request is None and answer is None:
                return
            one.waits_since = None
            try:
                if answer is None:
                    assert request is not None
                    answer = await self._admit(request) or await self._ask(request, one)
                await self._send(http, writer, answer, one, head=request is not None and request.method == b"HEAD")
            finally:
                one.page_taken = None
            if answer.last:
                await self._linger(reader, writer)
                return
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()
            first = False

    async def _admit(self, request: h11.Request) -> Answer | None:
        """Return the refusal of a client without rights, or over the rate limit."""
        if self._guard is None:
            return None
        if not self._guard.refresh():
            return FAULTY
        if not self._guard.rate.take():
            return TOO_OFTEN
        shown = [value for name, value in request.headers if name == b"authorization"]
        try:
            if await self._guard.knows(shown[0] if len(shown) == 1 else b""):
                return None
        except BusyError:
            return BUSY
        return refusal(401, "unauthorized", "auth", *self._guard.challenges)

    def _may_answer(self) -> bool:
        """Return whether one more page can be sent. If necessary, it replaces a page that its client does not read."""
        pages = [(one.page_taken, one) for one in self._open if one.page_taken is not None]
        if len(pages) < self._limits.requests:
            return True
        taken, stalled = min(pages, key=lambda page: page[0])
        if time.monotonic() - taken < _STALL_TIMEOUT:
            return False
        stalled.page_taken = math.inf
        self._counts.refused["timeout"] += 1
        assert stalled.task is not None
        stalled.task.cancel()
        return True

    async def _ask(self, request: h11.Request, one: _Connection) -> Answer:
        target = origin_form(request.method, request.target)
        path = target.partition("?")[0]
        if path in self._limited:
            if not self._may_answer():
                return BUSY
            one.page_taken = math.inf  # the client does not delay it yet
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        try:
            return await self._answer(request.method.decode("latin-1"), target, headers)
        except Exception:  # a defect: this client gets an answer, and the others are not affected
            log.exception("%s cannot be answered", path)
            return FAILED

    async def _send(
        self, http: h11.Connection, writer: asyncio.StreamWriter, answer: Answer, one: _Connection, *, head: bool
    ) -> None:
        """Send an answer in pieces, each after the one before is read; raises TimeoutError."""
        if answer.counted:
            self._counts.refused[answer.counted] += 1
        headers = [
            (b"content-type", answer.kind.encode()),
            (b"content-length", b"%d" % len(answer.body)),
            *answer.headers,
            *(self._guard.headers if self._guard is not None else ()),
        ]
        if answer.last:
            headers.append((b"connection", b"close"))
        try:
            async with asyncio.timeout(self._limits.send):
                reason = HTTPStatus(answer.status).phrase.encode()
                piece = http.send(h11.Response(status_code=answer.status, headers=headers, reason=reason)) or b""
                body = memoryview(b"" if head else answer.body)
                for at in range(0, len(body), _CHUNK):
                    # The first piece together with the head: a small answer is one packet.
                    if one.page_taken is not None:
                        one.page_taken = time.monotonic()
                    writer.write(piece + (http.send(h11.Data(data=bytes(body[at : at + _CHUNK]))) or b""))
                    await writer.drain()
                    piece = b""
                writer.write(piece + (http.send(h11.EndOfMessage()) or b""))
                await writer.drain()
        except TimeoutError:
            self._counts.refused["timeout"] += 1
            raise

    async def _linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Make sure that the client gets its last answer: read what it still sends, for a moment."""
        if writer.can_write_eof():
            writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while await reader.read(_CHUNK):
                    pass
