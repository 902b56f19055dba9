"""Each part of the bench runs to its end, briefly, and leaves nothing behind. The figures are not checked."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kpod_metrics.features import SOCKET_ITERATOR
from tests.forced import lacking

ROOT = Path(__file__).parents[2]
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
PARTS = ("syscall", "tcp")
LONG_PARTS = ("sched", "cycle", "scrape", "memory", "tools", "emulated", "exporters", "growth", "fleet")
"""Many agents, other people's programs and many pods: minutes, in `make test-long` only."""

SECONDS = {"tools": 400, "emulated": 600}
"""For parts that take longer than others: what they need is built, or fetched, the first time."""

LONG = os.environ.get("LONG") == "1"

pytestmark = pytest.mark.slow


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench", "--quick", *arguments]


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(part, marks=pytest.mark.timeout(SECONDS.get(part, 110) + 10))
        for part in (*PARTS, *(LONG_PARTS if LONG else ()))
    ],
)
def test_part_runs(part: str, cgroup_root: str, tmp_path: Path) -> None:
    before = STATISTICS.read_text()
    page = tmp_path / "page.md"
    bench = subprocess.Popen(command("--output", str(page), part), cwd=ROOT)
    assert bench.wait(SECONDS.get(part, 110)) == 0
    text = page.read_text()
    assert "Machine: Linux" in text
    assert f"\n## {part}: " in text
    if "Not measured: " in text:
        pytest.skip(text.partition("Not measured: ")[2].splitlines()[0])
    assert "\n| ratio | what | ours | peer | limit |\n" in text
    assert not (Path(cgroup_root) / f"kpod-bench-{bench.pid}").exists()
    assert STATISTICS.read_text() == before
    if part == "tools" and shutil.which("runqlat"):
        assert "\n| pipe | libbpf-tools runqlat | " in text
    if part == "tools" and "Not measured here: `ebpf_exporter`" not in text:
        for workload in ("pipe", "read", "TCP exchange"):
            assert f"\n| {workload} | ebpf_exporter, a config of ours | " in text
    if part == "tcp":
        assert "| exchange, by hooks: wall time of one | " in text
        refused = lacking(SOCKET_ITERATOR)
        assert ("exchange, by iterator: wall time of one" in text) == (not refused)
        assert ("a look at a socket that is quiet" in text) == (not refused)
        assert ("Not measured here: TCP by iterator." in text) == bool(refused)
    if part == "emulated":
        assert "\n| another syscall | libbpf-tools syscount -L | " in text
    for plot in re.findall(r"\(performance/(.+)\)", text):
        ElementTree.parse(tmp_path / "performance" / plot)


def test_interrupted_bench_removes_its_cgroups(cgroup_root: str) -> None:
    bench = subprocess.Popen(command("cycle"), cwd=ROOT)
    made = Path(cgroup_root) / f"kpod-bench-{bench.pid}"
    end = time.monotonic() + 20
    while not made.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert made.exists()
    bench.send_signal(signal.SIGTERM)
    assert bench.wait(20) == 1
    assert not made.exists()
