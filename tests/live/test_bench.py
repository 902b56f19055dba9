"""Each part of the bench runs to its end, briefly, and leaves nothing behind. No figure is looked at."""

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


def test_page_keeps_what_was_not_measured_again(tmp_path: Path) -> None:
    from bench import report

    page = tmp_path / "page.md"
    report.write(page, ("sched", "tcp"), {"sched": "## sched: old\n", "tcp": "## tcp: old\n"})
    report.write(page, ("sched", "tcp"), {"sched": "## sched: new\n"})
    assert page.read_text().endswith("## sched: new\n\n## tcp: old\n")
    page.write_text(page.read_text().replace("Machine: ", "Machine: another, "))
    report.write(page, ("sched", "tcp"), {"sched": "## sched: new\n"})
    assert "tcp" not in page.read_text()


def test_a_missed_limit_is_said() -> None:
    from bench.report import Row, Sample

    met = Row("x", Sample([1, 2, 3], "ms"), limit=2).cells()
    assert met == ["", "x", "2.00 ms [1.00 - 3.00]", "", "2 ms: met"]
    missed = Row("x", Sample([6.0]), Sample([10.0]), "them", limit=0.5).cells()
    assert missed == ["0.600", "x", "6.00", "them: 10.0", "0.5: **missed**"]
    drowned = Row("x", Sample([6.0]), Sample([-1.0]), "them", limit=0.5).cells()
    assert drowned[0] == "noise"
    assert "not measured" in drowned[-1]


def test_what_an_emulator_counted_is_told() -> None:
    from bench import counted, emulated

    counts = {
        "nothing": {"programs": [0.0, 0.0], "runs": [0.0, 0.0], "all": [700.0, 720.0]},
        "ours": {"programs": [50.0, 50.0], "runs": [1.0, 1.0], "all": [800.0, 820.0]},
        "bpftrace": {"programs": [100.0, 100.0], "runs": [2.0, 2.0], "all": [1100.0, 1120.0]},
    }
    refused = {"bcc tcprtt": "no kprobes"}
    told = emulated.section({"counts": dict.fromkeys(counted.ASKED, counts), "refused": refused}, "text")
    rows = [row.cells()[:4] for row in told.rows if row.what.startswith("another syscall")]
    assert rows == [
        ["0.500", "another syscall: programs", "50.0 [50.0 - 50.0]", "bpftrace: 100 [100 - 100]"],
        ["0.250", "another syscall: everything", "100 [100 - 100]", "bpftrace: 400 [400 - 400]"],
    ]
    assert "Not measured: `bcc tcprtt`. Ends with: no kprobes" in told.notes


def test_plots_are_drawn_to_scale() -> None:
    from bench import plot

    names = {"svg": "http://www.w3.org/2000/svg"}
    bars = ElementTree.fromstring(plot.bars("a < b", [("pipe: ours", 50), ("pipe: theirs", 100)], "ours"))
    drawn = bars.findall("svg:rect", names)
    assert [float(bar.get("width", "")) for bar in drawn] == [190, 380]
    assert [bar.get("fill") for bar in drawn] == [plot.OURS, plot.OTHERS]
    lines = ElementTree.fromstring(plot.lines("title", "pods", {"ms": [(100, 20), (50, 10)]}))
    [line] = lines.findall("svg:polyline", names)
    assert line.get("points") == "320.0,150.0 580.0,30.0"
