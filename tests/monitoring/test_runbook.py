"""The runbook has a section for every alert, that says what to look at next."""

import re

import yaml

from monitoring import ROOT
from monitoring.alerts import ALERTS, RUNBOOK
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


def test_every_alert_links_to_its_section() -> None:
    # As headings become anchors: lower case, and there is nothing in a name to leave out.
    assert RUNBOOK.endswith("/docs/runbook.md")
    groups = yaml.safe_load((ROOT / "rules" / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule["annotations"]["runbook_url"] for rule in rules] == [f"{RUNBOOK}#{name.lower()}" for name in SECTIONS]
    for rule in rules:
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
