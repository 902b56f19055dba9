import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kpod_metrics.cgroup.keyed import read_if_there
from kpod_metrics.collectors.gpu import Gpu
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.parts.drm import MAX_LISTED, MAX_PROCESSES, MAX_READ, RELIST_CYCLES, Drm, _Share
from kpod_metrics.errors import UnavailableError
from tests.unit.collectors.cycles import POD, Cycles, Tree, refuse
from tests.unit.collectors.fdinfo import AMDGPU, AMDGPU_BEFORE_6_13, FILE, I915, PANFROST, XE, Gpus, change
from tests.unit.imports import imported_by_an_agent

SIDECAR = POD._replace(container="sidecar")
OTHER = POD._replace(pod="cart-1")
SECOND = 10**9
MEMORY, BUSY = "gpu_memory_used_bytes", "gpu_utilization_ratio"


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what a test leaves open: it has a thread."""
    made: list[Drm] = []
    real = Drm.__init__

    def init(self: Drm, *arguments: Any) -> None:
        made.append(self)
        real(self, *arguments)

    monkeypatch.setattr(Drm, "__init__", init)
    yield
    for drm in made:
        drm.close()


@pytest.fixture
def gpus(tree: Tree) -> Gpus:
    return Gpus(tree)


class Clock:
    """Nanoseconds, that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 50 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def cycles_of(tree: Tree, clock: Clock) -> Cycles:
    collector = Gpu(tree.environment)
    collector._drm = Drm(tree.environment, clock)
    return Cycles(collector)


def test_two_cycles_of_amdgpu(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.process(10, {"5": change(AMDGPU, engine_gfx=f"{7 * SECOND} ns", engine_compute=f"{SECOND} ns")})
    group, cycles = tree.group("a", 7, pids=[10]), cycles_of(tree, clock)
    assert cycles.run(group).exported() == {f"{MEMORY} 0000:08:00.0": 2068 << 10}
    clock.now += 10 * SECOND
    gpus.tell(10, "5", change(AMDGPU, engine_gfx=f"{9 * SECOND} ns", engine_compute=f"{4 * SECOND} ns"))
    assert cycles.run(group).exported() == {f"{MEMORY} 0000:08:00.0": 2068 << 10, f"{BUSY} 0000:08:00.0": 0.3}
    clock.now += 10 * SECOND
    assert cycles.run(group).exported()[f"{BUSY} 0000:08:00.0"] == 0


def test_amdgpu_leaves_out_engines_that_never_worked(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    """And says nothing of compute queues at all: then there is no utilization, and it is not 0."""
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    silent = "".join(line for line in AMDGPU_BEFORE_6_13.splitlines(keepends=True) if "engine" not in line)
    gpus.process(10, {"5": silent})
    group, cycles = tree.group("a", 7, pids=[10]), cycles_of(tree, clock)
    for _ in range(2):
        assert cycles.run(group).exported() == {f"{MEMORY} 0000:08:00.0": 2068 << 10}
        clock.now += 10 * SECOND
    gpus.tell(10, "5", change(silent, engine_gfx=f"{SECOND} ns"))
    assert cycles.run(group).exported()[f"{BUSY} 0000:08:00.0"] == 0.1


def test_capacity_of_a_class_of_engines(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    """Two video engines that work 6 s of 10 are less busy than one render engine that works 4 s."""
    gpus.add("renderD128", "0000:00:02.0", "i915")
    gpus.process(10, {"5": change(I915, engine_video="0 ns", engine_render="0 ns")})
    group, cycles = tree.group("a", 7, pids=[10]), cycles_of(tree, clock)
    cycles.run(group)
    clock.now += 10 * SECOND
    gpus.tell(10, "5", change(I915, engine_video=f"{6 * SECOND} ns", engine_render=f"{4 * SECOND} ns"))
    assert cycles.run(group).exported() == {
        f"{BUSY} 0000:00:02.0": 0.4,
        f"{MEMORY} 0000:00:02.0": (4 << 20) + (512 << 10),
    }


def xe(cycles: int, total: int, **classes: int) -> str:
    """Cycles of `rcs`, and of other classes."""
    counts = {"rcs": cycles, "ccs": 0, **classes}
    return change(
        XE, **{f"cycles_{n}": str(c) for n, c in counts.items()}, **{f"total_cycles_{n}": str(total) for n in counts}
    )


def test_cycles_of_xe_are_by_the_gpus_clock(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    gpus.add("renderD128", "0000:03:00.0", "xe")
    gpus.process(10, {"5": xe(100, 10_000)})
    group, cycles = tree.group("a", 7, pids=[10]), cycles_of(tree, clock)
    assert cycles.run(group).exported() == {f"{MEMORY} 0000:03:00.0": 23992 << 10}
    gpus.tell(10, "5", xe(1100, 14_000, ccs=8000))
    assert cycles.run(group).exported()[f"{BUSY} 0000:03:00.0"] == 8000 / 4000 / 4
    gpus.tell(10, "5", xe(1500, 500))  # its clock wrapped
    assert cycles.run(group).exported() == {f"{MEMORY} 0000:03:00.0": 23992 << 10}
    gpus.tell(10, "5", xe(1600, 900))
    assert cycles.run(group).exported()[f"{BUSY} 0000:03:00.0"] == 0.25


def test_gpu_that_is_on_no_pci_bus(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    gpus.add("renderD128", "ff9a0000.gpu", "panfrost")
    gpus.process(10, {"5": PANFROST})
    assert cycles_of(tree, clock).run(tree.group("a", 7, pids=[10])).exported() == {
        f"{MEMORY} ff9a0000.gpu": 10752 << 10
    }


def test_clients_of_a_driver_that_is_read_elsewhere(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    """NVML tells of them, under the same address."""
    gpus.add("renderD128", "0000:00:02.0", "i915")
    gpus.add("renderD129", "0000:3b:00.0", "nvidia")
    nvidia = change(I915, driver="nvidia-drm", pdev="0000:3b:00.0")
    gpus.process(10, {"5": I915, "6": nvidia})
    exported = cycles_of(tree, clock).run(tree.group("a", 7, pids=[10])).exported()
    assert set(exported) == {f"{MEMORY} 0000:00:02.0"}


def test_device_without_a_driver_link(tree: Tree, gpus: Gpus) -> None:
    gpus.add("renderD128", "amdgpu_xcp_0", "amdgpu")
    (tree.sys / "devices/amdgpu_xcp_0/driver").unlink()
    assert Drm(tree.environment).devices() == {"amdgpu_xcp_0": ""}


def test_client_is_counted_once(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    """One open(): a descriptor, its dup(), and what a child inherited, even in another container."""
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    text = change(AMDGPU, engine_gfx="0 ns")
    gpus.process(10, {"5": text, "6": text})
    gpus.process(11, {"5": text})
    gpus.process(20, {"5": text})
    app, sidecar = tree.group("a", 7, pids=[10, 11]), tree.group("b", 8, SIDECAR, pids=[20])
    cycles = cycles_of(tree, clock).run(app, sidecar)
    clock.now += 10 * SECOND
    for pid, descriptor in ((10, "5"), (10, "6"), (11, "5"), (20, "5")):
        gpus.tell(pid, descriptor, change(AMDGPU, engine_gfx=f"{4 * SECOND} ns"))
    for groups in ((app, sidecar), (sidecar, app)):
        cycles.run(*groups)
        assert cycles.exported(SIDECAR) == {}
        assert cycles.exported()[f"{MEMORY} 0000:08:00.0"] == 2068 << 10
        assert cycles.exported()[f"{BUSY} 0000:08:00.0"] == 0.4
        clock.now += 10 * SECOND
        for pid, descriptor in ((10, "5"), (10, "6"), (11, "5"), (20, "5")):
            gpus.tell(pid, descriptor, change(AMDGPU, engine_gfx=f"{8 * SECOND} ns"))
    # Where the parent ends, the child has it.
    shutil.rmtree(tree.proc / "10")
    shutil.rmtree(tree.proc / "11")
    cycles.run(app, sidecar)
    assert cycles.exported() == {}
    assert cycles.exported(SIDECAR)[f"{MEMORY} 0000:08:00.0"] == 2068 << 10


def test_clients_with_one_number_on_two_gpus(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.add("renderD129", "0000:09:00.0", "amdgpu")
    gpus.process(10, {"5": AMDGPU, "6": AMDGPU.replace("0000:08", "0000:09")})
    assert cycles_of(tree, clock).run(tree.group("a", 7, pids=[10])).exported() == {
        f"{MEMORY} 0000:08:00.0": 2068 << 10,
        f"{MEMORY} 0000:09:00.0": 2068 << 10,
    }


def test_clients_of_a_container_add_up(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    """Over its cgroups too; buffers that both share are counted once, and it is never busier than whole."""
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")

    def text(id_: int, busy: int) -> str:
        return change(AMDGPU, client_id=str(id_), engine_gfx=f"{busy * SECOND} ns")

    gpus.process(10, {"5": text(1, 0)})
    gpus.process(11, {"5": text(2, 0)})
    gpus.process(20, {"5": text(3, 0)})
    groups = (
        tree.group("a", 7, pids=[10]),
        tree.group("c", 9, pids=[11]),
        tree.group("b", 8, OTHER, pids=[20]),
    )
    cycles = cycles_of(tree, clock).run(*groups)
    assert cycles.exported() == {f"{MEMORY} 0000:08:00.0": (2 * 1044 << 10) + (1 << 20)}
    for busy, expected in ((3, 0.6), (10, 1)):
        clock.now += 10 * SECOND
        gpus.tell(10, "5", text(1, busy))
        gpus.tell(11, "5", text(2, busy))
        gpus.tell(20, "5", text(3, 1))
        assert cycles.run(*groups).exported()[f"{BUSY} 0000:08:00.0"] == expected
    assert cycles.exported(OTHER) == {f"{BUSY} 0000:08:00.0": 0, f"{MEMORY} 0000:08:00.0": 2068 << 10}


def test_count_that_steps_back_catches_up(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.process(10, {"5": change(AMDGPU_BEFORE_6_13, engine_gfx=f"{8 * SECOND} ns")})
    group, cycles = tree.group("a", 7, pids=[10]), cycles_of(tree, clock)
    cycles.run(group)
    for seconds, expected in ((7, 0), (9, 0.1)):
        clock.now += 10 * SECOND
        gpus.tell(10, "5", change(AMDGPU_BEFORE_6_13, engine_gfx=f"{seconds * SECOND} ns"))
        assert cycles.run(group).exported()[f"{BUSY} 0000:08:00.0"] == expected


def test_clients_that_end_and_begin_between_cycles(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.process(10, {"5": AMDGPU})
    group, cycles = tree.group("a", 7, pids=[10]), cycles_of(tree, clock)
    cycles.run(group)
    clock.now += 10 * SECOND
    gpus.process(10, {})
    assert cycles.run(group).exported() == {}
    gpus.process(10, {"5": change(AMDGPU, client_id="218", engine_gfx=f"{SECOND} ns")})
    # Another client: what it counted before it was first seen is not of this interval.
    assert cycles.run(group).exported() == {f"{MEMORY} 0000:08:00.0": 2068 << 10}
    clock.now += 10 * SECOND
    gpus.tell(10, "5", change(AMDGPU, client_id="218", engine_gfx=f"{2 * SECOND} ns"))
    assert cycles.run(group).exported()[f"{BUSY} 0000:08:00.0"] == 0.1


@pytest.mark.parametrize("part", ["fd", "fdinfo", ""])
def test_process_that_ends_while_it_is_looked_at(tree: Tree, gpus: Gpus, clock: Clock, part: str) -> None:
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    shutil.rmtree(gpus.process(9, {"5": change(AMDGPU, client_id="1")}) / part)
    gpus.process(10, {"5": AMDGPU})
    cycles = cycles_of(tree, clock).run(tree.group("a", 7, pids=[9, 10]), tree.group("b", 8, OTHER, pids=[9]))
    assert cycles.exported() == {f"{MEMORY} 0000:08:00.0": 2068 << 10}
    assert cycles.exported(OTHER) == {}


def test_process_that_ends_while_its_file_is_read(
    tree: Tree, gpus: Gpus, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.process(9, {"5": change(AMDGPU, client_id="1")})
    gpus.process(10, {"5": AMDGPU})
    refuse(monkeypatch, "/9/fdinfo", FileNotFoundError)
    cycles = cycles_of(tree, clock).run(tree.group("a", 7, pids=[9, 10]))
    assert cycles.exported() == {f"{MEMORY} 0000:08:00.0": 2068 << 10}


def test_processes_that_are_hidden(
    tree: Tree, gpus: Gpus, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.process(10, {"5": AMDGPU})
    gpus.process(20, {"5": AMDGPU})
    groups = tree.group("a", 7, pids=[10]), tree.group("b", 8, OTHER, pids=[20])
    cycles = cycles_of(tree, clock)
    refuse(monkeypatch, "/10/fdinfo")
    cycles.run(*groups)
    assert cycles.exported() == {}
    assert cycles.exported(OTHER) == {f"{MEMORY} 0000:08:00.0": 2068 << 10}
    assert [record.message for record in caplog.records] == [
        f"collector gpu: 1 of 2 cgroups cannot be read, among them {tree.root}/a: "
        f"[Errno {errno.EACCES}] Permission denied: '{tree.proc}/10/fdinfo/5'"
    ]
    refuse(monkeypatch, "/20/fdinfo")
    with pytest.raises(PermissionError):
        cycles.run(*groups)


class Listed:
    """Which directories are listed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        real = os.scandir

        def scandir(path: str | int) -> object:
            if isinstance(path, str):  # not what the fixture removes
                self.paths.append(path)
            return real(path)

        monkeypatch.setattr("kpod_metrics.collectors.parts.drm.os.scandir", scandir)

    def of(self, tree: Tree) -> list[str]:
        """Those below /proc since the last call."""
        found = [path.removeprefix(f"{tree.proc}/") for path in self.paths if path.startswith(str(tree.proc))]
        self.paths.clear()
        return found


def client(id_: int) -> str:
    return AMDGPU.replace("drm-client-id:\t217", f"drm-client-id:\t{id_}")


def exceeded(tree: Tree) -> dict[int, object]:
    return {row.owner: row.values[0] for row in tree.environment.exceeded.rows() if row.labels == ("descriptors",)}


def test_pod_whose_folder_of_nodes_never_answers(
    tree: Tree, gpus: Gpus, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its root directory can be a file system of its own making. Other pods are read."""
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.process(10, {"5": AMDGPU})
    gpus.process(20, {"5": client(3)})
    goes_on, asked = threading.Event(), []
    real = os.open

    def opens(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        if path.endswith("/10/root"):
            asked.append(path)
            goes_on.wait()
        return real(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr("kpod_metrics.collectors.parts.drm.os.open", opens)
    groups = [tree.group("a", 7, pids=[10]), tree.group("b", 8, OTHER, pids=[20])]
    cycles = cycles_of(tree, clock)
    try:
        for _ in range(3):
            cycles.run(*groups)
            assert cycles.exported() == {}
            assert cycles.exported(OTHER)[f"{MEMORY} 0000:08:00.0"] == 2068 << 10
        assert len(asked) == 1
    finally:
        goes_on.set()
    assert {(row.owner, *row.labels): row.values for row in tree.environment.exceeded.rows()} == {
        (7, "hung_mounts"): (3,)
    }


def test_only_so_many_clients_of_a_pod(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    """Over all of its containers; another pod has all of its own."""
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.process(10, {str(at): client(at) for at in range(5, 5 + MAX_READ - 10)})
    gpus.process(20, {str(at): client(1000 + at) for at in range(5, 35)})
    gpus.process(30, {"5": client(2000)})
    groups = [tree.group("a", 7, pids=[10]), tree.group("b", 8, SIDECAR, pids=[20])]
    groups.append(tree.group("c", 9, OTHER, pids=[30]))
    cycles = cycles_of(tree, clock)
    for cycle in (1, 2):
        cycles.run(*groups)
        # Each has 1 MiB that all share.
        assert cycles.exported()[f"{MEMORY} 0000:08:00.0"] == ((MAX_READ - 10) * 1044 + 1024) << 10
        assert cycles.exported(SIDECAR)[f"{MEMORY} 0000:08:00.0"] == (10 * 1044 + 1024) << 10
        assert cycles.exported(OTHER)[f"{MEMORY} 0000:08:00.0"] == 2068 << 10
        assert exceeded(tree) == {8: cycle}


def test_only_so_many_descriptors_and_processes_of_a_pod(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.process(10, {str(at): FILE for at in range(1, MAX_LISTED + 1)})
    gpus.process(11, {"5": AMDGPU})
    gpus.process(30, {"5": AMDGPU})
    cycles = cycles_of(tree, clock)
    cycles.run(tree.group("a", 7, pids=[10, 11]), tree.group("c", 9, OTHER, pids=[30]))
    # The first has too many descriptors, and too many that look like those of a GPU. The second had no turn.
    assert exceeded(tree) == {7: 1 + 1 + 1}
    assert cycles.exported() == {}
    assert cycles.exported(OTHER) == {f"{MEMORY} 0000:08:00.0": 2068 << 10}
    cycles.run(tree.group("a", 7, pids=[11, *range(100, 100 + MAX_PROCESSES)]))
    assert cycles.exported() == {f"{MEMORY} 0000:08:00.0": 2068 << 10}
    assert exceeded(tree) == {7: 1 + 1 + 1 + 1}


@pytest.mark.parametrize("link", ["/dev/dri", "/dev"])
def test_link_in_place_of_the_nodes_folder_is_not_followed(tree: Tree, gpus: Gpus, clock: Clock, link: str) -> None:
    """Wherever it leads: the descriptors say whether there are clients."""
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.process(10, {"5": AMDGPU}, dri=False)
    place = Path(f"{tree.proc}/10/root").resolve() / link.removeprefix("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        shutil.rmtree(place)
    place.symlink_to("/nowhere")
    cycles = cycles_of(tree, clock).run(tree.group("a", 7, pids=[10]))
    assert cycles.exported() == {f"{MEMORY} 0000:08:00.0": 2068 << 10}


def test_descriptors_are_listed_when_their_number_changes(
    tree: Tree, gpus: Gpus, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.add("renderD128", "0000:08:00.0", "amdgpu")
    gpus.process(10, {})
    gpus.process(20, {"5": AMDGPU}, dri=False)
    groups = tree.group("a", 7, pids=[10]), tree.group("b", 8, OTHER, pids=[20])
    listed, cycles = Listed(monkeypatch), cycles_of(tree, clock)
    cycles.run(*groups)
    assert listed.of(tree) == ["10/fd"]  # the other container has no DRM node
    cycles.run(*groups)
    due = listed.of(tree)
    cycles.run(*groups)
    assert due == ["10/fd"]  # the first time they are listed again soon, not all processes' in the same cycle
    assert listed.of(tree) == []
    gpus.process(10, {"5": AMDGPU})
    cycles.run(*groups)
    assert listed.of(tree) == ["10/fd"]
    assert cycles.exported() == {f"{MEMORY} 0000:08:00.0": 2068 << 10}
    for _ in range(3 * RELIST_CYCLES):
        cycles.run(*groups)
    assert listed.of(tree) == ["10/fd"] * 3
    assert cycles.exported() != {}
    cycles.run()
    assert cycles.collector._drm._descriptors == {}  # type: ignore[attr-defined]


def test_real_descriptors(tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This kernel's /proc: a process that opens one more file is read again. No file here is a DRM node."""
    (tmp_path / "dri").mkdir()
    node = tmp_path / "dri/renderD128"
    node.write_text("")
    drm = Drm(Environment(proc_root="/proc", sys_root=str(tree.sys)))
    listed, reads = Listed(monkeypatch), []

    def read(path: str) -> bytes:
        reads.append(path)
        return read_if_there(path)

    monkeypatch.setattr("kpod_metrics.collectors.parts.drm.read_if_there", read)
    program = (
        "import sys; print(flush=True); input(); file = open(sys.argv[1]); print(file.fileno(), flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(node)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()  # it has opened what it needs to start
        assert drm._of_process(process.pid, _Share()) == []
        drm._descriptors[process.pid] = drm._descriptors[process.pid]._replace(relist_at=RELIST_CYCLES)
        assert drm._of_process(process.pid, _Share()) == []
        assert (len(listed.paths), reads) == (1, [])
        process.stdin.write("\n")
        process.stdin.flush()
        descriptor = process.stdout.readline().strip()
        assert drm._of_process(process.pid, _Share()) == []
        assert (len(listed.paths), reads) == (2, [f"/proc/{process.pid}/fdinfo/{descriptor}"])
        process.stdin.write("\n")


def status(tree: Tree, capabilities: int) -> None:
    (tree.proc / "self").mkdir()
    (tree.proc / "self/status").write_text(f"CapEff:\t{capabilities:016x}\n")


def test_signals(tree: Tree, gpus: Gpus) -> None:
    status(tree, 1 << 19)
    [signal] = Gpu(tree.environment).open()
    absent = "there is no GPU: no render node, and NVIDIA's driver is not loaded"
    assert (signal.hook, signal.problem, signal.absent) == ("", "", absent)
    gpus.add("renderD129", "0000:01:00.0", "nvidia")  # of nvidia-drm: NVML tells of it
    [signal] = Gpu(tree.environment).open()
    assert signal.absent.startswith("there is no GPU: ")
    gpus.add("renderD128", "0000:00:02.0", "i915")
    [signal] = Gpu(tree.environment).open()
    assert (signal.hook, signal.problem) == ("fdinfo of DRM clients, on 0000:00:02.0 (i915)", "")


def test_without_the_right_to_look_at_processes(tree: Tree, gpus: Gpus) -> None:
    status(tree, 0)
    gpus.add("renderD128", "0000:00:02.0", "i915")
    with pytest.raises(UnavailableError, match=r"^EPERM: this process lacks CAP_SYS_PTRACE$"):
        Gpu(tree.environment).open()


def test_processes_of_another_namespace(tree: Tree, gpus: Gpus) -> None:
    """As in a container with its own PID namespace: cgroup.procs has 0 for each other process."""
    status(tree, 1 << 19)
    (tree.root / "a").mkdir()
    (tree.root / "a/cgroup.procs").write_text("0\n0\n")
    [signal] = Gpu(tree.environment).open()
    assert signal.absent.startswith("there is no GPU: ")
    gpus.add("renderD128", "0000:00:02.0", "i915")
    with pytest.raises(UnavailableError, match="the processes of other containers are not seen"):
        Gpu(tree.environment).open()


def test_driver_that_is_loaded_and_unloaded_meanwhile(tree: Tree, gpus: Gpus, clock: Clock) -> None:
    gpus.process(10, {"5": I915})
    group, cycles = tree.group("a", 7, pids=[10]), cycles_of(tree, clock)
    assert cycles.run(group).exported() == {}
    gpus.add("renderD128", "0000:00:02.0", "i915")
    assert cycles.run(group).exported() != {}
    shutil.rmtree(tree.sys / "class/drm")
    assert cycles.run(group).exported() == {}


OFF = """
import os, sys
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.gpu import Gpu
from kpod_metrics.pods.model import Group, Identity

collector = Gpu(Environment(cgroup_root=sys.argv[1], sys_root=sys.argv[1]))
groups = [Group(7, sys.argv[1], (os.getpid(), 1), Identity("a", "b", "c"))]
collector.open()
collector.collect(groups)
modules, looked = set(sys.modules), []
sys.addaudithook(lambda event, arguments: event in {"open", "os.listdir", "os.scandir"} and looked.append(arguments[0]))
collector.collect(groups)
print(*looked)
looked.clear()
before = sys.getallocatedblocks()
for _ in range(1000):
    assert collector.collect(groups) == []
    looked.clear()
kept = sys.getallocatedblocks() - before
print(*(set(sys.modules) - modules), *({"pynvml"} & set(sys.modules)))
print(kept)
"""


def test_without_a_gpu_nothing_is_imported_and_no_process_looked_at(tmp_path: Path) -> None:
    run: Sequence[str] = [sys.executable, "-c", OFF, str(tmp_path)]
    looked, imported, kept = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert looked == f"{tmp_path}/class/drm"
    assert imported == ""
    # Resident pages are the kernel's to move; blocks of the interpreter are counted, and a cycle that keeps one
    # keeps a thousand.
    assert int(kept) < 100


def test_an_agent_does_not_import_nvidias_bindings(tmp_path: Path) -> None:
    assert imported_by_an_agent(tmp_path, "kpod_metrics.collectors.gpu", "pynvml") == ""


def test_a_driver_that_tells_nothing(tree: Tree, gpus: Gpus, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """As that of many virtual machines' screens."""
    gpus.add("renderD128", "0000:00:01.0", "virtio_gpu")
    gpus.process(10, {"5": FILE + "drm-driver:\tvirtio_gpu\ndrm-client-id:\t9\ndrm-pdev:\t0000:00:01.0\n", "6": FILE})
    with caplog.at_level(logging.DEBUG):
        cycles = cycles_of(tree, clock)
        for _ in range(2):
            assert cycles.run(tree.group("a", 7, pids=[10])).exported() == {}
    assert caplog.records == []
