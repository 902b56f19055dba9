"""Cost of an event with other tools (libbpf-tools, bcc, bpftrace, ebpf_exporter) and with kpod-metrics."""

from dataclasses import dataclass, replace

from bench import ebpf_exporter
from bench.plot import bars
from bench.report import Row, Sample, Section
from bench.rig import (
    Measured,
    Options,
    Shipped,
    SkippedError,
    Tool,
    Variant,
    attached,
    compile_workload,
    less,
    measure,
    mount_tracefs,
    package_version,
    say,
)

OURS, NOTHING = "ours", "nothing"
PACKAGES = ("libbpf-tools", "bpfcc-tools", "bpftrace")

RUNQLAT = """
tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @start[args->pid] = nsecs; }
tracepoint:sched:sched_switch {
    if (args->prev_state == 0) { @start[args->prev_pid] = nsecs; }
    $since = @start[args->next_pid];
    if ($since) {
        @us[cgroup] = hist((nsecs - $since) / 1000);
        delete(@start[args->next_pid]);
    }
}
"""
SYSCOUNT = """
tracepoint:raw_syscalls:sys_enter { @start[tid] = nsecs; }
tracepoint:raw_syscalls:sys_exit /@start[tid]/ {
    @us[cgroup, args->id] = hist((nsecs - @start[tid]) / 1000);
    delete(@start[tid]);
}
"""
TCPRTT = "tracepoint:tcp:tcp_probe { @us[cgroup] = hist(args->srtt); }"
EBPF_EXPORTER = "ebpf_exporter, a config of ours"
MACHINE, EACH = "one histogram of the machine", "a histogram for each cgroup"
CALLS = "a histogram for each cgroup and call"


@dataclass(frozen=True)
class Question:
    """A question, the collector that answers it, and the commands of other tools."""

    collector: str
    tools: dict[str, tuple[list[str], str]]
    """By name: the command, and what it distinguishes."""
    configs: dict[str, tuple[str, str]]
    """By name: the configuration of ebpf_exporter, one of its examples or ours, and what it distinguishes."""


QUESTIONS = {
    "sched": Question(
        "run_queue",
        {
            "libbpf-tools runqlat": (["runqlat"], MACHINE),
            "libbpf-tools runqlat --pidnss": (["runqlat", "--pidnss"], "a histogram for each PID namespace"),
            "bcc runqlat": (["runqlat-bpfcc"], MACHINE),
            "bcc runqlat --pidnss": (["runqlat-bpfcc", "--pidnss"], "a histogram for each PID namespace"),
            "bpftrace": (["bpftrace", "-e", RUNQLAT], f"{EACH}, of the task that leaves the CPU"),
        },
        {EBPF_EXPORTER: ("exporter_sched", EACH)},
    ),
    "syscall": Question(
        "syscall",
        {
            "libbpf-tools syscount -L": (["syscount", "-L"], "count and time of each call, of the machine"),
            "bcc syscount -L": (["syscount-bpfcc", "-L"], "count and time of each call, of the machine"),
            "bpftrace": (["bpftrace", "-e", SYSCOUNT], CALLS),
        },
        {
            "ebpf_exporter syscalls": ("syscalls", "count of each call and of each error, of the machine"),
            EBPF_EXPORTER: ("exporter_syscall", CALLS),
        },
    ),
    "tcp": Question(
        "net_tcp",
        {
            "libbpf-tools tcprtt": (["tcprtt"], MACHINE),
            "bcc tcprtt": (["tcprtt-bpfcc"], MACHINE),
            "bpftrace": (["bpftrace", "-e", TCPRTT], f"{EACH}, of the task on the CPU"),
        },
        {EBPF_EXPORTER: ("exporter_tcp", EACH)},
    ),
}

TEXT = """\
Other tools, started as a user starts them, for the same questions ({versions}): run-queue latency
(`perf bench sched pipe` on one CPU, an operation is a message there and back; `perf bench sched messaging` on all CPUs,
an operation is one message), system calls (a loop of read(-1), which kpod-metrics tracks, and of getppid, which it does
not track), and TCP round-trip times (64 bytes there and back over loopback). kpod-metrics also has bytes, retransmits
and connections; it reads them once per cycle (part "tcp"), which is not in these figures.
If a tool can distinguish containers, it is measured in that mode too. Of ebpf_exporter's own examples only `syscalls`
answers one of these questions, so it also runs configurations written for this comparison
(`bench/bpf/exporter_*.bpf.c`) with the helpers of its examples: start times by thread in one hash map, histogram
buckets by cgroup in another. BPF time is the kernel's own account (kernel.bpf_stats_enabled) of all programs of a tool
per operation, with the cost of the hooks. Wall time is measured without it, minus that with nothing attached. Resident
is the memory of the tool's process after its start (for kpod-metrics: part "exporters").
"""


NOTE = """\
Where a ratio is above 1: ebpf_exporter's `syscalls` counts the calls of the whole machine, without durations and
cgroups.
"""


def run(options: Options) -> Section:
    """Measure."""
    mount_tracefs()
    refused: dict[str, str] = {}
    versions = {name: package_version(name) for name in PACKAGES}
    questions = QUESTIONS
    try:
        exporter = ebpf_exporter.built()
        questions = {name: _put_to(exporter, options, question) for name, question in QUESTIONS.items()}
        versions[exporter.program.name] = exporter.version
    except SkippedError as error:
        refused["ebpf_exporter"] = str(error)
    text = TEXT.format(versions=", ".join(f"{name} {version}" for name, version in versions.items()))
    section = Section("an event, with the tools for it", text)
    section.raw.append(("workload", "attached", "distinguishes", "BPF time", "wall time", "resident"))
    loops, calls, exchanges = (10_000, 200_000, 2_000) if options.quick else (100_000, 1_000_000, 20_000)
    groups, messages = (2, 20) if options.quick else (10, 100)
    loop, perf = compile_workload(options, "loop"), ["perf", "bench", "-f", "simple", "sched"]
    # Workloads by question: command, operations per run, nanoseconds per printed unit, whether on one CPU.
    workloads: dict[str, tuple[str, list[str], int, float, bool]] = {
        "pipe": ("sched", [*perf, "pipe", "-l", str(loops)], loops, 1e9 / loops, True),
        "messaging": (
            "sched",
            [*perf, "messaging", "-g", str(groups), "-l", str(messages)],
            groups * 400 * messages,
            1e9 / (groups * 400 * messages),
            False,
        ),
        "read": ("syscall", [loop, "read", str(calls)], calls, 1, True),
        "getppid": ("syscall", [loop, "getppid", str(calls)], calls, 1, True),
        "TCP exchange": (
            "tcp",
            [compile_workload(options, "tcp"), "rr", str(exchanges)],
            exchanges,
            1,
            True,
        ),
    }
    working = {name: _working(question, refused) for name, question in questions.items()}
    shown = []
    for name in ("messaging", "getppid") if options.quick else ():
        del workloads[name]
    for name, (question, command, operations, unit, pin) in workloads.items():
        say(f"tools {name}")
        variants = {NOTHING: Variant(), OURS: Shipped(questions[question].collector), **working[question]}
        results = measure(variants, command, operations=1, rounds=options.rounds(5), unit_ns=unit, pin=pin)
        section.rows += _rows(name, results, operations)
        for variant, measured in results.items():
            bpf = Sample(measured.per_operation(operations), "ns")
            tool = variants[variant]
            section.raw.append(
                (
                    name,
                    variant,
                    questions[question].tools[variant][1]
                    if isinstance(tool, Tool)
                    else EACH
                    if variant == OURS
                    else "",
                    str(bpf) if any(bpf.values) else "",
                    str(Sample(measured.wall_ns, "ns")),
                    f"{tool.resident_mb:.0f} MB" if isinstance(tool, Tool) else "",
                )
            )
            if variant != NOTHING:
                shown.append((f"{name}: {variant}", bpf.median))
    for reason in dict.fromkeys(refused.values()):
        names = ", ".join(f"`{name}`" for name, said in refused.items() if said == reason)
        section.notes.append(f'Not measured here: {names}. Ends with: {reason}. On another kernel: part "emulated".')
    section.plots["tools"] = bars("BPF time an operation, ns", shown, OURS)
    section.notes.append(NOTE.strip())
    return section


def _put_to(exporter: ebpf_exporter.Exporter, options: Options, question: Question) -> Question:
    """Return the question with the exporter among its tools."""
    theirs = {name: (exporter.command(options, config), what) for name, (config, what) in question.configs.items()}
    return replace(question, tools=question.tools | theirs)


def _working(question: Question, refused: dict[str, str]) -> dict[str, Variant]:
    """Return the tools that start here; `refused` gets the last output of the others."""
    found: dict[str, Variant] = {}
    for name, (command, _) in question.tools.items():
        tool = Tool(command)
        try:
            with attached(tool):
                found[name] = tool
        except SkippedError as reason:
            shared = name in {"bpftrace", EBPF_EXPORTER}
            refused.setdefault(f"{name}, {question.collector}" if shared else name, str(reason))
    return found


def _rows(workload: str, results: dict[str, Measured], operations: int) -> list[Row]:
    rows = []
    bpf = {name: measured.per_operation(operations) for name, measured in results.items()}
    wall = {name: less(measured.wall_ns, results[NOTHING].wall_ns) for name, measured in results.items()}
    for values, what in ((bpf, "BPF time"), (wall, "wall time over nothing attached,")):
        for name in results:
            if name not in {OURS, NOTHING}:
                peer = Sample(values[name], "ns")
                rows.append(Row(f"{workload}: {what} an operation", Sample(values[OURS], "ns"), peer, name))
    return rows
