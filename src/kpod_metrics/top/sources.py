"""Where pages come from: a running agent, by HTTP, or an agent in this process."""

import re
import time
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2

from kpod_metrics import USER_AGENT
from kpod_metrics import agent as agents
from kpod_metrics.errors import SettingError
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.samples import clean
from kpod_metrics.settings import Settings
from kpod_metrics.tls_client import context

_TIMEOUT = 5.0
"""Timeout of connecting, and of each read, in seconds."""
_PAGE_TIMEOUT = 15.0
"""Timeout of a whole page, in seconds."""
_MAX_BYTES = 256 << 20
"""Size of a page: 200,000 series are 30 MB."""


class NoPageError(Exception):
    """There is no page; the text is the reason. `soon`: the agent answers, and will have one."""

    def __init__(self, problem: str, *, soon: bool = False) -> None:
        super().__init__(clean(" ".join(problem.split()))[:300])
        self.soon = soon


@dataclass(frozen=True)
class Access:
    """How to authenticate: paths of files, or ""."""

    ca: str
    certificate: str
    key: str
    token_file: str


class RemoteAgent:
    """A running agent."""

    own = False

    def __init__(self, url: str, access: Access) -> None:
        """Raises SettingError if the URL or a file is invalid."""
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
        """Request the newest page in protobuf; raises NoPageError."""
        end = time.monotonic() + _PAGE_TIMEOUT
        try:
            with self._http.stream("GET", self._url, headers=self._token()) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > _MAX_BYTES or time.monotonic() > end:
                        raise NoPageError(f"more than {_MAX_BYTES} bytes, or incomplete after {_PAGE_TIMEOUT:g} s")
        except httpx2.TimeoutException:
            raise NoPageError(f"no answer within {_TIMEOUT:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, SettingError) as error:
            raise NoPageError(re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__) from None
        if response.status_code != 200:
            text = bytes(body[:200]).decode("utf-8", "replace") if response.status_code == 503 else ""
            raise NoPageError(f"HTTP {response.status_code} {text}", soon=response.status_code == 503)
        kind = response.headers.get("content-type", "").partition(";")[0]
        if kind != PROTOBUF.partition(";")[0]:
            raise NoPageError(f"not an agent's page ({kind or 'without a type'})")
        return bytes(body)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _token(self) -> dict[str, str]:
        """Return the header with the token. The file is read each time, as tokens of service accounts are renewed."""
        path = self._access.token_file
        if not path:
            return {}
        try:
            with open(path, encoding="ascii") as file:
                return {"authorization": f"Bearer {file.read().strip()}"}
        except (OSError, ValueError) as error:
            raise SettingError(f"token_file: {path!r} cannot be read: {error}; accepted: a file with a token") from None


def _parsed(url: str) -> tuple[str, str, tuple[str, str] | None]:
    """Return the URL for people, the URL of the page, and the user and password in it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        good = good and url.isprintable() and " " not in url
    except ValueError:
        good = False
    if not good:
        raise SettingError(
            f"url: {url!r} (from --url) is not accepted; accepted: http://HOST:PORT or https://HOST:PORT, "
            "optionally with USER:PASSWORD@ before the host, and a path"
        )
    where = parts.netloc.rpartition("@")[2]
    basic = (unquote(parts.username), unquote(parts.password or "")) if parts.username is not None else None
    path = parts.path if parts.path not in {"", "/"} else "/metrics"
    name = urlunsplit((parts.scheme, where, "" if path == "/metrics" else path, "", ""))
    return name, urlunsplit((parts.scheme, where, path, parts.query, "")), basic


class LocalAgent:
    """An agent in this process, without an endpoint."""

    own = True

    def __init__(self, settings: Settings, why: str) -> None:
        """Load the programs; raises RefusedError if this machine does not support them or the user has no rights."""
        self.name = why
        # It pushes nothing: it runs only as long as its user watches.
        self._agent = agents.build(replace(settings, otlp_endpoint=""))
        try:
            self._agent.open()
            self._agent.start()
        except BaseException:
            self._agent.stop()
            raise

    def fetch(self) -> bytes:
        """Return the page of the last cycle; raises NoPageError."""
        if self._agent.published.page is None:
            raise NoPageError("the first cycle is not over yet", soon=True)
        return self._agent.published.get(PROTOBUF, False)

    def close(self) -> None:
        """Detach the programs."""
        self._agent.stop()


PageSource = RemoteAgent | LocalAgent
"""Each has a `name` for the first line, and says whether it is an agent in this process (`own`)."""
