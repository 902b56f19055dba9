"""Growth of the cost with the pods, the events per second, and the size of the maps."""

import os
import re
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression, median

from bench.plot import lines
from bench.report import Row, Sample, Section, short
from bench.rig import Options, Pods, RunningAgent, Shipped, Whole, attached, compile_workload, probe, say, statistics
from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.kernel.libbpf import possible_cpus
from kpod_metrics.kernel.maps import map_entries

PODS = (10, 100, 250, 1000, 2500, 5000)
CPUS = (2, 16, 64, 256)
PER_CPU = {5, 6, 10}
"""Types of per-CPU maps: hash, array, LRU hash (enum bpf_map_type, uapi/linux/bpf.h)."""
ROOM = ("--series-limit-total", "1000000")
LIMITED = "at the default limit"
RATES = (1_000, 10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000)
"""Requested tracked calls per second; one CPU cannot make as many as the last ones."""
ENTRIES = (10_240, 40_960, 163_840)

TEXT = """\
Pods as in the part "cycle", at profile standard: CPU time of a cycle, and memory and page of `kpod-metrics run` after
some cycles, with room for all series (`series_limit_total` 1,000,000). "A pod" is the slope of the line fitted to all
sizes. From the second largest size to the largest, it is the same if growth is even, and higher if it is not. A test
shows that system calls and opened files grow evenly (`tests/live/test_budget.py`). The rest of the growth is memory
that no longer fits into the CPU's caches, and, where descriptors run out (here {files} may be open), files that are
opened in each cycle. In addition, {sizes} pods wake up so often that they interrupt the agent's work: the rows
"stopped" are of the same pods while they are stopped. "Outside file reads" is the difference of two runs, and less
accurate for larger numbers. The row "at the default limit" (200,000 series of all pods) is not part of the fit: the
other series are not on the page, and are counted.

Events: one process on one CPU calls read(-1), which the collector "syscall" tracks, at a given rate (the last rates are
as fast as it can). The time of the two programs is the kernel's own account, whose statistics have a cost too.
"Counted" is the share of the calls that the collector read.

CPUs: calculated from the maps of this machine. Per-CPU memory (buffers, counters of failed updates) is multiplied by
the number of CPUs, and metric maps have the capacity that the agent would choose, because the kernel reserves free
entries for each CPU. In addition an agent has one perf event per CPU, and makes one call per CPU when it starts. Only
two CPUs show how long CPUs wait for each other's counters (part "sched", messaging).
"""


def run(options: Options) -> Section:
    """Measure."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    sizes = (5, 10, 20) if options.quick else tuple(sorted({*PODS, options.pods}))
    section = Section("growth", TEXT.format(files=files, sizes=f"{sizes[-2]:,} and {sizes[-1]:,}"))
    _with_pods(section, options, sizes)
    _with_events(section, options)
    _with_entries(section, options)
    _with_cpus(section, options)
    return section


def _with_pods(section: Section, options: Options, sizes: Sequence[int]) -> None:
    section.raw.append(("what", "CPU time of a cycle", "RSS", "BPF maps", "page, gzip", "series"))
    cpu, outside, memory, page = {}, {}, {}, {}
    for pods in sizes:
        with Pods(options, pods, own_namespaces=True) as there:
            say(f"growth {pods} pods")
            cpu[pods], outside[pods], memory[pods], page[pods] = _of_pods(section, options, pods, f"{pods} pods", *ROOM)
            if pods in sizes[-2:]:
                there.stop()
                _of_pods(section, options, pods, f"{pods} pods, stopped", *ROOM)
                there.go_on()
            if pods == sizes[-1]:
                _of_pods(section, options, pods, f"{pods} pods, {LIMITED}")
    for what, unit, figures, scale in (
        ("CPU time of a cycle", "us", cpu, 1e3),
        ("CPU time of a cycle outside file reads", "us", outside, 1e3),
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


def _of_pods(section: Section, options: Options, pods: int, what: str, *more: str) -> tuple[float, ...]:
    """Add a row for these pods; return CPU time, time outside file reads (ms), RSS (MB) and page size (kB)."""
    cycles = str(3 if options.quick else 10 if pods >= 1000 else 20)
    found = probe("cycle", "--profile", "standard", "--cycles", cycles, *more)
    inside = probe("inside", "--profile", "standard", "--cycles", cycles, *more)
    with RunningAgent("--profile", "standard", "--poll-interval", "500ms", *more) as agent:
        for _ in range(3 if options.quick else 8):
            time.sleep(1)
            body = agent.ask({"Accept": "text/plain", "Accept-Encoding": "gzip"}).body
        plain = agent.get("/metrics")
        memory = agent.memory_mb()[0]
    sample = Sample(found["cpu_ms"], "ms")
    outside, page = sample.median - median(inside["inside_ms"]), len(body) / 1e3
    section.raw.append(
        (
            what,
            f"{sample}, outside file reads {outside:.1f}",
            f"{memory:.1f} MB",
            f"{_maps_mb(plain):.1f} MB",
            f"{page:.1f} kB",
            str(found["series"]),
        )
    )
    return sample.median, outside, memory, page


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
                # The process made some dozen other calls before.
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


def _with_cpus(section: Section, options: Options) -> None:
    here = possible_cpus()
    for profile in options.profiles:
        whole = Whole(profile)
        with attached(whole):
            found = [
                (map_, bpf.readers)
                for collector in whole.collectors
                if (bpf := collector._loaded) is not None
                for map_ in bpf.object.maps.values()
                if map_.created and collector.environment.containers.is_counted_with(map_)
            ]
            for cpus in CPUS:
                sizes = {"per CPU": 0.0, "metric": 0.0, "other": 0.0}
                for map_, readers in found:
                    memory = map_.memory_bytes() or 0
                    if map_.type in PER_CPU:
                        sizes["per CPU"] += memory * cpus / here
                    elif map_.name in readers:
                        sizes["metric"] += memory * map_entries(cpus) / map_.max_entries
                    else:
                        sizes["other"] += memory
                told = ", ".join(f"{what} {size / 1e6:.2f}" for what, size in sizes.items())
                maps = f"{sum(sizes.values()) / 1e6:.1f} MB ({told})"
                section.raw.append((f"{cpus} CPUs, on paper, {profile}", "", "", maps, "", ""))
