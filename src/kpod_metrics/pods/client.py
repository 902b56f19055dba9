"""HTTP to the API server and to the kubelet, with lightkube's configuration, authentication and TLS.

Only `discovery` imports this, and only if pods come from Kubernetes: the import takes 10 MB of memory.
"""

import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import msgspec
from lightkube.config.client_adapter import ConnectionParams, ExecAuth
from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, SERVICE_ACCOUNT, KubeConfig, SingleConfig
from lightkube.config.models import Cluster, User
from lightkube.core.exceptions import ConfigError

from kpod_metrics import USER_AGENT, yaml_file
from kpod_metrics.errors import SHOWN, RefusedError, RequestError, SettingError, SilenceError, shown
from kpod_metrics.http_bounds import LINE_COST, Bounds, beginning, no_cookies, pieces
from kpod_metrics.pods import api
from kpod_metrics.pods.credentials import Credential, TokenFile, checked
from kpod_metrics.pods.plugin import Exec, PluginAuth, section
from kpod_metrics.pods.stream import MAX_LIST, MAX_OBJECT
from kpod_metrics.retry import retry_after
from kpod_metrics.settings import Settings
from kpod_metrics.yaml_file import NoYamlError

CONNECT_TIMEOUT = 10.0
"""Seconds to connect, and to send a request."""
KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""Detect a lost peer within a minute, and keep load balancers from closing an idle connection."""
LINE_TIMEOUT = 60.0
"""Seconds from the first to the last byte of an event."""
_MAX_REFUSAL = 64 << 10
"""Bytes of a refusal that are read, for its message."""


class Client:
    """A client of one server. For one thread, except `abort`."""

    def __init__(self, http: httpx2.Client, where: str, credential: Credential | None = None) -> None:
        self._http = http
        self._bounds = Bounds(http)
        self._credential = credential
        self.where = where
        self._socket: socket.socket | None = None
        self.requests = 0
        """HTTP requests sent, with those repeated after a token was read again."""
        http.event_hooks = {"request": [self._count]}

    def _count(self, _: httpx2.Request) -> None:
        self.requests += 1

    @contextmanager
    def chunks(self, path: str, query: Mapping[str, str], silence: float, seconds: float) -> Iterator[Iterator[bytes]]:
        """Return the decoded body of a response in chunks, as they arrive.

        Raises RequestError, also after `silence` seconds without a byte, and after `seconds` in total.
        """
        self._bounds.begin(seconds, MAX_LIST)
        with self._answer(path, query, silence, "gzip") as response:
            yield pieces(response, f"{self.where}{path}")

    @contextmanager
    def lines(
        self, path: str, query: Mapping[str, str], silence: float, seconds: float
    ) -> Iterator[Iterator[bytearray]]:
        """Return the lines of a response as they arrive; raises RequestError, also for an incomplete last line.

        Raises SilenceError after `silence` seconds without a byte, and after `seconds` in total.
        """
        self._bounds.begin(seconds, 0, paced=True)
        with self._answer(path, query, silence, "identity") as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise RequestError(f"{self.where}{path}: a watch has a Content-Encoding; accepted: identity")
            yield self._lines(response)

    @contextmanager
    def _answer(self, path: str, query: Mapping[str, str], silence: float, coding: str) -> Iterator[httpx2.Response]:
        where = f"{self.where}{path}"
        timeout = httpx2.Timeout(CONNECT_TIMEOUT, read=silence)
        headers = {"accept-encoding": coding}
        failure: type[RequestError] = RequestError
        try:
            for first in (True, False):
                with self._http.stream("GET", path, params=query, timeout=timeout, headers=headers) as response:
                    self._socket = response.extensions["network_stream"].get_extra_info("socket")
                    _keep_alive(self._socket)
                    if self._bounds.aborted.is_set():
                        raise RequestError(f"{where}: closed")
                    if response.status_code == 401 and first and self._credential and self._credential.renew():
                        continue  # closes this response without reading it
                    if response.status_code != 200:
                        raise _refusal(where, response)
                    failure = SilenceError
                    yield response
                    return
        except httpx2.TimeoutException as error:
            if self._bounds.over:
                raise failure(f"{where}: the response did not end within {self._bounds.seconds:g} s") from None
            # Also the kernel's own timeout, if a peer no longer answers.
            raise failure(f"{where}: no answer ({type(error).__name__})") from None
        except (httpx2.HTTPError, ConfigError, OSError) as error:
            # ConfigError: a missing token file, or a credential plugin that fails.
            raise RequestError(f"{where}: {_line(error)}") from None
        finally:
            self._socket = None

    def _lines(self, response: httpx2.Response) -> Iterator[bytearray]:
        line = bytearray()
        began = 0.0
        for chunk in response.iter_raw():
            *ends, rest = chunk.split(b"\n")
            self._bounds.spend(LINE_COST * len(ends))
            for end in ends:
                if end or line:
                    line += end
                    yield line
                    line = bytearray()
            began = began if line else time.monotonic()
            line += rest
            if len(line) > MAX_OBJECT:
                raise RequestError(f"{self.where}: an event is larger than {MAX_OBJECT} bytes")
            if line and time.monotonic() - began > LINE_TIMEOUT:
                raise RequestError(f"{self.where}: an event did not end within {LINE_TIMEOUT:g} s")
        if line:
            raise RequestError("the connection ended in the middle of an event")

    def abort(self) -> None:
        """Abort the response that another thread reads, and all later ones; for any thread."""
        self._bounds.aborted.set()
        if isinstance(self._credential, PluginAuth):
            self._credential.abort()
        if stream := self._socket:
            with suppress(OSError):
                # Not SSLSocket.shutdown(): it would remove the TLS state while the other thread reads.
                socket.socket.shutdown(stream, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _line(error: Exception) -> str:
    return _shown(str(error)) or type(error).__name__


def _shown(text: str) -> str:
    # Only the beginning is split: a server's message can have megabytes.
    return shown(" ".join(text[: 4 * SHOWN].split()))


def _refusal(where: str, response: httpx2.Response) -> RequestError:
    start = beginning(response, _MAX_REFUSAL)
    try:
        said = api.refusal_of(start).message
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = start.decode(errors="replace")
    wait = retry_after(response.headers.get("retry-after", ""))
    reason = _shown(said) or _shown(response.reason_phrase)
    return RequestError(f"{where}: {response.status_code}: {reason}", response.status_code, wait)


def find_config(kubeconfig: str, account: str = SERVICE_ACCOUNT) -> SingleConfig:
    """Return how to reach the cluster: the given kubeconfig, $KUBECONFIG, the service account, ~/.kube/config.

    Raises SettingError for a file that cannot be used, RefusedError if none of them exists.
    """
    file = kubeconfig or os.environ.get("KUBECONFIG", "")
    if not file and os.path.exists(os.path.join(account, "token")):
        try:
            return _selected(KubeConfig.from_service_account(account))
        except (ConfigError, OSError, KeyError) as error:
            raise RefusedError(f"the service account in {account} cannot be used: {_line(error)}") from None
    default = os.path.expanduser(DEFAULT_KUBECONFIG)
    if not file and not os.path.exists(default):
        raise RefusedError(
            f"no Kubernetes here: no service account in {account}, no KUBECONFIG, no {default}; --kubeconfig names one"
        )
    file = file or default
    try:
        return _from_file(Path(file).expanduser())
    except KeyError as error:
        reason = f"it has no {error}"
    except NoYamlError as error:
        reason = f"{error.where.strip() or 'it'} is not {'accepted' if error.rule else 'YAML'}: {error.reason}"
    except (ConfigError, OSError, TypeError, AttributeError, ValueError, msgspec.MsgspecError) as error:
        reason = _line(error)
    raise SettingError(f"kubeconfig: {file!r} cannot be used: {reason}; accepted: a kubeconfig file")


def _from_file(file: Path) -> SingleConfig:
    if not file.is_file():
        raise ConfigError("it is not a file")
    tree = yaml_file.load(str(file))
    config = _selected(KubeConfig.from_dict(tree, file))
    if config.user and config.user.exec:
        config.user.exec = section(tree, config.context.user or "", config.context.cluster, file.absolute().parent)
    return config


def _selected(config: KubeConfig) -> SingleConfig:
    found = config.get()
    assert found is not None  # only where a default is given, and that is None
    return found._replace(user=found.user or User())


def to_server(settings: Settings, account: str = SERVICE_ACCOUNT) -> Client:
    """Make a client of the API server; raises KpodError."""
    return _client(find_config(settings.kubeconfig, account), ConnectionParams())


def to_kubelet(settings: Settings, account: str = SERVICE_ACCOUNT) -> Client:
    """Make a client of the node's kubelet, with the cluster's credentials; raises KpodError.

    The kubelet's certificate is verified by the cluster's CA, unless a setting says otherwise.
    """
    host, port = settings.kubelet_address
    host = host or settings.node_name
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    config = find_config(settings.kubeconfig, account)
    anchor = settings.kubelet_ca or settings.kubelet_certificate
    if settings.kubelet_insecure:
        cluster = Cluster(server, insecure=True)
    elif anchor:
        cluster = Cluster(server, certificate_auth=os.path.abspath(anchor))
    else:
        cluster = Cluster(server, config.cluster.certificate_auth, config.cluster.certificate_auth_data)
    # The kubelet runs on this machine: never use a proxy.
    parameters = ConnectionParams(trust_env=False)
    return _client(config._replace(cluster=cluster), parameters, pinned=bool(settings.kubelet_certificate))


def _client(config: SingleConfig, parameters: ConnectionParams, pinned: bool = False) -> Client:
    user = config.user
    assert user is not None
    credential: Credential | None = None
    try:
        arguments = parameters.httpx_params(config)
        if isinstance(user.exec, Exec) and isinstance(arguments["auth"], ExecAuth):
            arguments["auth"] = credential = PluginAuth(user.exec, arguments["verify"])
            # A connection keeps its client certificate, so a renewed one needs a new connection.
            arguments["limits"] = httpx2.Limits(max_keepalive_connections=0)
        elif user.token_file is not None:
            arguments["auth"] = credential = TokenFile(user.token_file)
        elif user.token is not None:
            checked(user.token, "the token")
    except (ConfigError, OSError, ValueError) as error:
        raise RefusedError(f"{config.cluster.server}: credentials or CA cannot be used: {_line(error)}") from None
    if pinned:
        # It must be exactly that certificate. Its name and its signer do not matter.
        context: ssl.SSLContext = arguments["verify"]
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    http = httpx2.Client(headers={"user-agent": USER_AGENT}, cookies=no_cookies(), **arguments)
    return Client(http, config.cluster.server, credential)
