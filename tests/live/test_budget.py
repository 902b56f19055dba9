"""Costs that can be counted: as accepted in bench/budget.json, or less. `python -m bench.budget --write` accepts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import budget
from kpod_metrics.features import BATCH, FEATURES
from tests.forced import needs

pytestmark = pytest.mark.slow

ROOM = {"series": 1.05, "allocations": 1.2, "verifier": 1.25}
"""How much each kind may exceed the accepted figure. A change that raises one on purpose accepts the new figure."""
FEW = 6
"""Calls more that a whole cycle may take on a busy machine: one for each 1,000 sockets or so of others, or tasks."""
BESIDE = 2 * FEW
"""Calls more that this makes of those beside the pods' own, told by two numbers of pods: one is twice the other."""
OF_A_POD = FEW / (budget.SIZES[2] - budget.SIZES[1])
"""Calls more that this makes of a pod's: less than one."""
UNEVEN = OF_A_POD + FEW / (budget.SIZES[1] - budget.SIZES[0])
"""And by how much it may have a pod's calls differ from those of a pod among fewer."""
PROFILES = budget.PROFILES


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.budget"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def accepted() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(budget.ACCEPTED.read_text())
    return found


def is_shown(measured: dict[str, Any], row: str) -> None:
    """Skip a test of a row that this kernel cannot show; there is one that every kernel can."""
    if row not in measured["cycle"]:
        missing = {name: why for name, why in measured["lacking"].items() if name in budget.ITERATORS}
        said = "; ".join(f"{name}: {why}" for name, why in missing.items() if name not in budget.ROWS[row])
        pytest.skip(f"row {row!r} needs kernel feature {said}")


EVERY_ROW = pytest.mark.parametrize("row", budget.ROWS)


def test_one_row_is_shown_on_every_kernel(measured: dict[str, Any]) -> None:
    assert budget.ROWS["no iterator"] == tuple(name for name in FEATURES if name in budget.ITERATORS)
    assert "no iterator" in measured["cycle"]


def over(measured: dict[str, float], accepted: dict[str, float], room: float = 1, more: float = 0) -> list[str]:
    assert measured.keys() == accepted.keys(), "another thing is counted: accept it with python -m bench.budget --write"
    return [
        f"{name}: {value}, accepted: {accepted[name]}"
        for name, value in measured.items()
        if value > accepted[name] * room + more
    ]


@EVERY_ROW
@pytest.mark.parametrize("profile", PROFILES)
def test_calls_of_a_cycle(measured: dict[str, Any], accepted: dict[str, Any], profile: str, row: str) -> None:
    is_shown(measured, row)
    made, theirs = (found["cycle"][row][profile] for found in (measured, accepted))
    if "batch" in measured["lacking"]:  # a call for each entry of a map
        made, theirs = (
            {name: figure for name, figure in one.items() if name != "bpf() calls"} for one in (made, theirs)
        )
    assert over(made, theirs, more=BESIDE) == []


@EVERY_ROW
@pytest.mark.parametrize("profile", PROFILES)
def test_calls_of_a_pod(measured: dict[str, Any], accepted: dict[str, Any], profile: str, row: str) -> None:
    """One call more for every second pod is over."""
    is_shown(measured, row)
    names = ("system calls of a pod", "opens of a pod")
    made, theirs = ({name: found["cycle"][row][profile][name] for name in names} for found in (measured, accepted))
    assert over(made, theirs, more=OF_A_POD) == []


@EVERY_ROW
@pytest.mark.parametrize("profile", PROFILES)
def test_calls_grow_evenly_with_the_pods(measured: dict[str, Any], profile: str, row: str) -> None:
    """From 16 pods to 32 each costs what it did from 8 to 16."""
    is_shown(measured, row)
    for what, (at_first, later) in measured["linear"][row][profile].items():
        assert later == pytest.approx(at_first, abs=UNEVEN), what
        assert later > 0, what


@needs(BATCH)
@EVERY_ROW
@pytest.mark.parametrize("profile", PROFILES)
def test_bpf_calls_do_not_grow(measured: dict[str, Any], profile: str, row: str) -> None:
    """One reads a map. There is one for each cgroup of others that went, too: at 8 pods or at 32."""
    is_shown(measured, row)
    assert measured["bpf() calls"][row][profile] < (budget.SIZES[2] - budget.SIZES[0]) / 2


@EVERY_ROW
@pytest.mark.parametrize("profile", PROFILES)
def test_cycles_leave_no_objects(measured: dict[str, Any], profile: str, row: str) -> None:
    """The least of some cycles, as garbage is collected now and then."""
    is_shown(measured, row)
    assert measured["objects kept"][row][profile] < 50


@EVERY_ROW
@pytest.mark.parametrize("profile", PROFILES)
def test_allocations_of_a_cycle(measured: dict[str, Any], accepted: dict[str, Any], profile: str, row: str) -> None:
    is_shown(measured, row)
    made, theirs = (found["allocations"][row][profile] for found in (measured, accepted))
    assert min(made.values()) > 0
    assert over(made, theirs, ROOM["allocations"]) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_bytes_and_memory_of_a_series(measured: dict[str, Any], accepted: dict[str, Any], profile: str) -> None:
    assert over(measured["series"][profile], accepted["series"][profile], ROOM["series"]) == []


@EVERY_ROW
def test_instructions_for_the_verifier(measured: dict[str, Any], accepted: dict[str, Any], row: str) -> None:
    """At most what was accepted on any kernel, of the programs that this one loads."""
    is_shown(measured, row)
    made = measured["verifier"][row]
    assert made
    if not any(made.values()):
        pytest.skip("the kernel does not tell how many instructions it looked at (verified_insns)")
    known: dict[str, list[int]] = {}
    for name, figures in json.loads(budget.ON_OTHER_KERNELS.read_text()).items():
        known.setdefault(name, []).extend(figures.values())
    for figures in accepted["verifier"].values():
        for name, figure in figures.items():
            known.setdefault(name, []).append(figure)
    assert made.keys() <= known.keys(), "another program is loaded: accept it with python -m bench.budget --write"
    assert over(made, {name: max(known[name]) for name in made}, ROOM["verifier"]) == []


def test_what_is_over_is_found() -> None:
    assert over({"calls": 12}, {"calls": 10}, 1.1) == ["calls: 12, accepted: 10"]
    assert over({"calls": 11}, {"calls": 10}, 1.1) == []
    assert over({"calls": 12}, {"calls": 10}, more=2) == []
    assert over({"calls": 13}, {"calls": 10}, more=2) == ["calls: 13, accepted: 10"]
    with pytest.raises(AssertionError):
        over({"calls": 1}, {"files": 1})
