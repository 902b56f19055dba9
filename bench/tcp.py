"""Cost of TCP over loopback: bare, empty programs on our hooks, ours."""

from collections.abc import Callable
from statistics import median

from bench.report import Row, Sample, Section
from bench.rig import (
    Measured,
    Options,
    Programs,
    Shipped,
    Variant,
    Whole,
    compile_empty,
    compile_workload,
    less,
    measure,
    say,
)

NET_NS = 150
"""Limit of the program that runs for each segment, above an empty one."""

TEXT = """\
64 bytes there and back ("exchange"), and 64 KiB one way ("stream"), over loopback, both ends on one CPU. The article's
design needs kprobes, which hardened kernels refuse; others' tools are in the part "tools". So wall time is compared
with nothing attached, and a program's run (the kernel's own account, kernel.bpf_stats_enabled) with an empty one on the
same hook.
"""
NOTE = """\
Where the limit is missed: a segment that is read by itself, as in "exchange", is looked at twice, when it arrives (the
round trip, what was sent) and when it is read (what was received), for the bytes of a connection that is quiet
afterwards. Each look finds the socket's state and its cgroup's counters, which are calls of the kernel's. In "stream" a
look is for many segments.
"""


def run(options: Options) -> Section:
    """Measure."""
    ours = Shipped("net_tcp")
    hooks = ours.hooks()
    program = compile_workload(options, "tcp")
    variants: dict[str, Variant] = {
        "nothing": Variant(),
        "empty": Programs(compile_empty(options, hooks), hooks),
        "ours": ours,
        **{profile: Whole(profile) for profile in options.profiles},
    }
    section = Section("a TCP exchange", TEXT)
    operations = 2_000 if options.quick else 40_000
    for what, mode in (("exchange", "rr"), ("stream", "stream")):
        say(f"tcp {what}")
        results = measure(
            variants, [program, mode, str(operations)], operations=1, rounds=options.rounds(9), unit_ns=1, pin=True
        )
        for name in ("empty", "nothing"):
            section.rows.append(
                Row(
                    f"{what}: wall time of one",
                    Sample([value / 1e3 for value in results["ours"].wall_ns], "us"),
                    Sample([value / 1e3 for value in results[name].wall_ns], "us"),
                    "empty programs" if name == "empty" else "nothing attached",
                )
            )
        section.rows += [
            Row(
                f"{what}: wall time of one, all of {profile}",
                Sample([value / 1e3 for value in results[profile].wall_ns], "us"),
                Sample([value / 1e3 for value in results["nothing"].wall_ns], "us"),
                "nothing attached",
            )
            for profile in options.profiles
        ]
        of_a_segment: list[Sample] = []
        for hook in hooks:
            runs = _each(results["ours"], lambda run: run[1] / operations, hook)
            if median(runs) < 0.001:
                continue
            ours_ns, empty_ns = (
                _each(results[name], lambda run: run[0] / max(run[1], 1), hook) for name in ("ours", "empty")
            )
            name = f"{what}: a run of {hook}"
            section.rows.append(
                Row(
                    f"{name} ({median(runs):.2f} of them each)",
                    Sample(ours_ns, "ns"),
                    Sample(empty_ns, "ns"),
                    "empty program",
                )
            )
            limit = NET_NS if hook.endswith("/tcp_probe") else None
            net = Sample(less(ours_ns, empty_ns), "ns")
            section.rows.append(Row(f"{name}, net", net, limit=limit))
            if hook.endswith(("/tcp_probe", "/tcp_rcv_space_adjust")) and what == "exchange":
                of_a_segment.append(net)
        if of_a_segment:
            both = Sample([sum(values) for values in zip(*(net.values for net in of_a_segment), strict=True)], "ns")
            section.rows.append(Row(f"{what}: a segment that is read by itself, both runs, net", both, limit=NET_NS))
    section.notes.append(NOTE.strip())
    return section


def _each(measured: Measured, value: Callable[[tuple[float, int]], float], hook: str) -> list[float]:
    return [value(programs[hook]) for programs in measured.programs]
