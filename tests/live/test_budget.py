"""Costs that can be counted: as accepted in bench/budget.json, or less. `python -m bench.budget --write` accepts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import budget

pytestmark = pytest.mark.slow

ROOM = {"series": 1.05, "allocations": 1.2, "verifier": 1.25}
"""How much more than accepted each kind may be: what was meant to grow is accepted anew, with the change."""
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


@pytest.fixture
def same_tree(measured: dict[str, Any], accepted: dict[str, Any]) -> None:
    if measured["controllers"] != accepted["controllers"]:
        pytest.skip("accepted on a machine with other controllers in its cgroup v2 tree")


def over(measured: dict[str, float], accepted: dict[str, float], room: float = 1, more: float = 0) -> list[str]:
    assert measured.keys() == accepted.keys(), "another thing is counted: accept it with python -m bench.budget --write"
    return [
        f"{name}: {value}, accepted: {accepted[name]}"
        for name, value in measured.items()
        if value > accepted[name] * room + more
    ]


@pytest.mark.usefixtures("same_tree")
@pytest.mark.parametrize("profile", PROFILES)
def test_calls_of_a_cycle(measured: dict[str, Any], accepted: dict[str, Any], profile: str) -> None:
    assert over(measured["cycle"][profile], accepted["cycle"][profile], more=BESIDE) == []


@pytest.mark.usefixtures("same_tree")
@pytest.mark.parametrize("profile", PROFILES)
def test_calls_of_a_pod(measured: dict[str, Any], accepted: dict[str, Any], profile: str) -> None:
    """One call more for every second pod is over."""
    names = ("system calls of a pod", "opens of a pod")
    made, theirs = ({name: found["cycle"][profile][name] for name in names} for found in (measured, accepted))
    assert over(made, theirs, more=OF_A_POD) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_calls_grow_evenly_with_the_pods(measured: dict[str, Any], profile: str) -> None:
    """From 16 pods to 32 each costs what it did from 8 to 16; bpf() calls do not grow: one reads a map.

    There is one for each cgroup of others that went, too: at 8 pods or at 32.
    """
    for what, (at_first, later) in measured["linear"][profile].items():
        assert later == pytest.approx(at_first, abs=UNEVEN), what
        assert later > 0, what
    assert measured["bpf() calls"][profile] < (budget.SIZES[2] - budget.SIZES[0]) / 2


@pytest.mark.parametrize("profile", PROFILES)
def test_cycles_leave_no_objects(measured: dict[str, Any], profile: str) -> None:
    """The least of some cycles, as garbage is collected now and then."""
    assert measured["objects kept"][profile] < 50


@pytest.mark.usefixtures("same_tree")
@pytest.mark.parametrize("profile", PROFILES)
def test_allocations_of_a_cycle(measured: dict[str, Any], accepted: dict[str, Any], profile: str) -> None:
    """On the version of Python on which they were accepted: it decides what is allocated for an object."""
    assert min(measured["allocations"][profile].values()) > 0
    if measured["python"] == accepted["python"]:
        made, room = measured["allocations"][profile], ROOM["allocations"]
        assert over(made, accepted["allocations"][profile], room) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_bytes_and_memory_of_a_series(measured: dict[str, Any], accepted: dict[str, Any], profile: str) -> None:
    assert over(measured["series"][profile], accepted["series"][profile], ROOM["series"]) == []


def test_instructions_for_the_verifier(measured: dict[str, Any], accepted: dict[str, Any]) -> None:
    """On the kernel on which they were accepted; every program is counted on any."""
    ours, theirs = measured["verifier"], accepted["verifier"]
    assert ours["instructions"].keys() == theirs["instructions"].keys()
    assert min(ours["instructions"].values()) > 0
    if ours["kernel"] == theirs["kernel"]:
        assert over(ours["instructions"], theirs["instructions"], ROOM["verifier"]) == []


def test_what_is_over_is_found() -> None:
    assert over({"calls": 12}, {"calls": 10}, 1.1) == ["calls: 12, accepted: 10"]
    assert over({"calls": 11}, {"calls": 10}, 1.1) == []
    assert over({"calls": 12}, {"calls": 10}, more=2) == []
    assert over({"calls": 13}, {"calls": 10}, more=2) == ["calls: 13, accepted: 10"]
    with pytest.raises(AssertionError):
        over({"calls": 1}, {"files": 1})
