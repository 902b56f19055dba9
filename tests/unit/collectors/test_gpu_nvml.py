"""NVIDIA's GPUs, with a stand-in for its library (tests/fakes/nvml.c) below nvidia-ml-py: there is none here."""

import ctypes
import sys
from pathlib import Path

import pynvml
import pytest

from kpod_metrics.collectors.gpu import Gpu
from kpod_metrics.collectors.parts.nvml import MAX_FAILURES
from kpod_metrics.errors import UnavailableError
from tests.fakes.nvml import build
from tests.unit.collectors.cycles import POD, Cycles, Tree
from tests.unit.collectors.fdinfo import I915, Gpus

OTHER = POD._replace(pod="cart-1")
GPU = "gpu 0 pci 0 59 0"
MEMORY, BUSY = "gpu_memory_used_bytes 0000:3b:00.0", "gpu_utilization_ratio 0000:3b:00.0"
GIB = 1 << 30
NOT_SUPPORTED, NO_PERMISSION, NOT_LOADED, LOST = 3, 4, 9, 15


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Load it: the loader then knows a libnvidia-ml.so.1, and looks for no other."""
    return ctypes.CDLL(str(build(tmp_path_factory.mktemp("nvml"))))


class Nvidia:
    """A node with NVIDIA's driver, and what its library says."""

    def __init__(self, tree: Tree, state: Path) -> None:
        self._state = state
        self.module = tree.sys / "module/nvidia"
        self.module.mkdir(parents=True)

    def says(self, *lines: str, count: int = 1) -> None:
        self._state.write_text("\n".join((f"count {count}", *lines)) + "\n")

    def calls(self) -> list[str]:
        path = Path(f"{self._state}.calls")
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def nvidia(tree: Tree, tmp_path: Path, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Nvidia:
    state = tmp_path / "nvml"
    monkeypatch.setenv("NVML_STAND_IN", str(state))
    return Nvidia(tree, state)


def test_two_cycles(tree: Tree, nvidia: Nvidia) -> None:
    app = tree.group("a", 7, pids=[10, 11])
    other = tree.group("b", 8, OTHER, pids=[20])
    running = (
        f"gpu 0 compute 10 {2 * GIB}",
        f"gpu 0 compute 11 {GIB}",
        f"gpu 0 graphics 11 {GIB}",  # one process with contexts of both kinds
        f"gpu 0 mps 20 {3 * GIB}",
        f"gpu 0 compute 999 {8 * GIB}",  # of the host
    )
    nvidia.says(GPU, *running, "gpu 0 sample 10 1000 99 5 0 0")
    cycles = Cycles(Gpu(tree.environment)).run(app, other)
    assert cycles.exported() == {MEMORY: 3 * GIB}
    assert cycles.exported(OTHER) == {MEMORY: 3 * GIB}
    nvidia.says(
        GPU,
        *running,
        "gpu 0 sample 10 1000 99 5 0 0",  # known already
        "gpu 0 sample 10 2000 30 5 0 0",
        "gpu 0 sample 10 3000 40 5 0 8",
        "gpu 0 sample 10 3000 40 5 0 8",  # there twice
        "gpu 0 sample 11 3000 20 5 0 0",
        "gpu 0 stale 11 900 70 5 0 0",
        "gpu 0 sample 20 3000 10 90 60 0",
        "gpu 0 sample 999 4000 80 5 0 0",
    )
    cycles.run(app, other)
    assert cycles.exported() == {MEMORY: 3 * GIB, BUSY: 0.55}
    # Its encoder is busiest; how busy the GPU's memory was is another matter.
    assert cycles.exported(OTHER) == {MEMORY: 3 * GIB, BUSY: 0.6}
    nvidia.says(GPU, *running, "gpu 0 sample 10 4500 80 5 0 0", "gpu 0 sample 11 4500 40 5 0 0")
    cycles.run(app, other)
    assert cycles.exported() == {MEMORY: 3 * GIB, BUSY: 1}
    assert cycles.exported(OTHER)[BUSY] == 0
    nvidia.says(GPU, *running)  # NVML_ERROR_NOT_FOUND
    assert cycles.run(app, other).exported()[BUSY] == 0
    nvidia.says(GPU)
    assert cycles.run(app, other).exported() == {}


def test_samples_that_cannot_be(tree: Tree, nvidia: Nvidia) -> None:
    running = f"gpu 0 compute 10 {GIB}"
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(Gpu(tree.environment))
    nvidia.says(GPU, running)
    cycles.run(group)
    nvidia.says(GPU, running, "gpu 0 sample 10 2000 4294967295 5 0 0", "gpu 0 sample 10 2001 40 5 0 0")
    assert cycles.run(group).exported()[BUSY] == 0.4


def test_memory_that_is_not_told(tree: Tree, nvidia: Nvidia) -> None:
    """NVML_VALUE_NOT_AVAILABLE."""
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(Gpu(tree.environment))
    nvidia.says(GPU, "gpu 0 compute 10 18446744073709551615")
    assert cycles.run(group).exported() == {}
    assert cycles.run(group).exported() == {BUSY: 0}


def test_utilization_that_is_not_told(tree: Tree, nvidia: Nvidia) -> None:
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(Gpu(tree.environment))
    nvidia.says(GPU, f"gpu 0 compute 10 {GIB}", f"gpu 0 utilization {NOT_SUPPORTED}")
    for _ in range(2):
        assert cycles.run(group).exported() == {MEMORY: GIB}


def test_instances_of_a_gpu_in_mig_mode(tree: Tree, nvidia: Nvidia) -> None:
    group, cycles = tree.group("a", 7, pids=[10, 11, 12]), Cycles(Gpu(tree.environment))
    nvidia.says(
        GPU,
        "gpu 0 mig 1",
        f"gpu 0 compute 10 {9 * GIB}",  # all instances' together: for privileged callers only
        f"gpu 0 utilization {NOT_SUPPORTED}",
        "gpu 0 instance 0 3 100",
        "gpu 0 instance 2 5 101",
        f"gpu 100 compute 10 {GIB}",
        f"gpu 101 compute 11 {2 * GIB}",
        f"gpu 101 compute 12 {GIB}",
        f"gpu 101 compute 999 {GIB}",
    )
    for _ in range(2):
        assert cycles.run(group).exported() == {f"{MEMORY}/gi3": GIB, f"{MEMORY}/gi5": 3 * GIB}


def test_gpu_whose_mig_mode_is_off(tree: Tree, nvidia: Nvidia) -> None:
    nvidia.says(GPU, "gpu 0 mig 0", f"gpu 0 compute 10 {GIB}")
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(Gpu(tree.environment))
    cycles.run(group)
    assert cycles.run(group).exported() == {MEMORY: GIB, BUSY: 0}


def test_gpu_that_is_lost(tree: Tree, nvidia: Nvidia, caplog: pytest.LogCaptureFixture) -> None:
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(Gpu(tree.environment))
    running = (GPU, f"gpu 0 compute 10 {GIB}", "gpu 1 pci 0 175 0", f"gpu 1 compute 10 {2 * GIB}")
    second = "gpu_memory_used_bytes 0000:af:00.0"
    nvidia.says(*running, count=2)
    assert cycles.run(group).exported() == {MEMORY: GIB, second: 2 * GIB}
    nvidia.says(*running, f"gpu 0 lost {LOST}", count=2)
    for _ in range(MAX_FAILURES + 1):
        exported = cycles.run(group).exported()
        assert MEMORY not in exported
        assert exported[second] == 2 * GIB
    nvidia.says("gpu 0 nothing", *running[2:], f"gpu 0 lost {LOST}", count=2)  # nor its address
    assert set(cycles.run(group).exported()) == {second, "gpu_utilization_ratio 0000:af:00.0"}
    assert [record.message for record in caplog.records] == [
        "GPU 0000:3b:00.0 is skipped: GPU is lost",
        "GPU number 0 is skipped: GPU is lost",
    ]
    # The library was initialized again once, because of the GPU that was reset.
    assert nvidia.calls() == ["init", "shutdown", "init"]
    nvidia.says(*running, count=2)
    assert cycles.run(group).exported()[MEMORY] == GIB


def test_processes_that_may_not_be_seen(tree: Tree, nvidia: Nvidia, caplog: pytest.LogCaptureFixture) -> None:
    nvidia.says(GPU, f"gpu 0 lost {NO_PERMISSION}")
    cycles = Cycles(Gpu(tree.environment))
    for _ in range(2):
        assert cycles.run(tree.group("a", 7, pids=[10])).exported() == {}
    assert [record.message for record in caplog.records] == ["GPU 0000:3b:00.0 is skipped: Insufficient Permissions"]


def test_signals(tree: Tree, nvidia: Nvidia) -> None:
    nvidia.says(GPU, "gpu 1 pci 1 175 0", count=2)
    collector = Gpu(tree.environment)
    [signal] = collector.open()
    assert (signal.hook, signal.problem) == ("NVML, on 0000:3b:00.0, 0001:af:00.0", "")
    collector.close()
    collector.close()
    assert nvidia.calls() == ["init", "shutdown"]


def refused(tree: Tree) -> str:
    """Why the collector is off; the same while it runs, for a driver that is loaded later."""
    with pytest.raises(UnavailableError) as off:
        Gpu(tree.environment).open()
    with pytest.raises(UnavailableError) as failing:
        Gpu(tree.environment).collect([tree.group("a", 7, pids=[10])])
    assert str(failing.value) == str(off.value)
    assert "\n" not in str(off.value)
    return str(off.value)


def test_driver_that_does_not_answer(tree: Tree, nvidia: Nvidia) -> None:
    nvidia.says(f"init {NOT_LOADED}")
    assert refused(tree) == "NVML: Driver Not Loaded"


def test_without_the_package(tree: Tree, nvidia: Nvidia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert refused(tree) == (
        "NVIDIA's driver is loaded, but the Python package nvidia-ml-py is not installed: "
        "pip install 'kpod-metrics[gpu]'"
    )


def test_without_the_library(tree: Tree, nvidia: Nvidia, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(pynvml, "CDLL", missing)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    assert refused(tree) == (
        "NVIDIA's driver is loaded, but its library libnvidia-ml.so.1 is not found: "
        "in a container, NVIDIA's runtime provides it (docs/gpu.md)"
    )


def test_other_gpus_go_on(
    tree: Tree, nvidia: Nvidia, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpus = Gpus(tree)
    gpus.add("renderD128", "0000:00:02.0", "i915")
    gpus.process(10, {"5": I915})
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(Gpu(tree.environment))
    nvidia.says(f"init {NOT_LOADED}")
    assert [(signal.hook, signal.problem) for signal in cycles.collector.open()] == [
        ("fdinfo of DRM clients, on 0000:00:02.0 (i915)", ""),
        ("", "NVML: Driver Not Loaded"),
    ]
    for _ in range(2):
        assert "gpu_memory_used_bytes 0000:00:02.0" in cycles.run(group).exported()
    assert caplog.records == []  # it was said at the start
    nvidia.says(GPU, f"gpu 0 compute 10 {GIB}")
    assert cycles.run(group).exported()[MEMORY] == GIB
    cycles.collector.close()
    nvidia.says(f"init {NOT_LOADED}")
    for _ in range(2):
        assert MEMORY not in cycles.run(group).exported()
    assert [record.message for record in caplog.records] == ["collector gpu: NVML: Driver Not Loaded"]


def test_driver_that_is_unloaded(tree: Tree, nvidia: Nvidia) -> None:
    nvidia.says(GPU, f"gpu 0 compute 10 {GIB}")
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(Gpu(tree.environment))
    assert cycles.run(group).exported() == {MEMORY: GIB}
    nvidia.module.rmdir()
    assert cycles.run(group).exported() == {}
    assert nvidia.calls() == ["init", "shutdown"]
