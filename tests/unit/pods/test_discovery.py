"""The source that the settings choose, and the error if there is none."""

from pathlib import Path

import pytest

from kpod_metrics.errors import RefusedError, SettingError
from kpod_metrics.pods.discovery import kubernetes_source
from kpod_metrics.settings import Settings
from testkit.apiserver import ApiServer
from tests.unit.pods.conftest import NODE, Follower, kubeconfig


@pytest.mark.parametrize("discovery", ["kubernetes", "kubelet"])
def test_source_that_is_asked_for(discovery: str, server: ApiServer, tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "kubeconfig", server.url)
    made = kubernetes_source(Settings(discovery=discovery, kubeconfig=file, node_name=NODE))
    assert made.name == discovery
    assert made.problem().startswith("no answer yet, for 0 s")
    assert server.requests == []
    made.close()


def test_source_finds_pods(server: ApiServer, tmp_path: Path) -> None:
    server.create_pod("a")
    settings = Settings(
        discovery="kubernetes", kubeconfig=kubeconfig(tmp_path / "kubeconfig", server.url), node_name=NODE
    )
    made = kubernetes_source(settings)
    made.start()
    Follower(made).sees("a")
    made.close()


@pytest.mark.parametrize("discovery", ["kubernetes", "kubelet"])
def test_no_cluster_is_one_line(discovery: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(RefusedError, match=r"^no Kubernetes here: .*--kubeconfig") as caught:
        kubernetes_source(Settings(discovery=discovery, node_name=NODE))
    assert str(caught.value).isprintable()


def test_two_ways_to_verify_a_kubelet_are_refused(server: ApiServer, tmp_path: Path) -> None:
    settings = Settings(
        discovery="kubelet",
        kubeconfig=kubeconfig(tmp_path / "kubeconfig", server.url),
        kubelet_ca="/ca",
        kubelet_insecure=True,
    )
    with pytest.raises(SettingError, match=r"^kubelet_ca and kubelet_insecure: \['/ca', True\] is not accepted"):
        kubernetes_source(settings)
