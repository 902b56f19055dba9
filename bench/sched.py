"""Cost of a context switch: nothing attached, empty programs, the article's design, kpod-metrics."""

import shutil
from operator import truediv

from bench.report import Row, Sample, Section
from bench.rig import (
    Measured,
    Options,
    Programs,
    Shipped,
    SkippedError,
    Variant,
    Whole,
    compile_empty,
    compile_program,
    less,
    measure,
    mount_tracefs,
    say,
)

LIMIT, NET_NS = 0.4, 170
"""Limits of the collector: the ratio to the article's design, and the time above empty programs per switch."""
WALL = 1.15
"""Limit of all programs of standard: the ratio of a pipe operation to one with nothing attached in the round."""
ROUNDS = 9
"""Rounds of "messaging". "pipe" has three times as many, each a third as long, as its value is near the limit."""
CLASSIC = ["tp/sched/sched_wakeup", "tp/sched/sched_switch"]
BTF = ["tp_btf/sched_wakeup", "tp_btf/sched_switch"]
PEERS = {"article": "empty, article's hooks", "article on tp_btf": "empty, article's hooks as tp_btf"}
OURS, EMPTY = "ours", "empty, our hooks"

TEXT = """\
`perf bench sched pipe` on one CPU (an operation is a message there and back) and `perf bench sched messaging` on all
CPUs (an operation is one message). BPF time is the kernel's own account (kernel.bpf_stats_enabled) per context switch.
Wall time is measured in other runs, without it. "Net" is minus the time of empty programs on the same hooks in the same
round: the cost of the programs without that of the hooks. "In a round" is a ratio computed for each round, so that it
does not contain the changes in the machine's speed between rounds. The peer "article" is a design with a timestamp per
wakeup in a hash map (`bench/bpf/article_sched.bpf.c`): once on classic tracepoints, and once on tp_btf as kpod-metrics.
The last rows have all programs of a profile (comprehensive also tracks the reads and writes of the pipe itself).
"""
NOTE = """\
Where a limit is missed: in "messaging" hundreds of tasks take turns, and the state, cgroup and wait of each are no
longer in the CPU's caches when the program needs them. The article's programs also take twice as long as in "pipe".
"""


def run(options: Options) -> Section:
    """Measure."""
    if shutil.which("perf") is None:
        raise SkippedError("perf is missing; Debian: apt-get install linux-perf")
    mount_tracefs()
    article = compile_program(options, "article_sched")
    ours = Shipped("run_queue")
    variants: dict[str, Variant] = {
        "nothing": Variant(),
        PEERS["article"]: Programs(compile_empty(options, CLASSIC), CLASSIC),
        PEERS["article on tp_btf"]: Programs(compile_empty(options, BTF), BTF),
        EMPTY: Programs(compile_empty(options, hooks := ours.hooks()), hooks),
        "article": Programs(article, CLASSIC),
        "article on tp_btf": Programs(article, BTF),
        OURS: ours,
        **{profile: Whole(profile) for profile in options.profiles},
    }
    section = Section("a context switch", TEXT)
    section.raw.append(("workload", "attached", "BPF time a switch", "wall time an operation"))
    loops, (groups, messages) = (20_000, (2, 20)) if options.quick else (70_000, (10, 100))
    perf = ["perf", "bench", "-f", "simple", "sched"]
    workloads = {
        "pipe": ([*perf, "pipe", "-l", str(loops)], loops, True, 3 * ROUNDS),
        # Each group has 20 senders and 20 receivers, and each sender sends to each of them.
        "messaging": (
            [*perf, "messaging", "-g", str(groups), "-l", str(messages)],
            groups * 400 * messages,
            False,
            ROUNDS,
        ),
    }
    for name, (command, operations, pinned, rounds) in workloads.items():
        say(f"sched {name}")
        results = measure(
            variants, command, operations=operations, rounds=options.rounds(rounds), unit_ns=1e9, pin=pinned
        )
        section.rows += _rows(name, results)
        section.rows += [
            Row(
                f"{name}: wall time an operation, all of {profile}",
                Sample(results[profile].wall_ns, "ns"),
                Sample(results["nothing"].wall_ns, "ns"),
                "nothing attached",
            )
            for profile in options.profiles
        ]
        if pinned:
            ratios = Sample(list(map(truediv, results["standard"].wall_ns, results["nothing"].wall_ns)))
            section.rows.append(
                Row(f"{name}: wall time, all of standard to nothing attached, in a round", ratios, limit=WALL)
            )
        for variant, measured in results.items():
            bpf = measured.per_run("sched_switch")
            section.raw.append(
                (name, variant, str(Sample(bpf, "ns")) if any(bpf) else "", str(Sample(measured.wall_ns, "ns")))
            )
    section.notes.append(NOTE.strip())
    return section


def _rows(workload: str, results: dict[str, Measured]) -> list[Row]:
    rows = []
    bpf = {name: measured.per_run("sched_switch") for name, measured in results.items()}
    wall = {name: measured.wall_ns for name, measured in results.items()}
    net = Sample(less(bpf[OURS], bpf[EMPTY]), "ns")
    for peer, empty in PEERS.items():
        rows.append(
            Row(
                f"{workload}: BPF time a switch, net of empty programs",
                net,
                Sample(less(bpf[peer], bpf[empty]), "ns"),
                peer,
                LIMIT,
            )
        )
    rows.append(Row(f"{workload}: BPF time a switch, net of empty programs", net, limit=NET_NS))
    for peer, empty in PEERS.items():
        rows.append(
            Row(
                f"{workload}: wall time an operation, net of empty programs",
                Sample(less(wall[OURS], wall[EMPTY]), "ns"),
                Sample(less(wall[peer], wall[empty]), "ns"),
                peer,
            )
        )
    rows.append(
        Row(
            f"{workload}: wall time an operation, over nothing attached",
            Sample(less(wall[OURS], wall["nothing"]), "ns"),
            Sample(less(wall["article"], wall["nothing"]), "ns"),
            "article",
        )
    )
    return rows
