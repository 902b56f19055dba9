"""What all tests share: the real tools of Prometheus."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

IN_CI = os.environ.get("CI") == "true"
REPOSITORY = Path(__file__).parent.parent

# No deadline: how long an example takes says what else the machine does. In CI the same examples every time.
settings.register_profile("kpod", deadline=None, derandomize=IN_CI)
settings.load_profile("kpod")


@pytest.fixture(scope="session")
def tool() -> Callable[[str, str], Path]:
    """Find a program: in a Debian package that `scripts/tools` fetches, else on PATH.

    Where it cannot be had the test is skipped; where CI runs, it has failed.
    """

    def find(package: str, program: str) -> Path:
        fetched = subprocess.run(
            [REPOSITORY / "scripts/tools", package], capture_output=True, text=True, check=False, timeout=110
        )
        if not fetched.returncode:
            return Path(fetched.stdout.strip()) / "usr/bin" / program
        if there := shutil.which(program):
            return Path(there)
        reason = f"needs {program}, which cannot be fetched: {fetched.stderr.strip() or fetched.returncode}"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)

    return find


@pytest.fixture(scope="session")
def promtool(tool: Callable[[str, str], Path]) -> Path:
    return tool("prometheus", "promtool")


@pytest.fixture(scope="session")
def prometheus(tool: Callable[[str, str], Path]) -> Path:
    return tool("prometheus", "prometheus")
