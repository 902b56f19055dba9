"""The declarations of all settings: defaults, flags, variables, errors, the chart's schema and docs use them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from kpod_metrics.settings import kinds
from kpod_metrics.settings.kinds import Kind

ENVIRONMENT_PREFIX = "KPOD_"

DEFAULT_SYSCALLS = (
    *("read", "write", "openat", "fsync", "connect", "accept4", "sendto", "recvfrom", "epoll_wait", "futex"),
)

T = TypeVar("T")


def setting(default: T, kind: Kind[T], what: str, otherwise: str = "", *, secret: bool = False) -> T:
    """Declare a setting as a field of its group. The group's docstring is its heading in the docs.

    `what` is the meaning. `otherwise` is the effective default if the declared one is empty. Errors do not show the
    value of a `secret`.
    """
    metadata = {"kind": kind, "what": what, "otherwise": otherwise, "secret": secret}
    return field(default=default, metadata=metadata)


@dataclass
class Collection:
    """What is collected, and how often."""

    profile: str = setting(
        "standard", kinds.choice("minimal", "standard", "comprehensive", "custom"), "how much is collected"
    )
    poll_interval: float = setting(30.0, kinds.durations("10ms", "1h", "30s"), "time between two cycles")
    collector_deadline: float = setting(
        0.0,
        kinds.durations("0", "1h", "5s"),
        "timeout of a collector in a cycle (0: half the poll interval, at most 5s)",
    )
    syscalls: tuple[str, ...] = setting(DEFAULT_SYSCALLS, kinds.NAMES, "syscalls that profile comprehensive tracks")
    classic_histograms: bool = setting(
        True, kinds.BOOLEAN, "classic buckets beside native ones in protobuf (text always has them)"
    )

    @property
    def deadline(self) -> float:
        """Seconds for which a cycle waits for a collector."""
        return self.collector_deadline or min(self.poll_interval / 2, 5.0)


@dataclass
class CollectorSettings:
    """Collectors."""

    enabled: bool | None = setting(None, kinds.BOOLEAN, "turns collector {} on or off", "as the profile says")
    interval: float = setting(
        0.0, kinds.durations("0", "24h", "60s"), "time between two reads of collector {} (0: every cycle)"
    )


@dataclass
class Pods:
    """Pods and their labels."""

    discovery: str = setting(
        "cgroup", kinds.choice("cgroup", "kubernetes", "kubelet"), "where the agent gets the names of pods"
    )
    namespaces: tuple[str, ...] = setting((), kinds.NAMES, "namespaces whose pods are collected", "all")
    exclude_namespaces: tuple[str, ...] = setting((), kinds.NAMES, "namespaces whose pods are not collected")
    pod_selector: str = setting("", kinds.SELECTOR, "labels of the pods that are collected", "all")
    pod_labels: tuple[str, ...] = setting(
        (),
        kinds.POD_LABELS,
        "pod labels that become metric labels: app.kubernetes.io/name as label_app_kubernetes_io_name",
    )
    node_name: str = setting("", kinds.TEXT, "value of the node label", "the host's name")
    cluster: str = setting("", kinds.TEXT, "value of the cluster label; no such label when empty")
    grace_period: float = setting(
        5.0, kinds.durations("0", "1h", "5s"), "how long events of a removed cgroup are still charged to its pod"
    )


@dataclass
class Kubernetes:
    """Kubernetes and kubelet."""

    kubeconfig: str = setting(
        "", kinds.FILE, "how to reach Kubernetes", "$KUBECONFIG, the pod's service account, or ~/.kube/config"
    )
    kubelet_address: tuple[str, int] = setting(
        ("", kinds.KUBELET_PORT),
        kinds.HOST,
        "address of the node's kubelet, for discovery kubelet",
        f"the node's name, port {kinds.KUBELET_PORT}",
    )
    kubelet_ca: str = setting(
        "", kinds.FILE, "CA certificates that verify the kubelet's certificate", "the cluster's CA"
    )
    kubelet_certificate: str = setting(
        "", kinds.FILE, "the kubelet's certificate if no CA signed it; the agent then accepts no other"
    )
    kubelet_insecure: bool = setting(False, kinds.BOOLEAN, "accept any certificate of the kubelet")


@dataclass
class Http:
    """HTTP endpoint."""

    listen: tuple[str, int] = setting(("::", 9090), kinds.addresses("127.0.0.1:9090"), "address of the HTTP endpoint")
    probe_listen: tuple[str, int] = setting(
        ("", 0),
        kinds.addresses("127.0.0.1:9091", optional=True),
        "second address, of /healthz and /readyz only, without TLS and passwords",
    )
    web_config_file: str = setting(
        "", kinds.FILE, "TLS, users and tokens, in exporter-toolkit's format (docs/security.md)"
    )
    web_max_connections: int = setting(128, kinds.integers(1, 10_000), "maximum number of open HTTP connections")
    web_max_requests: int = setting(40, kinds.integers(1, 10_000), "maximum number of pages sent at the same time")
    web_request_timeout: float = setting(
        10.0, kinds.durations("100ms", "10m", "10s"), "timeout of a TLS handshake, and of receiving a request"
    )


@dataclass
class Host:
    """Host and kernel."""

    cgroup_root: str = setting(
        "", kinds.CGROUP_ROOT, "mount of the whole cgroup v2 tree", "found in /proc/self/mountinfo"
    )
    kubelet_cgroup_root: str = setting(
        "",
        kinds.CGROUP_PATH,
        "directory below the cgroup v2 mount that has the kubelet's pods, at any depth: no cgroup elsewhere is a pod's",
        "found by the directories of pods that only root could create",
    )
    proc_root: str = setting("/proc", kinds.DIRECTORY, "the host's /proc")
    sys_root: str = setting("/sys", kinds.DIRECTORY, "the host's /sys")
    kernel_features_off: tuple[str, ...] = setting(
        (), kinds.FEATURES, "kernel features to disable, as on other kernels"
    )
    kernel_features_on: tuple[str, ...] = setting(
        (), kinds.FEATURES, "kernel features to require: if the kernel refuses one, the metrics that use it are off"
    )


@dataclass
class Limits:
    """Limits of series and memory."""

    series_limit: int = setting(
        100_000,
        kinds.integers(1, 10**7),
        "maximum series of one metric; further ones are added up in pod kpod-overflow",
    )
    series_limit_total: int = setting(
        200_000,
        kinds.integers(1, 10**7),
        "maximum series of all pods, with the buckets of histograms; further ones are added up in pod kpod-overflow",
    )
    pod_series_limit: int = setting(
        2_000,
        kinds.integers(1, 10**7),
        "maximum series that one pod makes by its interfaces, devices and mounts; further ones are added up in its "
        "series `other`",
    )
    pod_label_bytes_limit: int = setting(
        65_536,
        kinds.integers(1, 10**9),
        "maximum bytes of the names of one pod's interfaces, devices and mounts; what is over it is added up in its "
        "series `other`",
    )
    memory_limit: int = setting(
        0, kinds.BYTES, "memory limit near which the agent adds no new series (0: the limit of its cgroup)"
    )
    bpf_map_entries: int = setting(
        0, kinds.integers(0, 10**6), "capacity of each kernel map of metrics (0: 10240, or 256 per CPU if that is more)"
    )


@dataclass
class Otlp:
    """OTLP."""

    otlp_endpoint: str = setting("", kinds.URL, "receiver of pushes by OTLP over HTTP; no push when empty")
    otlp_headers: tuple[tuple[str, str], ...] = setting(
        (), kinds.HEADERS, "HTTP headers of a push, such as a token", secret=True
    )
    otlp_interval: float = setting(60.0, kinds.durations("100ms", "1h", "60s"), "time between two pushes")
    otlp_timeout: float = setting(10.0, kinds.durations("100ms", "10m", "10s"), "timeout of each step of a push")
    otlp_compression: str = setting("gzip", kinds.choice("gzip", "none"), "compression of pushes")
    otlp_ca: str = setting("", kinds.FILE, "CA certificates that verify the receiver's certificate", "the system's CAs")
    otlp_certificate: str = setting("", kinds.FILE, "client certificate for the receiver")
    otlp_key: str = setting("", kinds.FILE, "key of otlp_certificate", "the same file")


@dataclass
class Log:
    """Log."""

    log_level: str = setting(
        "info", kinds.choice("debug", "info", "warning", "error"), "lowest severity that is logged"
    )
    log_format: str = setting("text", kinds.choice("text", "json"), "format of log lines")


@dataclass
class Settings(Collection, Pods, Kubernetes, Http, Host, Limits, Otlp, Log):
    """All settings, with their values."""

    collectors: dict[str, CollectorSettings] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """A setting with its names."""

    path: tuple[str, ...]
    """Its YAML keys, the outermost first."""
    group: type[Any]
    """The group that declares it."""
    default: Any
    kind: Kind[Any]
    what: str
    otherwise: str
    secret: bool

    @property
    def key(self) -> str:
        """Its unique name."""
        return "_".join(self.path)

    @property
    def name(self) -> str:
        """Its name in errors and in the docs."""
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        """The flag."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def help(self) -> str:
        """Its meaning, with the effective default."""
        return self.what + (f" (default: {self.otherwise})" if self.otherwise else "")


def catalogue(collectors: Iterable[str]) -> list[Setting]:
    """Return all settings of an agent with these collectors."""
    groups: list[tuple[tuple[str, ...], type[Any]]] = [((), group) for group in Settings.__bases__]
    groups += [(("collectors", name), CollectorSettings) for name in collectors]
    return [
        Setting(
            (*above, declared.name),
            group,
            declared.default,
            **declared.metadata | {"what": declared.metadata["what"].format(*above[1:])},
        )
        for above, group in groups
        for declared in fields(group)
    ]
