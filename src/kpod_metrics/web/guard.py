"""Authentication: the web configuration, which is read again when its files change, and the check of each request.

As in exporter-toolkit, a changed file takes effect with the next connection (TLS) or request (everything else). While
the file is invalid, all requests are refused: an old password must not stay valid because the new file has an error.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from kpod_metrics.errors import SettingError
from kpod_metrics.web import config as files
from kpod_metrics.web.counts import Counts

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

_UNKNOWN_USER = b"$2b$10$m/kSvNZex0pFU59A.e7SU.NEpcaUE/bKin9bTWH.ryJqvFBEk8IG2"
"""Hash of a password that no user has: refusing an unknown user takes as long as refusing a wrong password."""
_MAX_CACHED = 100
"""Cached comparisons of passwords, right and wrong ones."""
_MAX_WAITING = 8
"""Passwords that can wait for their comparison, which takes 50 to 100 ms of CPU time."""

Signature = tuple[tuple[str, int, int, int, int] | None, ...]


def _signature(paths: Iterable[str]) -> Signature:
    """Return a value that changes when a file does: the volume of a Secret is a symbolic link that is replaced."""
    found: list[tuple[str, int, int, int, int] | None] = []
    for path in paths:
        try:
            stat = os.stat(path)
        except (OSError, ValueError):  # ValueError: a NUL in the path
            found.append(None)
        else:
            found.append((path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(found)


class BusyError(Exception):
    """Too many passwords wait for their comparison."""


class Guard:
    """Checks connections and requests by the web configuration. Only the event loop calls it, but for `__init__`."""

    def __init__(self, path: str, counts: Counts) -> None:
        """Read the file; raises SettingError."""
        self._path, self._counts = path, counts
        self._paths = [path]
        self._fault = ""
        self._config = files.WebConfig()
        self.context: ssl.SSLContext | None = None
        """TLS of a new connection; None without TLS."""
        self._seen: Signature = ()
        self._take()
        self.secure = self._config.tls is not None
        self._passwords = Passwords()
        self.rate = Rate(self._config.rate_interval, self._config.rate_burst)
        """The rate limit of all requests together."""
        counts.config_valid = True

    def _take(self) -> None:
        """Read the files and use them from now on."""
        # The signature of a file comes first: if it changes while it is read, the next check sees that.
        self._paths = [self._path]
        self._seen = _signature(self._paths)
        config = files.read(self._path)
        others = config.tls.files if config.tls else []
        self._paths += others
        self._seen += _signature(others)
        context = None
        if config.tls is not None:
            from kpod_metrics.web.tls import context_of  # noqa: PLC0415 - only where it is used

            context = context_of(config.tls)
        if config.users:
            import bcrypt  # noqa: F401, PLC0415 - here, and not in the first request
        self._config, self.context = config, context

    def refresh(self) -> bool:
        """Read the files if they changed; return whether they are valid."""
        if _signature(self._paths) == self._seen:
            return not self._fault
        before = self._fault
        try:
            self._take()
            if (self._config.tls is not None) != self.secure:
                raise SettingError(
                    f"web_config_file: {self._path!r}: tls_server_config is not accepted; accepted: "
                    f"{'there' if self.secure else 'none'}, as at the start: TLS is not switched while the agent runs"
                )
            self._fault = ""
        except SettingError as error:
            self._fault = str(error)
        except Exception as error:  # after any error: the old configuration must not stay valid
            self._fault = f"web_config_file: {self._path!r}: {type(error).__name__}: it cannot be used"
        self._counts.config_valid = not self._fault
        if self._fault:
            if self._fault != before:
                log.error("%s; all requests are refused until it is corrected", self._fault)
            return False
        limits = (self._config.rate_interval, self._config.rate_burst)
        if limits != self.rate.limits:
            self.rate = Rate(*limits)
        log.info("web configuration %s was read again", self._path)
        return True

    def admits(self, certificate: Mapping[str, object] | None) -> bool:
        """Return whether the verified certificate of a client has an allowed name."""
        tls = self._config.tls
        if tls is None or not tls.client_allowed_sans:
            return True
        from kpod_metrics.web.tls import is_allowed  # noqa: PLC0415 - only where it is used

        return is_allowed(certificate, tls.client_allowed_sans)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer."""
        return [(name.lower().encode(), value.encode()) for name, value in self._config.headers.items()]

    @property
    def challenges(self) -> list[tuple[bytes, bytes]]:
        """Headers that tell a refused client how to authenticate."""
        asked = [b"Basic"] if self._config.users else []
        asked += [b"Bearer"] if self._config.tokens else []
        return [(b"www-authenticate", one) for one in asked]

    async def knows(self, authorization: bytes) -> bool:
        """Return whether an Authorization header has a known user or token; raises BusyError."""
        config = self._config
        if not config.users and not config.tokens:
            return True
        scheme, _, rest = authorization.partition(b" ")
        rest = rest.strip()
        if scheme.lower() == b"bearer":
            digest = hashlib.sha256(rest).digest()
            # All are compared, so that the time does not depend on which one is right.
            return sum(hmac.compare_digest(digest, token) for token in config.tokens.values()) > 0
        if scheme.lower() != b"basic" or not config.users:
            return False
        try:
            name, colon, password = base64.b64decode(rest, validate=True).partition(b":")
            hashed = config.users.get(name.decode())
        except (binascii.Error, UnicodeDecodeError):
            return False
        right = await self._passwords.right(hashed or _UNKNOWN_USER, password)
        return right and hashed is not None and bool(colon)


class Passwords:
    """Compares passwords with bcrypt hashes: on another thread, one at a time, with a cache."""

    def __init__(self) -> None:
        self._known: dict[bytes, bool] = {}
        # Keys of the cache are HMACs, so that a dump of the agent's memory has no hashes that are fast to guess.
        self._pepper = os.urandom(32)
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def right(self, hashed: bytes, password: bytes) -> bool:
        """Return whether a password matches a hash; raises BusyError."""
        key = hmac.digest(self._pepper, hashed + password, "sha256")
        if key in self._known:
            return self._known[key]
        if self._waiting >= _MAX_WAITING:
            raise BusyError
        self._waiting += 1
        try:
            async with self._turn:
                if key not in self._known:
                    answer = await asyncio.to_thread(_compare, hashed, password)
                    while len(self._known) >= _MAX_CACHED:
                        # Wrong ones first: guesses must not evict the passwords of scrapers.
                        wrong = (known for known, was_right in self._known.items() if not was_right)
                        del self._known[next(wrong, next(iter(self._known)))]
                    self._known[key] = answer
                return self._known[key]
        finally:
            self._waiting -= 1


def _compare(hashed: bytes, password: bytes) -> bool:
    import bcrypt  # noqa: PLC0415 - only where there are users

    try:
        # bcrypt uses 72 bytes at most. Go's library cuts a longer password, this one raises.
        return bcrypt.checkpw(password[:72], hashed)
    except ValueError:
        return False


class Rate:
    """A token bucket: `burst` requests, and one more every `interval` seconds."""

    def __init__(self, interval: float, burst: int) -> None:
        self.limits = interval, burst
        self._left, self._at = float(burst), time.monotonic()

    def take(self) -> bool:
        """Return whether there is a token, and take it."""
        interval, burst = self.limits
        if not interval:
            return True
        now = time.monotonic()
        self._left = min(float(burst), self._left + (now - self._at) / interval)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
