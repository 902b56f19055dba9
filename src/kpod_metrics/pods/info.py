"""What Kubernetes tells of a pod, as metrics: there where it is the source of names."""

from collections.abc import Iterable

from kpod_metrics.metrics import Label, Profile, Row, Scope, Table, gauge
from kpod_metrics.pods.model import Identity, Workload

INFO = Table(
    (
        gauge(
            "kpod_pod_info",
            "1, with what made the pod (a Deployment in place of its ReplicaSet) and its quality of service class.",
            "metadata.ownerReferences, status.qosClass",
            profile=Profile.MINIMAL,
            advice=("Join it to any series by namespace and pod, for the owner or the quality of service class."),
        ),
    ),
    labels=(
        Label("owner_kind", per="kind of owner"),
        Label("owner", per="owner"),
        Label("qos", per="quality of service class"),
    ),
    scope=Scope.POD,
)
RESTARTS = Table(
    (
        gauge(
            "kpod_container_restarts",
            "Times that the container was started again.",
            "restartCount of status.containerStatuses",
            profile=Profile.MINIMAL,
            advice=(
                "Three within half an hour are KpodContainerRestarts: look at the exit code, and "
                "at kpod_mem_oom_kills_total."
            ),
        ),
    )
)
TABLES = (INFO, RESTARTS)


def rows(workloads: Iterable[Workload]) -> Iterable[tuple[Identity, Row]]:
    """Rows of the pods and containers, each with whom it is about."""
    for workload in workloads:
        yield workload.pod, Row(INFO, 0, (workload.owner_kind, workload.owner, workload.qos), (1,))
        for container, restarts in workload.restarts:
            yield container, Row(RESTARTS, 0, (), (restarts,))
