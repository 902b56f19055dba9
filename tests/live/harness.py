"""Real cgroups with real processes, and collectors opened on this kernel."""

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kpod_metrics.cgroup.tree import Tree
from kpod_metrics.collectors.kit import Collector
from kpod_metrics.histogram import Histogram
from kpod_metrics.metrics import Row
from kpod_metrics.pods.model import Group, Identity
from kpod_metrics.store import Store

WORKLOADS = Path(__file__).parent / "workloads"


COMPILED = os.environ.get("LIVE_WORKLOADS", "")
"""A folder of workloads that were compiled elsewhere, for a machine without a compiler."""

SCALE = int(os.environ.get("LIVE_SCALE", "1"))
"""By how much to divide the events of a test that is about their number, on a machine that is slower by as much."""

ONLY_THERE = "shown in `make test-kernels`"


def proves(*metrics: str, within: str = "") -> pytest.MarkDecorator:
    """Mark a test that shows these metrics to be exact, or within a bound, for docs/evidence-kernels.md."""
    return pytest.mark.proves(*metrics, within=within)


def compile_workload(name: str, into: Path, *options: str) -> str:
    """Compile `workloads/NAME.c` unless it is there already."""
    target = (Path(COMPILED) if COMPILED else into) / name
    if not target.exists():
        command = ["clang", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", *options, "-o", str(target)]
        subprocess.run([*command, str(WORKLOADS / f"{name}.c")], check=True)
    return str(target)


class Cgroup:
    """A cgroup v2 directory; `id` is what the kernel programs charge events to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.stat().st_ino

    @property
    def pids(self) -> tuple[int, ...]:
        """Its processes, as the agent reads them."""
        return Tree(str(self.path)).walk()[0].pids

    def enter(self) -> None:
        """Move the calling process into it."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def start(self, *command: str, **options: object) -> "subprocess.Popen[bytes]":
        """Start a process that is in this cgroup before it executes the command."""
        return subprocess.Popen(command, preexec_fn=self.enter, **options)  # type: ignore[call-overload,no-any-return] # noqa: PLW1509

    def run(self, *command: str, **options: object) -> bytes:
        """Run a command in it to its successful end and return its standard output."""
        process = self.start(*command, stdout=subprocess.PIPE, **options)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, f"{command} ended with {process.returncode}"
        return output

    def destroy(self) -> None:
        """Kill what is in it and remove it."""
        for _ in range(200):
            for pid in (self.path / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                self.path.rmdir()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise AssertionError(f"{self.path} cannot be removed")


@contextmanager
def opened(collector: Collector) -> Iterator[Collector]:
    """Open a collector, close it at the end."""
    try:
        collector.open()
        yield collector
    finally:
        collector.close()


class Totals:
    """What a collector's rows say, through a real store: `numbers[cgroup id, metric name, labels]`, and histograms."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._store = Store(collector.tables, collector.wanted)
        self.numbers: dict[tuple[int, str, tuple[str, ...]], float] = defaultdict(int)
        self.histograms: dict[tuple[int, str, tuple[str, ...]], Histogram] = defaultdict(Histogram)

    def read(self, groups: Sequence[Group] = ()) -> "Totals":
        """Run one cycle of the collector."""
        self.add(self._collector.collect(groups))
        return self

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows."""
        for table in self._collector.tables:
            self._store.begin_cycle(table)
        for row in rows:
            self._store.put(row, Identity("", str(row.owner), ""))
        for _, at, metric, children in self._store.families():
            for series in children:
                key = (int(series.identity.pod), metric.name, series.labels)
                value = series.values[at]
                if isinstance(value, Histogram):
                    self.histograms[key] = value
                elif value is not None:
                    self.numbers[key] = value

    def number(self, cgroup: Cgroup, name: str, *labels: str) -> float:
        """A counter's total; 0 where nothing was seen."""
        return self.numbers.get((cgroup.id, name, labels), 0)

    def histogram(self, cgroup: Cgroup, name: str, *labels: str) -> Histogram:
        """A histogram's total; empty where nothing was seen."""
        return self.histograms.get((cgroup.id, name, labels), Histogram())


@contextmanager
def file_on_disk() -> Iterator[Path]:
    """A file in a file system that has a disk below it, so that its pages can be dropped from the cache."""
    path = Path(f"/var/tmp/kpod-test-{os.getpid()}")
    path.write_bytes(os.urandom(1 << 20) * 4)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    try:
        yield path
    finally:
        path.unlink()


def stop_point(process: "subprocess.Popen[bytes]") -> None:
    """Wait until a workload has stopped itself (raise(SIGSTOP)): a phase is over, and it makes no event until `go`."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"the workload ended with status {status:#x} instead of stopping"


def go(process: "subprocess.Popen[bytes]") -> None:
    """Let a stopped workload go on."""
    process.send_signal(signal.SIGCONT)


@contextmanager
def swapping_to(disk: str) -> Iterator[None]:
    """Have the machine swap to a disk."""
    subprocess.run(["mkswap", disk], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["swapon", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["swapoff", disk], check=True)


@contextmanager
def more_threads(number: int) -> Iterator[None]:
    """So many more tasks, that do nothing."""
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def switches(pid: int) -> int:
    """Times that a process left its CPU, as the kernel counts them."""
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)


def bpf_ids(kind: str) -> set[int]:
    """Ids of all BPF programs, maps or links ("prog", "map", "link") that the kernel has."""
    following = getattr(ctypes.CDLL("libbpf.so.1", use_errno=True), f"bpf_{kind}_get_next_id")
    found, at = set(), ctypes.c_uint32(0)
    while following(at, ctypes.byref(at)) == 0:
        found.add(at.value)
    return found


def machine_state(cgroup_root: str) -> dict[str, list[int] | list[str] | str]:
    """What a test run must leave as it found it."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        mounted = sorted(mounts)
    trees = [cgroup_root, "/sys/fs/cgroup/memory"]
    return {
        "BPF programs": sorted(bpf_ids("prog")),
        "BPF maps": sorted(bpf_ids("map")),
        "BPF links": sorted(bpf_ids("link")),
        "cgroups": sorted(str(path) for tree in trees for path in Path(tree).glob("kpod-*")),
        "network namespaces": sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else [],
        "network interfaces": sorted(os.listdir("/sys/class/net")),
        "mounts": mounted,
        "kernel.bpf_stats_enabled": Path("/proc/sys/kernel/bpf_stats_enabled").read_text(),
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(),
    }
