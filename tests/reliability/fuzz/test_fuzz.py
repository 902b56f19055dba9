"""No input makes a parser raise what it does not declare, or write what cannot be read back: the short run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.fuzz.drive import kept, run, shares
from tests.reliability.fuzz.targets import TARGETS, Target

COUNT = 100_000
SEED = 20_261_125


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.slug)
def test_what_once_failed(target: Target) -> None:
    for data in kept(target):
        target.check(data)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "count"), list(shares(COUNT)), ids=lambda one: getattr(one, "slug", str(one)))
def test_spoiled_input(target: Target, count: int) -> None:
    ran, failed = run(target, count, SEED)
    assert ran == count
    assert not failed, f"kept as {failed}"


def test_spoiled_objects(tmp_path: Path) -> None:
    """libbpf is C: in a child process."""
    command = [sys.executable, "-m", "tests.reliability.fuzz.corrupt", str(SEED), "1000", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["refused"] > 100
    assert found["taken"] > 100
    assert not os.listdir(tmp_path)
