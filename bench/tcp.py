"""Cost of TCP over loopback: nothing attached, empty programs on our hooks, ours by iterator and by hooks."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median

from bench.report import Row, Sample, Section
from bench.rig import (
    FORCED_OFF,
    Measured,
    Options,
    Programs,
    Shipped,
    Variant,
    Whole,
    attached,
    compile_empty,
    compile_workload,
    less,
    measure,
    say,
    statistics,
)
from kpod_metrics.check import features
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.features import SOCKET_ITERATOR, with_dependent

BY_ITERATOR, BY_HOOKS = "by iterator", "by hooks"
NET_NS = 150
"""Limit of the program that runs for each segment with the iterator, above an empty one."""

TEXT = """\
64 bytes there and back ("exchange"), and 64 KiB in one direction ("stream"), over loopback, both ends on one CPU. The
article's design needs kprobes, which hardened kernels refuse; the part "tools" has other tools. So wall time is
compared with nothing attached, and the time of a program (the kernel's own account, kernel.bpf_stats_enabled) with that
of an empty one on the same hook.

"By iterator": per segment only the round-trip time is recorded; once per cycle an iterator reads bytes and retransmits
of every socket ("a look", at {sockets} sockets: all quiet, or each with 64 bytes since the last one). "By hooks", on a
kernel that refuses the iterator ([Kernel features](install.md#kernel-features)): each segment, read and retransmit
reads them.
"""
NOTE = """\
Where the limit is missed: in "stream" the kernel copies 64 KiB between two segments, so that the program's data is no
longer in the caches; an empty program takes twice as long too. The agent does not sample to meet the limit: a count
would then be an estimate. In an exchange, with many small segments, the limit is met.
"""
CONNECTIONS = 400
"""Number of connections that the iterator reads, at both ends."""


def run(options: Options) -> Section:
    """Measure."""
    ways = {BY_ITERATOR: Shipped("net_tcp"), BY_HOOKS: Shipped("net_tcp", (SOCKET_ITERATOR,))}
    refused = _why_there_is_no_iterator()
    if refused:
        del ways[BY_ITERATOR]
    hooks = {way: ours.hooks() for way, ours in ways.items()}
    program = compile_workload(options, "tcp")
    variants: dict[str, Variant] = {"nothing": Variant()}
    for way, ours in ways.items():
        variants |= {f"empty {way}": Programs(compile_empty(options, hooks[way]), hooks[way]), way: ours}
    variants |= {profile: Whole(profile) for profile in options.profiles}
    section = Section("a TCP exchange", TEXT.format(sockets=2 * CONNECTIONS))
    operations = 2_000 if options.quick else 40_000
    for what, mode in (("exchange", "rr"), ("stream", "stream")):
        say(f"tcp {what}")
        results = measure(
            variants, [program, mode, str(operations)], operations=1, rounds=options.rounds(9), unit_ns=1, pin=True
        )
        for way in ways:
            for name in (f"empty {way}", "nothing"):
                section.rows.append(
                    Row(
                        f"{what}, {way}: wall time of one",
                        Sample([value / 1e3 for value in results[way].wall_ns], "us"),
                        Sample([value / 1e3 for value in results[name].wall_ns], "us"),
                        "nothing attached" if name == "nothing" else "empty programs",
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
        for way, hook in [(name, hook) for name, attached_to in hooks.items() for hook in attached_to]:
            runs = _each(results[way], lambda run: run[1] / operations, hook)
            if median(runs) < 0.001:
                continue
            ours_ns, empty_ns = (
                _each(results[name], lambda run: run[0] / max(run[1], 1), hook) for name in (way, f"empty {way}")
            )
            name = f"{what}, {way}: a run of {hook}"
            section.rows.append(
                Row(
                    f"{name} ({median(runs):.2f} of them each)",
                    Sample(ours_ns, "ns"),
                    Sample(empty_ns, "ns"),
                    "empty program",
                )
            )
            limit = NET_NS if way == BY_ITERATOR and hook.endswith("/tcp_probe") else None
            section.rows.append(Row(f"{name}, net", Sample(less(ours_ns, empty_ns), "ns"), limit=limit))
    if refused:
        section.notes.append(f"Not measured here: TCP by iterator. {SOCKET_ITERATOR}: {refused}")
    else:
        say("tcp looks")
        quiet, busy = _looks(ways[BY_ITERATOR], options.rounds(9))
        section.rows += [
            Row("a look at a socket that is quiet", Sample(quiet, "ns")),
            Row("a look at a socket that has been used", Sample(busy, "ns")),
        ]
    section.notes.append(NOTE.strip())
    return section


def _why_there_is_no_iterator() -> str:
    """Return why the iterator is off: the kernel's error or the setting; empty if it is on."""
    if SOCKET_ITERATOR in with_dependent(FORCED_OFF):
        return "forced off"
    return next(state.refusal for state in features(Environment()) if state.name == SOCKET_ITERATOR)


def _looks(ours: Shipped, rounds: int) -> tuple[list[float], list[float]]:
    """Return the nanoseconds per socket of the iterator: without traffic since the last read, and with some."""
    found: tuple[list[float], list[float]] = ([], [])
    with ExitStack() as ends:
        ends.enter_context(attached(ours))
        ends.enter_context(statistics(True))
        server = ends.enter_context(socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS))
        pairs = []
        for _ in range(CONNECTIONS):
            client = ends.enter_context(socket.create_connection(server.getsockname()))
            pairs.append((client, ends.enter_context(server.accept()[0])))
        for _ in range(rounds):
            for taken, used in zip(found, (False, True), strict=True):
                ours.collect()
                for client, accepted in pairs if used else ():
                    client.sendall(bytes(64))
                    accepted.recv(64)
                before = ours.read_iterator(SOCKET_ITERATOR)
                ours.collect()
                after = ours.read_iterator(SOCKET_ITERATOR)
                taken.append((after.nanoseconds - before.nanoseconds) / max(after.runs - before.runs, 1))
    return found


def _each(measured: Measured, value: Callable[[tuple[float, int]], float], hook: str) -> list[float]:
    return [value(programs[hook]) for programs in measured.programs]
