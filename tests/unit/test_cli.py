"""The command line as a user meets it: exit statuses, and one line where something is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kpod_metrics import __version__, cli
from kpod_metrics.collectors import registered
from kpod_metrics.metrics import Profile
from kpod_metrics.reference import as_markdown, declared, profile_series
from kpod_metrics.settings import catalogue
from testkit.apiserver import ApiServer
from tests.forced import variables
from tests.unit.imports import imported_by_an_agent
from tests.unit.pods.conftest import kubeconfig

COMMAND = Path(sys.executable).parent / "kpod-metrics"
COMMANDS = ("run", "check", "top", "demo", "metrics")


def kpod(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the installed command."""
    return subprocess.run(
        [COMMAND, *arguments],
        env=variables() | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def one_line(text: str) -> str:
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text[:-1]


def test_version() -> None:
    result = kpod("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"kpod-metrics {__version__}\n", "")


def test_module_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "kpod_metrics", "--version"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.returncode, result.stdout) == (0, f"kpod-metrics {__version__}\n")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for command in COMMANDS:
        assert f"\n    {command}" in out


@pytest.mark.parametrize("command", ["run", "check", "top", "demo"])
def test_help_has_every_setting(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    words = capsys.readouterr().out.split()
    for setting in catalogue(registered()):
        assert setting.flag in words


@pytest.mark.parametrize("key", [setting.key for setting in catalogue(registered())])
def test_every_setting_has_its_flag(key: str) -> None:
    flag = "--" + key.replace("_", "-")
    assert vars(cli._parser().parse_args(["run", flag, "some value"]))[key] == "some value"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "COMMAND"),
        (("fly",), "fly"),
        (("--unknown",), "flags follow the command, and --unknown comes before it"),
        (("--listen", ":80", "run"), "flags follow the command, and --listen comes before it"),
        (("rnu",), "argument COMMAND: 'rnu' is not one of run, check, top, demo, metrics (nearest: run)"),
        (("run", "--listne", ":80"), "kpod-metrics run: unknown flag --listne (nearest: --listen, --"),
        (("check", "--listne=:80"), "kpod-metrics check: unknown flag --listne (nearest: --listen, --"),
        (("top", "--tokenfile", "x"), "kpod-metrics top: unknown flag --tokenfile (nearest: --token-file, "),
        (("run", "--x\ny"), r"unknown flag '--x\ny'"),
        (("run", "now"), "unexpected argument 'now'"),
        (("top", "--sort", "dsk"), "argument --sort: 'dsk' is not one of "),
        (("top", "--sort", "dsk"), "(nearest: disk)"),
        (("run", "--unknown"), "--unknown"),
        (("run", "--poll-intervall", "1s"), "--poll-intervall"),
        # What is an abbreviation today is another flag tomorrow.
        (("metrics", "--form", "json"), "--form"),
        (("run", "--poll-interval"), "--poll-interval"),
        (("metrics", "--format", "xml"), "xml"),
    ],
)
def test_unknown_argument_is_one_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    line = one_line(err)
    assert line.startswith("kpod-metrics")
    assert said in line
    assert line.endswith(" --help)")


@pytest.mark.parametrize("command", ["run", "check", "top", "demo"])
def test_wrong_setting_is_one_line(command: str) -> None:
    result = kpod(command, "--poll-interval", "soon")
    assert (result.returncode, result.stdout) == (2, "")
    assert one_line(result.stderr) == (
        "kpod-metrics: poll_interval: 'soon' (from --poll-interval) is not accepted; accepted: 10ms to 1h, like 30s"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--poll-interval", "-5s"), "poll_interval: '-5s' (from --poll-interval)"),
        (("--poll-interval=-5s",), "poll_interval: '-5s' (from --poll-interval)"),
        (("--profile", "minimal", "--series-limit", "-.5"), "series_limit: '-.5' (from --series-limit)"),
    ],
)
def test_value_that_looks_like_a_flag(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", *arguments]) == 2
    assert one_line(capsys.readouterr().err).startswith(f"kpod-metrics: {said} is not accepted; accepted: ")


def test_choice_that_is_nearly_one() -> None:
    result = kpod("run", "--profile", "standrad")
    assert (result.returncode, result.stdout) == (2, "")
    assert one_line(result.stderr) == (
        "kpod-metrics: profile: 'standrad' (from --profile) is not accepted; "
        "accepted: minimal, standard, comprehensive, custom (nearest: standard)"
    )


def test_wrong_variable_and_file_are_one_line(tmp_path: Path) -> None:
    result = kpod("run", KPOD_LOG_LEVEL="loud")
    assert result.returncode == 2
    assert "'loud' (from KPOD_LOG_LEVEL)" in one_line(result.stderr)
    file = tmp_path / "settings.yaml"
    file.write_text("pol_interval: 1s\n")
    for result in (kpod("run", "--config", str(file)), kpod("run", KPOD_CONFIG=str(file))):
        assert (result.returncode, result.stdout) == (2, "")
        assert (
            one_line(result.stderr)
            == f"kpod-metrics: {file}: unknown setting pol_interval (nearest: poll_interval, otlp_interval)"
        )


@pytest.mark.parametrize(
    ("mountinfo", "said"),
    [
        ("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "no cgroup2 mount in "),
        ("30 22 0:26 / @ rw - cgroup2 cgroup2 rw\n", "only a part of its tree"),
        (None, "self/mountinfo: No such file or directory"),
    ],
)
def test_without_a_cgroup2_mount_it_is_refused(mountinfo: str | None, said: str, tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    if mountinfo is not None:
        (tmp_path / "self/mountinfo").write_text(mountinfo.replace("@", str(tmp_path)))
    result = kpod("run", "--proc-root", str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    line = one_line(result.stderr)
    assert line.startswith("kpod-metrics: ")
    assert said in line


def test_metrics_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics", "--format", "json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    expected = {metric.name: (metric.kind.value, metric.help, name) for name, _, metric in declared()}
    assert {e["name"]: (e["type"], e["help"], e["collector"]) for e in entries} == expected
    [switches] = [entry for entry in entries if entry["name"] == "kpod_cpu_context_switches_total"]
    assert switches["labels"] == ["namespace", "pod", "container", "node"]
    assert switches["profile"] == "minimal"


def test_metrics_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "TYPE", "PROFILE", "COLLECTOR", "LABELS"]
    assert [row.split()[0] for row in rows] == [metric.name for _, _, metric in declared()]


def test_metrics_as_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics", "--format", "markdown"]) == 0
    assert capsys.readouterr().out == as_markdown()


@pytest.mark.parametrize(
    ("profile", "classic", "native"),
    [(Profile.MINIMAL, 45, 25), (Profile.STANDARD, 145, 75), (Profile.COMPREHENSIVE, 330, 150)],
)
def test_series_of_a_pod_stay_below_their_ceiling(profile: Profile, classic: int, native: int) -> None:
    assert profile_series(profile, native=False, optional=True) <= classic
    assert profile_series(profile, native=True, optional=True) <= native


def test_reader_that_has_seen_enough_is_no_error() -> None:
    """As `kpod-metrics metrics | head -1`, with the reader gone before the first byte."""
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [COMMAND, "metrics", "--format", "table"], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")


def test_the_agent_imports_neither_top_nor_demo(tmp_path: Path) -> None:
    others = ("kpod_metrics.top", "kpod_metrics.demo", "curses")
    assert imported_by_an_agent(tmp_path, "kpod_metrics.server", *others) == ""


@pytest.mark.parametrize("level", ["info", "debug"])
def test_requests_of_the_http_library_are_not_logged(tmp_path: Path, level: str) -> None:
    """A line for each at INFO, and headers at DEBUG."""
    with ApiServer() as server:
        file = kubeconfig(tmp_path / "kubeconfig", server.url)
        source = ("--discovery", "kubernetes", "--kubeconfig", file, "--node-name", "node-1")
        result = kpod("check", *source, "--profile", "custom", "--log-level", level)
        assert "kubernetes: 0 on node-1" in result.stdout
        lines = [line.split(" ", 2)[2] for line in result.stderr.splitlines()]
        assert lines == ["INFO source of pods: kubernetes works"]
        assert server.asked("list")


@pytest.mark.parametrize("form", ["text", "json"])
def test_names_in_log_lines_are_written_out(form: str) -> None:
    """Those of mounts are a pod's choice: one line each, valid UTF-8, and two names never look the same."""
    code = """if True:
        import logging, os, sys
        from kpod_metrics import cli, settings
        loaded, _ = settings.load({"log_format": sys.argv[1]}, {}, None, ())
        cli._log(loaded)
        for name in (b"l\\xff", b"l\\xfe", rb"l\\xff", b"a\\n2026 ERROR b\\x1b[2J", "\u00fc".encode()):
            logging.getLogger("kpod_metrics").warning("file system at %s", os.fsdecode(name))
    """
    done = subprocess.run([sys.executable, "-c", code, form], capture_output=True, check=True)
    lines = done.stderr.decode().splitlines()
    if form == "json":
        said = [json.loads(line)["message"] for line in lines]
        last = "a\n2026 ERROR b\x1b[2J"
    else:
        said = [line.partition("WARNING ")[2] for line in lines]
        last = r"a\n2026 ERROR b\x1b[2J"
    assert said == [f"file system at {name}" for name in (r"l\xff", r"l\xfe", r"l\x5cxff", last, "\u00fc")]
