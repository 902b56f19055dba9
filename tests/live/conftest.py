"""What live tests share: their own cgroups, small C workloads run in them, collectors opened on this kernel."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.errors import RefusedError
from tests.live.containers import Runtime
from tests.live.harness import ONLY_THERE, Cgroup, compile_workload, file_on_disk, machine_state
from tests.live.left import left_behind
from tests.report import Outcome, add

IN_CI = os.environ.get("CI") == "true"


def _missing() -> str:
    """Why live tests cannot run here; empty where they can."""
    if os.geteuid():
        return "needs root"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "needs a kernel with BTF"
    try:
        find_root()
    except RefusedError as error:
        return str(error)
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _missing()
    for item in items:
        if "tests/live" in str(item.path):
            item.add_marker(pytest.mark.live)
            if reason and not IN_CI:  # where CI runs, a live test that cannot run has failed
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def mount_namespaces() -> None:
    """For tests that mount something of their own. In a plain chroot, whose root is no mount, they cannot."""
    refused = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False).stderr
    if refused:
        pytest.skip(f"no mount namespace can be made here: {refused.strip()}")


@pytest.fixture(scope="session")
def cgroup_root() -> str:
    return find_root()


@pytest.fixture(scope="session", autouse=True)
def machine_is_left_as_found(cgroup_root: str) -> Iterator[None]:
    """After the last live test: no program, map, link, cgroup, namespace, mount or process of ours, no knob moved.

    Only where CI runs: elsewhere others may load programs and make cgroups meanwhile. Where tests run beside each other
    `scripts/test` looks before and after all of them.
    """
    if not IN_CI or "PYTEST_XDIST_WORKER" in os.environ:
        yield
        return
    before = machine_state(cgroup_root)
    yield
    if left := left_behind(before, cgroup_root):
        pytest.fail(f"left behind: {left}")


@pytest.fixture
def cgroup(cgroup_root: str, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Cgroup]]:
    """Make cgroups below one of this test's own; all are emptied and removed at its end."""
    parent = Path(cgroup_root) / f"kpod-test-{os.getpid()}-{time.monotonic_ns()}"
    parent.mkdir()

    def make(name: str) -> Cgroup:
        path = parent / name
        path.mkdir(parents=True)
        return Cgroup(path)

    yield make
    for directory, _, _ in os.walk(parent, topdown=False):
        Cgroup(Path(directory)).destroy()


@pytest.fixture(scope="session")
def controllers(cgroup_root: str) -> tuple[str, ...]:
    """Those that limit something: a cgroup below the root can have them all."""
    wanted = {"cpu", "io", "memory"}
    if missing := wanted - set(Path(cgroup_root, "cgroup.subtree_control").read_text().split()):
        pytest.skip(f"the cgroup2 tree is without {', '.join(sorted(missing))}: {ONLY_THERE}")
    return tuple(sorted(wanted))


@pytest.fixture(scope="session")
def disk() -> str:
    """A disk that a test may write to."""
    device = os.environ.get("LIVE_DISK", "")
    if not device:
        pytest.skip(f"needs a disk to write to: {ONLY_THERE}")
    return device


@pytest.fixture
def limited(controllers: tuple[str, ...], cgroup: Callable[[str], Cgroup]) -> Callable[..., Cgroup]:
    """Make a cgroup that has the cpu, io and memory controllers: `limited("pod/a", memory_max=1 << 20)`."""

    def make(name: str, **limits: object) -> Cgroup:
        made = cgroup(name)
        for above in reversed(made.path.parents[: len(Path(name).parts)]):
            (above / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in controllers))
        for key, value in limits.items():
            (made.path / key.replace("_", ".", 1)).write_text(str(value))
        return made

    return make


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Compile `workloads/NAME.c` once and return the program's path."""
    into = tmp_path_factory.mktemp("workloads")
    return lambda name: compile_workload(name, into)


@pytest.fixture(scope="session")
def runtime(
    tool: Callable[[str, str], Path],
    tmp_path_factory: pytest.TempPathFactory,
    cgroup_root: str,
    mount_namespaces: None,
) -> Runtime:
    """Start real containers."""
    return Runtime(tool("runc", "runc"), tmp_path_factory.mktemp("containers"), cgroup_root)


@pytest.fixture
def bpf_statistics() -> Iterator[None]:
    """Have the kernel measure BPF programs for the length of a test."""
    knob = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = knob.read_text()
    knob.write_text("1")
    yield
    knob.write_text(before)


@pytest.fixture
def tell() -> Iterator[Callable[..., None]]:
    """Say what a fault did, for the table of docs/evidence-reliability.md: only of a test that passes."""
    told: list[Outcome] = []
    yield lambda *said: told.append(Outcome(*map(str, said)))
    add(told)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that a test appends are killed at its end."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def on_disk() -> Iterator[Path]:
    with file_on_disk() as path:
        yield path
