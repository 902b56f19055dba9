"""Where pages come from: a running agent, by HTTP, or an agent of top's own."""

import re
import time
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2

from kpod_metrics import USER_AGENT
from kpod_metrics import agent as agents
from kpod_metrics.errors import SettingError
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.settings import Settings
from kpod_metrics.tls_client import context
from kpod_metrics.top.text import clean

_TIMEOUT = 5.0
"""Seconds that an agent may take to connect, to answer, to send some more."""
_PATIENCE = 15.0
"""Seconds that a page may take in all."""
_MOST_BYTES = 256 << 20
"""Of a page: 200,000 series are 30 MB."""


class NoPageError(Exception):
    """There is no page now; the text says why. `soon`: the agent is there, and will have one."""

    def __init__(self, problem: str, *, soon: bool = False) -> None:
        super().__init__(clean(" ".join(problem.split()))[:300])
        self.soon = soon


class Source(Protocol):
    """What gives pages."""

    name: str
    """As it is shown."""
    own: bool
    """Whether it is an agent of top's own."""

    def fetch(self) -> bytes:
        """Return the newest page in protobuf; raises NoPageError."""

    def close(self) -> None:
        """Give everything back."""


@dataclass(frozen=True)
class Access:
    """How to be let in: files, each empty where there is none."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    token_file: str = ""


class Endpoint:
    """A running agent."""

    own = False

    def __init__(self, url: str, access: Access) -> None:
        """Raises SettingError for a URL or a file that cannot be used."""
        self.name, self._url, basic = _parsed(url)
        self._access = access
        headers = {"accept": PROTOBUF, "accept-encoding": "identity", "user-agent": USER_AGENT}
        self._http = httpx2.Client(
            headers=headers,
            auth=basic,
            timeout=_TIMEOUT,
            verify=context(access.ca, access.certificate, access.key) if self._url.startswith("https:") else False,
        )
        self._token()

    def fetch(self) -> bytes:
        """Ask for the page."""
        end = time.monotonic() + _PATIENCE
        try:
            with self._http.stream("GET", self._url, headers=self._token()) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES or time.monotonic() > end:
                        raise NoPageError(f"more than {_MOST_BYTES} bytes, or not all within {_PATIENCE:g} s")
        except httpx2.TimeoutException:
            raise NoPageError(f"no answer within {_TIMEOUT:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, SettingError) as error:
            raise NoPageError(re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__) from None
        if response.status_code != 200:
            said = bytes(body[:200]).decode("utf-8", "replace") if response.status_code == 503 else ""
            raise NoPageError(f"HTTP {response.status_code} {said}", soon=response.status_code == 503)
        kind = response.headers.get("content-type", "").partition(";")[0]
        if kind != PROTOBUF.partition(";")[0]:
            raise NoPageError(f"no agent's page ({kind or 'of no type'})")
        return bytes(body)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _token(self) -> dict[str, str]:
        """Return the header with the token, read anew: those of service accounts are renewed."""
        path = self._access.token_file
        if not path:
            return {}
        try:
            with open(path, encoding="ascii") as file:
                return {"authorization": f"Bearer {file.read().strip()}"}
        except (OSError, ValueError) as error:
            raise SettingError(f"token_file: {path!r} cannot be read: {error}; accepted: a file with a token") from None


def _parsed(url: str) -> tuple[str, str, tuple[str, str] | None]:
    """Return the URL as it may be shown, as it is asked for, and the user and password that it has."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        good = good and url.isprintable() and " " not in url
    except ValueError:
        good = False
    if not good:
        raise SettingError(
            f"url: {url!r} (from --url) is not accepted; accepted: http://HOST:PORT or https://HOST:PORT, "
            "with USER:PASSWORD@ before the host and a path where need be"
        )
    where = parts.netloc.rpartition("@")[2]
    basic = (unquote(parts.username), unquote(parts.password or "")) if parts.username is not None else None
    path = parts.path if parts.path not in {"", "/"} else "/metrics"
    name = urlunsplit((parts.scheme, where, "" if path == "/metrics" else path, "", ""))
    return name, urlunsplit((parts.scheme, where, path, parts.query, "")), basic


class Own:
    """An agent in this process, which serves nobody else."""

    own = True

    def __init__(self, settings: Settings, why: str) -> None:
        """Load the programs; raises RefusedError where this machine or user cannot have them."""
        self.name = why
        # What looks on has nothing to tell to others.
        self._agent = agents.build(replace(settings, otlp_endpoint=""))
        try:
            self._agent.open()
            self._agent.start()
        except BaseException:
            self._agent.stop()
            raise

    def fetch(self) -> bytes:
        """Return the page of the last cycle."""
        if not self._agent.published.ready:
            raise NoPageError("the first cycle is not over yet", soon=True)
        return self._agent.published.get(PROTOBUF, False)

    def close(self) -> None:
        """Detach the programs."""
        self._agent.stop()
