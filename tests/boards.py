"""The written dashboards, as tests read them."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from monitoring import ROOT


class Panel(NamedTuple):
    board: str
    title: str
    type: str
    expressions: list[str]

    @property
    def id(self) -> str:
        return f"{self.board}: {self.title}"


def boards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "dashboards").glob("*.json"))}


def panels() -> Iterator[Panel]:
    for uid, board in boards().items():
        row = ""
        for panel in board["panels"]:
            if panel["type"] == "row":
                row = panel["title"]
                continue
            expressions = [target["expr"] for target in panel["targets"]]
            yield Panel(uid.removeprefix("kpod-metrics-"), f"{row} / {panel['title']}", panel["type"], expressions)


def asked(expression: str, window: str) -> str:
    """Put in what Grafana puts in: All for every variable."""
    expression = expression.replace("$__rate_interval", window)
    for variable in ("cluster", "node", "namespace", "pod", "instance", "syscall"):
        expression = expression.replace(f"${variable}", ".*")
    assert "$" not in expression
    return expression
