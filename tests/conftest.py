"""What all tests share: the real tools of Prometheus and of Kubernetes."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

from testkit.certificates import Certificates
from tests import forced
from tests.helm import Chart

IN_CI = os.environ.get("CI") == "true"
REPOSITORY = Path(__file__).parent.parent

# No deadline: how long an example takes says what else the machine does. In CI the same examples every time.
settings.register_profile("kpod", deadline=None, derandomize=IN_CI)
settings.load_profile("kpod")

forced.force_off()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for feature in mark.args:
            if reason := forced.lacking(feature):
                pytest.skip(f"needs kernel feature {feature}: {reason}")


def _fetch(*command: str) -> subprocess.CompletedProcess[str]:
    path = REPOSITORY / command[0]
    return subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False, timeout=110)


def _missing(program: str, fetched: subprocess.CompletedProcess[str]) -> NoReturn:
    reason = f"needs {program}, which cannot be fetched: {fetched.stderr.strip() or fetched.returncode}"
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def tool() -> Callable[[str, str], Path]:
    """Find a program: in a Debian package that `scripts/tools` fetches, else on PATH.

    If it is not available, the test is skipped, or fails in CI.
    """

    def find(package: str, program: str) -> Path:
        # From Debian 13 on promtool is no longer in prometheus, but in its own package.
        for name in dict.fromkeys((package, program)):
            fetched = _fetch("scripts/tools", name)
            if fetched.returncode:
                break
            for path in Path(fetched.stdout.strip()).glob(f"usr/*bin/{program}"):
                return path
        if there := shutil.which(program):
            return Path(there)
        return _missing(program, fetched)

    return find


@pytest.fixture(scope="session")
def installed() -> Callable[[str], Path]:
    """Find a program that `make test` installs, as `tool` has the others."""

    def find(program: str) -> Path:
        if there := shutil.which(program):
            return Path(there)
        reason = f"needs {program}: `make test` installs it"
        return pytest.fail(reason) if IN_CI else pytest.skip(reason)

    return find


@pytest.fixture(scope="session")
def promtool(tool: Callable[[str, str], Path]) -> Path:
    return tool("prometheus", "promtool")


@pytest.fixture(scope="session")
def prometheus(tool: Callable[[str, str], Path]) -> Path:
    return tool("prometheus", "prometheus")


@pytest.fixture(scope="session")
def certificates(tool: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tool("openssl", "openssl"), tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def kubectl() -> Path:
    """The real kubectl, as `tool` has the others."""
    fetched = _fetch("scripts/kubernetes-tools")
    return _missing("kubectl", fetched) if fetched.returncode else Path(fetched.stdout.strip()) / "kubectl"


@pytest.fixture(scope="session")
def chart() -> Chart:
    """The chart, rendered by the real helm."""
    fetched = _fetch("scripts/kubernetes-tools")
    return _missing("helm", fetched) if fetched.returncode else Chart(Path(fetched.stdout.strip()) / "helm")
