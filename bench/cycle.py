"""Cost of a cycle of the whole agent, with real cgroups with one process each."""

from pathlib import Path
from statistics import median

from bench.report import Row, Sample, Section
from bench.rig import Options, Pods, probe, say
from kpod_metrics.cgroup.tree import find_root

CPU_MS, OUTSIDE_MS = 20.0, 10.0
"""Limits at standard with 100 pods."""
LIMITED_AT = 100
ROUNDS = 3
MORE_PODS, MORE_CPU_MS = 250, 60.0
"""Number of pods for comprehensive, and its limit."""

TEXT = """\
{pods} pods with one container each (other numbers are in the row), in cgroups laid out as by the kubelet. Each has one
process that sleeps and makes three short system calls ten times a second, and its own mount and network namespaces
(unless the row says otherwise). A cycle walks the cgroups, reads, adds up, renders and compresses. CPU time is of all
threads, with 0.1 s between two cycles. "In file reads" is the CPU time inside the calls that open, read, list and stat
files. It is measured in a second agent whose calls are wrapped, without the wrapper's own time; the two agents run
alternately, {rounds} times each. "Outside" is the time of a cycle minus the median in file reads of the same round. An
audit hook counts the opened files.
"""


NOTE = """\
The cgroup v2 tree of this machine does not have the controllers {missing}, so the files that memory and disk read
({files}) do not exist. Where they exist, a cycle reads {count} more files per
container. One file call took {each:.1f} us here, so this would add {more:.1f} ms with {pods} pods and
{most:.1f} ms with {most_pods}; memory.stat takes longer than most files.
"""
FILES = {
    "memory": ("memory.current", "memory.peak", "memory.stat", "memory.max"),
    "io": ("io.stat",),
}
"""Files of each container, by their controller."""


def run(options: Options) -> Section:
    """Measure."""
    section = Section("the agent's work", TEXT.format(pods=options.pods, rounds=ROUNDS))
    section.raw.append(("profile", "series", "collectors", "kernel's share of CPU time", "calls for files"))
    with Pods(options, options.pods, own_namespaces=True):
        for profile in ("minimal", "standard", "comprehensive"):
            each_us = _measure(options, section, profile, profile)
    with Pods(options, options.pods, own_namespaces=False):
        _measure(options, section, "standard", "standard, host's namespaces")
    if not options.quick:
        with Pods(options, MORE_PODS, own_namespaces=True):
            _measure(options, section, "comprehensive", f"comprehensive, {MORE_PODS} pods", MORE_PODS)
    if missing := FILES.keys() - Path(find_root(), "cgroup.controllers").read_text().split():
        absent = [file for controller in sorted(missing) for file in FILES[controller]]
        note = NOTE.format(
            missing=" and ".join(sorted(missing)),
            files=", ".join(absent),
            count=len(absent),
            each=each_us,
            more=len(absent) * options.pods * each_us / 1e3,
            pods=options.pods,
            most=len(absent) * MORE_PODS * each_us / 1e3,
            most_pods=MORE_PODS,
        )
        section.notes.append(note.strip())
    return section


def _measure(options: Options, section: Section, profile: str, name: str, more: int = 0) -> float:
    """Add the rows of a profile; return the time of a file call, in us."""
    say(f"cycle {name}")
    cycles = str(3 if options.quick else 20)
    cpu, inside, outside, wall, shares, calls = [], [], [], [], [], []
    for _ in range(options.rounds(ROUNDS)):
        found = probe("cycle", "--profile", profile, "--cycles", cycles)
        reads = probe("inside", "--profile", profile, "--cycles", cycles)
        cpu += found["cpu_ms"]
        wall += found["wall_ms"]
        inside += reads["inside_ms"]
        calls += reads["calls"]
        outside += [spent - median(reads["inside_ms"]) for spent in found["cpu_ms"]]
        shares.append(found["system_share"])
    opens = probe("opens", "--profile", profile, "--cycles", "3")["opens"]
    limited = profile == "standard" and options.pods == LIMITED_AT
    limit = MORE_CPU_MS if more else CPU_MS if limited else None
    section.rows += [
        Row(f"{name}: CPU time of a cycle", Sample(cpu, "ms"), limit=limit),
        Row(f"{name}: of it in file reads", Sample(inside, "ms")),
        Row(
            f"{name}: of it outside file reads",
            Sample(outside, "ms"),
            limit=OUTSIDE_MS if limited else None,
        ),
        Row(f"{name}: wall time of a cycle", Sample(wall, "ms")),
        Row(f"{name}: opens a container", Sample([count / (more or options.pods) for count in opens])),
    ]
    section.raw.append(
        (
            name,
            str(found["series"]),
            ", ".join(found["collectors"]),
            f"{median(shares):.0%}",
            str(Sample(calls)),
        )
    )
    each_us: float = median(inside) / median(calls) * 1e3
    return each_us
