"""Kinds of values: parser, writer, accepted values for errors, and JSON Schema."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kpod_metrics import features, selector
from kpod_metrics.metrics import label_of

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Kind(Generic[T_co]):
    """A kind of values that a setting accepts."""

    accepted: str
    parse: Callable[[Any], T_co]
    """Parses a string or a YAML value; raises ValueError or TypeError."""
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    """JSON Schema of the value in YAML. It can be less strict than `parse`."""
    text: Callable[[Any], str] = str
    """Writes a value so that `parse` can read it."""


def _pattern(expression: "re.Pattern[str]") -> str:
    """Return the pattern of a full match for JSON Schema: in ECMAScript's dialect, without flags."""
    return rf"^\s*{expression.pattern}\s*$".replace(r"\d", "[0-9]").replace("(?:", "(")


def _checked(value: T, accepted: object) -> T:
    """Return the value; raises ValueError if it is not accepted."""
    if not accepted:
        raise ValueError
    return value


def _text(value: Any) -> str:
    return str(_checked(value, isinstance(value, str)))


def _boolean(value: Any) -> bool:
    try:
        return {"true": True, "false": False, "on": True, "off": False, "1": True, "0": False}[str(value).lower()]
    except KeyError:
        raise ValueError from None


TEXT = Kind("text", _text)
BOOLEAN = Kind("true, false", _boolean, {"type": "boolean"}, lambda value: str(value).lower())


def choice(*choices: str) -> Kind[str]:
    """Accept one of these words."""
    return Kind(", ".join(choices), lambda value: _checked(str(value), value in choices), {"enum": list(choices)})


def _matched(expression: "re.Pattern[str]", value: Any, types: Any = str | int) -> "re.Match[str]":
    match = expression.fullmatch(str(value).strip())
    if not match or isinstance(value, bool) or not isinstance(value, types):
        raise ValueError
    return match


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def duration(text: Any, low: float = 0.1, high: float = 3600) -> float:
    """Return the seconds of a duration like 500ms; raises ValueError if it is not valid or out of range."""
    match = _matched(_DURATION, text, str | int | float)
    seconds = float(match[1]) * _SECONDS[match[2]]
    return _checked(seconds, low <= seconds <= high)


def durations(low: str, high: str, like: str) -> Kind[float]:
    """Accept durations from `low` to `high`; the value is in seconds."""
    edges = (duration(edge, 0, float("inf")) for edge in (low, high))
    minimum, maximum = (int(edge) if edge.is_integer() else edge for edge in edges)
    schema = {"type": ["string", "number"], "minimum": minimum, "maximum": maximum, "pattern": _pattern(_DURATION)}
    return Kind(
        f"{low} to {high}, like {like}",
        lambda value: duration(value, minimum, maximum),
        schema,
        lambda seconds: f"{seconds:g}s" if seconds else "0",
    )


_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


def integers(low: int, high: int) -> Kind[int]:
    """Accept integers from `low` to `high`."""

    def parse(value: Any) -> int:
        number = int(_matched(_INTEGER, value)[0])
        return _checked(number, low <= number <= high)

    return Kind(f"{low} to {high}", parse, {"type": "integer", "minimum": low, "maximum": high})


_BYTES = re.compile(r"(\d{1,20})\s*([KMGT]i)?", re.ASCII)
_UNITS = {None: 0, "Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}


def _bytes(value: Any) -> int:
    match = _matched(_BYTES, value)
    number = int(match[1]) << _UNITS[match[2]]
    return _checked(number, number == 0 or 64 << 20 <= number <= 1 << 40)


BYTES = Kind(
    "0, or 64Mi to 1Ti, like 128Mi", _bytes, {"type": ["string", "integer"], "minimum": 0, "pattern": _pattern(_BYTES)}
)

_ADDRESS = re.compile(
    r"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(?:%[^\s\[\]/]+)?)\]|([^\s:/?#@\[\]]*)):([0-9]{1,5})", re.ASCII
)


def _address(value: Any) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(_text(value))
    if not match or not value.isprintable() or int(match[3]) > 65535:
        raise ValueError
    return match[1] or match[2] or "::", int(match[3])


def addresses(like: str, *, optional: bool = False) -> Kind[tuple[str, int]]:
    """Accept host and port of a listener: `::` is every address, also of IPv4. `optional`: also no address."""
    return Kind(
        f"HOST:PORT, like {like}, or :PORT for every address (0.0.0.0:PORT for IPv4 alone)",
        lambda value: ("", 0) if optional and value == "" else _address(value),
        {"type": "string", "pattern": "^(.*:[0-9]{1,5})?$" if optional else "^.*:[0-9]{1,5}$"},
        lambda address: {"": "", "::": f":{address[1]}"}.get(address[0], f"{address[0]}:{address[1]}"),
    )


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(?::([0-9]{1,5}))?")
_BARE_IPV6 = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
KUBELET_PORT = 10250


def _host(value: Any) -> tuple[str, int]:
    if _BARE_IPV6.fullmatch(_text(value)):  # Kubernetes' status.hostIP has no brackets
        return str(value), KUBELET_PORT
    match = _HOST.fullmatch(value)
    if not match or not 0 < int(match[2] or KUBELET_PORT) <= 65535:
        raise ValueError
    return match[1].strip("[]"), int(match[2] or KUBELET_PORT)


HOST = Kind("HOST or HOST:PORT", _host, {"type": "string", "minLength": 1})

_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(:([0-9]{1,5}))?(/[^\s?#]*)?")


def _url(value: Any) -> str:
    match = _URL.fullmatch(_text(value))
    return _checked(str(value), value == "" or (match and 0 < int(match[3] or 1) <= 65535))


URL = Kind(
    "http://HOST:PORT or https://HOST:PORT (/v1/metrics is added), or with a path, which is used as it is",
    _url,
    {"type": "string", "pattern": f"^({_URL.pattern})?$"},
)


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError
    return tuple(dict.fromkeys(name.strip() for name in map(_text, parts) if name.strip()))


_LIST = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
NAMES = Kind("a list of names", _names, _LIST, ", ".join)
FEATURES = Kind(features.ACCEPTED, lambda value: features.matching(_names(value)), _LIST, ", ".join)

_MAX_POD_LABELS = 20
_LABEL_KEY = re.compile(r"([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def _pod_labels(value: Any) -> tuple[str, ...]:
    keys = _names(value)
    apart = len({label_of(key) for key in keys}) == len(keys) <= _MAX_POD_LABELS
    return _checked(keys, apart and all(_LABEL_KEY.fullmatch(key) for key in keys))


POD_LABELS = Kind(
    f"a list of at most {_MAX_POD_LABELS} names that become different metric labels",
    _pod_labels,
    _LIST | {"maxItems": _MAX_POD_LABELS, "items": {"type": "string", "pattern": f"^{_LABEL_KEY.pattern}$"}},
    ", ".join,
)

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    given = value.items() if isinstance(value, dict) else (pair.split("=", 1) for pair in _names(value))
    pairs = tuple((_text(name).strip().lower(), _text(content).strip()) for name, content in given)
    if not all(_HEADER_NAME.fullmatch(name) and content.isascii() and content.isprintable() for name, content in pairs):
        raise ValueError
    return pairs


HEADERS = Kind(
    "NAME=VALUE,NAME=VALUE, or in YAML a mapping",
    _headers,
    {"type": ["object", "string"], "additionalProperties": {"type": "string"}},
    lambda headers: ",".join(map("=".join, headers)),
)


def _selector(value: Any) -> str:
    selector.parse(_text(value))
    return str(value)


SELECTOR = Kind("a label selector, like app=web,tier!=cache,env in (a,b)", _selector)


def _cgroup_root(value: Any) -> str:
    # Only directories of cgroup v2 have this file. The programs do not see the ids of cgroup v1.
    return _checked(_text(value).rstrip("/"), os.path.exists(os.path.join(value, "cgroup.controllers")))


def _cgroup_path(value: Any) -> str:
    path = _text(value)
    names = path.strip("/").split("/")
    fits = path.startswith("/") and path.isprintable() and not {"", ".", ".."} & ({*names} if path != "/" else set())
    return _checked(path, not path or fits)


CGROUP_PATH = Kind("a directory below the cgroup v2 mount, like /kubelet.slice", _cgroup_path)
FILE = Kind("a file", lambda value: _checked(value, os.path.isfile(_text(value))))
DIRECTORY = Kind("a directory", lambda value: _checked(value, os.path.isdir(_text(value))))
CGROUP_ROOT = Kind("a cgroup v2 directory", _cgroup_root)
