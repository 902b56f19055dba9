"""How a cluster is found and spoken to: kubeconfig, service account, certificates, credential plugins."""

import base64
import gc
import re
from pathlib import Path
from typing import Any

import pytest

from kpod_metrics import USER_AGENT
from kpod_metrics.errors import KpodError, RefusedError, RequestError, SettingError
from kpod_metrics.pods.client import find_config, to_kubelet, to_server
from kpod_metrics.settings import Settings
from testkit.apiserver import ApiServer
from testkit.certificates import Certificates
from tests.unit.imports import imported_by_an_agent
from tests.unit.pods.conftest import fetched, kubeconfig


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the machine that tests run on."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)


def account(folder: Path, ca: str = "") -> str:
    """Make what Kubernetes mounts into a pod."""
    folder.mkdir()
    (folder / "token").write_text("t1")
    (folder / "namespace").write_text("monitoring")
    if ca:
        (folder / "ca.crt").write_bytes(Path(ca).read_bytes())
    return str(folder)


def test_order_of_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = account(tmp_path / "account")
    nothing = str(tmp_path / "none")
    (tmp_path / "home" / ".kube").mkdir(parents=True)
    kubeconfig(tmp_path / "home" / ".kube" / "config", "http://home")
    assert find_config("", nothing).cluster.server == "http://home"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert find_config("", mounted).cluster.server == "https://[fd00::1]:443"
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "environment", "http://environment"))
    assert find_config("", mounted).cluster.server == "http://environment"
    given = kubeconfig(tmp_path / "given", "http://given")
    assert find_config(given, mounted).cluster.server == "http://given"


def test_nothing_to_reach_a_cluster_by(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"^no Kubernetes here: no service account in .*; --kubeconfig names one$"):
        find_config("", str(tmp_path))


def test_service_account_outside_of_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="KUBERNETES_SERVICE_HOST"):
        find_config("", account(tmp_path / "account"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "- a\n",
        "a: b: c\n",
        "{}",
        "clusters: []\ncontexts: []\n",
        "clusters: []\ncontexts: []\ncurrent-context: x\n",
        "clusters: [{name: a}]\ncontexts: []\n",
        "clusters: [{name: a, cluster: {server: 1}}]\ncontexts: []\n",
        "current-context: x\nclusters: []\ncontexts: [{name: x, context: {cluster: y, user: z}}]\n",
        "current-context: x\nclusters: [{name: y, cluster: {}}]\ncontexts: [{name: x, context: {cluster: y, user: z}}]",
        "\x00",
    ],
)
def test_unusable_kubeconfig_is_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(content)
    with pytest.raises(
        SettingError, match=r"^kubeconfig: '.*' cannot be used: .*; accepted: a kubeconfig file$"
    ) as caught:
        find_config(str(file))
    assert str(caught.value).isprintable()


# lightkube leaves the file that it writes data to, to be closed by the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("user", "cluster"),
    [
        ({"client-certificate": "/missing", "client-key": "/missing"}, {}),
        ({}, {"certificate-authority": "missing.crt"}),
        ({}, {"certificate-authority-data": base64.b64encode(b"no certificate").decode()}),
        ({"auth-provider": {"name": "gcp"}}, {}),
    ],
)
def test_unusable_credentials_are_one_line(tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any]) -> None:
    file = kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", user, **cluster)
    with pytest.raises(KpodError, match=r"^https://127.0.0.1:1: credentials or CA cannot be used: .") as caught:
        to_server(Settings(kubeconfig=file))
    assert str(caught.value).isprintable()
    del caught
    gc.collect()


def test_in_cluster(tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS by the mounted CA and token."""
    with ApiServer(certificate=certificates.signed("api")) as server:
        server.tokens = {"t1"}
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        client = to_server(Settings(), account(tmp_path / "account", certificates.ca))
        assert b'"PodList"' in fetched(client, "/api/v1/pods")
        client.close()


def test_server_that_another_ca_signed(tmp_path: Path, certificates: Certificates) -> None:
    with ApiServer(certificate=certificates.self_signed("other")) as server:
        file = kubeconfig(tmp_path / "k", server.url, {}, **{"certificate-authority": certificates.ca})
        client = to_server(Settings(kubeconfig=file))
        with pytest.raises(RequestError, match="CERTIFICATE_VERIFY_FAILED"):
            fetched(client, "/api/v1/pods")
        client.close()


def test_refusal_in_plain_text(server: ApiServer, tmp_path: Path) -> None:
    client = to_server(Settings(kubeconfig=kubeconfig(tmp_path / "k", server.url)))
    with pytest.raises(RequestError, match="/nothing: 404: the server could not find") as caught:
        fetched(client, "/nothing")
    assert (caught.value.status, caught.value.retry_after) == (404, 0.0)
    client.close()


def test_server_below_a_path(server: ApiServer, tmp_path: Path) -> None:
    """As behind a proxy of several clusters."""
    client = to_server(Settings(kubeconfig=kubeconfig(tmp_path / "k", f"{server.url}/k8s/c1")))
    with pytest.raises(RequestError):
        fetched(client, "/api/v1/pods")
    assert server.requests[0].path == "/k8s/c1/api/v1/pods"
    client.close()


# The kubelet's certificate


def kubelet(folder: Path, port: int, **settings: Any) -> Settings:
    (folder / "k").exists() or kubeconfig(folder / "k", "https://192.0.2.1", {"token": "t1"})
    address = ("127.0.0.1", port)
    return Settings(kubeconfig=str(folder / "k"), kubelet_address=address, node_name="node-1", **settings)


def get(settings: Settings) -> bytes:
    client = to_kubelet(settings)
    try:
        return fetched(client, "/pods")
    finally:
        client.close()


def test_kubelet_signed_by_the_clusters_ca(tmp_path: Path, certificates: Certificates) -> None:
    kubeconfig(tmp_path / "k", "https://192.0.2.1", {"token": "t1"}, **{"certificate-authority": certificates.ca})
    with ApiServer(certificate=certificates.signed("kubelet-1")) as server:
        server.tokens = {"t1"}
        assert b"PodList" in get(kubelet(tmp_path, server.port))
    other_name = ApiServer(certificate=certificates.signed("kubelet-2", "DNS:node-1"))
    with other_name as server, pytest.raises(RequestError, match="CERTIFICATE_VERIFY_FAILED"):
        get(kubelet(tmp_path, server.port))


def test_kubelet_signed_by_another_ca(tmp_path: Path, certificates: Certificates) -> None:
    with ApiServer(certificate=certificates.signed("kubelet-3")) as server:
        with pytest.raises(RequestError, match="CERTIFICATE_VERIFY_FAILED"):
            get(kubelet(tmp_path, server.port))
        assert b"PodList" in get(kubelet(tmp_path, server.port, kubelet_ca=certificates.ca))


def test_kubelet_that_signed_itself(tmp_path: Path, certificates: Certificates) -> None:
    mine, other = certificates.self_signed("kubelet"), certificates.self_signed("impostor")
    with ApiServer(certificate=mine) as server:
        assert b"PodList" in get(kubelet(tmp_path, server.port, kubelet_certificate=mine[0]))
        assert b"PodList" in get(kubelet(tmp_path, server.port, kubelet_insecure=True))
        for wrong in ({}, {"kubelet_ca": mine[0]}, {"kubelet_certificate": other[0]}):
            with pytest.raises(RequestError, match="CERTIFICATE_VERIFY_FAILED"):
                get(kubelet(tmp_path, server.port, **wrong))


def test_pinned_certificate_of_a_ca_nobody_knows(tmp_path: Path, certificates: Certificates) -> None:
    """As the kubelet's own: signed by a CA that it made for it and forgot. The certificate alone must do."""
    leaf = certificates.signed("kubelet-4", "DNS:node-1")
    with ApiServer(certificate=leaf) as server:
        assert b"PodList" in get(kubelet(tmp_path, server.port, kubelet_certificate=leaf[0]))


def test_kubelet_is_the_node_by_name(tmp_path: Path) -> None:
    settings = kubelet(tmp_path, 1)
    settings.kubelet_address = ("", 10250)
    for address, expected in (("", "https://node-1:10250"), ("fe80::1", "https://[fe80::1]:10250")):
        settings.kubelet_address = (address, 10250)
        client = to_kubelet(settings)
        assert client.where == expected
        client.close()


def test_what_a_client_says_of_itself(server: ApiServer, tmp_path: Path) -> None:
    client = to_server(Settings(kubeconfig=kubeconfig(tmp_path / "k", server.url)))
    fetched(client, "/api/v1/pods")
    client.close()
    assert server.requests[0].user_agent == USER_AGENT
    assert re.fullmatch(r"kpod-metrics/\d+\.\d+\.\d+ \(linux; \w+\)", USER_AGENT)


def test_without_kubernetes_its_client_is_not_imported(tmp_path: Path) -> None:
    """It would cost 10 MB of memory."""
    assert imported_by_an_agent(tmp_path, "kpod_metrics.pods.discovery", "lightkube", "httpx2", "httpcore2") == ""
