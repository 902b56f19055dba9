"""Credentials from a kubeconfig's exec plugin: `client.authentication.k8s.io` v1 and v1beta1.

lightkube runs only plugins of v1beta1, passes them no information, and has no timeout. This module takes the token and
the client certificate of an ExecCredential. It runs the plugin again shortly before they expire, and once after a 401.
"""

import base64
import json
import os
import selectors
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from lightkube.config.models import UserExec
from lightkube.core.exceptions import ConfigError

from kpod_metrics.errors import shown
from kpod_metrics.pods.credentials import checked

GROUP = "client.authentication.k8s.io"
VERSIONS = (f"{GROUP}/v1", f"{GROUP}/v1beta1")
MODES = ("", "Never", "IfAvailable")
"""Accepted values of interactiveMode: there is no terminal."""
PLUGIN_TIMEOUT = 30.0
"""Seconds within which a plugin must end."""
MAX_OUTPUT_BYTES = 1 << 20
"""Maximum size of a plugin's output."""
RENEW_BEFORE = 30.0
"""Seconds before its expiry at which a credential is renewed."""
MIN_INTERVAL = 10.0
"""Seconds between two runs for credentials that expire soon, or that have already expired when the plugin prints them:
a kubelet is asked as often as once per second."""


class Exec(UserExec, omit_defaults=True):
    """The section `exec` of a kubeconfig's user."""

    interactiveMode: str = ""  # noqa: N815 - the API's name
    provideClusterInfo: bool = False  # noqa: N815
    folder: str = "."
    """The folder of the kubeconfig: a relative path of a command starts there."""
    cluster: dict[str, Any] | None = None
    """Information about the cluster for the plugin."""


class _Status(msgspec.Struct, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _Credential(msgspec.Struct, rename="camel"):
    kind: str = ""
    api_version: str = ""
    status: _Status | None = None


def section(tree: Mapping[str, Any], user: str, cluster: str, folder: Path) -> Exec:
    """Read the section `exec` of a user; raises ConfigError, ValueError, or the errors of reading YAML."""
    found = next(one["user"]["exec"] for one in tree["users"] if one["name"] == user)
    known = {key: value for key, value in found.items() if key not in ("folder", "cluster")}
    read = msgspec.convert(known, Exec)
    if read.apiVersion not in VERSIONS:
        raise ConfigError(f"exec: apiVersion is {read.apiVersion!r}; accepted: {', '.join(VERSIONS)}")
    if read.interactiveMode not in MODES:
        raise ConfigError(
            f"exec: interactiveMode is {read.interactiveMode!r}, and there is no terminal; accepted: Never, IfAvailable"
        )
    read.folder = str(folder)
    if read.provideClusterInfo:
        whole = next(one["cluster"] for one in tree["clusters"] if one["name"] == cluster)
        read.cluster = _cluster_info(whole, folder)
    return read


def _cluster_info(cluster: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the information about a cluster for a plugin: its CA as data, and the kubeconfig's extension."""
    names = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
    info = {name: cluster[name] for name in names if name in cluster}
    if path := cluster.get("certificate-authority"):
        info["certificate-authority-data"] = base64.b64encode((folder / path).read_bytes()).decode()
    for extension in cluster.get("extensions") or ():
        if extension["name"] == f"{GROUP}/exec":
            info["config"] = extension["extension"]
    return info


class PluginAuth(httpx2.Auth):
    """Authorizes every request. For one thread, except `abort`."""

    def __init__(self, plugin: Exec, context: ssl.SSLContext) -> None:
        """Client certificates are loaded into `context`, so every request needs its own connection."""
        self._plugin, self._context = plugin, context
        self._status: _Status | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._aborted = False
        self._is_new = False
        """Whether the plugin ran for the current request."""
        self._ran = 0.0

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Authorize a request."""
        self._is_new = False
        if self._status is None or (_ends_soon(self._status) and time.monotonic() - self._ran >= MIN_INTERVAL):
            self._run_again()
        status = self._status
        assert status is not None
        if status.token:
            request.headers["Authorization"] = f"Bearer {status.token}"
        yield request

    def renew(self) -> bool:
        """Run the plugin again, unless the last request had a new credential already."""
        if self._is_new:
            return False
        self._run_again()
        return True

    def abort(self) -> None:
        """Kill a running plugin; for any thread."""
        self._aborted = True
        if process := self._process:
            _kill(process)

    def _run_again(self) -> None:
        self._ran = time.monotonic()
        self._status = status = self._ask()
        self._is_new = True
        if status.client_certificate_data:
            _load(self._context, status)

    def _ask(self) -> _Status:
        plugin = self._plugin
        name = f"credential plugin {shown(plugin.command)}"
        spec = {"interactive": False} | ({"cluster": plugin.cluster} if plugin.cluster is not None else {})
        info = {"kind": "ExecCredential", "apiVersion": plugin.apiVersion, "spec": spec}
        environment = os.environ | {one.name: one.value for one in plugin.env or ()}
        environment["KUBERNETES_EXEC_INFO"] = json.dumps(info)
        command = plugin.command
        if "/" in command:
            command = os.path.join(plugin.folder, command)
        path = shutil.which(command, path=environment.get("PATH"))
        if path is None:
            hint = f": {shown(plugin.installHint.strip())}" if plugin.installHint else ""
            raise ConfigError(f"{name} does not exist, or cannot be executed{hint}")
        try:
            printed = self._run(name, [path, *(plugin.args or ())], environment)
        except OSError as error:
            raise ConfigError(f"{name} cannot be run: {error.strerror}") from None
        return _read(name, printed, plugin.apiVersion)

    def _run(self, name: str, command: list[str], environment: Mapping[str, str]) -> bytes:
        """Run a plugin in its own process group, which is killed in the end; return its output."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
        ) as process:
            self._process = process
            try:
                if self._aborted:
                    raise ConfigError(f"{name} was stopped")
                end = time.monotonic() + PLUGIN_TIMEOUT
                output, errors = _printed(name, process, end)
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise ConfigError(f"{name} did not end within {PLUGIN_TIMEOUT:g} s") from None
            finally:
                self._process = None
                _kill(process)
        if process.returncode:
            ended = f"was killed by signal {-process.returncode}" if process.returncode < 0 else None
            lines = errors.decode(errors="backslashreplace").strip().splitlines()
            last = f": {shown(lines[-1].strip())}" if lines else ""
            raise ConfigError(f"{name} {ended or f'returned {process.returncode}'}{last}")
        return output


def _printed(name: str, process: "subprocess.Popen[bytes]", end: float) -> tuple[bytes, bytes]:
    """Return the output of a process until both streams are closed; of the errors only the end."""
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, kept in ((process.stdout, output), (process.stderr, errors)):
            selector.register(stream, selectors.EVENT_READ, kept)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(process.args, PLUGIN_TIMEOUT)
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                key.data.extend(data)
            if len(output) > MAX_OUTPUT_BYTES:
                raise ConfigError(f"{name} printed more than {MAX_OUTPUT_BYTES} bytes")
            del errors[:-65536]
    return bytes(output), bytes(errors)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all processes that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _read(name: str, printed: bytes, version: str) -> _Status:
    try:
        credential = msgspec.json.decode(printed, type=_Credential)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{name} printed no ExecCredential: {shown(str(error))}") from None
    if (credential.kind, credential.api_version) != ("ExecCredential", version):
        was = f"kind {shown(credential.kind)}, apiVersion {shown(credential.api_version)}"
        raise ConfigError(f"{name} printed {was}; accepted: kind ExecCredential, apiVersion {version}")
    status = credential.status
    if status is None or not (status.token or status.client_certificate_data):
        raise ConfigError(f"{name} printed neither a token nor a client certificate")
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise ConfigError(f"{name} printed a client certificate without its key, or a key without its certificate")
    checked(status.token, f"{name} printed a token that")
    if status.expiration_timestamp is not None and status.expiration_timestamp.tzinfo is None:
        raise ConfigError(f"{name} printed an expirationTimestamp without a time zone; accepted: RFC 3339")
    return status


def _ends_soon(status: _Status) -> bool:
    end = status.expiration_timestamp
    return end is not None and end.timestamp() - time.time() < RENEW_BEFORE


def _load(context: ssl.SSLContext, status: _Status) -> None:
    """Load a client certificate. OpenSSL reads only files, so it goes through one in memory."""
    with os.fdopen(os.memfd_create("client certificate"), "wb") as file:
        file.write(f"{status.client_certificate_data}\n{status.client_key_data}\n".encode())
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password=lambda: "")
        except (OSError, ValueError) as error:
            raise ConfigError(f"the plugin's client certificate cannot be used: {shown(str(error))}") from None
