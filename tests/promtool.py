"""Cases of `cases.yaml` as files of `promtool test rules`."""

import re
from pathlib import Path
from typing import Any

import yaml

from kpod_metrics.metrics import Scope
from kpod_metrics.reference import declared
from monitoring import ROOT
from monitoring.alerts import ALERTS

CASES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "monitoring" / "cases.yaml").read_text())

CONTAINER = {"namespace": "shop", "pod": "cart-0", "container": "app", "node": "n1"}
AGENT = {"job": "kpod", "instance": "n1:9090"}
BACKGROUND = {'kpod_build_info{version="1"}': "1x500", 'up{job="kpod",instance="n1:9090"}': "1x500"}

_SCOPES = {metric.name: table.scope for _, table, metric in declared()}


def _defaults(metric: str) -> dict[str, str]:
    scope = _SCOPES.get(re.sub(r"_(bucket|sum|count)$", "", metric), _SCOPES.get(metric))
    return {} if metric == "up" else AGENT if scope is Scope.AGENT else CONTAINER | AGENT


def _series(text: str) -> str:
    match = re.fullmatch(r"(\w+)(?:\{(.*)\})?", text)
    assert match is not None, text
    labels = _defaults(match[1]) | dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
    return match[1] + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def promtool_test(name: str, case: dict[str, Any], expected: str | None) -> dict[str, Any]:
    """One test: the `expected` alert fires as the case says, and no other one does."""
    at = case.get("at", "30m")
    series = (BACKGROUND if case.get("background", True) else {}) | case["series"]
    test: dict[str, Any] = {
        "name": f"{name}: {case.get('about', 'fires' if expected else 'silent')}",
        "interval": "1m",
        "input_series": [{"series": _series(of), "values": values} for of, values in series.items()],
    }
    one = [{"labels": "{}", "value": int(expected is not None)}]
    test["promql_expr_test"] = [
        {"expr": 'count(ALERTS{alertstate="firing"}) or vector(0)', "eval_time": at, "exp_samples": one}
    ]
    if expected is None:
        return test
    [alert] = [alert for alert in ALERTS if alert.name == expected]
    if "summary" not in case:  # another alert's case says how it reads
        firing = f'count(ALERTS{{alertstate="firing",alertname="{expected}"}})'
        test["promql_expr_test"].append({"expr": firing, "eval_time": at, "exp_samples": one})
        return test
    own = AGENT if "$labels.instance" in alert.description else CONTAINER
    labels = case.get("only", own | case.get("labels", {}))
    test["alert_rule_test"] = [
        {
            "alertname": expected,
            "eval_time": at,
            "exp_alerts": [
                {
                    "exp_labels": {"severity": case.get("severity", "warning"), **labels},
                    "exp_annotations": {
                        "summary": case["summary"],
                        "description": case["description"],
                        # The agent that answers, or a path where there is none.
                        "runbook_url": f"{case.get('agent', 'http://n1:9090')}/docs/runbook#{alert.anchor}",
                    },
                }
            ],
        }
    ]
    return test


def write(path: Path, tests: list[dict[str, Any]]) -> Path:
    """Write a file for promtool, which finds the rules by their paths."""
    rules = [str(file) for file in sorted((ROOT / "rules").glob("*.yaml"))]
    order = ["kpod-metrics.recording", "kpod-metrics.pods", "kpod-metrics.agent"]
    content = {"rule_files": rules, "evaluation_interval": "1m", "group_eval_order": order, "tests": tests}
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=4096))
    return path
