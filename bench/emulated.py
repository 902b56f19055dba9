"""Instructions per event of the tools of the part "tools" and of kpod-metrics, counted by a virtual machine's clock.

All of them run there, whatever this machine's kernel has or has not: kprobes, headers.
"""

import shutil
from typing import Any

from bench.counted import ASKED, QUICK
from bench.plot import bars
from bench.report import Row, Sample, Section
from bench.rig import Options, SkippedError, less, say
from bench.tools import EACH, NOTHING, OURS, PACKAGES, QUESTIONS
from testkit.vm import image, machine
from testkit.vm.events import EVENTS
from testkit.vm.kernels import ARCHITECTURES, Kernel

KERNEL = Kernel("6.12", "trixie", r"linux-image-6\.12\.\d+\+deb13-cloud-amd64")
BUDGET = 1500
"""Seconds for the virtual machine."""

TEXT = """\
The tools of the part "tools", under Debian's kernel {kernel} with its headers and
kprobes ({versions}). The
emulator has one CPU whose clock counts executed instructions, one per nanosecond. So the figures do not depend on
caches, branch prediction, other load or the speed of this machine. On a real CPU an instruction does not take 1 ns.

Events: a byte through a pipe to another process and back, both on one CPU, without wakeup preemption (SCHED_BATCH,
unlike [Kernels](evidence-kernels.md#instructions-that-an-event-executes)); read, which kpod-metrics tracks; getppid,
which it does not track; a byte over loopback and back.
"Programs" is the kernel's own account (kernel.bpf_stats_enabled) of all programs of a tool and what they call. It does
not include what starts a program: the trap of a kprobe, or the record that a classic tracepoint prepares for perf.
"Everything" includes it: all instructions that the machine executes for an event, minus those with nothing attached.
"""

NOTE = """\
Where a ratio is above 1: bpftrace's program uses the cgroup of the task that runs when a segment arrives; kpod-metrics
uses the cgroup of the socket. "Everything" includes what the kernel does to call the program.
"""


def run(options: Options) -> Section:
    """Measure."""
    emulator = ARCHITECTURES[KERNEL.architecture].emulator[0]
    if shutil.which(emulator) is None:
        raise SkippedError(f"{emulator} is not installed")
    try:
        versions, booted = _prepared(options)
    except SystemExit as reason:
        # A failed download exits with a text, a signal with a number.
        if isinstance(reason.code, str):
            raise SkippedError(reason.code) from None
        raise
    say("emulated: a virtual machine, for minutes")
    outcome = machine.boot(booted, options.scratch / "console.log", BUDGET)
    if outcome.problem:
        said = outcome.console.read_text(errors="replace") if outcome.console.exists() else ""
        raise RuntimeError(f"{outcome.problem}; the console's end:\n{said[-4000:]}")
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return section(outcome.result, TEXT.format(kernel=booted.booted.version, versions=told))


def _prepared(options: Options) -> tuple[dict[str, str], machine.Machine]:
    """Fetch and build the disks; return the versions of the tools too."""
    booted = image.kernel(KERNEL)
    versions = image.newest(KERNEL.suite, KERNEL.architecture, PACKAGES)
    root = image.root(KERNEL.architecture, KERNEL.suite, versions, image.headers(booted))
    tree = image.tree(KERNEL.architecture, False, options.scratch, QUICK if options.quick else "")
    work = options.scratch / "machine"
    return versions, machine.Machine(booted, root, tree, work, "bench.counted", counts=True)


def section(result: dict[str, Any], text: str) -> Section:
    """Return the section with the counts of bench.counted."""
    made = Section("an event, with the tools for it, in instructions", text)
    made.raw.append(("event", "attached", "distinguishes", "programs", "runs of programs", "everything"))
    shown = []
    for event, short in ASKED.items():
        counts = result["counts"][event]
        tools = next(question.tools for question in QUESTIONS.values() if question.collector == EVENTS[event][0])
        apart = {NOTHING: "", OURS: EACH, **{name: what for name, (_, what) in tools.items()}}
        nothing = counts[NOTHING]["all"]
        programs = {name: Sample(counted["programs"]) for name, counted in counts.items()}
        over = {name: Sample(less(counted["all"], nothing)) for name, counted in counts.items()}
        for samples, what in ((programs, "programs"), (over, "everything")):
            for name in samples:
                if name in tools:
                    made.rows.append(Row(f"{event}: {what}", samples[OURS], samples[name], name))
        for name, counted in counts.items():
            runs = f"{Sample(counted['runs']).median:.1f}"
            cells = ("", "", str(Sample(nothing))) if name == NOTHING else (str(programs[name]), runs, str(over[name]))
            made.raw.append((event, name, apart[name], *cells))
            if name != NOTHING:
                shown.append((f"{short}: {name}", over[name].median))
    for name, reason in result["refused"].items():
        made.notes.append(f"Not measured: `{name}`. Ends with: {reason}")
    made.plots["emulated"] = bars("everything that an event executes over nothing attached, instructions", shown, OURS)
    made.notes.append(NOTE.strip())
    return made
