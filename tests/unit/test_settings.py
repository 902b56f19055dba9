"""Every setting: its default, its three names and their order, and the error for a wrong value."""

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics import errors
from kpod_metrics.errors import SettingError
from kpod_metrics.settings import CollectorSettings, Setting, Settings, catalogue, load

COLLECTORS = ("disk", "run_queue")
SETTINGS = {setting.key: setting for setting in catalogue(COLLECTORS)}


def test_defaults() -> None:
    assert asdict(Settings()) == {
        "profile": "standard",
        "discovery": "cgroup",
        "listen": ("::", 9090),
        "probe_listen": ("", 0),
        "web_config_file": "",
        "web_max_connections": 128,
        "web_max_requests": 40,
        "web_request_timeout": 10.0,
        "poll_interval": 30.0,
        "collector_deadline": 0.0,
        "node_name": "",
        "cluster": "",
        "kubeconfig": "",
        "kubelet_address": ("", 10250),
        "kubelet_ca": "",
        "kubelet_certificate": "",
        "kubelet_insecure": False,
        "cgroup_root": "",
        "kubelet_cgroup_root": "",
        "proc_root": "/proc",
        "sys_root": "/sys",
        "syscalls": (
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
        ),
        "grace_period": 5.0,
        "namespaces": (),
        "exclude_namespaces": (),
        "pod_selector": "",
        "pod_labels": (),
        "series_limit": 100_000,
        "series_limit_total": 200_000,
        "pod_series_limit": 2_000,
        "pod_label_bytes_limit": 65_536,
        "memory_limit": 0,
        "bpf_map_entries": 0,
        "kernel_features_off": (),
        "kernel_features_on": (),
        "classic_histograms": True,
        "otlp_endpoint": "",
        "otlp_headers": (),
        "otlp_interval": 60.0,
        "otlp_timeout": 10.0,
        "otlp_compression": "gzip",
        "otlp_ca": "",
        "otlp_certificate": "",
        "otlp_key": "",
        "log_level": "info",
        "log_format": "text",
        "collectors": {},
    }
    assert asdict(CollectorSettings()) == {"enabled": None, "interval": 0.0}


def test_nothing_given_is_the_defaults() -> None:
    settings, warnings = load({}, {}, None, COLLECTORS)
    expected = Settings(collectors={name: CollectorSettings() for name in COLLECTORS}, node_name=socket.gethostname())
    assert settings == expected
    assert warnings == []


@pytest.mark.parametrize(("given_", "expected"), [("", 5.0), ("4s", 2.0), ("0.5", 0.25)])
def test_deadline_follows_the_interval(given_: str, expected: float) -> None:
    settings, _ = load({"poll_interval": given_} if given_ else {}, {}, None, ())
    assert settings.deadline == expected
    settings.collector_deadline = 7.0
    assert settings.deadline == 7.0


AUTHORIZED = (("authorization", "Bearer x="), ("b", "c d"))

# key: (as text, as YAML has it, parsed); two that differ from each other and, between them, from the default.
GOOD: Mapping[str, tuple[tuple[str, Any, Any], ...]] = {
    "profile": (("minimal", "minimal", "minimal"), ("comprehensive", "comprehensive", "comprehensive")),
    "discovery": (("kubernetes", "kubernetes", "kubernetes"), ("kubelet", "kubelet", "kubelet")),
    "listen": (
        ("127.0.0.1:80", "127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:0", "[::1]:0", ("::1", 0)),
        ("[fe80::1%eth0]:9090", "[fe80::1%eth0.5]:9090", ("fe80::1%eth0", 9090)),
        (":80", ":80", ("::", 80)),
        ("0.0.0.0:80", "0.0.0.0:80", ("0.0.0.0", 80)),
    ),
    "probe_listen": ((":9091", ":9091", ("::", 9091)), ("[::1]:0", "[::1]:0", ("::1", 0))),
    "web_config_file": (("@a/f", "@a/f", "@a/f"), ("@b/f", "@b/f", "@b/f")),
    "web_max_connections": (("1", 1, 1), ("10000", 10_000, 10_000)),
    "web_max_requests": (("1", 1, 1), ("10000", 10_000, 10_000)),
    "web_request_timeout": (("100ms", "100ms", 0.1), ("10m", 600, 600.0)),
    "poll_interval": (("10ms", "10ms", 0.01), ("1.5m", 90, 90.0)),
    "collector_deadline": (("2s", 2.0, 2.0), ("1h", "1h", 3600.0)),
    "node_name": (("n1", "n1", "n1"), ("nöde", "nöde", "nöde")),
    "cluster": (("c1", "c1", "c1"), ("c 2", "c 2", "c 2")),
    "kubeconfig": (("@a/f", "@a/f", "@a/f"), ("@b/f", "@b/f", "@b/f")),
    "kubelet_address": (("n1", "n1", ("n1", 10250)), ("[fe80::1]:10250", "fe80::1", ("fe80::1", 10250))),
    "kubelet_ca": (("@a/f", "@a/f", "@a/f"), ("@b/f", "@b/f", "@b/f")),
    "kubelet_certificate": (("@a/f", "@a/f", "@a/f"), ("@b/f", "@b/f", "@b/f")),
    "kubelet_insecure": (("true", True, True), ("off", False, False)),
    "cgroup_root": (("@a", "@a", "@a"), ("@b/", "@b/", "@b")),
    "kubelet_cgroup_root": (("/", "/", "/"), ("/a.slice/b_c/", "/a.slice/b_c/", "/a.slice/b_c/")),
    "proc_root": (("@a", "@a", "@a"), ("@b", "@b", "@b")),
    "sys_root": (("@a", "@a", "@a"), ("@b", "@b", "@b")),
    "syscalls": (("read", ["read"], ("read",)), ("read, futex,read", ["read", "futex", "read"], ("read", "futex"))),
    "grace_period": (("0", 0, 0.0), ("500 ms", "500 ms", 0.5)),
    "namespaces": (("a", ["a"], ("a",)), ("b, c", ["b", "c"], ("b", "c"))),
    "exclude_namespaces": (("a", ["a"], ("a",)), ("b, c", ["b", "c"], ("b", "c"))),
    "pod_selector": (("app=web", "app=web", "app=web"), ("!a,b in (c,d)", "!a,b in (c,d)", "!a,b in (c,d)")),
    "pod_labels": (("app", ["app"], ("app",)), ("a.b/c_d, e", ["a.b/c_d", "e"], ("a.b/c_d", "e"))),
    "series_limit": (("1", 1, 1), ("10000000", 10_000_000, 10_000_000)),
    "series_limit_total": (("1", 1, 1), ("10000000", 10_000_000, 10_000_000)),
    "pod_series_limit": (("1", 1, 1), ("10000000", 10_000_000, 10_000_000)),
    "pod_label_bytes_limit": (("1", 1, 1), ("1000000000", 10**9, 10**9)),
    "memory_limit": (("128Mi", "128Mi", 128 << 20), ("67108864", 64 << 20, 64 << 20)),
    "bpf_map_entries": (("1000000", 1_000_000, 1_000_000), ("7", 7, 7)),
    "otlp_endpoint": (
        ("http://a:4318", "http://a:4318", "http://a:4318"),
        ("https://[fd00::1]/x/y", "https://[fd00::1]/x/y", "https://[fd00::1]/x/y"),
    ),
    "otlp_headers": (
        ("Authorization=Bearer x=,b=c d", {"Authorization": "Bearer x=", "b": "c d"}, AUTHORIZED),
        ("a=", ["a="], (("a", ""),)),
    ),
    "otlp_interval": (("100ms", "100ms", 0.1), ("1h", 3600, 3600.0)),
    "otlp_timeout": (("100ms", 0.1, 0.1), ("10m", "10m", 600.0)),
    "otlp_compression": (("none", "none", "none"), ("gzip", "gzip", "gzip")),
    "otlp_ca": (("@a/f", "@a/f", "@a/f"), ("@b/f", "@b/f", "@b/f")),
    "otlp_certificate": (("@a/f", "@a/f", "@a/f"), ("@b/f", "@b/f", "@b/f")),
    "otlp_key": (("@a/f", "@a/f", "@a/f"), ("@b/f", "@b/f", "@b/f")),
    "kernel_features_off": (
        ("batch", ["batch"], ("batch",)),
        ("iter/task*,batch", ["iter/task*", "batch"], ("iter/task", "iter/task_file", "batch")),
    ),
    "kernel_features_on": (("task_t*", ["task_t*"], ("task_table",)), ("batch", ["batch"], ("batch",))),
    "classic_histograms": (("false", False, False), ("on", True, True)),
    "log_level": (("debug", "debug", "debug"), ("error", "error", "error")),
    "log_format": (("json", "json", "json"), ("text", "text", "text")),
} | {
    f"collectors_{name}_{key}": values
    for name in COLLECTORS
    for key, values in {
        "enabled": (("true", True, True), ("off", False, False)),
        "interval": (("24h", 86400, 86400.0), ("0.5", 0.5, 0.5)),
    }.items()
}

BAD: dict[str, tuple[Any, ...]] = {
    "profile": ("", "all", "Minimal", 1, None, ["minimal"]),
    "discovery": ("", "magic", None),
    "kubeconfig": ("", "/nonexistent", "@", None, 1),
    "kubelet_address": ("", "a:", "a:0", "a:65536", "a/b", "a b", "https://a", "[::1", "u@h", "a:1\n", None, 1),
    "kubelet_ca": ("", "/nonexistent", "@", None),
    "kubelet_certificate": ("", "/nonexistent", "@", None),
    "kubelet_insecure": ("", "maybe", 2, None),
    "listen": (
        "",
        "9090",
        9090,
        "a:b",
        "a:65536",
        "a:-1",
        "::1:80",
        "[::1:80",
        "a:²",
        "a:",
        "a:1:\n",
        "a\nb:1",
        "a\0:1",
        "[a]:1",
        "[]:1",
        "[fe80::1%]:1",
        "a@b:1",
        None,
    ),
    "probe_listen": ("9091", "a:65536", 9091, None),
    "web_config_file": ("", "/nonexistent", "@", None),
    "web_max_connections": ("", "0", "10001", 1.5),
    "web_max_requests": ("", "0", "10001", 1.5),
    "web_request_timeout": ("0", "99ms", "11m"),
    "poll_interval": ("", "s", "9ms", "0", "61m", "1d", "-1s", "1s\n2", "nan", "٣s", "1e1", True, None, [], 0.001),
    "collector_deadline": ("-1", "1h1m", "2h", False),
    "node_name": (1, None, True, ["a"]),
    "cluster": (1.5, None),
    "cgroup_root": ("", "/dev/null", "/nonexistent", "@", "@v1", None, 1),
    "kubelet_cgroup_root": ("kubepods", "//", "/a//b", "/a/../b", "/./a", "/a\nb", None, 1),
    "proc_root": ("", "/dev/null", "/nonexistent\n", None, 1),
    "sys_root": ("", "/nonexistent", {}),
    "syscalls": (1, None, [1], {"read": 1}),
    "grace_period": ("x", "-0.1", "3601"),
    "series_limit": ("", "0", 0, "10000001", "1.5", 1.5, True, "1k", "9" * 5000, "1_000", "٣", None),
    "series_limit_total": ("", "0", "10000001", "1.5"),
    "pod_series_limit": ("", "0", "10000001", "1.5"),
    "pod_label_bytes_limit": ("", "0", "1000000001", "1.5"),
    "namespaces": (1, None, {"a": 1}),
    "exclude_namespaces": (1, None, {"a": 1}),
    "pod_selector": ("a=b,", "a in b", "a=b c", "=b", "a>1", None, ["a"]),
    "pod_labels": (1, None, "a.b,a-b", "-a", "a b", ",".join(f"l{number}" for number in range(21))),
    "memory_limit": ("", "128M", "1", "63Mi", "2Ti", "-1", -1, 1.5, True, "0x10", "1_000_000_000", "9" * 30, None, []),
    "bpf_map_entries": (-1, "1000001", "many"),
    "kernel_features_off": ("iter", "itr/*", "batch,none", ["batch", 1], None, {"batch": True}),
    "kernel_features_on": ("iter", "BATCH", 1),
    "classic_histograms": ("", "native", None),
    "otlp_headers": ("a", "a b=c", "=b", "a=\x07", {"a": 1}, {"a": "b\nc"}, 1, None),
    "otlp_endpoint": ("a:4318", "grpc://a:1", "http://", "http://a b", "http://u:p@a", "http://a:0", "http://a?x", 1),
    "otlp_interval": ("0", "99ms", "2h"),
    "otlp_timeout": ("0", "11m"),
    "otlp_compression": ("", "zstd", None),
    "otlp_ca": ("", "/nonexistent", "@", None),
    "otlp_certificate": ("", "/nonexistent", "@", None),
    "otlp_key": ("", "/nonexistent", "@", None),
    "log_level": ("warn", "INFO", None),
    "log_format": ("xml", 0),
} | {
    f"collectors_{name}_{key}": values
    for name in COLLECTORS
    for key, values in (("enabled", ("", "maybe", 2, None, [])), ("interval", ("25h", "-1", "often")))
}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Any], Any]:
    """Put existing cgroup folders, each with a file f, in place of @a and @b, one of version 1 in place of @v1."""
    for name in ("a", "b", "v1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").touch()
        (tmp_path / name / "cgroup.procs").touch()
        if name != "v1":
            (tmp_path / name / "cgroup.controllers").touch()
    return lambda value: value.replace("@", f"{tmp_path}/") if isinstance(value, str) else value


def of(settings: Settings, setting: Setting) -> Any:
    """The value of a setting."""
    *above, name = setting.path
    return getattr(settings.collectors[above[1]] if above else settings, name)


def write(path: Path, tree: object) -> str:
    path.write_text(yaml.safe_dump(tree, allow_unicode=True))
    return str(path)


def test_all_settings_are_tried_here() -> None:
    assert GOOD.keys() == BAD.keys() == SETTINGS.keys()


@pytest.mark.parametrize("key", SETTINGS)
def test_flag_environment_and_file_in_that_order(key: str, folder: Callable[[Any], Any], tmp_path: Path) -> None:
    setting = SETTINGS[key]
    (low, low_native, low_parsed), *rest = [tuple(map(folder, values)) for values in GOOD[key]]
    high, high_native, high_parsed = rest[0] if rest else (low, low_native, low_parsed)
    file = str(tmp_path / "settings.yaml")

    def loaded(flag: str | None, variable: str | None, native: object) -> Any:
        write(Path(file), {} if native is None else {key: native})
        flags = {} if flag is None else {key: flag}
        environment = {} if variable is None else {setting.variable: variable}
        settings, warnings = load(flags, environment, file, COLLECTORS)
        assert warnings == []
        return of(settings, setting)

    assert loaded(low, None, None) == low_parsed
    assert loaded(None, low, None) == low_parsed
    assert loaded(None, None, low_native) == low_parsed
    assert loaded(None, None, high_native) == high_parsed
    assert loaded(high, low, low_native) == high_parsed
    assert loaded(high, None, low_native) == high_parsed
    assert loaded(None, high, low_native) == high_parsed
    assert loaded(high, low, None) == high_parsed


@pytest.mark.parametrize("key", SETTINGS)
def test_spellings(key: str) -> None:
    setting = SETTINGS[key]
    assert setting.flag == "--" + key.replace("_", "-")
    assert setting.variable == "KPOD_" + key.upper()


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_wrong_value_is_one_line(key: str, value: Any, tmp_path: Path) -> None:
    setting = SETTINGS[key]
    if isinstance(value, str):
        value = value.replace("@", str(tmp_path))  # a folder that is no cgroup
    file = tmp_path / "settings.yaml"
    attempts: list[tuple[dict[str, str], dict[str, str], str | None, str]] = [
        ({}, {}, write(file, {key: value}), str(file))
    ]
    if isinstance(value, str):
        attempts += [({key: value}, {}, None, setting.flag), ({}, {setting.variable: value}, None, setting.variable)]
    for flags, environment, path, origin in attempts:
        with pytest.raises(SettingError) as caught:
            load(flags, environment, path, COLLECTORS)
        message = str(caught.value)
        name = key.replace("collectors_", "collectors.").replace("_enabled", ".enabled").replace("_int", ".int")
        name = name if key.startswith("collectors_") else key
        shown = "its value" if setting.secret else errors.shown(repr(value))  # a token must not get into a log
        said = f"{name}: {shown} (from {origin}) is not accepted; accepted: {setting.kind.accepted}"
        assert message.partition(" (nearest: ")[0] == said
        assert message.isprintable()


@pytest.mark.parametrize(
    "value", ["!!bool x", "!!int ''", "!!float ''", "!!timestamp x", "!!binary é", "!!set [a]", "!!omap x", "!none x"]
)
def test_tag_that_does_not_fit_is_one_line(value: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"profile: {value}\n")
    with pytest.raises(SettingError) as caught:
        load({}, {}, str(file), COLLECTORS)
    assert str(file) in str(caught.value)
    assert str(caught.value).isprintable()


def test_wrong_value_that_is_overridden_does_no_harm(tmp_path: Path) -> None:
    """The value that holds is the one that is checked."""
    settings, _ = load({"profile": "minimal"}, {"KPOD_PROFILE": "x"}, write(tmp_path / "f", {"profile": 1}), ())
    assert settings.profile == "minimal"


@pytest.mark.parametrize(
    "tree",
    [
        {"collectors": {"run_queue": {"interval": "7s", "enabled": False}}},
        {"collectors": {"run_queue_interval": "7s", "run_queue_enabled": False}},
        {"collectors_run_queue": {"interval": "7s", "enabled": False}},
        {"collectors_run_queue_interval": "7s", "collectors": {"run": {"queue_enabled": "off"}}},
        {"collectors": {"run_queue": {"interval": 7.0, "enabled": False}, "disk": None}},
    ],
)
def test_nested_and_flat_keys(tree: object, tmp_path: Path) -> None:
    settings, _ = load({}, {}, write(tmp_path / "f", tree), COLLECTORS)
    assert settings.collectors == {
        "disk": CollectorSettings(),
        "run_queue": CollectorSettings(enabled=False, interval=7.0),
    }


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "collectors:\n", "{}"])
def test_empty_file_sets_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(text)
    assert load({}, {}, str(tmp_path / "f"), COLLECTORS) == load({}, {}, None, COLLECTORS)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"poll_intervall": 1}, "unknown setting poll_intervall (nearest: poll_interval, otlp_interval)"),
        ({"collectors": {"dsk": {"interval": 1}}}, "unknown setting collectors.dsk"),
        ({"collectors": {"disk": {"intervl": 1}}}, "(nearest: collectors.disk.interval"),
        ({"collectors": {"disk": 1}}, "unknown setting collectors.disk"),
        ({"collectors": []}, "unknown setting collectors"),
        ({"xyzzy": 1}, "unknown setting xyzzy"),
        ({1: 1}, "unknown setting 1"),
        ({"two\nlines": 1}, "unknown setting 'two\\nlines'"),
    ],
)
def test_unknown_key_is_one_line_with_the_nearest(tree: object, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "f", tree)
    with pytest.raises(SettingError) as caught:
        load({}, {}, path, COLLECTORS)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: b: c\n", r" line 1 is not YAML: mapping values are not allowed in this context"),
        (b"profile: [minimal\n\nx: 1", r" line \d is not YAML: "),
        (b"\xff\xfe\x00", r" is not YAML: "),
        (b"profile: \xe9\n", r" is not YAML: .*utf-8"),
        (b"a: \x00\n", r" is not YAML: unacceptable character #x0000"),
        (b"a: 2020-13-01\n", r" is not YAML: month must be in 1..12"),
        (b"a: !!python/object:os.system x\n", r" line 1 is not YAML: could not determine a constructor"),
        (b"[" * 5000, r" line 1 is not YAML: exceeded maximum nesting depth$"),
        (b"- a\n- b\n", r" holds a list: keys and values are accepted"),
        (b"profile", r" holds a str: keys and values are accepted"),
        (b"42", r" holds a int: keys and values are accepted"),
    ],
)
def test_file_that_is_no_tree_of_settings_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingError) as caught:
        load({}, {}, str(path), COLLECTORS)
    message = str(caught.value)
    assert re.match(re.escape(f"--config: {str(path)!r}") + said, message), message
    assert message.isprintable()


@pytest.mark.parametrize(("name", "said"), [("missing", "No such file or directory"), (".", "Is a directory")])
def test_file_that_cannot_be_read_is_one_line(name: str, said: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    with pytest.raises(SettingError) as caught:
        load({}, {}, path, COLLECTORS)
    assert str(caught.value) == f"--config: {path!r} cannot be read ({said}): a YAML file is accepted"


def test_variable_that_is_no_setting_is_warned_of() -> None:
    environment = {
        "KPOD_POLL_INTERVALL": "1",
        "KPOD_CONFIGURATION": "x",
        # Read by the command line, or Kubernetes' own for a Service of the name.
        "KPOD_CONFIG": "x",
        "KPOD_METRICS_SERVICE_HOST": "10.0.0.1",
        "KPOD_METRICS_PORT_9090_TCP": "tcp://10.0.0.1:9090",
        "KPOD_SERVICE_HOST": "10.0.0.1",
        "KPOD_SERVICE_PORT": "9090",
        "KPOD_SERVICE_PORT_HTTP_METRICS": "9090",
        "KPOD_PORT": "tcp://10.0.0.1:9090",
        "KPOD_PORT_9090_TCP_PROTO": "tcp",
        "KPOD_PORT_9090_UDP_ADDR": "10.0.0.1",
        "KPOD_METRICS_LISTEN": ":80",
        "KPOD_LISTNE\n": ":80",
        "PATH": "/bin",
        "POLL_INTERVAL": "x",
    }
    settings, warnings = load({}, environment, None, COLLECTORS)
    unknown = ["KPOD_POLL_INTERVALL", "KPOD_CONFIGURATION", "KPOD_METRICS_LISTEN", r"'KPOD_LISTNE\n'"]
    assert [warning.split(" (nearest: ")[0] for warning in warnings] == [f"unknown setting {name}" for name in unknown]
    assert warnings[0].startswith("unknown setting KPOD_POLL_INTERVALL (nearest: KPOD_POLL_INTERVAL, ")
    assert warnings[3].startswith(r"unknown setting 'KPOD_LISTNE\n' (nearest: KPOD_LISTEN, ")
    assert settings.poll_interval == 30.0


UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


@given(st.decimals(0, 4000, places=3), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "  "]))
def test_durations(count: Any, unit: str, space: str) -> None:
    parse = SETTINGS["poll_interval"].kind.parse
    seconds = float(count) * UNITS[unit]
    if 0.01 <= seconds <= 3600:
        assert parse(f"{space}{count}{space}{unit}") == pytest.approx(seconds, rel=1e-12)
    else:
        with pytest.raises(ValueError):  # noqa: PT011 - without a text: `load` words it
            parse(f"{count}{unit}")


@given(st.text() | st.from_regex(r"[0-9.]+ ?[a-z]*") | st.integers() | st.floats() | st.booleans() | st.none())
def test_duration_is_in_range_or_refused(value: object) -> None:
    try:
        seconds = SETTINGS["poll_interval"].kind.parse(value)
    except ValueError:
        return
    assert 0.01 <= seconds <= 3600


@pytest.mark.parametrize("key", SETTINGS)
@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=3))
def test_any_value_is_parsed_or_refused_with_value_error(key: str, value: object) -> None:
    try:
        SETTINGS[key].kind.parse(value)
    except (ValueError, TypeError):
        return
    assert value is not None
