"""How cost grows: with the pods, with the events a second, and with the size of the maps."""

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression

from bench.plot import lines
from bench.report import Row, Sample, Section, short
from bench.rig import Options, Pods, RunningAgent, Shipped, attached, compile_workload, probe, say, statistics
from kpod_metrics.cgroup.tree import find_root

PODS = (10, 100, 250, 1000, 5000)
RATES = (1_000, 10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000)
"""Tracked calls a second that are asked for; the last are more than one CPU makes."""
ENTRIES = (10_240, 40_960, 163_840)

TEXT = """\
Pods as in the part "cycle", at standard: CPU time of a cycle, and memory and page of `kpod-metrics run` after some
cycles. "A pod" is the slope of the line fitted to all sizes; from the last size but one to the last it is the same
where growth is even, and more where it is not. `--pods N` adds a size. That calls and opened files grow evenly is a
test (`tests/live/test_budget.py`).

Events: read(-1), tracked by the collector "syscall", by one process on one CPU at a rate asked for (the last rates are
as fast as it can). The programs' time is the kernel's own account, both of them, and statistics cost as well. "Counted"
is what the collector read of what was made.
"""


def run(options: Options) -> Section:
    """Measure."""
    section = Section("growth", TEXT)
    sizes = (5, 10, 20) if options.quick else tuple(sorted({*PODS, options.pods}))
    _with_pods(section, options, sizes)
    _with_events(section, options)
    _with_entries(section, options)
    return section


def _with_pods(section: Section, options: Options, sizes: Sequence[int]) -> None:
    section.raw.append(("what", "CPU time of a cycle", "RSS", "BPF maps", "page, gzip", "series"))
    cpu, memory, page = {}, {}, {}
    for pods in sizes:
        say(f"growth {pods} pods")
        with Pods(options, pods, own_namespaces=True):
            cycles = 3 if options.quick else 10 if pods >= 1000 else 20
            found = probe("cycle", "--profile", "standard", "--cycles", str(cycles))
            with RunningAgent("--profile", "standard", "--poll-interval", "500ms") as agent:
                for _ in range(3 if options.quick else 8):
                    time.sleep(1)
                    body = agent.ask({"Accept": "text/plain", "Accept-Encoding": "gzip"}).body
                plain = agent.get("/metrics")
                memory[pods] = agent.memory_mb()[0]
        sample = Sample(found["cpu_ms"], "ms")
        cpu[pods], page[pods] = sample.median, len(body) / 1e3
        section.raw.append(
            (
                f"{pods} pods",
                str(sample),
                f"{memory[pods]:.1f} MB",
                f"{_maps_mb(plain):.1f} MB",
                f"{page[pods]:.1f} kB",
                str(found["series"]),
            )
        )
    for what, unit, figures, scale in (
        ("CPU time of a cycle", "us", cpu, 1e3),
        ("resident memory", "kB", memory, 1e3),
        ("page, gzip", "B", page, 1e3),
    ):
        fit = linear_regression(list(figures), list(figures.values()))
        *_, before, last = sizes
        slope = (figures[last] - figures[before]) / (last - before)
        section.rows.append(Row(f"{what}: a pod", Sample([fit.slope * scale], unit)))
        section.rows.append(Row(f"{what}: a pod, from {before} to {last}", Sample([slope * scale], unit)))
    points = {"CPU time, ms": sorted(cpu.items()), "RSS, MB": sorted(memory.items()), "page, kB": sorted(page.items())}
    section.plots["growth"] = lines("Growth with the pods, at standard", "pods", points)


def _maps_mb(page: bytes) -> float:
    return sum(float(value) for value in re.findall(rb"(?m)^kpod_bpf_map_memory_bytes\S* (\S+)", page)) / 1e6


def _with_events(section: Section, options: Options) -> None:
    loop, seconds = compile_workload(options, "loop"), 1 if options.quick else 5
    folder = Path(find_root()) / f"kpod-bench-{os.getpid()}"
    spent: dict[float, float] = {}
    for rate in RATES[::3] if options.quick else RATES:
        say(f"growth {rate} events a second")
        ours = Shipped("syscall")
        folder.mkdir()
        try:
            with attached(ours), statistics(True):
                owner, before = folder.stat().st_ino, ours.read()
                command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(folder), loop, "paced"]
                done = subprocess.run(
                    [*command, str(rate * seconds), str(seconds)], capture_output=True, text=True, check=True
                )
                after = ours.read()
                # Of the process: what it did before its calls is some dozen.
                reads = [row.values[0] for row in ours.collect() if row.owner == owner and row.labels == ("read",)]
                counted = sum(value for value in reads if isinstance(value, int))
        finally:
            folder.rmdir()
        took, made = float(done.stdout), rate * seconds
        used = sum(after[name].nanoseconds - before[name].nanoseconds for name in before) / 1e9
        spent[made / took] = used / took * 100
        section.raw.append(
            (
                f"{short(rate)} events a second asked for",
                f"{used / took:.2%} of a CPU in our programs",
                f"{short(made / took)} a second made",
                f"counted {counted / made:.3%}",
                f"{used / made * 1e9:.0f} ns each",
                "",
            )
        )
    section.plots["events"] = lines(
        "Programs' share of a CPU, %", "events a second", {"syscall": sorted(spent.items())}
    )


def _with_entries(section: Section, options: Options) -> None:
    for entries in ENTRIES[:1] if options.quick else ENTRIES:
        for profile in options.profiles:
            say(f"growth {entries} entries, {profile}")
            with RunningAgent("--profile", profile, "--bpf-map-entries", str(entries)) as agent:
                maps = _maps_mb(agent.get("/metrics"))
            section.raw.append((f"maps of {short(entries)} entries, {profile}", "", "", f"{maps:.1f} MB", "", ""))
