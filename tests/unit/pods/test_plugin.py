"""Credential plugins of a kubeconfig: real scripts, and a server that checks what they give."""

import base64
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kpod_metrics.errors import RequestError, SettingError
from kpod_metrics.pods import plugin
from kpod_metrics.pods.client import Client, find_config, to_server
from kpod_metrics.settings import Settings
from testkit.apiserver import ApiServer
from testkit.certificates import Certificates
from tests.unit.pods.conftest import fetched, kubeconfig, until

V1, V1BETA1 = plugin.VERSIONS
PODS = "/api/v1/pods"


class Plugin:
    """A script, what it prints, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "plugin"
        self.answer = folder / "answer"
        self.script("")

    def script(self, *lines: str) -> None:
        """Have it do this instead, after a note of its environment and arguments."""
        noted = f'printf "%s\\n" "$KUBERNETES_EXEC_INFO" "$MODE" "$*" >> {self.folder}/told'
        body = lines if any(lines) else (f"cat {self.answer}",)
        self.path.write_text("\n".join(["#!/bin/sh", noted, *body, ""]))
        self.path.chmod(0o755)

    def gives(self, version: str = V1, ends: datetime | None = None, **status: str) -> None:
        """Have it print a credential."""
        whole: dict[str, Any] = {"kind": "ExecCredential", "apiVersion": version, "status": status}
        if ends:
            whole["status"]["expirationTimestamp"] = ends.isoformat().replace("+00:00", "Z")
        self.answer.write_text(json.dumps(whole))

    def told(self) -> list[list[str]]:
        """What each of its runs was told: KUBERNETES_EXEC_INFO, $MODE, the arguments."""
        lines = (self.folder / "told").read_text().splitlines()
        return [lines[at : at + 3] for at in range(0, len(lines), 3)]


@pytest.fixture
def script(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


Made = Callable[..., Client]


@pytest.fixture
def made(server: ApiServer, script: Plugin) -> Iterator[Made]:
    """A client of a kubeconfig whose section `exec` has these keys too."""
    clients: list[Client] = []

    def make(cluster: dict[str, Any] | None = None, **keys: Any) -> Client:
        section = {"apiVersion": V1, "command": str(script.path), "interactiveMode": "Never"} | keys
        file = kubeconfig(script.folder / "k", server.url, {"exec": section}, **cluster or {})
        clients.append(to_server(Settings(kubeconfig=file)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.mark.parametrize("version", [V1, V1BETA1])
def test_token(server: ApiServer, script: Plugin, made: Made, version: str) -> None:
    """It is run once for several requests, and again when what it gave is refused."""
    client = made(apiVersion=version, args=["a", "b c"], env=[{"name": "MODE", "value": "m"}])
    for secret in ("s1", "s2"):
        script.gives(version, token=secret)
        server.tokens = {secret}
        for _ in range(3):
            assert b'"PodList"' in fetched(client, PODS)
    info = {"kind": "ExecCredential", "apiVersion": version, "spec": {"interactive": False}}
    assert [(json.loads(told), mode, args) for told, mode, args in script.told()] == [(info, "m", "a b c")] * 2
    assert client.requests == 7


def test_new_credential_that_is_refused_is_not_asked_for_again(server: ApiServer, script: Plugin, made: Made) -> None:
    script.gives(token="wrong")
    server.tokens = {"right"}
    with pytest.raises(RequestError, match="401: Unauthorized"):
        fetched(made(), PODS)
    assert len(script.told()) == 1


@pytest.mark.usefixtures("server")
def test_expiry(script: Plugin, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends within half a minute is replaced before it is used."""
    client = made()
    now = datetime.now(UTC)
    for seconds, runs in ((3600, 1), (3600, 1)):
        script.gives(token="s", ends=now + timedelta(seconds=seconds))
        fetched(client, PODS)
        assert len(script.told()) == runs
    other = made()
    script.gives(token="s", ends=now + timedelta(seconds=20))
    for interval, runs in ((10.0, 2), (10.0, 2), (0.0, 3)):  # not at every request
        monkeypatch.setattr(plugin, "MIN_INTERVAL", interval)
        fetched(other, PODS)
        assert len(script.told()) == runs


def test_cluster_is_told_where_it_is_asked_for(server: ApiServer, script: Plugin, made: Made) -> None:
    script.gives(token="s")
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    fetched(made({"insecure-skip-tls-verify": True, "extensions": [extension]}, provideClusterInfo=True), PODS)
    told = json.loads(script.told()[0][0])["spec"]["cluster"]
    assert told == {"server": server.url, "insecure-skip-tls-verify": True, "config": {"audience": "x"}}


def test_cluster_is_told_its_ca_as_data(script: Plugin, certificates: Certificates) -> None:
    keys = {"apiVersion": V1, "command": "x", "interactiveMode": "Never", "provideClusterInfo": True}
    (script.folder / "ca").write_bytes(Path(certificates.ca).read_bytes())
    file = kubeconfig(script.folder / "k", "https://x", {"exec": keys}, **{"certificate-authority": "ca"})
    user = find_config(file).user
    assert user is not None
    assert isinstance(user.exec, plugin.Exec)
    assert user.exec.cluster is not None
    assert base64.b64decode(user.exec.cluster["certificate-authority-data"]) == Path(certificates.ca).read_bytes()


def test_relative_command_begins_at_the_kubeconfig(script: Plugin, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    script.gives(token="s")
    monkeypatch.chdir("/")
    assert b'"PodList"' in fetched(made(command="./plugin"), PODS)


def test_command_is_looked_for_in_path(script: Plugin, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    script.gives(token="s")
    monkeypatch.setenv("PATH", f"{script.folder}:{os.environ['PATH']}")
    assert b'"PodList"' in fetched(made(command="plugin"), PODS)


def test_client_certificate(tmp_path: Path, script: Plugin, certificates: Certificates) -> None:
    with ApiServer(certificate=certificates.signed("api")) as server:
        assert server._http is not None
        assert server._http.context is not None
        server._http.context.verify_mode = ssl.CERT_REQUIRED
        server._http.context.load_verify_locations(certificates.ca)
        keys = {"apiVersion": V1, "command": str(script.path), "interactiveMode": "Never"}
        ca = {"certificate-authority": certificates.ca}
        client = to_server(Settings(kubeconfig=kubeconfig(tmp_path / "k", server.url, {"exec": keys}, **ca)))
        script.gives(token="s")
        with pytest.raises(RequestError):
            fetched(client, PODS)
        client.close()
        certificate, key = (Path(file).read_text() for file in certificates.signed("agent"))
        script.gives(clientCertificateData=certificate, clientKeyData=key)
        client = to_server(Settings(kubeconfig=str(tmp_path / "k")))
        assert b'"PodList"' in fetched(client, PODS)
        client.close()
        script.gives(clientCertificateData="x", clientKeyData="y")
        client = to_server(Settings(kubeconfig=str(tmp_path / "k")))
        with pytest.raises(RequestError, match="the plugin's client certificate cannot be used: "):
            fetched(client, PODS)
        client.close()


GOOD = '"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1"'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("echo first >&2", r"printf 'l\033ast\n' >&2", "exit 3"), r"returned 3: l\x1bast"),
        (("kill -9 $$",), "was killed by signal 9"),
        (("echo no",), "printed no ExecCredential: "),
        (("echo '{}'",), "printed kind , apiVersion ; accepted: kind ExecCredential, apiVersion client.auth"),
        (
            ("""echo '{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1beta1"}'""",),
            "printed kind ExecCredential, apiVersion client.authentication.k8s.io/v1beta1; accepted: ",
        ),
        ((f"echo '{{{GOOD}}}'",), "printed neither a token nor a client certificate"),
        (
            (f"""echo '{{{GOOD}, "status": {{"clientCertificateData": "x"}}}}'""",),
            "printed a client certificate without its key",
        ),
        (
            (f"""echo '{{{GOOD}, "status": {{"token": "a\\u0007b"}}}}'""",),
            "printed a token that has characters that are not allowed",
        ),
        (("head -c 2000000 /dev/zero",), "printed more than 1048576 bytes"),
    ],
)
def test_fault_is_one_line(script: Plugin, made: Made, lines: tuple[str, ...], said: str) -> None:
    script.script(*lines)
    with pytest.raises(RequestError) as caught:
        fetched(made(), PODS)
    assert f"{PODS}: credential plugin {script.path} {said}" in str(caught.value)
    assert str(caught.value).isprintable()


def test_missing_command_with_its_hint(script: Plugin, made: Made) -> None:
    with pytest.raises(RequestError) as caught:
        fetched(made(command="no-such-plugin", installHint="get it\x1b[1m\nfrom x"), PODS)
    assert str(caught.value).endswith(
        r"credential plugin no-such-plugin does not exist, or cannot be executed: get it\x1b[1m\nfrom x"
    )


def test_plugin_that_hangs_is_ended_with_what_it_started(
    script: Plugin, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "PLUGIN_TIMEOUT", 0.3)
    script.script("sleep 1000 &", f"echo $! > {script.folder}/child", "wait")
    with pytest.raises(RequestError, match=r"did not end within 0\.3 s"):
        fetched(made(), PODS)
    assert_gone(int((script.folder / "child").read_text()))


def test_close_ends_a_plugin_that_hangs(script: Plugin, made: Made) -> None:
    script.script(
        "sleep 1000 &", f"echo $! > {script.folder}/child.new", f"cd {script.folder}", "mv child.new child; wait"
    )
    client, failures = made(), list[str]()

    def ask() -> None:
        with pytest.raises(RequestError) as caught:
            fetched(client, PODS)
        failures.append(str(caught.value))

    thread = threading.Thread(target=ask)
    thread.start()
    until((script.folder / "child").exists)
    # A busy machine may run the plugin before the thread that started it knows its process.
    credential = client._credential
    assert isinstance(credential, plugin.PluginAuth)
    until(lambda: credential._process is not None)
    client.abort()
    thread.join()
    assert "was killed by signal 9" in failures[0]
    assert_gone(int((script.folder / "child").read_text()))


def assert_gone(pid: int) -> None:
    """A killed orphan is gone or a zombie that nobody has reaped yet."""

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    until(gone)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"apiVersion": "client.authentication.k8s.io/v1alpha1"},
            "exec: apiVersion is 'client.authentication.k8s.io/v1alpha1'; accepted: client.authentication.k8s.io/v1, "
            "client.authentication.k8s.io/v1beta1",
        ),
        (
            {"interactiveMode": "Always"},
            "exec: interactiveMode is 'Always', and there is no terminal; accepted: Never, IfAvailable",
        ),
        ({"args": "a"}, "Expected `array | null`, got `str` - at `$.exec.args`"),
    ],
)
def test_section_that_cannot_be_used(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    section = {"apiVersion": V1, "command": "x", "interactiveMode": "Never"} | keys
    file = kubeconfig(tmp_path / "k", "http://127.0.0.1:1", {"exec": section})
    with pytest.raises(SettingError) as caught:
        find_config(file)
    assert f"kubeconfig: '{file}' cannot be used: {said}" in str(caught.value)
