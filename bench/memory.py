"""Memory and start time of the real command, in its own process."""

import re
import time

from bench.report import Row, Sample, Section
from bench.rig import Options, Pods, RunningAgent, say

RESIDENT_MB, START_S, MAPS_MB = 50.0, 0.5, 20.0
"""Limits at standard with 100 pods."""
LIMITED_AT = 100
KUBERNETES_MB = {100: RESIDENT_MB, 250: None}
"""Limits at standard with so many pods, named by an API server."""

TEXT = """\
`kpod-metrics run` with {pods} pods, as in the part "cycle". Memory is from smaps_rollup after {cycles} cycles, with a
poll interval of 200 ms and one scrape per second. In the rows "kubernetes" the names of pods come from an API server (a
test server, over TLS with its own CA, with pods as a real server sends them). Start is from exec to the first page,
requested every 5 ms. Maps are kpod_bpf_map_memory_bytes: kernel memory outside of the process.
"""
NOTE = """\
Where the limit is missed: with Kubernetes the agent loads the libraries for a kubeconfig, TLS, HTTP and JSON, and keeps
the names of all pods.
"""


def run(options: Options) -> Section:
    """Measure."""
    cycles, starts = (5, 2) if options.quick else (30, 5)
    section = Section("memory and start", TEXT.format(pods=options.pods, cycles=cycles))
    limited = options.pods == LIMITED_AT
    with Pods(options, options.pods, own_namespaces=True):
        for profile in options.profiles:
            say(f"memory {profile}")
            bound = limited and profile == "standard"
            with RunningAgent("--profile", profile, "--poll-interval", "200ms") as agent:
                page = _after(agent, cycles)
                resident, proportional = agent.memory_mb()
            maps = [float(value) for value in re.findall(rb"(?m)^kpod_bpf_map_memory_bytes\S* (\S+)", page)]
            section.rows += [
                Row(f"{profile}: RSS", Sample([resident], "MB"), limit=RESIDENT_MB if bound else None),
                Row(f"{profile}: PSS", Sample([proportional], "MB")),
                Row(f"{profile}: BPF maps", Sample([sum(maps) / 1e6], "MB"), limit=MAPS_MB if bound else None),
            ]
            ready = []
            for _ in range(starts):
                with RunningAgent("--profile", profile) as agent:
                    ready.append(agent.ready_after)
            section.rows.append(
                Row(f"{profile}: start to first page", Sample(ready, "s"), limit=START_S if bound else None)
            )
    for pods in (options.pods,) if options.quick else KUBERNETES_MB:
        say(f"memory kubernetes, {pods} pods")
        with (
            Pods(options, pods, own_namespaces=True) as there,
            there.api_server(options) as arguments,
            RunningAgent("--profile", "standard", "--poll-interval", "200ms", *arguments) as agent,
        ):
            _after(agent, cycles)
            resident, proportional = agent.memory_mb()
        name = f"standard, kubernetes, {pods} pods"
        section.rows += [
            Row(f"{name}: RSS", Sample([resident], "MB"), limit=KUBERNETES_MB.get(pods)),
            Row(f"{name}: PSS", Sample([proportional], "MB")),
        ]
    section.notes.append(NOTE.strip())
    return section


def _after(agent: RunningAgent, cycles: int) -> bytes:
    """Scrape once per second until that many cycles are over; return the last page."""
    end = time.monotonic() + cycles * 0.2 * 1.2
    while True:
        page = agent.get("/metrics")
        if time.monotonic() > end:
            return page
        time.sleep(1)
