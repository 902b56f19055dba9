from pathlib import Path

from kpod_metrics.collectors.pressure import Pressure
from tests.unit.collectors.cycles import Cycles, Tree, write

SOME = "some avg10=27.75 avg60=9.55 avg300=3.09 total={}\n"
FULL = "full avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"


def test_two_cycles(tree: Tree) -> None:
    group, cycles = tree.group("a", 7), Cycles(Pressure(tree.environment))
    files = {f"{name}__pressure": SOME + FULL for name in ("cpu", "memory", "io")}
    for factor in (1, 3):
        totals = iter(range(1_000_000, 7_000_000, 500_000))
        write(
            Path(group.path),
            **{name: lines.format(next(totals) * factor, next(totals) * factor) for name, lines in files.items()},
        )
        cycles.run(group)
    assert cycles.exported() == {
        "pressure_cpu_waiting_seconds_total": 3.0,
        "pressure_cpu_stalled_seconds_total": 4.5,
        "pressure_memory_waiting_seconds_total": 6.0,
        "pressure_memory_stalled_seconds_total": 7.5,
        "pressure_io_waiting_seconds_total": 9.0,
        "pressure_io_stalled_seconds_total": 10.5,
    }


def test_what_is_missing_is_left_out(tree: Tree) -> None:
    group, cycles = tree.group("a", 7), Cycles(Pressure(tree.environment))
    write(Path(group.path), cpu__pressure=SOME.format(2_000_000), memory__pressure="", io__pressure="some total")
    assert cycles.run(group).exported() == {"pressure_cpu_waiting_seconds_total": 2.0}


def test_cgroup_that_is_replaced_by_one_with_smaller_totals(tree: Tree) -> None:
    cycles = Cycles(Pressure(tree.environment))
    for id_, totals in ((7, (5_000_000, 6_000_000)), (8, (1_000_000, 1_500_000))):
        for total in totals:
            group = tree.group(f"g{id_}", id_)
            write(Path(group.path), cpu__pressure=SOME.format(total))
            cycles.run(group)
    assert cycles.exported() == {"pressure_cpu_waiting_seconds_total": 7.5}


def test_without_pressure_there_are_no_rows(tree: Tree) -> None:
    assert list(Pressure(tree.environment).collect([tree.group("a", 7)])) == []
