"""Names: what rules, panels and docs speak of is what the agent declares."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpod_metrics.metrics import Kind
from kpod_metrics.reference import declared
from monitoring import ROOT, promql
from monitoring.files import every, stale
from tests.conftest import REPOSITORY

OF_PROMETHEUS = {"up"}
SCRAPE_LABELS = {"job", "instance"}
"""Labels that Prometheus adds to what it scrapes."""

LABELS: dict[str, set[str]] = {
    name: {*table.scope.labels, *(label.name for label in table.labels)}
    | ({"cluster"} if table.scope.labels else set())
    for _, table, metric in declared()
    for name in (
        [metric.name, *(f"{metric.name}_{part}" for part in ("bucket", "sum", "count"))]
        if metric.kind is Kind.HISTOGRAM
        else [metric.name]
    )
}


def rule_files() -> dict[str, list[dict[str, Any]]]:
    return {
        path.name: [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
        for path in sorted((ROOT / "rules").glob("*.yaml"))
    }


RECORDED = {rule["record"] for rules in rule_files().values() for rule in rules if "record" in rule}


def check(expression: str) -> None:
    """Fail if an expression has a metric or label that nobody exports."""
    metrics, labels = promql.names(expression)
    assert metrics, expression
    assert metrics <= LABELS.keys() | RECORDED | OF_PROMETHEUS, expression
    of_recorded = {label for name in metrics & RECORDED for label in recorded_labels(name)}
    known = SCRAPE_LABELS | {"le"} | of_recorded | set().union(*(LABELS.get(name, set()) for name in metrics))
    assert labels <= known, expression


def recorded_labels(name: str) -> set[str]:
    """A recording's first part says its labels: container_syscall."""
    return {*promql.CONTAINER.split(", "), *name.split(":", maxsplit=1)[0].split("_")[1:]}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("kpod_a_total", ({"kpod_a_total"}, set())),
        ('sum by (x, y) (rate(a{b="c(d) e",f=~"g|h"}[5m])) > 0.1e3', ({"a"}, {"x", "y", "b", "f"})),
        ("sum(a) without (z) / on (q) group_left (w) b offset 5m", ({"a", "b"}, {"z", "q", "w"})),
        ("time() - a:b:c and c or vector(0) unless bool", ({"a:b:c", "c"}, set())),
        (
            'histogram_quantile(0.99, sum by (le) (rate(a_bucket{pod=~"$pod"}[$__rate_interval])))',
            ({"a_bucket"}, {"le", "pod"}),
        ),
        ("max_over_time(a[1h:5m]) == +Inf", ({"a"}, set())),
    ],
)
def test_names_of_an_expression(expression: str, expected: tuple[set[str], set[str]]) -> None:
    assert promql.names(expression) == expected


def test_unknown_names_are_found() -> None:
    for wrong in ("kpod_cpu_switches_total", 'kpod_mem_oom_kills_total{syscall="read"}', "sum by (x) (kpod_pod_info)"):
        with pytest.raises(AssertionError):
            check(wrong)


@pytest.mark.parametrize(("file", "at"), [(f, n) for f, rules in rule_files().items() for n in range(len(rules))])
def test_rules_speak_of_what_there_is(file: str, at: int) -> None:
    rule = rule_files()[file][at]
    check(rule["expr"])
    for annotation in rule.get("annotations", {}).values():
        spoken = set(re.findall(r"\$labels\.(\w+)", annotation))
        metrics, _ = promql.names(rule["expr"])
        known = set().union(*(LABELS.get(name, set()) for name in metrics), *map(recorded_labels, metrics & RECORDED))
        assert spoken <= known | SCRAPE_LABELS
    if "record" in rule:
        assert re.fullmatch(r"container(_\w+)?:kpod_\w+:[\w]+", rule["record"])


def test_every_recording_is_used() -> None:
    text = "".join(rule["expr"] for rules in rule_files().values() for rule in rules)
    assert {name for name in RECORDED if name not in text} <= {name for name in RECORDED if ":p99_" in name}


@pytest.mark.parametrize(
    "page", [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_pages_speak_of_what_there_is(page: Path) -> None:
    spoken = set(re.findall(r"\bkpod_\w*[a-z0-9]\b(?!\.)", page.read_text()))
    modules = {"kpod_metrics"}
    assert spoken - modules <= LABELS.keys()


def test_files_are_as_generated(tmp_path: Path) -> None:
    assert stale(every()) == []
    wanted = {tmp_path / "a": "1\n", tmp_path / "b": "2\n"}
    (tmp_path / "a").write_text("other\n")
    (tmp_path / "c").write_text("left over\n")
    assert stale(wanted) == [tmp_path / "a", tmp_path / "b", tmp_path / "c"]


def test_the_chart_has_the_same_files(tmp_path: Path) -> None:
    assert not any(tmp_path in path.parents for path in every(tmp_path / "chart" / "files"))
    (tmp_path / "chart").mkdir()
    made = every(tmp_path / "chart" / "files")
    for folder in ("rules", "dashboards"):
        of_chart = {path.name: text for path, text in made.items() if path.parent == tmp_path / "chart/files" / folder}
        assert of_chart == {path.name: text for path, text in made.items() if path.parent == ROOT / folder}
        assert of_chart
