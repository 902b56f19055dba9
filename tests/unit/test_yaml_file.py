"""YAML files within bounds: what a few bytes can stand for, what takes a time out of proportion, what is printed."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpod_metrics.errors import SettingError
from kpod_metrics.pods.client import find_config
from kpod_metrics.settings import load as load_settings
from kpod_metrics.web.config import read as read_web_config
from kpod_metrics.yaml_file import NoYamlError, load

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)
BEYOND = {
    "aliases": (LAUGHS, " line 1", "an anchor or alias (& or *)"),
    "anchor": ("a: 1\nb: &x 2\n", " line 2", "an anchor or alias (& or *)"),
    "merge key": ("a: &x {b: 1}\nc:\n  <<: *x\n", " line 1", "an anchor or alias (& or *)"),
    "nodes": ("a: [" + "1, " * 30_000 + "]", " line 1", "more than 20000 keys and values"),
    "depth": (
        "\n".join("  " * at + "a:" for at in range(100)),
        " line 51",
        "more than 50 lists and mappings within each other",
    ),
    "size": ("# " + "x" * (1 << 20), "", "more than 1048576 bytes"),
    "base 60": ("a: 1" + ":1" * 50_000, " line 1", "a number of more than 64 characters"),
    "hexadecimal": ("a: 0x" + "f" * 10_000, " line 1", "a number of more than 64 characters"),
    "tagged": ("a: !!int '" + "9" * 4000 + "'", " line 1", "a number of more than 64 characters"),
    "float": ("a: 1." + "9" * 4000, " line 1", "a number of more than 64 characters"),
    "keys that collide": (
        "".join(f"{number * (2**61 - 1)}: x\n" for number in range(1, 5000)),
        " line 1",
        "a number of more than 18 characters",
    ),
}


@pytest.mark.parametrize(("content", "where", "reason"), BEYOND.values(), ids=BEYOND)
def test_beyond_a_bound(content: str, where: str, reason: str, tmp_path: Path) -> None:
    """Every reader says so in one line."""
    path = tmp_path / "file"
    path.write_text(content)
    tracemalloc.start()
    with pytest.raises(NoYamlError) as caught:
        load(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (caught.value.where, caught.value.reason, caught.value.rule) == (where, reason, reason)
    assert peak < 32 << 20
    readers: list[tuple[Callable[[], Any], str]] = [
        (lambda: load_settings({}, {}, str(path), []), f"--config: '{path}'{where} is not accepted: {reason}"),
        (lambda: read_web_config(str(path)), f"web_config_file: '{path}'{where} is not accepted: {reason}"),
        (
            lambda: find_config(str(path)),
            f"kubeconfig: '{path}' cannot be used: {where.strip() or 'it'} is not accepted: {reason}; accepted: a "
            "kubeconfig file",
        ),
    ]
    for read, said in readers:
        with pytest.raises(SettingError) as refused:
            read()
        assert str(refused.value) == said


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("", None),
        ("a: [1, 2.5, on, ~, x, 'y z', 2020-01-02, 0x1f, 1e999999, 1.0e+999999]", None),
        ("a: " + "QUJD" * 1000, {"a": "QUJD" * 1000}),
        ("a: " + "1" * 64, {"a": int("1" * 64)}),
        ("123456789012345678: x", {123456789012345678: "x"}),
        ("\ufeffa: b", {"a": "b"}),
        ("a: 1\n<<: {b: 1}\n", {"a": 1, "b": 1}),
    ],
)
def test_usual_values(content: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    assert load(str(path)) == (yaml.safe_load(content) if value is None else value)


def test_seven_hundred_clusters(tmp_path: Path) -> None:
    """A kubeconfig of many clusters is far below the bounds."""
    names = [f"c{number}" for number in range(700)]
    tree = {
        "clusters": [
            {"name": n, "cluster": {"server": "https://x", "certificate-authority-data": "QUJD" * 50}} for n in names
        ],
        "users": [{"name": n, "user": {"token": "t" * 100}} for n in names],
        "contexts": [{"name": n, "context": {"cluster": n, "user": n}} for n in names],
        "current-context": "c7",
    }
    path = tmp_path / "file"
    path.write_text(yaml.safe_dump(tree))
    assert find_config(str(path)).cluster.server == "https://x"


def test_value_in_a_message_is_escaped_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('profile: "' + r"\e[1m" + "x" * 10**5 + '"')
    with pytest.raises(SettingError) as caught:
        load_settings({}, {}, str(path), [])
    assert str(caught.value).startswith("profile: '\\x1b[1mxxx")
    assert len(str(caught.value)) < 600
    path.write_text("x" * 10**5 + ": 1")
    for read in (lambda: load_settings({}, {}, str(path), []), lambda: read_web_config(str(path))):
        with pytest.raises(SettingError) as caught:
            read()
        assert len(str(caught.value)) < 600
