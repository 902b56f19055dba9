"""Real containers under Kubernetes' cgroup paths: found, named by their path, and every event of theirs counted."""

import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.cgroup.tree import Tree
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.page_faults import MAJOR_FAULTS, PageFaults
from kpod_metrics.collectors.run_queue import RunQueue
from kpod_metrics.collectors.syscall import Syscall
from kpod_metrics.features import PERF_EVENT
from kpod_metrics.pods.paths import place_of
from kpod_metrics.settings import DEFAULT_SYSCALLS
from tests.forced import needs
from tests.live.agents import eventually
from tests.live.containers import Container, Runtime, mounted_trees
from tests.live.harness import Cgroup, Totals, opened, switches

COUNT = "kpod_syscall_count_total"
ERRORS = "kpod_syscall_errors_total"
SWITCHES = "kpod_cpu_context_switches_total"
TOP = f"kpod-test-{os.getpid()}"

UIDS = [f"{number}f1c0b1e-0d3c-4b7e-9a51-0c1d2e3f4a5b" for number in range(4)]
STATIC_UID = "a5363f4f31e043bdae3c93aca4991903"
IDS = [f"{number}" * 64 for number in "0123456789"]


def slices(uid: str, qos: str = "") -> str:
    """A pod's cgroup of the kubelet's systemd driver."""
    pod = f"pod{uid.replace('-', '_')}"
    return f"{TOP}/kubepods.slice/" + (
        f"kubepods-{qos}.slice/kubepods-{qos}-{pod}.slice" if qos else f"kubepods-{pod}.slice"
    )


CONTAINERD = f"{slices(UIDS[0], 'burstable')}/cri-containerd-{IDS[0]}.scope"
CONTAINERD_SANDBOX = f"{slices(UIDS[0], 'burstable')}/cri-containerd-{IDS[1]}.scope"
CRIO = f"{slices(UIDS[1])}/crio-{IDS[2]}.scope"
DOCKER = f"{slices(STATIC_UID, 'burstable')}/docker-{IDS[3]}.scope"
CGROUPFS = f"{TOP}/kubepods/besteffort/pod{UIDS[2]}/{IDS[4]}"
CRIO_CGROUPFS = f"{TOP}/kubepods/pod{UIDS[3]}/crio-{IDS[5]}"
MIXED = f"{TOP}/system.slice/containerd.service/kubepods-pod{UIDS[3].replace('-', '_')}.slice:cri-containerd:{IDS[6]}"
NAMES = {
    CONTAINERD: (UIDS[0], IDS[0]),
    CONTAINERD_SANDBOX: (UIDS[0], IDS[1]),
    CRIO: (UIDS[1], IDS[2]),
    DOCKER: (STATIC_UID, IDS[3]),
    CGROUPFS: (UIDS[2], IDS[4]),
    CRIO_CGROUPFS: (UIDS[3], IDS[5]),
    MIXED: (UIDS[3], IDS[6]),
}


def ids(path: str) -> tuple[str, ...]:
    """The pod UID and container id of a path."""
    place = place_of(path)
    assert place is not None
    return place[:2]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Runc makes a container's cgroup in every hierarchy: none of them has any of it afterwards."""
    yield
    assert [str(tree / TOP) for tree in mounted_trees() if (tree / TOP).exists()] == []


def test_each_layout_is_found_named_and_told(runtime: Runtime, cgroup_root: str) -> None:
    """By the walk of the tree, by the kernel's news, and by the process' own membership."""
    events = CgroupEvents()
    try:
        events.open()
        with ExitStack() as stack:
            running = {path: stack.enter_context(runtime.container(path)) for path in NAMES}
            told = {path: id_ for id_, path in events.take()}
            walked = {directory.path: directory for directory in Tree(cgroup_root).walk()}
            for path, container in running.items():
                assert ids(path) == NAMES[path]
                assert container.id == NAMES[path][1]
                assert walked[path].id == told[path] == container.cgroup.id
                assert walked[path].pids == (container.pid,)
                # Its own view begins at its own cgroup, in a namespace that is not ours.
                membership = Path(f"/proc/{container.pid}/cgroup").read_text().splitlines()
                assert f"0::/{path}" in membership
                assert os.readlink(f"/proc/{container.pid}/ns/cgroup") != os.readlink("/proc/self/ns/cgroup")
                pod = path.rpartition("/")[0]
                assert walked[pod].id == told[pod] == Path(cgroup_root, pod).stat().st_ino
                assert pod.endswith("containerd.service") or ids(pod) == (NAMES[path][0], "")
    finally:
        events.close()


def done_file(at: Path) -> Path:
    """Where `workloads/syscall.c` adds up what it did: calls, errors, nanoseconds of each syscall."""
    at.write_bytes(bytes(24 * len(DEFAULT_SYSCALLS)))
    return at


def calls(done: Path, name: str) -> int:
    counted: int = list(struct.iter_unpack("QQQ", done.read_bytes()))[DEFAULT_SYSCALLS.index(name)][0]
    return counted


def test_syscalls_of_each_container_are_its_own(runtime: Runtime, tmp_path: Path) -> None:
    """Known numbers in containers of four layouts at once; a sandbox beside one of them, and its pod, have none."""
    with ExitStack() as stack:
        totals = Totals(stack.enter_context(opened(Syscall(Environment(syscalls=DEFAULT_SYSCALLS)))))
        sandbox = stack.enter_context(runtime.container(CONTAINERD_SANDBOX))
        files: dict[Container, Path] = {}
        for number, path in enumerate((CONTAINERD, CRIO, CGROUPFS, MIXED)):
            file = done_file(tmp_path / f"done{number}")
            command = ("syscall", str(file), "all", str(3 + 2 * number))
            files[stack.enter_context(runtime.container(path, *command, binds=[file]))] = file
        for container in files:
            container.stop_point()
        owners = [container.cgroup for container in files]
        owners += [sandbox.cgroup, Cgroup(sandbox.cgroup.path.parent)]
        totals.read()
        # Runc works in the container's cgroup too, until it becomes the container's first process.
        start = {(owner, name): totals.number(owner, COUNT, name) for owner in owners for name in DEFAULT_SYSCALLS}
        true = dict.fromkeys(start, 0)
        for _ in range(2):
            for container in files:
                container.go()
            for container, file in files.items():
                container.stop_point()
                true |= {(container.cgroup, name): calls(file, name) for name in DEFAULT_SYSCALLS}
            totals.read()
            assert {key: totals.number(key[0], COUNT, key[1]) - before for key, before in start.items()} == true
        assert len({true[owner, "read"] for owner in owners}) == 5


def test_a_container_between_two_reads_has_its_name(runtime: Runtime, tmp_path: Path, cgroup_root: str) -> None:
    """It comes, works and goes before anybody looks: no directory tells its name any more, the kernel's news do."""
    events = CgroupEvents()
    try:
        events.open()
        with opened(Syscall(Environment(syscalls=DEFAULT_SYSCALLS))) as collector:
            totals = Totals(collector).read()
            file = done_file(tmp_path / "done")
            with runtime.container(CONTAINERD, "syscall", str(file), "one", "-1", "0", binds=[file]) as container:
                container.stop_point()
            with runtime.container(CONTAINERD, "syscall", str(file), "threads", "1000", "2", binds=[file]) as again:
                again.stop_point()
                again.go()
                again.stop_point()
            totals.read()
        assert not {d.id for d in Tree(cgroup_root).walk()} & {container.cgroup.id, again.cgroup.id}
        told = dict(events.take())
        assert told[container.cgroup.id] == told[again.cgroup.id] == CONTAINERD
        assert container.cgroup.id != again.cgroup.id
        assert totals.number(again.cgroup, ERRORS, "read") - totals.number(container.cgroup, ERRORS, "read") == 2000
    finally:
        events.close()


@needs(PERF_EVENT)
def test_faults_and_switches_of_each_container_are_its_own(runtime: Runtime, on_disk: Path) -> None:
    """Pages faulted from disk in two containers, against rusage; a hog's switches, against /proc."""
    with ExitStack() as stack:
        memory = Totals(stack.enter_context(opened(PageFaults(Environment()))))
        sched = Totals(stack.enter_context(opened(RunQueue(Environment()))))
        pages = {CRIO_CGROUPFS: 211, DOCKER: 83}
        faulting: dict[Container, int] = {
            stack.enter_context(runtime.container(path, "faults", str(on_disk), str(count), binds=[on_disk])): count
            for path, count in pages.items()
        }
        hog = stack.enter_context(runtime.container(CONTAINERD, "hog", "0", "2000"))
        for container in (*faulting, hog):
            container.stop_point()
        time.sleep(0.05)  # a process is reported as stopped a moment before it leaves its CPU
        memory.read()
        sched.read()
        start = {owner: memory.number(owner.cgroup, MAJOR_FAULTS.name) for owner in faulting}

        def gap(container: Container) -> float:
            return switches(container.first_pid) + switches(container.pid) - sched.number(container.cgroup, SWITCHES)

        unseen = gap(hog)  # what they did before they entered the cgroup
        for container, count in faulting.items():
            container.go()
            container.stop_point()
            assert container.process.stdout is not None
            assert int(container.process.stdout.readline()) == count
        switched = switches(hog.pid)
        hog.go()
        eventually(lambda: switches(hog.pid) > switched + 60)
        os.kill(hog.pid, signal.SIGSTOP)
        hog.stop_point()
        time.sleep(0.05)
        before = sched.number(hog.cgroup, SWITCHES)
        memory.read()
        sched.read()
        for container, count in faulting.items():
            assert memory.number(container.cgroup, MAJOR_FAULTS.name) - start[container] == count
        assert memory.number(hog.cgroup, MAJOR_FAULTS.name) == 0
        assert sched.number(hog.cgroup, SWITCHES) - before > 50
        assert gap(hog) == unseen


def test_a_cgroup_nested_in_a_container_is_the_containers(runtime: Runtime, cgroup_root: str) -> None:
    """As systemd or Docker in a container makes one; and CRI-O's monitor beside it, which is the pod's."""
    inner = f"docker/{IDS[9]}"
    with runtime.container(CRIO, "hog", "0", "2000") as container:
        container.stop_point()
        nested = container.cgroup.path / inner
        nested.mkdir(parents=True)
        (nested / "cgroup.procs").write_text(str(container.pid))
        monitor = container.cgroup.path.parent / f"crio-conmon-{IDS[2]}.scope"
        monitor.mkdir()
        try:
            walked = {directory.path: directory for directory in Tree(cgroup_root).walk()}
            assert walked[f"{CRIO}/{inner}"].pids == (container.pid,)
            assert ids(f"{CRIO}/{inner}") == NAMES[CRIO]
            assert ids(str(monitor.relative_to(cgroup_root))) == (UIDS[1], "")
            assert monitor.stat().st_ino in {directory.id for directory in walked.values()}
        finally:
            monitor.rmdir()
