"""What a run of all tests says at once and at its end: failures, and what was skipped and why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import told

PYTEST = (sys.executable, "-m", "pytest", "-p", "tests.told", "-p", "no:cacheprovider", "-q")
# The run inside is not a worker of the run outside.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
TESTS = """
import pytest

@pytest.mark.parametrize("row", [1, 2])
def test_skipped(row):
    pytest.skip("needs a GPU")

def test_broken():
    assert 1 == 2

@pytest.mark.xfail
def test_expected():
    assert False

def test_fine():
    pass
"""


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_failures_at_once_and_skips_at_the_end(
    workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.skip('needs root', allow_module_level=True)\n")
    skipped = tmp_path / "skipped"
    reads, writes = os.pipe()
    with os.fdopen(reads) as failures:
        done = subprocess.run(
            [*PYTEST, "-n", workers, "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)],
            env=ENVIRONMENT | {"FAILURES": str(writes), "SKIPPED": str(skipped)},
            pass_fds=(writes,),
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(writes)
        said = failures.read()
    assert done.returncode == 1, done.stdout + done.stderr
    assert said.count("FAILED test_some.py::test_broken (call)") == 1
    assert "assert 1 == 2" in said
    told.main(str(skipped))
    assert capsys.readouterr().out == (
        "\nNot shown on this machine: 3 tests were skipped.\n"
        "needs a GPU\n    test_some.py::test_skipped (2 rows)\n"
        "needs root\n    test_whole.py\n"
    )
