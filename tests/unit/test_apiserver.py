"""The fake API server against the real kubectl, and its own rules."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from testkit.apiserver import ApiServer, pod_object, selected
from testkit.certificates import Certificates
from tests.conftest import REPOSITORY


@contextmanager
def started(*command: str | Path, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a command, to its end at the latest when the block is left."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env={**os.environ, **environment}
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_kubectl_watches_over_tls(kubectl: Path, certificates: Certificates, tmp_path: Path) -> None:
    with ApiServer(certificate=certificates.signed("kubectl")) as server:
        server.tokens = {"t1"}
        server.create_pod("web", namespace="shop")
        command = (kubectl, "--server", server.url, "--certificate-authority", certificates.ca, "--token", "t1")
        with started(*command, "get", "pods", "-A", "-w", "-o", "name", HOME=str(tmp_path)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "pod/web\n"
            server.create_pod("db", namespace="shop")
            assert process.stdout.readline() == "pod/db\n"
            server.run_container("shop", "db", "app")
            assert process.stdout.readline() == "pod/db\n"
            server.delete_pod("shop", "db")
            assert process.stdout.readline() == "pod/db\n"


def test_kubectl_gets(kubectl: Path, tmp_path: Path, server: ApiServer) -> None:
    for number in range(5):
        server.create_pod(f"p{number}", labels={"odd": str(number % 2)}, node=f"n{number}")

    def get(*arguments: str) -> str:
        command = (str(kubectl), "--server", server.url, "get", "pods", *arguments)
        environment = {**os.environ, "HOME": str(tmp_path)}
        return subprocess.check_output(command, text=True, env=environment, timeout=60)

    assert get("--chunk-size=2", "-o", "name").split() == [f"pod/p{number}" for number in range(5)]
    assert get("-l", "odd=1", "-o", "name").split() == ["pod/p1", "pod/p3"]
    assert get("--field-selector", "spec.nodeName=n2", "-o", "name").split() == ["pod/p2"]
    assert json.loads(get("p4", "-o", "json", "--show-managed-fields")) == server.get_pod("default", "p4")
    assert get().splitlines()[0].split()[0] == "NAME"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.mark.parametrize(
    ("fields", "labels", "expected"),
    [
        ("", "", True),
        ("spec.nodeName=n1", "", True),
        ("spec.nodeName==n2", "", False),
        ("spec.nodeName!=n2,metadata.name=p", "", True),
        ("", "a=1", True),
        ("", "a!=1", False),
        ("", "a,!b", True),
        ("", "b", False),
        ("metadata.namespace=x", "a=1", False),
    ],
)
def test_selectors(fields: str, labels: str, expected: bool) -> None:
    assert selected(pod_object("p", node="n1", labels={"a": "1"}), fields, labels) is expected


def test_by_itself() -> None:
    with started(sys.executable, "-m", "testkit.apiserver", "--port", "0", "--pods", "2") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(": ")[0]
        with urlopen(f"{url}/version", timeout=10) as answer:
            assert json.load(answer)["major"] == "1"
