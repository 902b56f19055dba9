"""The source of pods that the settings choose."""

from functools import partial

from kpod_metrics import selector
from kpod_metrics.errors import SettingError
from kpod_metrics.pods.kubelet import KubeletSource
from kpod_metrics.pods.reflector import KubernetesSource
from kpod_metrics.pods.source import Source
from kpod_metrics.settings import Settings


def kubernetes_source(settings: Settings) -> Source:
    """Make the source for discovery `kubernetes` or `kubelet`, not started yet; sends no request.

    Raises SettingError or RefusedError, in one line, if no configuration says how to reach the cluster.
    """
    # Not at the top: this import takes 10 MB of memory, which an agent without Kubernetes does not need.
    from kpod_metrics.pods import client  # noqa: PLC0415

    labels = frozenset(settings.pod_labels) | selector.keys(settings.pod_selector)
    if settings.discovery == "kubernetes":
        connect = partial(client.to_server, settings)
        connect().close()
        return KubernetesSource(connect, settings.node_name, labels)
    chosen = {
        key: getattr(settings, key)
        for key in ("kubelet_ca", "kubelet_certificate", "kubelet_insecure")
        if getattr(settings, key)
    }
    if len(chosen) > 1:
        raise SettingError(f"{' and '.join(chosen)}: {list(chosen.values())!r} is not accepted; accepted: one of them")
    connect = partial(client.to_kubelet, settings)
    connect().close()
    return KubeletSource(connect, settings.node_name, labels)
