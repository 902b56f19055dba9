"""Plugin of `scripts/test`: failures are printed when they happen, skips are kept for the end of the whole run.

`scripts/test` starts several runs of pytest, some of them with their output in a file. FAILURES is a file descriptor of
the terminal, SKIPPED a file to which each run appends. `python -m tests.told FILE` prints what was skipped, by reason.
"""

import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

FAILURES = os.environ.get("FAILURES", "")
SKIPPED = os.environ.get("SKIPPED", "")


def _is_worker() -> bool:
    # Each worker of pytest-xdist runs the hooks too; the run that started them repeats its reports.
    return "PYTEST_XDIST_WORKER" in os.environ


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print a failure, keep a skip."""
    if _is_worker():
        return
    if report.failed and FAILURES:
        text = f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext}\n"
        os.write(int(FAILURES), text.encode(errors="backslashreplace"))
    if report.skipped and SKIPPED and not hasattr(report, "wasxfail"):
        _keep(report.nodeid, report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Keep a module that is skipped whole."""
    if report.skipped and SKIPPED and not _is_worker():
        _keep(report.nodeid, report)


def _keep(name: str, report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else report.longreprtext
    with Path(SKIPPED).open("a") as file:
        file.write(json.dumps([name, reason.removeprefix("Skipped: ")]) + "\n")


def main(path: str) -> None:
    """Print what was skipped: each reason, and its tests with the number of their rows."""
    skipped: dict[str, Counter[str]] = defaultdict(Counter)
    for line in Path(path).read_text().splitlines():
        name, reason = json.loads(line)
        skipped[reason][name.partition("[")[0]] += 1
    total = sum(counts.total() for counts in skipped.values())
    print(f"\nNot shown on this machine: {total} tests were skipped.")
    for reason, counts in sorted(skipped.items()):
        print(reason)
        for name, rows in sorted(counts.items()):
            print(f"    {name}" + (f" ({rows} rows)" if rows > 1 else ""))


if __name__ == "__main__":
    main(sys.argv[1])
