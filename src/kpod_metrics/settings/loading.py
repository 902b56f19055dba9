"""Reads the settings from flags, environment and a YAML file. A flag wins over a variable, that over the file."""

import difflib
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kpod_metrics import errors, features, yaml_file
from kpod_metrics.errors import SettingError
from kpod_metrics.settings.declared import ENVIRONMENT_PREFIX, CollectorSettings, Setting, Settings, catalogue
from kpod_metrics.yaml_file import NoYamlError

_SERVICE_VARIABLE = re.compile(
    rf"{ENVIRONMENT_PREFIX}(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)",
    re.ASCII,
)
"""Variables that Kubernetes sets in every container for a Service named `kpod` or `kpod-metrics`."""


def load(
    flags: Mapping[str, str],
    environment: Mapping[str, str],
    file: str | None,
    collectors: Sequence[str],
    defaults: Mapping[str, str] | None = None,
) -> tuple[Settings, list[str]]:
    """Read all settings; return them and warnings about unknown environment variables.

    `flags` are the given flags by key. `defaults` are those of a command, if they differ from the agent's. Raises
    SettingError: one line with the key, the value and the accepted values.
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
        elif name.startswith(ENVIRONMENT_PREFIX) and name != "KPOD_CONFIG" and not _SERVICE_VARIABLE.fullmatch(name):
            warnings.append(f"unknown setting {shown(name)}{nearest(name, variables)}")
    for key, value in flags.items():
        values[key] = (value, known[key].flag)
    settings = Settings(collectors={name: CollectorSettings() for name in collectors})
    for key, (value, origin) in values.items():
        setting = known[key]
        try:
            parsed = setting.kind.parse(value)
        except (ValueError, TypeError):
            what = "its value" if setting.secret else errors.shown(repr(value))
            near = nearest(value, setting.kind.schema.get("enum", ()))
            raise SettingError(
                f"{setting.name}: {what} (from {origin}) is not accepted; accepted: {setting.kind.accepted}{near}"
            ) from None
        *above, name = setting.path
        setattr(settings.collectors[above[1]] if above else settings, name, parsed)
    if both := features.with_needed(settings.kernel_features_on) & frozenset(settings.kernel_features_off):
        raise SettingError(
            f"kernel_features_on: {', '.join(settings.kernel_features_on)} is not accepted; "
            f"accepted: features that need none of kernel_features_off ({', '.join(sorted(both))})"
        )
    settings.node_name = settings.node_name or socket.gethostname()
    return settings, warnings


def _from_file(path: str, known: Mapping[str, Setting]) -> dict[str, tuple[Any, str]]:
    try:
        tree = yaml_file.load(path)
    except OSError as error:
        raise SettingError(f"--config: {path!r} cannot be read ({error.strerror}): a YAML file is accepted") from None
    except NoYamlError as error:
        verdict = "accepted" if error.rule else "YAML"
        raise SettingError(f"--config: {path!r}{error.where} is not {verdict}: {error.reason}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingError(f"--config: {path!r} holds a {type(tree).__name__}: keys and values are accepted")
    values: dict[str, tuple[Any, str]] = {}

    def take(tree: Mapping[Any, Any], above: tuple[str, ...]) -> None:
        for name, value in tree.items():
            here = (*above, str(name))
            key = "_".join(here)
            if key in known:
                values[key] = (value, path)
            elif (value is None or isinstance(value, dict)) and any(other.startswith(f"{key}_") for other in known):
                take(value or {}, here)
            else:
                where = ".".join(here)
                near = nearest(where, (setting.name for setting in known.values()))
                raise SettingError(f"{path}: unknown setting {shown(where)}{near}")

    take(tree, ())
    return values


def shown(name: str) -> str:
    """Return a name from outside, safe to print."""
    return errors.shown(name if name.isprintable() else repr(name))


def nearest(name: object, known: Iterable[str]) -> str:
    """Return a hint with similar known names; empty if there are none."""
    near = difflib.get_close_matches(str(name), known, 3, 0.6)
    return f" (nearest: {', '.join(near)})" if near else ""
