"""The generated reference of settings: each setting is in it, and each default has one source."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from kpod_metrics import reference
from kpod_metrics.collectors import registered
from kpod_metrics.settings import CollectorSettings, Setting, Settings, catalogue, declared
from tests.conftest import REPOSITORY

SETTINGS = {setting.key: setting for setting in catalogue(registered())}
PAGE = REPOSITORY / "docs" / "configuration.md"


def row(page: str, setting: Setting) -> list[str]:
    """The cells of a setting's only row."""
    names = f"| `{setting.name}`<br>`{setting.flag}`<br>`{setting.variable}` | "
    (found,) = (line for line in page.splitlines() if line.startswith(names))
    return found.removeprefix(names).removesuffix(" |").split(" | ")


@pytest.mark.parametrize("key", SETTINGS)
def test_each_setting_is_in_the_page(key: str) -> None:
    default, accepted, what = row(PAGE.read_text(), SETTINGS[key])
    assert default
    assert accepted.replace("\\", "") == SETTINGS[key].kind.accepted
    assert what.replace("[security](security.md)", "docs/security.md") == SETTINGS[key].what


def test_rows() -> None:
    page = PAGE.read_text()
    assert page.count("<br>`KPOD_") == len(SETTINGS)
    shown = {
        "poll_interval": "`30s`",
        "collector_deadline": "`0`",
        "listen": "`:9090`",
        "probe_listen": "none",
        "node_name": "the host's name",
        "namespaces": "all",
        "exclude_namespaces": "none",
        "classic_histograms": "`true`",
        "syscalls": "`read, write, openat, fsync, connect, accept4, sendto, recvfrom, epoll_wait, futex`",
        "series_limit": "`100000`",
        "otlp_headers": "none",
        "collectors_disk_interval": "`0`",
    }
    assert {key: row(page, SETTINGS[key])[0] for key in shown} == shown


def test_each_group_has_one_table() -> None:
    page = PAGE.read_text()
    headings = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    groups = [*Settings.__bases__, CollectorSettings]
    assert headings == [str(group.__doc__).removesuffix(".") for group in groups]
    assert page.count("\n|---|---|---|---|\n") == len(groups)


@pytest.mark.parametrize("key", SETTINGS)
def test_default_is_a_value_that_the_setting_accepts(key: str) -> None:
    setting = SETTINGS[key]
    holder: Any = CollectorSettings() if setting.group is CollectorSettings else Settings()
    assert getattr(holder, setting.path[-1]) == setting.default
    text = setting.kind.text(setting.default)
    if text and not setting.otherwise:
        assert setting.kind.parse(text) == setting.default


@pytest.mark.parametrize(
    ("key", "before", "after", "value", "shown"),
    [
        ("poll_interval", "setting(30.0,", "setting(15.0,", 15.0, "`15s`"),
        ("listen", '("::", 9090)', '("10.0.0.1", 80)', ("10.0.0.1", 80), "`10.0.0.1:80`"),
        ("log_format", 'setting("text",', 'setting("json",', "json", "`json`"),
        ("kubelet_insecure", "setting(False,", "setting(True,", True, "`true`"),
    ],
)
def test_a_default_that_changes_in_one_place_changes_everywhere(
    key: str, before: str, after: str, value: object, shown: str
) -> None:
    source = Path(declared.__file__).read_text()
    assert source.count(before) == 1
    changed: dict[str, Any] = {"__name__": "changed"}
    exec(compile(source.replace(before, after), "changed", "exec"), changed)
    settings = {setting.key: setting for setting in changed["catalogue"](["disk"])}
    assert getattr(changed["Settings"](), key) == settings[key].default == value
    page = reference.settings_as_markdown(settings.values())
    assert row(page, settings[key])[0] == shown
    assert row(page, settings[key])[1:] == row(PAGE.read_text(), SETTINGS[key])[1:]


def test_pages_are_written_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(mode: str) -> int:
        monkeypatch.setattr(sys, "argv", ["reference", mode, str(tmp_path)])
        return reference.main()

    (tmp_path / "docs").mkdir()
    for name in reference.PARTS:
        shutil.copy(REPOSITORY / name, tmp_path / name)
    assert main("--check") == 1
    assert main("--write") == 0
    assert main("--check") == 0
    made = {"concepts.md", "install.md", "metrics.md", "configuration.md"}
    assert {path.name for path in (tmp_path / "docs").iterdir()} == made
    page = tmp_path / "docs" / "configuration.md"
    assert page.read_text() == PAGE.read_text()
    capsys.readouterr()
    page.write_text("# Configuration\n")
    assert main("--check") == 1
    said = capsys.readouterr().err
    assert said == f"{page} does not match the declarations: run `make generate`\n"
