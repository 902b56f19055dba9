"""Cost of a tracked and an untracked system call: nothing attached, empty programs, the article's design, ours."""

import struct
import subprocess

from bench.report import Row, Sample, Section
from bench.rig import (
    Options,
    Programs,
    Shipped,
    Variant,
    Whole,
    compile_empty,
    compile_program,
    compile_workload,
    less,
    measure,
    say,
)

LIMIT = 0.4
HOOKS = ["raw_tp/sys_enter", "raw_tp/sys_exit"]

TEXT = """\
A loop on one CPU of read(-1), which is tracked, and of getppid, which is not. BPF time is the kernel's own account
(kernel.bpf_stats_enabled) per call, of both programs together. Wall time is measured in other runs, without it. "Net"
is minus the time of empty programs on the same hooks in the same round. The peer "article" is a design with the start
time of each call in a hash map (`bench/bpf/article_syscall.bpf.c`).
"""

NOTE = """\
Where the limit is missed: over nothing attached, a tracked call also pays for two hooks, in both designs. Empty
programs on these hooks ("empty, our hooks" minus "nothing") cost about half of what kpod-metrics adds, and no program
can be faster than an empty one. Net of empty programs the limit is met.
"""


def run(options: Options) -> Section:
    """Measure."""
    ours = Shipped("syscall")
    loop = compile_workload(options, "loop")
    numbers = subprocess.run([loop, "numbers"], capture_output=True, text=True, check=True).stdout.split()
    tracked = {"tracked": [(struct.pack("I", int(number)), b"\1") for number in numbers]}
    variants: dict[str, Variant] = {
        "nothing": Variant(),
        "empty": Programs(compile_empty(options, HOOKS), HOOKS),
        "empty, our hooks": Programs(compile_empty(options, hooks := ours.hooks()), hooks),
        "article": Programs(compile_program(options, "article_syscall"), HOOKS, tracked),
        "ours": ours,
        **{profile: Whole(profile) for profile in options.profiles},
    }
    section = Section("a system call", TEXT)
    section.raw.append(("call", "attached", "BPF time a call", "wall time a call"))
    calls = 200_000 if options.quick else 3_000_000
    for what, call in (("tracked", "read"), ("untracked", "getppid")):
        say(f"syscall {what}")
        results = measure(
            variants, [loop, call, str(calls)], operations=1, rounds=options.rounds(9), unit_ns=1, pin=True
        )
        wall = {name: measured.wall_ns for name, measured in results.items()}
        bpf = {name: measured.per_run("sys_enter") for name, measured in results.items()}
        for values, kind in ((bpf, "BPF time"), (wall, "wall time")):
            section.rows.append(
                Row(
                    f"{what} call: {kind}, net of empty programs",
                    Sample(less(values["ours"], values["empty, our hooks"]), "ns"),
                    Sample(less(values["article"], values["empty"]), "ns"),
                    "article",
                    LIMIT if what == "tracked" else None,
                )
            )
        section.rows.append(
            Row(
                f"{what} call: wall time, over nothing attached",
                Sample(less(wall["ours"], wall["nothing"]), "ns"),
                Sample(less(wall["article"], wall["nothing"]), "ns"),
                "article",
                LIMIT if what == "tracked" else None,
            )
        )
        section.rows += [
            Row(
                f"{what} call: wall time, all of {profile}",
                Sample(wall[profile], "ns"),
                Sample(wall["nothing"], "ns"),
                "nothing attached",
            )
            for profile in options.profiles
        ]
        for name in variants:
            section.raw.append(
                (what, name, str(Sample(bpf[name], "ns")) if any(bpf[name]) else "", str(Sample(wall[name], "ns")))
            )
    section.notes.append(NOTE.strip())
    return section
