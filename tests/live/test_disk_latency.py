"""Latency of block I/O, against known numbers of requests on a real disk, and against the kernel's own books."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.collectors.disk_latency import OPERATIONS, DiskLatency
from kpod_metrics.collectors.kit import Environment
from tests.live.harness import Cgroup, Totals, opened, proves

LATENCY = "kpod_disk_io_latency_seconds"
READ, WRITE = OPERATIONS
Limited = Callable[..., Cgroup]


def ticks(disk: str) -> dict[str, int]:
    """Milliseconds that a disk's reads and writes took, by /proc/diskstats (fields 4 and 8 of iostats.rst)."""
    for line in Path("/proc/diskstats").read_text().splitlines():
        columns = line.split()
        if columns[2] == os.path.basename(disk):
            return {READ: int(columns[6]), WRITE: int(columns[10])}
    raise AssertionError(f"{disk} is not in /proc/diskstats")


@pytest.mark.parametrize("forced_off", [frozenset(), {"tp_btf"}, {"batch"}], ids=["newest", "raw", "key by key"])
@proves(LATENCY)
def test_every_request_once_for_who_made_it(limited: Limited, disk: str, forced_off: frozenset[str]) -> None:
    """N in A, M in B, none in C, in both directions, over two cycles. Their sum is what the kernel has for the disk."""
    a, b, c, warm = (limited(name) for name in ("a", "b", "c", "warm"))

    def make(owner: Cgroup, reads: int, writes: int) -> None:
        owner.run("dd", f"if={disk}", "of=/dev/null", "bs=4K", f"count={reads}", "iflag=direct", "status=none")
        owner.run("dd", "if=/dev/zero", f"of={disk}", "bs=16K", f"count={writes}", "oflag=direct", "status=none")

    make(warm, 1, 1)  # dd itself comes from a disk
    with opened(DiskLatency(Environment(forced_off=frozenset(forced_off)))) as collector:
        totals, before, began = Totals(collector).read(), ticks(disk), time.monotonic_ns()
        for cycle in (1, 2):
            for owner, reads, writes in ((a, 31, 12), (b, 7, 19)):
                make(owner, reads, writes)
                totals.read()
                assert totals.histogram(owner, LATENCY, READ).count == cycle * reads
                assert totals.histogram(owner, LATENCY, WRITE).count == cycle * writes
        wall, after = time.monotonic_ns() - began, ticks(disk)
        assert {totals.histogram(c, LATENCY, operation).count for operation in OPERATIONS} == {0}
        for operation, requests in ((READ, 2 * 38), (WRITE, 2 * 31)):
            took = sum(totals.histogram(owner, LATENCY, operation).sum_ns for owner in (a, b))
            # The kernel reads the clock for its statistics before or after the program, and shows whole milliseconds.
            assert abs(after[operation] - before[operation] - took / 1e6) <= 1 + 0.1 * requests
            assert 0 < took < wall


def test_writeback_is_charged_to_who_wrote(limited: Limited, on_disk: Path) -> None:
    """B has the file written that A dirtied: it submits the requests, and they complete in an interrupt of anything."""
    a, b = limited("a"), limited("b")
    file = on_disk.with_name("dirty")

    def write(pages: str, step: int) -> None:
        """Write one page after another, `step` pages apart: the kernel merges what is side by side."""
        dd = f"dd if=/dev/zero of={file} bs=4K count=1 conv=notrunc status=none"
        a.run("sh", "-c", f"for page in $(seq {pages}); do {dd} seek=$((page * {step})); done")

    try:
        # So that later the blocks are there, and so are the programs in memory.
        write("0 79", 1)
        b.run("sync", str(file))
        with opened(DiskLatency(Environment())) as collector:
            totals = Totals(collector).read()
            write("0 39", 2)
            b.run("sync", "--data", str(file))
            totals.read()
    finally:
        file.unlink()
    assert totals.histogram(a, LATENCY, WRITE).count == 40
    # The file system has B write what it keeps of the file, on some kernels.
    assert totals.histogram(b, LATENCY, WRITE).count <= 2


def test_without_the_controller_it_is_not_there() -> None:
    """A tree without it charges all block I/O to its root, or to cgroups of another hierarchy."""
    controllers = Path(find_root(), "cgroup.controllers").read_text().split()
    if "io" in controllers:
        pytest.skip("the cgroup2 tree has the io controller")
    with opened(DiskLatency(Environment(cgroup_root=find_root()))) as collector:
        [signal] = collector.open()
        assert (signal.hook, signal.absent) == ("", "there is no io controller in this cgroup v2 tree")
        assert list(collector.collect([])) == []
        assert collector.maps() == []
        collector.forget(lambda cgroup: True)
