"""Runs in the virtual machine of the part "emulated": counts each tool's instructions per event, onto a disk.

Its clock counts the instructions that are executed (testkit/vm/machine.py): a nanosecond is one instruction, of the
kernel's account of BPF programs as of the time that an event takes.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.rig import Shipped, SkippedError, Tool, Variant, attached, mount_tracefs, statistics
from bench.tools import NOTHING, OURS, QUESTIONS, Question
from testkit.vm.events import EVENTS, Doing
from testkit.vm.machine import STARTED, write_result

ASKED = {
    "a message there and back": "message",
    "a tracked syscall": "tracked syscall",
    "another syscall": "other syscall",
    "a byte there and back by TCP": "TCP",
}
"""Events of testkit/vm/events.py that every tool of a question sees, and short names for them."""

QUICK = "quick"
"""With this argument only tools that compile nothing are started."""
ROUNDS = 5
STARTS_IN, QUIET, SETTLES_IN = 600, 10, 10
"""Seconds on a clock that jumps while the machine is idle, also while it waits for its disk: they pass quickly."""

Counts = dict[str, list[float]]
"""Of an event, a value a round: instructions of "programs" that are attached, their "runs", "all" instructions."""


def count(variant: Variant, do: Doing, times: int) -> Counts:
    """Make events while something is attached.

    By tasks that do not preempt each other as they wake: a message there and back would have one of two orders, of
    different cost, and what is attached would decide which.
    """
    found: Counts = {"programs": [], "runs": [], "all": []}
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    do(times // 10)  # the first events create entries, which costs more
    for _ in range(ROUNDS):
        with statistics(True):
            before = variant.read()
            do(times)
            after = variant.read()
        ran = [(after[program], start) for program, start in before.items()]
        found["programs"].append(sum(end.nanoseconds - start.nanoseconds for end, start in ran) / times)
        found["runs"].append(sum(end.runs - start.runs for end, start in ran) / times)
        with statistics(False):
            began = time.perf_counter_ns()
            do(times)
            found["all"].append((time.perf_counter_ns() - began) / times)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return found


def _settle() -> None:
    """Wait until the kernel has finished the work of a start, which would count as that of the events."""
    os.sync()
    time.sleep(SETTLES_IN)


def _variants(question: Question, quick: bool) -> Iterator[tuple[str, Variant]]:
    yield NOTHING, Variant()
    yield OURS, Shipped(question.collector)
    for name, (command, _) in question.tools.items():
        if not quick or name.startswith("libbpf-tools"):
            yield name, Tool(command, STARTS_IN, QUIET)


def main() -> int:
    print(STARTED, flush=True)
    mount_tracefs()
    quick = Path("arguments").read_text() == QUICK
    counts: dict[str, dict[str, Counts]] = {event: {} for event in ASKED}
    refused: dict[str, str] = {}
    for question in QUESTIONS.values():
        for name, variant in _variants(question, quick):
            print(f"{question.collector}: {name}", flush=True)
            try:
                with attached(variant):
                    _settle()
                    for event in ASKED:
                        collector, do, times = EVENTS[event]
                        if collector == question.collector:
                            counts[event][name] = count(variant, do, times)
            except SkippedError as reason:
                refused[name if name != "bpftrace" else f"bpftrace, {question.collector}"] = str(reason)
    result: dict[str, Any] = {"counts": counts, "refused": refused}
    write_result(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
