"""Boots the kernels of table.py, runs the live tests on each, and checks the results: `make test-kernels`.

It keeps the result of a row without problems, so that only the others must run again. When every row has a result with
the same programs, it writes the page.
"""

import argparse
import difflib
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from testkit.vm import image, machine
from testkit.vm.kernels import Kernel
from testkit.vm.machine import Outcome
from tests.kernels import matrix
from tests.kernels.table import KERNELS

LOGS = image.REPOSITORY / "build" / "kernels"
"""The folder for the console log and the result of each row."""
RESULTS = LOGS.relative_to(image.REPOSITORY)


def _prepare(rows: list[Kernel], work: Path, arguments: str) -> list[tuple[image.Booted, Path, Path]]:
    """Fetch and build the disks of the rows."""
    kinds = {(row.architecture, row.monitoring) for row in rows}
    trees = {kind: image.tree(*kind, work, arguments) for kind in sorted(kinds)}
    roots = {name: image.root(name) for name in image.architectures(rows)}
    return [(image.kernel(row), roots[row.architecture], trees[row.architecture, row.monitoring]) for row in rows]


def _run(rows: list[Kernel], together: int, budget: float, arguments: str) -> list[Outcome]:
    LOGS.mkdir(parents=True, exist_ok=True)
    for kernel in rows:
        _result(kernel).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="kpod-kernels-") as scratch, ThreadPoolExecutor(together) as pool:
        began = time.monotonic()
        prepared = _prepare(rows, Path(scratch), arguments)
        print(f"everything is fetched and built: {time.monotonic() - began:.0f} s", flush=True)

        def row(parts: tuple[image.Booted, Path, Path]) -> Outcome:
            booted, root, tree = parts
            name = booted.kernel.name
            to_boot = machine.Machine(booted, root, tree, Path(scratch) / name, "tests.kernels.inside")
            outcome = machine.boot(to_boot, LOGS / f"{name}.log", budget)
            tests = outcome.result.get("tests", {}).values()
            counts = {kind: sum(test["outcome"] == kind for test in tests) for kind in ("passed", "failed", "skipped")}
            summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            print(f"{name}: {outcome.problem or summary}, {outcome.seconds:.0f} s", flush=True)
            if booted.kernel.counted and not arguments and not outcome.problem:
                counted = machine.boot(replace(to_boot, counts=True), LOGS / f"{name}-counted.log", budget)
                outcome.result |= counted.result
                if counted.problem:
                    outcome.problem, outcome.console = f"counting instructions: {counted.problem}", counted.console
                print(
                    f"{name}, counting instructions: {counted.problem or 'done'}, {counted.seconds:.0f} s", flush=True
                )
            return outcome

        # Start with the slow rows, which are last in the table: then all end earlier.
        done = {outcome.booted.kernel.name: outcome for outcome in pool.map(row, reversed(prepared))}
    return [done[row.name] for row in rows]


def _result(row: Kernel) -> Path:
    return LOGS / f"{row.name}.json"


def _all(outcomes: list[Outcome]) -> list[Outcome] | None:
    """Return an outcome of every row. Missing ones come from an earlier run, if it had the same programs."""
    now = {outcome.booted.kernel.name: outcome for outcome in outcomes}
    objects = outcomes[0].result["objects"]
    for row in KERNELS:
        if row.name in now:
            continue
        if not _result(row).exists() or (result := json.loads(_result(row).read_text()))["objects"] != objects:
            return None
        now[row.name] = Outcome(image.kernel(row), LOGS / f"{row.name}.log", result=result)
    return [now[row.name] for row in KERNELS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", default=os.environ.get("KERNEL", ""), help="one row's name; all without it")
    parser.add_argument("--together", type=int, default=os.cpu_count() or 1, help="rows to run at the same time")
    parser.add_argument("--budget", type=float, default=900, help="seconds for each row")
    parser.add_argument("--tests", default="", help="arguments for pytest instead of tests/live: nothing is judged")
    parser.add_argument("--missing", action="store_true", help="only print which figures of these programs are missing")
    options = parser.parse_args()
    if options.missing:
        if found := matrix.missing():
            print(*found, f"Only `make test-kernels` can write them; in CI it leaves them in {RESULTS}.", sep="\n")
        return 0
    rows = matrix.chosen(KERNELS, options.kernel)
    outcomes = _run(rows, options.together, options.budget, options.tests)
    in_ci = os.environ.get("CI") == "true"
    if options.tests:
        failed = [
            name for o in outcomes for name, test in o.result.get("tests", {}).items() if test["outcome"] == "failed"
        ]
        for outcome in outcomes:
            for name, test in outcome.result.get("tests", {}).items():
                if test["outcome"] != "passed":
                    print(f"{outcome.booted.kernel.name}: {name} {test['outcome']}\n{test['why']}")
        return int(bool(failed or any(outcome.problem for outcome in outcomes)))
    good = []
    for outcome in outcomes:
        found = matrix.problems(outcome)
        if not found:
            good.append(outcome)
            _result(outcome.booted.kernel).write_text(json.dumps(outcome.result))
        else:
            print(f"\n==== {outcome.booted.kernel.name}: console log\n{outcome.console.read_text(errors='replace')}")
            print(f"==== {outcome.booted.kernel.name}: problems")
            print("\n".join(found), flush=True)
    limits = matrix.over_limit(good, folder=LOGS if in_ci else None)
    if limits:
        print("\n".join(limits))
    if len(good) < len(outcomes) or (limits and not in_ci):
        return 1
    differs = False
    if (every := _all(outcomes)) is not None:
        page, text = matrix.PAGE, matrix.page(every)
        before = page.read_text() if page.exists() else ""
        (LOGS / page.name if in_ci else page).write_text(text)
        differs = in_ci and matrix.substance(text) != matrix.substance(before)
        if differs:
            print(f"{page.relative_to(image.REPOSITORY)} differs from the results of this run")
            lines = (before.splitlines(), text.splitlines())
            print("\n".join(difflib.unified_diff(*lines, "committed", "this run", lineterm="")))
    if in_ci and (limits or differs):
        print(f"the files that `make test-kernels` writes are in {RESULTS}: commit them if they are right")
    return int(bool(limits) or differs)


if __name__ == "__main__":
    sys.exit(main())
