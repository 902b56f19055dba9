"""Every alert by promtool: one case in which it fires, alone, and one in which nothing does."""

import subprocess
from pathlib import Path

import pytest

from monitoring import ROOT
from monitoring.alerts import ALERTS
from tests.promtool import CASES, promtool_test, write

RULES = sorted((ROOT / "rules").glob("*.yaml"))


def run(promtool: Path, *arguments: str | Path) -> str:
    """Run promtool; return what it says, where it fails."""
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False, timeout=300)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_alert_has_a_case_that_fires_and_one_that_is_silent() -> None:
    assert list(CASES) == [alert.name for alert in ALERTS]
    for name, cases in CASES.items():
        assert {"summary", "description"} <= cases["fires"].keys(), name
        assert cases["silent"], name
        assert any("fires" not in case for case in cases["silent"]), name


def test_rules_are_well_formed(promtool: Path) -> None:
    assert run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULES) == ""


@pytest.mark.slow
@pytest.mark.timeout(310)
def test_each_fires_alone(promtool: Path, tmp_path: Path) -> None:
    tests = [
        promtool_test(name, case, name)
        for name, cases in CASES.items()
        for case in (cases["fires"], *cases.get("also", ()))
    ]
    assert run(promtool, "test", "rules", write(tmp_path / "fires.yaml", tests)) == ""


@pytest.mark.slow
@pytest.mark.timeout(310)
def test_each_stays_silent(promtool: Path, tmp_path: Path) -> None:
    tests = [promtool_test(name, case, case.get("fires")) for name, cases in CASES.items() for case in cases["silent"]]
    assert run(promtool, "test", "rules", write(tmp_path / "silent.yaml", tests)) == ""


def test_a_case_that_is_wrong_fails(promtool: Path, tmp_path: Path) -> None:
    """What the two tests above say is not by promtool's silence."""
    name, cases = next(iter(CASES.items()))
    quiet = promtool_test(name, cases["fires"], None)
    loud = promtool_test(name, cases["silent"][-1], name)
    for test in (quiet, loud):
        assert "FAILED" in run(promtool, "test", "rules", write(tmp_path / "wrong.yaml", [test]))
