"""What the endpoint allows: sizes of a request, numbers at one time, seconds."""

from dataclasses import dataclass

MAX_HEAD = 16 << 10
"""Bytes of the request line and the headers."""
MAX_TARGET = 2048
"""Bytes of a request's target."""


@dataclass(frozen=True)
class Limits:
    """Numbers at one time, and timeouts."""

    connections: int = 128
    requests: int = 40
    """Pages that are being sent."""
    receive: float = 10.0
    """Timeout of a TLS handshake, and of receiving a whole request, in seconds."""
    send: float = 30.0
    """Timeout of sending an answer, in seconds."""
    idle: float = 300.0
    """Timeout between two requests, in seconds."""
