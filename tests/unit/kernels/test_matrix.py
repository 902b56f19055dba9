"""What the matrix of kernels says, and when it fails: without a virtual machine."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from testkit.vm import image
from testkit.vm.image import Booted
from testkit.vm.kernels import ARCHITECTURES
from testkit.vm.machine import Outcome
from tests.kernels import executed, matrix
from tests.kernels.table import KERNELS

PEAK = "kpod_mem_cgroup_peak_bytes"
SWITCHES = "kpod_cpu_context_switches_total"


def result(**changes: Any) -> dict[str, Any]:
    """A row on which every metric is shown by one test."""
    every = [metric for metrics in matrix._collectors().values() for metric in metrics]
    return {
        "release": "6.1.0-50-cloud-amd64",
        "machine": "x86_64",
        "objects": image.objects(),
        "verifier": {"run_queue": {"instructions": {"task_leaves": 500}}},
        "signals": {metric: {"hook": "tp_btf/x", "problem": ""} for metric in every},
        "absent": {},
        "tests": {"test_all": {"outcome": "passed", "seconds": 1.0, "why": "", "proves": [[every, ""]]}},
    } | changes


def outcome(told: dict[str, Any], row: int = 1) -> Outcome:
    booted = Booted(KERNELS[row], "linux-image-x", "6.1.176-1", Path("vmlinuz"), Path("modules"))
    return Outcome(booted, Path("console"), 1.0, told)


def test_a_row_where_all_is_shown_has_no_problem() -> None:
    assert matrix.problems(outcome(result())) == []
    assert matrix.cell(result(), SWITCHES) == ("exact, tp_btf/x", True)


def test_a_bound_is_said() -> None:
    told = result()
    told["tests"]["another"] = {"outcome": "passed", "why": "", "proves": [[[SWITCHES], "2 ms"]]}
    assert matrix.cell(told, SWITCHES) == ("within 2 ms, tp_btf/x", True)


def test_one_failed_test_is_a_wrong_cell_and_its_reason_is_told() -> None:
    told = result()
    told["tests"]["another"] = {"outcome": "failed", "why": "3 == 4", "proves": [[[SWITCHES], ""]]}
    found = matrix.problems(outcome(told))
    assert found == [f"6.1: {SWITCHES}: **wrong**: another, tp_btf/x", "6.1: another failed\n3 == 4"]


def test_a_file_of_tests_that_cannot_be_read_is_all_that_is_told() -> None:
    told = result()
    told["tests"] = {"tests/live/test_x.py": {"outcome": "failed", "why": "no module named y", "proves": []}}
    assert matrix.problems(outcome(told)) == ["6.1: tests/live/test_x.py cannot be read\nno module named y"]


def test_what_no_test_shows_is_a_problem() -> None:
    told = result()
    told["tests"]["test_all"]["outcome"] = "skipped"
    assert f"6.1: {SWITCHES}: **not shown**, tp_btf/x" in matrix.problems(outcome(told))


def test_only_what_may_be_absent_is() -> None:
    pressure = "kpod_pressure_io_waiting_seconds_total"
    told = result(absent={PEAK: "no memory.peak", pressure: "no io.pressure"})
    assert matrix.cell(told, PEAK)[1]
    assert matrix.problems(outcome(told)) == [f"6.1: {pressure}: **not available**: no io.pressure"]


def test_a_refused_program_shows_the_verifiers_log() -> None:
    told = result(verifier={"net_tcp": {"error": "EACCES", "logs": {"tcp_end": "R1 invalid mem access"}}})
    found = "\n".join(matrix.problems(outcome(told)))
    assert re.search(r"net_tcp is refused: EACCES\n--- tcp_end of net_tcp on 6.1\nR1 invalid mem access", found)


def test_another_object_is_a_problem() -> None:
    assert "other objects than those compiled here" in matrix.problems(outcome(result(objects={})))[0]


def test_a_row_without_a_result() -> None:
    dead = outcome({})
    dead.problem = "not done within its budget, 900 s"
    assert matrix.problems(dead) == ["6.1: not done within its budget, 900 s"]


def test_a_doubled_cost_fails_and_a_new_program_is_accepted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "LIMITS", tmp_path / "limits.json")
    monkeypatch.setattr(matrix, "EXECUTED", tmp_path / "executed.json")
    left = tmp_path / "left"
    left.mkdir()

    def cost(count: int) -> Outcome:
        return outcome(result(verifier={"run_queue": {"instructions": {"task_leaves": count}}}))

    assert "has no figure" in matrix.over_limit([cost(500)], folder=left)[0]
    assert json.loads((left / "limits.json").read_text()) == {"run_queue/task_leaves": {"6.1": 500}}
    assert not (tmp_path / "limits.json").exists()
    assert matrix.over_limit([cost(500)]) == []
    assert matrix.over_limit([cost(999)], folder=left) == []
    assert matrix.over_limit([cost(999)]) == []
    assert json.loads((tmp_path / "limits.json").read_text()) == {"run_queue/task_leaves": {"6.1": 500}}
    assert "processed 1000 instructions, 500 were accepted" in matrix.over_limit([cost(1000)], folder=left)[0]
    gone = outcome(result(verifier={"run_queue": {"instructions": {"another": 1}}}))
    matrix.over_limit([gone])
    assert json.loads((tmp_path / "limits.json").read_text()) == {"run_queue/another": {"6.1": 1}}


def test_a_tenth_more_executed_for_an_event_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "LIMITS", tmp_path / "limits.json")
    monkeypatch.setattr(matrix, "EXECUTED", tmp_path / "executed.json")
    left = tmp_path / "left"
    left.mkdir()

    def executes(count: int) -> Outcome:
        return outcome(result(verifier={}, executed={"a syscall": {"syscall_ends": count}}))

    assert matrix.over_limit([executes(500)], folder=left) == [
        "6.1: a syscall: syscall_ends: 500 instructions were executed, and executed.json has no figure for it"
    ]
    assert matrix.over_limit([executes(500)]) == []
    assert matrix.over_limit([executes(549)], folder=left) == []
    assert matrix.over_limit([executes(551)], folder=left) == [
        "6.1: a syscall: syscall_ends: 551 instructions were executed, 500 were accepted"
    ]
    assert "| a syscall | syscall_ends | 500 |" in matrix.page([executes(500)])


def test_missing_figures_of_virtual_machines_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"LIMITS": tmp_path / "limits.json", "EXECUTED": tmp_path / "executed.json", "PAGE": tmp_path / "page.md"}
    for name, path in files.items():
        monkeypatch.setattr(matrix, name, path)
        path.write_text("{}")
    monkeypatch.setattr(image, "objects", lambda: {"tasks.bpf.o": "0123456789abcdef"})
    limits, counts, page = matrix.missing()
    assert limits.startswith("limits.json has no figure of tasks/")
    assert counts.startswith("executed.json has no figure of ")
    assert page == "page.md was made with other objects than tasks.bpf.o"
    [*_, programs] = limits.split(" of ")
    files["LIMITS"].write_text(json.dumps({program: {} for program in programs.split(", ")}))
    files["EXECUTED"].write_text(json.dumps({f"{what}: program": {} for what, _, _ in executed.events()}))
    files["PAGE"].write_text("0123456789ab")
    assert matrix.missing() == []


def test_a_page_differs_in_substance_only() -> None:
    page = matrix.page([outcome(result())])
    newer = result(release="6.1.0-51-cloud-amd64", verifier={"run_queue": {"instructions": {"task_leaves": 501}}})
    assert matrix.substance(matrix.page([outcome(newer)])) == matrix.substance(page)
    for changed in (
        result(absent={PEAK: "no memory.peak"}),
        result(verifier={"run_queue": {"instructions": {"another": 500}}}),
    ):
        assert matrix.substance(matrix.page([outcome(changed)])) != matrix.substance(page)


def test_rows_are_chosen_by_name() -> None:
    assert matrix.chosen(KERNELS, "") == list(KERNELS)
    assert [row.name for row in matrix.chosen(KERNELS, "5.10")] == ["5.10"]
    with pytest.raises(SystemExit, match="no kernel is named"):
        matrix.chosen(KERNELS, "4.9")


def test_the_table_is_sound() -> None:
    assert len({row.name for row in KERNELS}) == len(KERNELS)
    assert {row.architecture for row in KERNELS} == ARCHITECTURES.keys()
    assert [row.name for row in KERNELS if row.monitoring] == ["6.12"]


def test_the_page_for_users_names_every_row() -> None:
    page = (image.REPOSITORY / "docs" / "kernels.md").read_text()
    names = re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE)
    assert names == [row.name for row in KERNELS]
