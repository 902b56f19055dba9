"""Metrics that come from Kubernetes: they exist if it is the source of names."""

from collections.abc import Iterable

from kpod_metrics.metrics import Label, Profile, Row, Scope, Table, gauge
from kpod_metrics.pods.model import Identity, Workload

INFO = Table(
    (
        gauge(
            "kpod_pod_info",
            "1. The labels have the pod's controller (a Deployment instead of its ReplicaSet) and its QoS class.",
            "metadata.ownerReferences, status.qosClass",
            profile=Profile.MINIMAL,
            advice="Join it with any series by namespace and pod, to get the owner or the QoS class.",
        ),
    ),
    labels=(Label("owner_kind", per="kind of owner"), Label("owner", per="owner"), Label("qos", per="QoS class")),
    scope=Scope.POD,
    sole=True,
)
RESTARTS = Table(
    (
        gauge(
            "kpod_container_restarts",
            "How often Kubernetes restarted the container.",
            "restartCount of status.containerStatuses",
            profile=Profile.MINIMAL,
            advice=(
                "At three in half an hour KpodContainerRestarts fires: look at the exit code, and at "
                "kpod_mem_oom_kills_total."
            ),
        ),
    )
)
TABLES = (INFO, RESTARTS)


def rows(workloads: Iterable[Workload]) -> Iterable[tuple[Identity, Row]]:
    """Yield the rows of pods and containers, each with its owner."""
    for workload in workloads:
        yield workload.pod, Row(INFO, 0, (workload.owner_kind, workload.owner, workload.qos), (1,))
        for container, restarts in workload.restarts:
            yield container, Row(RESTARTS, 0, (), (restarts,))
