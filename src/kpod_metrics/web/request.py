"""Reads one request with a timeout, and refuses a request that is too long, too large or malformed."""

import asyncio
import re
import socket

import h11

from kpod_metrics.web.answers import MALFORMED, NO_BODY, OTHER_VERSION, TOO_LARGE, TOO_LONG, TOO_SLOW, Answer
from kpod_metrics.web.counts import Counts
from kpod_metrics.web.limits import MAX_HEAD, MAX_TARGET, Limits

_READ = 4096


async def receive(
    http: h11.Connection, reader: asyncio.StreamReader, limits: Limits, counts: Counts, *, first: bool
) -> tuple[h11.Request | None, Answer | None]:
    """Return the next request and, if it is refused, the refusal; neither if the client has ended or was idle too long.

    `first`: it is the first request of its connection.
    """
    request: h11.Request | None = None
    try:
        event = http.next_event()
        loop = asyncio.get_running_loop()
        # The timeout of the first request starts with the connection, that of a later one with its first byte.
        end = loop.time() + limits.receive
        if event is h11.NEED_DATA and not http.trailing_data[0]:
            try:
                async with asyncio.timeout(limits.receive if first else limits.idle):
                    begun = await reader.read(_READ)
            except TimeoutError:
                # An idle connection that has sent a request before is not a refusal.
                counts.refused["timeout"] += first
                return None, None
            if not first:
                end = loop.time() + limits.receive
            http.receive_data(begun)
            event = http.next_event()
        async with asyncio.timeout_at(end):
            while event is h11.NEED_DATA:
                http.receive_data(await reader.read(_READ))
                event = http.next_event()
        if not isinstance(event, h11.Request):
            return None, None  # the client has ended
        request = event
        if event.http_version not in {b"1.0", b"1.1"}:
            return event, OTHER_VERSION
        if len(event.target) > MAX_TARGET:
            return event, TOO_LONG
        if not origin_form(event.method, event.target):
            return event, MALFORMED
        if sum(len(name) + len(value) for name, value in event.headers) > MAX_HEAD:
            return event, TOO_LARGE
        body = http.next_event()
        if not isinstance(body, h11.EndOfMessage):
            return event, NO_BODY
        return event, None
    except TimeoutError:
        return request, TOO_SLOW
    except h11.RemoteProtocolError as error:
        if error.error_status_hint == 431:
            return None, TOO_LARGE if b"\n" in http.trailing_data[0] else TOO_LONG
        return request, MALFORMED


_ABSOLUTE = re.compile(
    rb"https?://(?:\[([^\]]*)\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-F]{2})+)(?::([0-9]*))?([/?].*)?", re.IGNORECASE
)


def origin_form(method: bytes, target: bytes) -> str:
    """Return the path and query of a target, `*`, or the authority of CONNECT; "" if it is malformed (RFC 9112 3.2).

    A target can be a whole URL, as clients of a proxy send it. Its host is ignored, as is the Host header: there is one
    site.
    """
    if target.startswith(b"/") or method == b"CONNECT" or (method, target) == (b"OPTIONS", b"*"):
        return target.decode("latin-1")
    match = _ABSOLUTE.fullmatch(target)
    if match is None or int(match[2] or 0) > 65535 or (match[1] is not None and not _is_ipv6(match[1])):
        return ""
    path = (match[3] or b"/").decode("latin-1")
    return path if path.startswith("/") else f"/{path}"


def _is_ipv6(literal: bytes) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, literal.decode("latin-1"))
    except (OSError, ValueError):
        return False
    return True
