"""Every setting, once: its key, type, default and meaning; read from flags, environment and a YAML file.

A setting has one name in three spellings: the key `poll_interval`, the environment variable `KPOD_POLL_INTERVAL`, the
flag `--poll-interval`. Keys of a group nest in YAML (`collectors: {disk: {interval: 60s}}`) and are joined with
underscores or dashes elsewhere (`KPOD_COLLECTORS_DISK_INTERVAL`). A flag wins over the environment, that over the file.
"""

import difflib
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kpod_metrics import features, selector, yaml_file
from kpod_metrics.errors import SettingError
from kpod_metrics.metrics import label_of
from kpod_metrics.yaml_file import NoYamlError

ENVIRONMENT_PREFIX = "KPOD_"

DEFAULT_SYSCALLS = (
    "read",
    "write",
    "openat",
    "fsync",
    "connect",
    "accept4",
    "sendto",
    "recvfrom",
    "epoll_wait",
    "futex",
)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


@dataclass
class CollectorSettings:
    """The switch and the pace of one collector."""

    enabled: bool | None = None
    """None: as the profile has it."""
    interval: float = 0.0
    """Seconds between two reads; 0: every cycle."""


@dataclass
class Settings:
    """All settings, with their values."""

    profile: str = "standard"
    discovery: str = "cgroup"
    listen: tuple[str, int] = ("::", 9090)
    """Host `::` is every address, of IPv4 too."""
    probe_listen: tuple[str, int] = ("", 0)
    """Without a host: there is none."""
    web_config_file: str = ""
    web_max_connections: int = 128
    web_max_requests: int = 40
    web_request_timeout: float = 10.0
    """Seconds."""
    poll_interval: float = 30.0
    """Seconds."""
    collector_deadline: float = 0.0
    """Seconds; 0: half the poll interval, at most 5 s."""
    node_name: str = ""
    cluster: str = ""
    kubeconfig: str = ""
    kubelet_address: tuple[str, int] = ("", 10250)
    """Host and port; an empty host is the node's name."""
    kubelet_ca: str = ""
    kubelet_certificate: str = ""
    kubelet_insecure: bool = False
    cgroup_root: str = ""
    proc_root: str = "/proc"
    sys_root: str = "/sys"
    syscalls: tuple[str, ...] = DEFAULT_SYSCALLS
    grace_period: float = 5.0
    """Seconds."""
    namespaces: tuple[str, ...] = ()
    exclude_namespaces: tuple[str, ...] = ()
    pod_selector: str = ""
    pod_labels: tuple[str, ...] = ()
    series_limit: int = 100_000
    series_limit_total: int = 200_000
    memory_limit: int = 0
    """Bytes; 0: the limit of the agent's own cgroup."""
    bpf_map_entries: int = 0
    kernel_features_off: tuple[str, ...] = ()
    kernel_features_on: tuple[str, ...] = ()
    classic_histograms: bool = True
    otlp_endpoint: str = ""
    """Empty: nothing is pushed."""
    otlp_headers: tuple[tuple[str, str], ...] = ()
    otlp_interval: float = 60.0
    """Seconds."""
    otlp_timeout: float = 10.0
    """Seconds."""
    otlp_compression: str = "gzip"
    otlp_ca: str = ""
    otlp_certificate: str = ""
    otlp_key: str = ""
    log_level: str = "info"
    log_format: str = "text"
    collectors: dict[str, CollectorSettings] = field(default_factory=dict)

    @property
    def deadline(self) -> float:
        """Seconds that a cycle waits for a collector."""
        return self.collector_deadline or min(self.poll_interval / 2, 5.0)


@dataclass(frozen=True)
class Setting:
    """One setting as the outside sees it. `parse` takes a string or a YAML value and raises ValueError."""

    key: str
    help: str
    accepted: str
    parse: Callable[[Any], Any]
    path: tuple[str, ...] = ()
    secret: bool = False
    """Whether a value is not to be shown."""

    @property
    def flag(self) -> str:
        """Its spelling as a flag."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its spelling as an environment variable."""
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def schema(self) -> dict[str, Any]:
        """What YAML may hold, as JSON Schema, as far as that can say it."""
        return dict(getattr(self.parse, "schema", None) or _SCHEMAS.get(self.parse) or {"type": "string"})


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


@dataclass(frozen=True)
class _Choice:
    choices: tuple[str, ...]

    @property
    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.choices)}

    def __call__(self, value: Any) -> str:
        if value not in self.choices:
            raise ValueError
        return str(value)


def _choice(*choices: str) -> tuple[str, Callable[[Any], str]]:
    return ", ".join(choices), _Choice(choices)


@dataclass(frozen=True)
class _Duration:
    low: float
    high: float

    @property
    def schema(self) -> dict[str, Any]:
        pattern = rf"^\s*{_DURATION.pattern}\s*$".replace(r"\d", "[0-9]").replace("(?:", "(")
        return {"type": ["string", "number"], "minimum": self.low, "maximum": self.high, "pattern": pattern}

    def __call__(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        match = _DURATION.fullmatch(str(value).strip())
        if not match:
            raise ValueError
        seconds = float(match[1]) * _SECONDS[match[2]]
        if not self.low <= seconds <= self.high:
            raise ValueError
        return seconds


def _duration(low: float, high: float, accepted: str) -> tuple[str, Callable[[Any], float]]:
    return accepted, _Duration(low, high)


@dataclass(frozen=True)
class _Integer:
    low: int
    high: int

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def __call__(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError
        if not _INTEGER.fullmatch(str(value).strip()):
            raise ValueError
        number = int(value)
        if not self.low <= number <= self.high:
            raise ValueError
        return number


def duration(text: str, low: float = 0.1, high: float = 3600) -> float:
    """Return the seconds of a duration like 500ms; raises ValueError for another text."""
    return _Duration(low, high)(text)


_BYTES = re.compile(r"(\d{1,20})\s*([KMGT]i)?", re.ASCII)
_UNITS = {None: 0, "Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}


def _bytes(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError
    match = _BYTES.fullmatch(str(value).strip())
    if not match:
        raise ValueError
    number = int(match[1]) << _UNITS[match[2]]
    if number and not 64 << 20 <= number <= 1 << 40:
        raise ValueError
    return number


def _boolean(value: Any) -> bool:
    try:
        return {"true": True, "false": False, "on": True, "off": False, "1": True, "0": False}[str(value).lower()]
    except KeyError:
        raise ValueError from None


_ADDRESS = re.compile(
    r"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(?:%[^\s\[\]/]+)?)\]|([^\s:/?#@\[\]]*)):([0-9]{1,5})", re.ASCII
)


def _address(value: Any) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(_text(value))
    if not match or not value.isprintable() or int(match[3]) > 65535:
        raise ValueError
    return match[1] or match[2] or "::", int(match[3])


def _optional_address(value: Any) -> tuple[str, int]:
    return ("", 0) if value == "" else _address(value)


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(?::([0-9]{1,5}))?")
_BARE_IPV6 = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
_KUBELET_PORT = 10250
_ALL = ":PORT for every address (0.0.0.0:PORT for IPv4 alone)"


def _host(value: Any) -> tuple[str, int]:
    if _BARE_IPV6.fullmatch(_text(value)):  # what Kubernetes calls status.hostIP has no brackets
        return str(value), _KUBELET_PORT
    match = _HOST.fullmatch(value)
    if not match or not 0 < int(match[2] or _KUBELET_PORT) <= 65535:
        raise ValueError
    return match[1].strip("[]"), int(match[2] or _KUBELET_PORT)


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError
    return tuple(dict.fromkeys(name.strip() for name in map(_text, parts) if name.strip()))


def _features(value: Any) -> tuple[str, ...]:
    return features.matching(_names(value))


_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(:([0-9]{1,5}))?(/[^\s?#]*)?")


def _url(value: Any) -> str:
    match = _URL.fullmatch(_text(value))
    if value == "":
        return ""
    if not match or not 0 < int(match[3] or 1) <= 65535:
        raise ValueError
    return str(value)


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, dict):
        pairs = [(_text(name), _text(content)) for name, content in value.items()]
    else:
        if not all("=" in pair for pair in _names(value)):
            raise ValueError
        pairs = [(pair.split("=", 1)[0], pair.split("=", 1)[1]) for pair in _names(value)]
    pairs = [(name.strip().lower(), content.strip()) for name, content in pairs]
    if not all(_HEADER_NAME.fullmatch(name) and content.isascii() and content.isprintable() for name, content in pairs):
        raise ValueError
    return tuple(pairs)


_MOST_POD_LABELS = 20
_LABEL_KEY = re.compile(r"([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def _pod_labels(value: Any) -> tuple[str, ...]:
    keys = _names(value)
    apart = len({label_of(key) for key in keys}) == len(keys) <= _MOST_POD_LABELS
    if not apart or not all(_LABEL_KEY.fullmatch(key) for key in keys):
        raise ValueError
    return keys


def _selector(value: Any) -> str:
    selector.parse(_text(value))
    return str(value)


def _directory(value: Any) -> str:
    if not os.path.isdir(_text(value)):
        raise ValueError
    return str(value)


def _file(value: Any) -> str:
    if not os.path.isfile(_text(value)):
        raise ValueError
    return str(value)


def _cgroup_root(value: Any) -> str:
    # In every directory of version 2, in none of version 1: the ids of those are not what the programs see.
    if not os.path.exists(os.path.join(_text(value), "cgroup.controllers")):
        raise ValueError
    return str(value).rstrip("/")


_LIST = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
_SCHEMAS: dict[Callable[[Any], Any], dict[str, Any]] = {
    _boolean: {"type": "boolean"},
    _bytes: {
        "type": ["string", "integer"],
        "minimum": 0,
        "pattern": rf"^\s*{_BYTES.pattern}\s*$".replace(r"\d", "[0-9]"),
    },
    _names: _LIST,
    _features: _LIST,
    _pod_labels: _LIST
    | {"maxItems": _MOST_POD_LABELS, "items": {"type": "string", "pattern": f"^{_LABEL_KEY.pattern}$"}},
    _address: {"type": "string", "pattern": "^.*:[0-9]{1,5}$"},
    _optional_address: {"type": "string", "pattern": "^(.*:[0-9]{1,5})?$"},
    _host: {"type": "string", "minLength": 1},
    _headers: {"type": ["object", "string"], "additionalProperties": {"type": "string"}},
    _url: {"type": "string", "pattern": f"^({_URL.pattern})?$"},
}


def catalogue(collectors: Iterable[str]) -> list[Setting]:
    """Every setting of an agent that has these collectors."""
    settings = [
        Setting("profile", "how much is collected", *_choice("minimal", "standard", "comprehensive", "custom")),
        Setting("discovery", "where the names of pods come from", *_choice("cgroup", "kubernetes", "kubelet")),
        Setting("listen", "address of the HTTP endpoint", f"HOST:PORT, like 127.0.0.1:9090, or {_ALL}", _address),
        Setting(
            "probe_listen",
            "address of /healthz and /readyz alone, without TLS and passwords, for probes; none when empty",
            f"HOST:PORT, like 127.0.0.1:9091, or {_ALL}",
            _optional_address,
        ),
        Setting(
            "web_config_file",
            "TLS, users and tokens of the HTTP endpoint, in exporter-toolkit's format (docs/security.md)",
            "a file",
            _file,
        ),
        Setting(
            "web_max_connections", "connections that the HTTP endpoint has at once", "1 to 10000", _Integer(1, 10_000)
        ),
        Setting("web_max_requests", "pages that are on their way at once", "1 to 10000", _Integer(1, 10_000)),
        Setting(
            "web_request_timeout",
            "how long a TLS handshake may take, and a request to come whole",
            *_duration(0.1, 600, "100ms to 10m, like 10s"),
        ),
        Setting("poll_interval", "time between two cycles", *_duration(0.01, 3600, "10ms to 1h, like 30s")),
        Setting(
            "collector_deadline",
            "how long a cycle waits for a collector (0: half the poll interval, at most 5s)",
            *_duration(0, 3600, "0 to 1h, like 5s"),
        ),
        Setting("node_name", "value of the node label (default: the host's name)", "text", _text),
        Setting("cluster", "value of the cluster label; none when empty", "text", _text),
        Setting(
            "kubeconfig",
            "how to reach Kubernetes (default: $KUBECONFIG, the pod's service account, or ~/.kube/config)",
            "a file",
            _file,
        ),
        Setting(
            "kubelet_address",
            "the node's kubelet, for discovery kubelet (default: the node's name, port 10250)",
            "HOST or HOST:PORT",
            _host,
        ),
        Setting("kubelet_ca", "what the kubelet's certificate is verified by (default: cluster's CA)", "a file", _file),
        Setting(
            "kubelet_certificate",
            "the kubelet's own certificate, where no CA signed it: that and no other is accepted",
            "a file",
            _file,
        ),
        Setting("kubelet_insecure", "accept any certificate of the kubelet", "true, false", _boolean),
        Setting(
            "cgroup_root",
            "mount of the whole cgroup v2 tree (default: found in /proc/self/mountinfo)",
            "a cgroup v2 directory",
            _cgroup_root,
        ),
        Setting("proc_root", "the host's /proc", "a directory", _directory),
        Setting("sys_root", "the host's /sys", "a directory", _directory),
        Setting("syscalls", "names of the tracked syscalls, in profile comprehensive", "a list of names", _names),
        Setting("namespaces", "namespaces whose pods are collected (default: all)", "a list of names", _names),
        Setting("exclude_namespaces", "namespaces whose pods are left out", "a list of names", _names),
        Setting(
            "pod_selector",
            "labels of the pods that are collected (default: all)",
            "a label selector, like app=web,tier!=cache,env in (a,b)",
            _selector,
        ),
        Setting(
            "pod_labels",
            "labels of pods that become metric labels: app.kubernetes.io/name is label_app_kubernetes_io_name",
            f"a list of at most {_MOST_POD_LABELS} names that are no two the same as metric labels",
            _pod_labels,
        ),
        Setting(
            "grace_period",
            "how long a removed cgroup's events are still its own",
            *_duration(0, 3600, "0 to 1h, like 5s"),
        ),
        Setting(
            "series_limit",
            "series of one metric, above which they are folded together",
            "1 to 10000000",
            _Integer(1, 10**7),
        ),
        Setting(
            "series_limit_total",
            "series of all pods together (a histogram with its buckets), above which they are folded together",
            "1 to 10000000",
            _Integer(1, 10**7),
        ),
        Setting(
            "memory_limit",
            "memory near which no new series are admitted (0: the limit of the agent's own cgroup)",
            "0, or 64Mi to 1Ti, like 128Mi",
            _bytes,
        ),
        Setting(
            "bpf_map_entries",
            "capacity of each kernel map of metrics (0: 10240, or 256 a CPU where that is more)",
            "0 to 1000000",
            _Integer(0, 10**6),
        ),
        Setting(
            "kernel_features_off",
            "kernel features to do without, to try what other kernels do",
            features.ACCEPTED,
            _features,
        ),
        Setting(
            "kernel_features_on",
            "kernel features to insist on: what uses one that is refused is off, and says the kernel's reason",
            features.ACCEPTED,
            _features,
        ),
        Setting(
            "classic_histograms",
            "classic buckets beside the native ones, for a scraper that asks for protobuf (text always has them)",
            "true, false",
            _boolean,
        ),
        Setting(
            "otlp_endpoint",
            "receiver that metrics are pushed to by OTLP over HTTP, beside being scraped; none when empty",
            "http://HOST:PORT or https://HOST:PORT (/v1/metrics is added), or with a path, which is used as it is",
            _url,
        ),
        Setting(
            "otlp_headers",
            "HTTP headers for the receiver, such as a token",
            "NAME=VALUE,NAME=VALUE, or in YAML a mapping",
            _headers,
            secret=True,
        ),
        Setting("otlp_interval", "time between two pushes", *_duration(0.1, 3600, "100ms to 1h, like 60s")),
        Setting(
            "otlp_timeout",
            "how long the receiver may take to connect, to read, to answer",
            *_duration(0.1, 600, "100ms to 10m, like 10s"),
        ),
        Setting("otlp_compression", "compression of what is pushed", *_choice("gzip", "none")),
        Setting("otlp_ca", "what the receiver's certificate is verified by (default: system's CAs)", "a file", _file),
        Setting("otlp_certificate", "certificate to show to the receiver", "a file", _file),
        Setting("otlp_key", "key of otlp_certificate (default: in the same file)", "a file", _file),
        Setting("log_level", "least severity that is logged", *_choice("debug", "info", "warning", "error")),
        Setting("log_format", "form of log lines", *_choice("text", "json")),
    ]
    for name in collectors:
        settings.append(
            Setting(
                f"collectors_{name}_enabled",
                f"switch of collector {name} (default: as the profile has it)",
                "true, false",
                _boolean,
                ("collectors", name, "enabled"),
            )
        )
        settings.append(
            Setting(
                f"collectors_{name}_interval",
                f"time between two reads of collector {name} (0: every cycle)",
                *_duration(0, 86400, "0 to 24h, like 60s"),
                ("collectors", name, "interval"),
            )
        )
    return settings


_OF_A_SERVICE = re.compile(
    rf"{ENVIRONMENT_PREFIX}(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)",
    re.ASCII,
)
"""Variables that Kubernetes gives every container for a Service, of which the name may be `kpod` or `kpod-metrics`."""


def load(
    flags: Mapping[str, str],
    environment: Mapping[str, str],
    file: str | None,
    collectors: Sequence[str],
    defaults: Mapping[str, str] | None = None,
) -> tuple[Settings, list[str]]:
    """Read all settings; return them and warnings (an environment variable that is no setting).

    `flags` are those given, by key; `defaults` are a command's own where they are not those of an agent. Raises
    SettingError: one line with the key, the value and what is accepted.
    """
    known = {setting.key: setting for setting in catalogue(collectors)}
    values: dict[str, tuple[Any, str]] = {key: (value, "default") for key, value in (defaults or {}).items()}
    if file is not None:
        values.update(_from_file(file, known))
    variables = {setting.variable: setting for setting in known.values()}
    warnings = []
    for name, value in environment.items():
        if setting := variables.get(name):
            values[setting.key] = (value, name)
        elif name.startswith(ENVIRONMENT_PREFIX) and name != "KPOD_CONFIG" and not _OF_A_SERVICE.fullmatch(name):
            warnings.append(f"unknown setting {shown(name)}{nearest(name, variables)}")
    for key, value in flags.items():
        values[key] = (value, known[key].flag)
    settings = Settings(collectors={name: CollectorSettings() for name in collectors})
    for key, (value, origin) in values.items():
        setting = known[key]
        try:
            parsed = setting.parse(value)
        except (ValueError, TypeError):
            name = ".".join(setting.path) or key
            what = "its value" if setting.secret else repr(value)
            near = nearest(value, setting.parse.choices) if isinstance(setting.parse, _Choice) else ""
            raise SettingError(
                f"{name}: {what} (from {origin}) is not accepted; accepted: {setting.accepted}{near}"
            ) from None
        if setting.path:
            _, collector, name = setting.path
            setattr(settings.collectors[collector], name, parsed)
        else:
            setattr(settings, key, parsed)
    if both := features.with_needed(settings.kernel_features_on) & frozenset(settings.kernel_features_off):
        raise SettingError(
            f"kernel_features_on: {', '.join(settings.kernel_features_on)} is not accepted; "
            f"accepted: what needs none of kernel_features_off ({', '.join(sorted(both))})"
        )
    settings.node_name = settings.node_name or socket.gethostname()
    return settings, warnings


def _from_file(path: str, known: Mapping[str, Setting]) -> dict[str, tuple[Any, str]]:
    try:
        tree = yaml_file.load(path)
    except OSError as error:
        raise SettingError(f"--config: {path!r} cannot be read ({error.strerror}): a YAML file is accepted") from None
    except NoYamlError as error:
        raise SettingError(f"--config: {path!r}{error.where} is not YAML: {error.reason}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingError(f"--config: {path!r} holds a {type(tree).__name__}: keys and values are accepted")
    values: dict[str, tuple[Any, str]] = {}
    _flatten(tree, (), path, known, values)
    return values


def _flatten(
    tree: Mapping[Any, Any],
    above: tuple[str, ...],
    path: str,
    known: Mapping[str, Setting],
    values: dict[str, tuple[Any, str]],
) -> None:
    for name, value in tree.items():
        here = (*above, str(name))
        key = "_".join(here)
        if key in known:
            values[key] = (value, path)
        elif (value is None or isinstance(value, dict)) and any(other.startswith(f"{key}_") for other in known):
            _flatten(value or {}, here, path, known, values)
        else:
            dotted = {".".join(setting.path) or setting.key: setting for setting in known.values()}
            where = ".".join(here)
            raise SettingError(f"{path}: unknown setting {shown(where)}{nearest(where, dotted)}")


def shown(name: str) -> str:
    """Return a name from outside as it may be printed."""
    return name if name.isprintable() else repr(name)


def nearest(name: object, known: Iterable[str]) -> str:
    """Say which known names are like this one, if any."""
    near = difflib.get_close_matches(str(name), known, 3, 0.6)
    return f" (nearest: {', '.join(near)})" if near else ""
