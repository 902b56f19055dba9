"""The generated files: rules and dashboards, in the tree and in the chart."""

from pathlib import Path

import yaml

from monitoring import ROOT, alerts, boards, recording

CHART = ROOT.parent / "helm" / "kpod-metrics" / "files"
"""Copies for the chart, which must contain all of its files."""

HEADING = "# Written by `make generate` from monitoring/{}: change it there.\n"


class _Dumper(yaml.SafeDumper):
    """YAML for people: a text of several lines is a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _rules(source: str, groups: list[dict[str, object]]) -> str:
    body = yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=4096, allow_unicode=True)
    return HEADING.format(source) + body


def rules(runbook: str = alerts.RUNBOOK) -> dict[str, str]:
    """Return the rule files by name; alerts link to sections of the page `runbook`."""
    recorded = [{"record": rule.record, "expr": rule.expr} for rule in recording.RULES]
    return {
        "recording.yaml": _rules("recording.py", [{"name": "kpod-metrics.recording", "rules": recorded}]),
        "alerts.yaml": _rules(
            "alerts.py",
            [
                {"name": "kpod-metrics.pods", "rules": [alert.rule(runbook) for alert in alerts.POD_ALERTS]},
                {"name": "kpod-metrics.agent", "rules": [alert.rule(runbook) for alert in alerts.AGENT_ALERTS]},
            ],
        ),
    }


def every(chart: Path = CHART, runbook: str = alerts.RUNBOOK) -> dict[Path, str]:
    """Return all files with their content, those of the chart too if the chart is there."""
    made = {Path("rules", name): content for name, content in rules(runbook).items()}
    made |= {Path("dashboards", f"{board.uid}.json"): boards.as_json(board) for board in boards.BOARDS}
    found = {ROOT / path: content for path, content in made.items()}
    if chart.parent.is_dir():
        found |= {chart / path: content for path, content in made.items()}
    return found


def stale(wanted: dict[Path, str]) -> list[Path]:
    """Return the files with other content, and those that should not exist."""
    folders = {path.parent for path in wanted}
    there = {path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file()}
    differ = {path for path, content in wanted.items() if path not in there or path.read_text() != content}
    return sorted(differ | (there - wanted.keys()))
