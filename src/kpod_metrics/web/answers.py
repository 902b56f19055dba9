"""What the endpoint sends: answers, and each refusal with the reason that it is counted for."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from kpod_metrics.web.limits import MAX_HEAD, MAX_TARGET

PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """What is sent to the client."""

    status: int
    kind: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    counted: str = ""
    """Of a refusal: its reason, one of `counts.REASONS`."""
    last: bool = False
    """Whether the connection ends after it."""


Answerer = Callable[[str, str, Mapping[str, str]], Awaitable[Answer]]
"""Takes the method, the target as `origin_form` returns it, and the headers by name in lower case."""


def refusal(status: int, text: str, counted: str, *headers: tuple[bytes, bytes], last: bool = False) -> Answer:
    """Return an answer of one line."""
    return Answer(status, PLAIN, f"{text}\n".encode(), headers, counted, last)


_AGAIN = (b"retry-after", b"1")
TOO_LONG = refusal(414, f"the target is longer than {MAX_TARGET} bytes", "size", last=True)
TOO_LARGE = refusal(431, f"the headers are larger than {MAX_HEAD} bytes", "size", last=True)
NO_BODY = refusal(413, "request bodies are not accepted", "size", last=True)
MALFORMED = refusal(400, "malformed HTTP request", "malformed", last=True)
OTHER_VERSION = refusal(505, "HTTP version not supported: HTTP/1.1 and 1.0 are", "malformed", last=True)
TOO_SLOW = refusal(408, "request timeout", "timeout", last=True)
TOO_OFTEN = refusal(429, "more requests than rate_limit allows", "rate", _AGAIN)
BUSY = refusal(503, "too many requests in progress", "requests", _AGAIN)
FAILED = refusal(500, "internal error: see the log", "", last=True)
FAULTY = refusal(500, "the web configuration cannot be used: see the log", "config")
