"""Tokens for the API server and the kubelet.

After a 401 the client renews its credential and repeats the request. It does this itself: httpx2 would read the whole
body of the 401 first, however large.
"""

from collections.abc import Generator
from typing import Protocol

import httpx2
from lightkube.core.exceptions import ConfigError

MAX_TOKEN = 64 << 10
"""Bytes of a token's file. A service account's token has one or two thousand."""


class Credential(Protocol):
    """Authorizes requests."""

    def renew(self) -> bool:
        """Get a new credential after a 401; return whether it is another one. Raises ConfigError, OSError."""


def checked(token: str, what: str) -> str:
    """Return a token that can be in a header; raises ConfigError, without the token."""
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(f"{what} has characters that are not allowed in a header")
    return token


class TokenFile(httpx2.Auth):
    """The token in a file, which the kubelet replaces from time to time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._token: str | None = None

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Authorize a request."""
        if self._token is None:
            self._token = self._read()
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request

    def renew(self) -> bool:
        """Read the file again."""
        before, self._token = self._token, self._read()
        return self._token != before

    def _read(self) -> str:
        try:
            with open(self._path, "rb") as file:
                content = file.read(MAX_TOKEN + 1)
        except OSError as error:
            raise ConfigError(f"the token's file {self._path!r} cannot be read: {error.strerror}") from None
        if len(content) > MAX_TOKEN:
            raise ConfigError(f"the token's file {self._path!r} is larger than {MAX_TOKEN} bytes")
        return checked(content.decode("ascii", "replace").strip(), f"the token in {self._path!r}")
