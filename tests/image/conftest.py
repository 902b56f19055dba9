"""What the tests of the image share: it, unpacked; a network as a pod has one; an API server in it."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.apiserver import ApiServer
from testkit.certificates import Certificates
from tests.helm import Chart
from tests.image.cluster import TOP, Cluster
from tests.image.pod import Node, Object, Pods
from tests.image.tools import REPOSITORY, fetched
from tests.live.conftest import (  # noqa: F401 - fixtures
    cgroup_root,
    children,
    machine_is_left_as_found,
    mount_namespaces,
    on_disk,
    runtime,
    workload,
)
from tests.live.containers import Runtime, mounted_trees

NODE = "node-1"
TOKEN = "t0ken-of-the-service-account"
HOST, POD = "10.113.7.1", "10.113.7.2"


@pytest.fixture(scope="session")
def image() -> Object:
    """The image's configuration."""
    path = REPOSITORY / "build/image/image.json"
    assert path.exists(), "make test-image builds it"
    found: Object = json.loads(path.read_text())
    return found


@pytest.fixture(scope="session")
def rootfs(image: Object) -> Path:
    """The image, unpacked."""
    return REPOSITORY / "build/image/rootfs"


@pytest.fixture(scope="session")
def pods(image: Object, rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Pods:
    """Start pods of the image."""
    return Pods(fetched("runc") / "usr/sbin/runc", rootfs, image, tmp_path_factory.mktemp("pods"))


@pytest.fixture(scope="session")
def network() -> Iterator[str]:
    """A pod's network, that the host reaches at POD and whose host is at HOST.

    A process keeps it, not a name of `ip netns`: the first of a machine mounts /run/netns, and that stays.
    """
    link = f"kpod{os.getpid()}"
    keeper = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
    assert keeper.stdout is not None
    keeper.stdout.readline()
    inside = ("nsenter", f"--net=/proc/{keeper.pid}/ns/net")

    def ip(*arguments: str, within: tuple[str, ...] = ()) -> None:
        subprocess.run([*within, "ip", *arguments], check=True)

    try:
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(keeper.pid))
        ip("address", "add", f"{HOST}/24", "dev", link)
        ip("link", "set", link, "up")
        ip("address", "add", f"{POD}/24", "dev", "eth0", within=inside)
        ip("link", "set", "eth0", "up", within=inside)
        ip("link", "set", "lo", "up", within=inside)
        yield f"/proc/{keeper.pid}/ns/net"
    finally:
        subprocess.run(["ip", "link", "delete", link], check=False)
        keeper.kill()
        keeper.wait()
        keeper.stdout.close()


@pytest.fixture
def api(network: str, certificates: Certificates) -> Iterator[ApiServer]:
    """The API server, by TLS and with a token."""
    with ApiServer(host=HOST, certificate=certificates.signed("api", f"IP:{HOST}"), time_scale=0.01) as server:
        server.tokens = {TOKEN}
        yield server


@pytest.fixture
def cluster(  # noqa: PLR0917
    api: ApiServer,
    network: str,
    certificates: Certificates,
    pods: Pods,
    chart: Chart,
    runtime: Runtime,  # noqa: F811
    tmp_path: Path,
) -> Iterator[Cluster]:
    """An API server, a node, the chart."""
    node = Node(
        tmp_path,
        NODE,
        HOST,
        network,
        (HOST, api.port),
        TOKEN,
        Path(certificates.ca).read_text(),
        seccomp_folder=REPOSITORY / "deploy/seccomp",
    )
    yield Cluster(api, node, pods, chart, runtime, f"http://{POD}:9090")
    assert [str(tree / TOP) for tree in mounted_trees() if (tree / TOP).exists()] == []
