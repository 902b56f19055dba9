"""The pod of `helm test`: succeeds beside an agent that works, fails and says why beside one that does not."""

import copy

import pytest

from tests.image.cluster import Cluster
from tests.image.conftest import POD
from tests.image.pod import Object


@pytest.mark.parametrize("capability", ["", "BPF"])
def test_it(capability: str, cluster: Cluster) -> None:
    rendered = cluster.render()
    pod = copy.deepcopy(rendered.one("Pod"))
    command = pod["spec"]["containers"][0]["command"]
    assert command[-1] == "http://kpod-metrics.kpod-metrics.svc:9090"
    command[-1] = f"http://{POD}:9090"  # no DNS here

    def change(agent: Object) -> None:
        if capability:
            agent["spec"]["containers"][0]["securityContext"]["capabilities"]["add"].remove(capability)

    with cluster.agent(rendered, change):
        log = cluster.node.folder / "test.log"
        with cluster.pods.running(pod, cluster.node, log) as process:
            status = process.wait(20)
    assert status == (1 if capability else 0), log.read_text()
    assert (f"lacks CAP_{capability}" in log.read_text()) is bool(capability)
