"""What a collector declares, and what there is of each by its name alone: no list has to be edited for a new one."""

import pytest

from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import BpfCollector, Collector, Question
from tests.conftest import REPOSITORY

PROGRAMS = [name for name, kind in registered().items() if issubclass(kind, BpfCollector)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_collector_with_a_program_is_four_files(name: str) -> None:
    for path in (
        f"bpf/{name}.bpf.c",
        f"src/kpod_metrics/collectors/{name}.py",
        f"tests/live/test_{name}.py",
        f"tests/live/workloads/{name}.py",
    ):
        assert (REPOSITORY / path).exists(), path


@pytest.mark.parametrize("name", registered())
def test_module_has_its_collectors_name(name: str) -> None:
    assert registered()[name].__module__ == f"kpod_metrics.collectors.{name}"


def test_metric_map_has_the_collectors_name_unless_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Collector, "registry", {})
    declared = {"description": "x", "question": Question.CPU}
    assert type("One", (BpfCollector,), {"name": "one", **declared}).metric_maps == ("one",)  # type: ignore[attr-defined]
    other = type("Other", (BpfCollector,), {"name": "other", "metric_maps": ("a", "b"), **declared})
    assert other.metric_maps == ("a", "b")  # type: ignore[attr-defined]
    assert list(Collector.registry) == ["one", "other"]


def test_collector_without_a_declaration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Collector, "registry", {})
    with pytest.raises(TypeError, match=r"^collector one declares no description and no question$"):
        type("One", (Collector,), {"name": "one"})
    type("One", (Collector,), {"name": "one", "description": "x", "question": Question.CPU})
    with pytest.raises(TypeError, match=r"^two collectors are named one$"):
        type("Two", (Collector,), {"name": "one", "description": "x", "question": Question.CPU})
