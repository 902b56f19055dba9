"""The runbook has a section for every alert, that says what to look at next."""

import re
import sys

import pytest
import yaml

from monitoring import ROOT
from monitoring.__main__ import main
from monitoring.alerts import ALERTS, RUNBOOK
from monitoring.files import rules as rule_files
from tests.boards import panels
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "runbook.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_every_alert_has_its_section() -> None:
    assert list(SECTIONS) == [alert.name for alert in ALERTS]
    for name, text in SECTIONS.items():
        assert "Look next:" in text or "To do:" in text, name


def test_sections_speak_of_alerts_that_there_are() -> None:
    pages = "".join(page.read_text() for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
    assert set(re.findall(r"\bKpod[A-Z]\w+", pages)) <= {alert.name for alert in ALERTS}


def test_panels_and_rows_are_there() -> None:
    """Names in quotation marks, but for the one of a section above."""
    titles = {part for panel in panels() for part in panel.id.partition(": ")[2].split(" / ")}
    assert set(re.findall(r'"([A-Z][^"]*)"', PAGE)) - {"The pod's dashboard"} <= titles


def test_every_alert_links_to_its_section() -> None:
    # As headings become anchors: lower case, and there is nothing in a name to leave out.
    assert RUNBOOK.endswith("/docs/runbook")
    groups = yaml.safe_load((ROOT / "rules" / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule["annotations"]["runbook_url"] for rule in rules] == [f"{RUNBOOK}#{name.lower()}" for name in SECTIONS]
    for rule in rules:
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_no_alert_leads_to_another_host() -> None:
    """By default to an agent, whose address Prometheus knows; else to where one says."""
    for path in (ROOT / "rules" / "alerts.yaml", REPOSITORY / "helm/kpod-metrics/files/rules/alerts.yaml"):
        assert set(re.findall(r"https?://([^/{]*)", path.read_text())) == {""}
    text = rule_files("https://wiki.example.org/kpod")["alerts.yaml"]
    found = re.findall(r"runbook_url: (\S+)", text)
    assert found == [f"https://wiki.example.org/kpod#{alert.anchor}" for alert in ALERTS]


def test_generator_is_given_an_address(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["monitoring", "--check", "--runbook-url", "https://wiki.example.org/kpod"])
    assert main() == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" is not")[0] for line in said] == [
        "helm/kpod-metrics/files/rules/alerts.yaml",
        "monitoring/rules/alerts.yaml",
    ]
