"""What runs in the virtual machine: finds out what this kernel has, runs the live tests, writes the result to a disk."""

import hashlib
import io
import json
import os
import platform
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.machine import STARTED



class Recorder:
    """Keeps each test's outcome, and what it is said to prove."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = self.tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0, "why": ""})
        test["seconds"] = round(test["seconds"] + report.duration, 2)
        if report.outcome != "passed":
            test["outcome"] = report.outcome
            reason = report.longrepr
            test["why"] = reason[2] if isinstance(reason, tuple) else report.longreprtext


def write(result: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        text = json.dumps(result).encode()
        entry = tarfile.TarInfo("result.json")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    with open(os.environ["RESULT_DISK"], "wb") as disk:
        disk.write(buffer.getvalue())
        os.fsync(disk.fileno())


def main() -> int:
    print(STARTED, flush=True)
    began = time.monotonic()
    objects = sorted(Path("src/kpod_metrics/bpf").glob("*.bpf.o"))
    result: dict[str, Any] = {
        "release": platform.release(),
        "machine": platform.machine(),
        "objects": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in objects},
    }
    recorder = Recorder()
    arguments = ["-v", "-p", "no:cacheprovider", "--color=no", "--durations=20", *Path("tests/kernels/arguments").read_text().split()]
    result["status"] = int(pytest.main(arguments, [recorder]))
    result["tests"] = recorder.tests
    result["seconds"] = round(time.monotonic() - began, 1)
    write(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
