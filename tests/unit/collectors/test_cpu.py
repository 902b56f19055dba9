from pathlib import Path

import pytest

from kpod_metrics.collectors.cpu import Cpu
from tests.unit.collectors.cycles import POD, Cycles, Tree, write

WITHOUT_CONTROLLER = "usage_usec {}\nuser_usec 1\nsystem_usec 2\nnice_usec 0\n"
WITH_CONTROLLER = WITHOUT_CONTROLLER + "nr_periods {}\nnr_throttled {}\nthrottled_usec {}\nnr_bursts 0\nburst_usec 0\n"


def test_two_cycles(tree: Tree) -> None:
    group, cycles = tree.group("a", 7), Cycles(Cpu(tree.environment))
    write(Path(group.path), cpu__stat=WITH_CONTROLLER.format(2_000_000, 100, 10, 500_000))
    assert cycles.run(group).exported() == {
        "cpu_usage_seconds_total": 2.0,
        "cpu_throttled_seconds_total": 0.5,
        "cpu_throttled_periods_total": 10,
        "cpu_periods_total": 100,
    }
    write(Path(group.path), cpu__stat=WITH_CONTROLLER.format(2_250_000, 110, 13, 750_000))
    assert cycles.run(group).exported() == {
        "cpu_usage_seconds_total": 2.25,
        "cpu_throttled_seconds_total": 0.75,
        "cpu_throttled_periods_total": 13,
        "cpu_periods_total": 110,
    }


@pytest.mark.parametrize("stat", [WITHOUT_CONTROLLER.format(1_000_000), WITH_CONTROLLER.format(1_000_000, 0, 0, 0)])
def test_without_a_limit_there_is_usage_alone(tree: Tree, stat: str) -> None:
    group, cycles = tree.group("a", 7), Cycles(Cpu(tree.environment))
    write(Path(group.path), cpu__stat=stat)
    assert cycles.run(group).run(group).exported() == {"cpu_usage_seconds_total": 1.0}


def test_limit_that_comes_later(tree: Tree) -> None:
    group, cycles = tree.group("a", 7), Cycles(Cpu(tree.environment))
    write(Path(group.path), cpu__stat=WITH_CONTROLLER.format(1_000_000, 0, 0, 0))
    cycles.run(group)
    write(Path(group.path), cpu__stat=WITH_CONTROLLER.format(1_000_000, 5, 0, 0))
    assert cycles.run(group).exported() == {
        "cpu_usage_seconds_total": 1.0,
        "cpu_throttled_seconds_total": 0.0,
        "cpu_throttled_periods_total": 0,
        "cpu_periods_total": 5,
    }


def test_container_that_restarts_in_a_new_cgroup_adds_to_its_series(tree: Tree) -> None:
    old, new = tree.group("a", 7), tree.group("b", 8)
    cycles = Cycles(Cpu(tree.environment))
    write(Path(old.path), cpu__stat=WITHOUT_CONTROLLER.format(5_000_000))
    cycles.run(old)
    write(Path(new.path), cpu__stat=WITHOUT_CONTROLLER.format(1_000_000))
    assert cycles.run(new).exported() == {"cpu_usage_seconds_total": 6.0}
    write(Path(new.path), cpu__stat=WITHOUT_CONTROLLER.format(1_500_000))
    assert cycles.run(new).exported() == {"cpu_usage_seconds_total": 6.5}


def test_cgroups_without_the_file_or_with_an_odd_one_have_no_row(tree: Tree) -> None:
    groups = [tree.group(name, id_) for id_, name in enumerate("abcd")]
    write(Path(groups[0].path), cpu__stat="")
    write(Path(groups[1].path), cpu__stat="user_usec 5\n")
    write(Path(groups[2].path), cpu__stat="usage_usec 12")
    Path(groups[3].path).rmdir()
    assert list(Cpu(tree.environment).collect(groups)) == []


def test_series_are_the_containers(tree: Tree) -> None:
    other = POD._replace(container="sidecar")
    one, two = tree.group("a", 7), tree.group("b", 8, other)
    write(Path(one.path), cpu__stat=WITHOUT_CONTROLLER.format(1_000_000))
    write(Path(two.path), cpu__stat=WITHOUT_CONTROLLER.format(2_000_000))
    cycles = Cycles(Cpu(tree.environment)).run(one, two)
    assert cycles.exported(POD) == {"cpu_usage_seconds_total": 1.0}
    assert cycles.exported(other) == {"cpu_usage_seconds_total": 2.0}


@pytest.mark.parametrize(
    ("controllers", "absent"),
    [("cpu memory", ""), ("memory", "there is no cpu controller in this cgroup v2 tree"), ("", "")],
)
def test_throttling_needs_the_controller(tree: Tree, controllers: str, absent: str) -> None:
    Path(tree.environment.cgroup_root, "cgroup.controllers").write_text(controllers)
    usage, throttling = Cpu(tree.environment).open()
    assert ([metric.name for metric in usage.metrics], usage.absent) == (["kpod_cpu_usage_seconds_total"], "")
    assert [metric.name for metric in throttling.metrics] == [
        "kpod_cpu_throttled_seconds_total",
        "kpod_cpu_throttled_periods_total",
        "kpod_cpu_periods_total",
    ]
    assert (throttling.absent, throttling.problem) == (absent, "")
