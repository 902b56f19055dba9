"""What the agent holds and how fast it is there: the real command, in a process of its own."""

import re
import time

from bench.report import Row, Sample, Section
from bench.rig import Options, Pods, RunningAgent, say

RESIDENT_MB, START_S, MAPS_MB = 60.0, 1.0, 20.0
"""Limits at standard with 100 pods."""
LIMITED_AT = 100
IMAGE = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}

TEXT = """\
`kpod-metrics run` with {pods} pods, as in the part before. Memory is read from smaps_rollup after {cycles} cycles at a
poll interval of 200 ms with a scrape a second; "tuned" is with MALLOC_ARENA_MAX=1 and trim and mmap thresholds of
64 KiB in the environment. Start is from exec to the first page served, asked for every 5 ms. Maps are
kpod_bpf_map_memory_bytes, kernel memory that is not in the process.
"""


def run(options: Options) -> Section:
    """Measure."""
    cycles, starts = (5, 2) if options.quick else (30, 5)
    section = Section("memory and start", TEXT.format(pods=options.pods, cycles=cycles))
    limited = options.pods == LIMITED_AT
    with Pods(options, options.pods, own_namespaces=True):
        runs: list[tuple[str, str, dict[str, str]]] = [(profile, profile, {}) for profile in options.profiles]
        for profile, name, environment in [*runs, ("standard", "standard, tuned", IMAGE)]:
            say(f"memory {name}")
            bound = limited and name == "standard"
            with RunningAgent("--profile", profile, "--poll-interval", "200ms", environment=environment) as agent:
                page = _after(agent, cycles)
                resident, proportional = agent.memory_mb()
            maps = [float(value) for value in re.findall(rb"(?m)^kpod_bpf_map_memory_bytes\S* (\S+)", page)]
            section.rows += [
                Row(f"{name}: RSS", Sample([resident], "MB"), limit=RESIDENT_MB if bound else None),
                Row(f"{name}: PSS", Sample([proportional], "MB")),
            ]
            if environment:
                continue
            section.rows.append(
                Row(f"{name}: BPF maps", Sample([sum(maps) / 1e6], "MB"), limit=MAPS_MB if bound else None)
            )
            ready = []
            for _ in range(starts):
                with RunningAgent("--profile", profile) as agent:
                    ready.append(agent.ready_after)
            section.rows.append(
                Row(f"{name}: start to first page", Sample(ready, "s"), limit=START_S if bound else None)
            )
    return section


def _after(agent: RunningAgent, cycles: int) -> bytes:
    """Scrape once a second until that many cycles must be over; return the last page."""
    end = time.monotonic() + cycles * 0.2 * 1.2
    while True:
        page = agent.get("/metrics")
        if time.monotonic() > end:
            return page
        time.sleep(1)
