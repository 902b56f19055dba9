"""Judges what came back from all rows, and makes docs/kernels.md from it."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kpod_metrics.collectors import registered
from kpod_metrics.reference import declared
from testkit.vm import image
from testkit.vm.kernels import Kernel
from testkit.vm.machine import Outcome

LIMITS = Path(__file__).parent / "instructions.json"
"""How many instructions the verifier looked at when a program was accepted here: twice that fails."""
EXECUTED = Path(__file__).parent / "executed.json"
"""How many instructions a program executed for an event when it was accepted here: a tenth more fails."""

MAY_BE_ABSENT = {
    "kpod_mem_cgroup_peak_bytes": "memory.peak is there since 5.19",
    "kpod_pressure_cpu_stalled_seconds_total": "the full line of cpu.pressure is there since 5.13",
}
"""The only metrics that a row may lack, and why."""


NOTES = [
    "## What is particular",
    "",
    "- **Before 5.11** the types of current are not known to the verifier, nor may a program ask whether a file is a",
    "  socket: helpers look instead. **Before 5.12** (arm64: 5.18) there is no compare-and-swap: the bytes of TCP are",
    "  looked up at each segment and read, not once a cycle. **Before 5.13** no tracing program has task storage:",
    "  states are in a hash by the task's address. **Before 5.15** a socket's cgroup shares its place with the marks",
    "  of v1's net_cls and net_prio.",
    "- **Before 5.17** `memory.events` has no `oom_group_kill`: the count is of the agent's own program everywhere.",
    "  The kernel's `oom_kill` counts the first victim of a group twice if it has not gone yet; this count does not.",
    "- **From 7.0 on** the kernel's iterator over sockets may follow a pointer that is NULL where a socket is",
    "  destroyed just then (0be08389c7f2; found by reading): there TCP's bytes are looked up as before 5.12.",
    "- **From 7.2 or so on** a task may be preempted inside a program at a syscall, and the kernel skips that program",
    "  for all other tasks of the CPU meanwhile (measured under emulation: 11 to 38 % of the calls of four threads on",
    "  two CPUs were lost). There four programs are attached at each end, of which any one counts;",
    "  `kpod_bpf_program_missed_runs_total` of the last of them bounds what is lost all the same.",
    "- A CPU that comes up has its page faults counted from the agent's next cycle on.",
    "",
]


def _shown(result: dict[str, Any], metric: str) -> tuple[str, bool]:
    """How well a metric is shown to be counted on a row: in words, and whether that is enough."""
    bounds, failed, passed = [], [], 0
    for name, test in result["tests"].items():
        for metrics, within in test["proves"]:
            if metric in metrics:
                passed += test["outcome"] == "passed"
                bounds += [within] if within else []
                if test["outcome"] == "failed":
                    failed.append(name)
    if failed:
        return f"**wrong**: {failed[0]}", False
    if not passed:
        return "**not shown**", False
    return f"within {bounds[0]}" if bounds else "exact", True


def cell(result: dict[str, Any], metric: str) -> tuple[str, bool]:
    """A cell's text, and whether it is good."""
    signal = result["signals"].get(metric, {"hook": "", "problem": "no hook"})
    absent = result["absent"].get(metric)
    if absent and metric in MAY_BE_ABSENT:
        return f"not available: {MAY_BE_ABSENT[metric]}", True
    if signal["problem"] or absent:
        return f"**not available**: {signal['problem'] or absent}", False
    text, good = _shown(result, metric)
    return f"{text}, {signal['hook']}", good


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |"
    yield ""


NOT_OF_KERNELS = {"gpu"}
"""Collectors that no row can show: no machine here has a GPU."""


def _collectors() -> dict[str, list[str]]:
    """The metrics of each collector."""
    found: dict[str, list[str]] = {}
    for collector, _, metric in declared():
        if collector in registered().keys() - NOT_OF_KERNELS:  # others are the agent's own, or what Kubernetes says
            found.setdefault(collector, []).append(metric.name)
    return found


def _instructions(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """By program and row."""
    found: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        for name, verdict in outcome.result.get("verifier", {}).items():
            for program, count in verdict.get("instructions", {}).items():
                found.setdefault(f"{name}/{program}", {})[outcome.booted.kernel.name] = count
    return found


def _executed(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """By event and program, and by row, of those rows that were counted."""
    found: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        for event, programs in outcome.result.get("executed", {}).items():
            for program, count in programs.items():
                found.setdefault(f"{event}: {program}", {})[outcome.booted.kernel.name] = count
    return found


def page(outcomes: Sequence[Outcome]) -> str:
    """Return docs/kernels.md."""
    names = [outcome.booted.kernel.name for outcome in outcomes]
    lines = [
        "# Kernels",
        "",
        "Generated by `make test-kernels`, which boots each of these kernels and runs `tests/live` inside; CI does it",
        "again and fails where this page is no longer true. A kernel is a line in `tests/kernels/table.py`.",
        "",
    ]
    lines += _table(
        ("row", "kernel", "package", "architecture"),
        (
            (
                o.booted.kernel.name,
                o.result["release"],
                f"{o.booted.kernel.suite}: {o.booted.version}",
                o.result["machine"],
            )
            for o in outcomes
        ),
    )
    lines += [
        "Each cell says how the counts compared with what the kernel tells elsewhere, or with known workloads, and the",
        "hook that was chosen. Files are those of the cgroup or of `/proc`.",
        "",
    ]
    for collector, metrics in _collectors().items():
        lines += [f"## {collector}", ""]
        lines += _table(
            ("row", *(f"`{metric.removeprefix('kpod_')}`" for metric in metrics)),
            ((o.booted.kernel.name, *(cell(o.result, metric)[0] for metric in metrics)) for o in outcomes),
        )
    lines += NOTES
    lines += [
        "## What the verifier looks at",
        "",
        "Instructions processed for each program, as this kernel loads it; `-` is a program that it does not need.",
        "`tests/kernels/instructions.json` holds the figures that were accepted, and twice as many fail CI.",
        "",
    ]
    lines += _table(
        ("program", *names),
        (
            (program, *(f"{counts[name]}" if name in counts else "-" for name in names))
            for program, counts in sorted(_instructions(outcomes).items())
        ),
    )
    executed = _executed(outcomes)
    counted = [name for name in names if any(name in counts for counts in executed.values())]
    lines += [
        "## What an event executes",
        "",
        "Instructions that a program executes each time it runs for an event, the kernel's helpers included, in a",
        "machine whose clock counts them (`tests/kernels/executed.py`). `tests/kernels/executed.json` holds those",
        "that were accepted, and a tenth more fails CI.",
        "",
    ]
    lines += _table(
        ("event", "program", *counted),
        ((*event.split(": "), *(f"{counts[name]}" for name in counted)) for event, counts in executed.items()),
    )
    lines += ["## One object", "", "The same bytes on every row, whatever its kernel and architecture:", ""]
    lines += _table(
        ("object", "SHA-256 begins with"),
        ((name, checksum[:12]) for name, checksum in sorted(image.objects().items())),
    )
    return "\n".join(lines)


def substance(text: str) -> str:
    """A page without what may change while all is as it was: releases of the same row, counts below the limit."""
    text = re.sub(r"\b\d+\.\d+\.\d+[\w.+~-]*", "RELEASE", text)
    text = re.sub(r"\| [0-9a-f]{12} \|", "| SHA |", text)
    return re.sub(r"(?<=\| )\d+(?= \|)", "COUNT", text)


def problems(outcome: Outcome) -> list[str]:
    """What is wrong with a row, a line each; what the verifier said follows its line."""
    name, result = outcome.booted.kernel.name, outcome.result
    if outcome.problem:
        return [f"{name}: {outcome.problem}"]
    found = []
    if result["objects"] != image.objects():
        found.append(f"{name}: the objects are not those that were compiled here")
    for object_name, verdict in result["verifier"].items():
        if "error" in verdict:
            found.append(f"{name}: {object_name} is refused: {verdict['error']}")
            found += [f"--- {program} of {object_name} on {name}\n{log}" for program, log in verdict["logs"].items()]
    unread = [test for test, told in result["tests"].items() if told["outcome"] == "failed" and test.endswith(".py")]
    if unread:  # nothing has run then
        return [*found, *(f"{name}: {test} cannot be read\n{result['tests'][test]['why']}" for test in unread)]
    for metrics in _collectors().values():
        for metric in metrics:
            text, good = cell(result, metric)
            if not good:
                found.append(f"{name}: {metric}: {text}")
    for test, told in result["tests"].items():
        if told["outcome"] in {"failed", "not run"}:
            found.append(f"{name}: {test} {told['outcome']}\n{told['why']}")
    return found


def over_limit(outcomes: Sequence[Outcome], *, accept: bool) -> list[str]:
    """Which programs cost more than their limits allow; with `accept` what is new is accepted, else that fails too."""
    return [
        *_over(LIMITS, _instructions(outcomes), 2, "the verifier looked at {} instructions", accept),
        *_over(EXECUTED, _executed(outcomes), 1.1, "{} instructions were executed", accept),
    ]


def _over(file: Path, measured: dict[str, dict[str, int]], room: float, said: str, accept: bool) -> list[str]:
    """Which of one kind are at `room` times what was accepted, or beyond."""
    limits: dict[str, dict[str, int]] = json.loads(file.read_text()) if file.exists() else {}
    found = []
    for what, counts in measured.items():
        for row, count in counts.items():
            accepted = limits.get(what, {}).get(row)
            if accepted is None:
                if not accept:
                    found.append(f"{row}: {what}: {said.format(count)}, and {file.name} has no figure for it")
                limits.setdefault(what, {})[row] = count
            elif count >= room * accepted:
                found.append(f"{row}: {what}: {said.format(count)}, {accepted} were accepted")
    if accept:
        rows = {row for counts in measured.values() for row in counts}
        kept = {
            what: {row: count for row, count in counts.items() if row not in rows or row in measured.get(what, {})}
            for what, counts in limits.items()
        }
        text = json.dumps({what: counts for what, counts in kept.items() if counts}, indent=2, sort_keys=True)
        file.write_text(text + "\n")
    return found


def chosen(rows: Sequence[Kernel], name: str) -> list[Kernel]:
    """The rows of a name; all without one."""
    found = [row for row in rows if not name or row.name == name]
    if not found:
        raise SystemExit(f"no kernel is named {name!r}; there are {', '.join(row.name for row in rows)}")
    return found
