"""Runs in the virtual machine: records the kernel's features, the verifier's counts and the live tests on a disk."""

import ctypes
import hashlib
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import BpfCollector, Environment
from kpod_metrics.errors import KpodError
from kpod_metrics.kernel import libbpf
from kpod_metrics.kernel.tasks import Tasks
from kpod_metrics.settings import DEFAULT_SYSCALLS
from testkit.vm.machine import COUNTS, STARTED, write_result
from tests.kernels import executed
from tests.live.harness import COMPILED

STATISTICS, INSTRUCTIONS = 4, 1
"""Flags of the verifier's log level."""

COLLECTOR_TESTS = tuple(
    f"tests/live/test_{name}.py" for name, kind in registered().items() if issubclass(kind, BpfCollector)
)
OTHER_TESTS = tuple(
    f"tests/live/test_{what}.py"
    for what in ("cgroup_events", "controllers", "degrades", "demo", "files", "layouts", "loss", "oom", "rights")
)
TESTS = tuple(dict.fromkeys((*COLLECTOR_TESTS, *OTHER_TESTS)))
"""Tests that depend on the kernel. The others need a compiler, a container runtime, Prometheus or a client."""

WITH_PROMETHEUS = ("tests/live/test_monitoring_controllers.py",)
"""Additional tests on a row with Prometheus."""


def keep_log(program: libbpf.Program, level: int, size: int) -> "ctypes.Array[ctypes.c_char]":
    """Return the memory to which the kernel will write the verifier's log: keep it until the program is loaded.

    Before 6.4 a log that does not fit fails the load.
    """
    so, pointer = program._lib.so, ctypes.c_void_p(program._pointer)
    log = ctypes.create_string_buffer(size)
    so.bpf_program__set_log_level(pointer, ctypes.c_uint32(level))
    so.bpf_program__set_log_buf(pointer, log, ctypes.c_size_t(size))
    return log


class Verified(libbpf.Object):
    """An object that keeps the verifier's log of each program."""

    level = STATISTICS
    logs: dict[str, bytes]

    def load(self) -> None:
        size = 1 << (16 if self.level == STATISTICS else 24)
        kept = {name: keep_log(program, self.level, size) for name, program in self.programs.items()}
        try:
            super().load()
        finally:
            type(self).logs = {name: log.value for name, log in kept.items()}


def verify(open_and_close: Any) -> dict[str, Any]:
    """Load an object as the agent does; return the verifier's count for each program, or its log of refused ones."""
    real, libbpf.Object = libbpf.Object, Verified  # type: ignore[misc]
    try:
        for level in (STATISTICS, STATISTICS | INSTRUCTIONS):
            Verified.level, Verified.logs = level, {}
            try:
                open_and_close()
            except (KpodError, OSError) as error:
                logs = {name: log.decode("utf-8", "replace") for name, log in Verified.logs.items() if log}
                refused = {"error": str(error), "logs": logs}
            else:
                found = ((name, re.search(rb"processed (\d+) insns", log)) for name, log in Verified.logs.items())
                return {"instructions": {name: int(match[1]) for name, match in found if match}}
        return refused
    finally:
        libbpf.Object = real  # type: ignore[misc]


def signals() -> dict[str, dict[str, str]]:
    """Return the hook of every metric on this kernel, as `check` reports it, or why there is none."""
    found = {}
    for kind in registered().values():
        collector = kind(Environment(syscalls=DEFAULT_SYSCALLS))
        try:
            for signal in collector.open():
                for metric in signal.metrics:
                    found[metric.name] = {"hook": signal.hook, "problem": signal.problem}
        except (KpodError, OSError) as error:
            for metric in collector.wanted:
                found[metric.name] = {"hook": "", "problem": str(error)}
        finally:
            collector.close()
    return found


def absent() -> dict[str, str]:
    """Return the metrics whose file this kernel does not have."""
    cgroup = Path("/sys/fs/cgroup/absent")
    cgroup.mkdir()
    files = {"kpod_mem_cgroup_peak_bytes": "memory.peak"}
    for resource in ("cpu", "memory", "io"):
        for what in ("waiting", "stalled"):
            files[f"kpod_pressure_{resource}_{what}_seconds_total"] = f"{resource}.pressure"
    missing = {metric: f"no {file}" for metric, file in files.items() if not (cgroup / file).exists()}
    cpu = cgroup / "cpu.pressure"
    if cpu.exists() and "full" not in cpu.read_text():
        missing["kpod_pressure_cpu_stalled_seconds_total"] = "no full line in cpu.pressure"
    cgroup.rmdir()
    return missing


def verifier() -> dict[str, dict[str, Any]]:
    """Return the verifier's counts or log of every object."""
    found = {}
    for name, kind in registered().items():
        if issubclass(kind, BpfCollector):
            collector = kind(Environment(syscalls=DEFAULT_SYSCALLS))

            def open_and_close(collector: BpfCollector = collector) -> None:
                try:
                    collector.open()
                finally:
                    collector.close()

            found[name] = verify(open_and_close)
    others: dict[str, CgroupEvents | Tasks] = {"cgroups": CgroupEvents(), "tasks": Tasks()}
    for name, other in others.items():

        def open_and_close_other(other: CgroupEvents | Tasks = other) -> None:
            try:
                other.open()
            finally:
                other.close()

        found[name] = verify(open_and_close_other)
    return found


class Recorder:
    """Keeps the outcome of each test, and the metrics that it proves."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}

    def _keep(self, name: str, outcome: str, why: str = "", proves: Sequence[object] = ()) -> None:
        self.tests[name] = {"outcome": outcome, "seconds": 0.0, "why": why, "proves": list(proves)}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            proves = [[list(mark.args), mark.kwargs.get("within", "")] for mark in item.iter_markers("proves")]
            self._keep(item.nodeid, "not run", proves=proves)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._keep(report.nodeid, "failed", report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = self.tests[report.nodeid]
        test["seconds"] = round(test["seconds"] + report.duration, 2)
        if report.outcome != "passed":
            test["outcome"] = report.outcome
            reason = report.longrepr
            test["why"] = reason[2] if isinstance(reason, tuple) else report.longreprtext
        elif test["outcome"] == "not run":
            test["outcome"] = "passed"


def main() -> int:
    print(STARTED, flush=True)
    if COUNTS in os.environ:
        write_result({"executed": executed.measured()})
        return 0
    began = time.monotonic()
    objects = sorted(Path("src/kpod_metrics/bpf").glob("*.bpf.o"))
    result: dict[str, Any] = {
        "release": platform.release(),
        "machine": platform.machine(),
        "objects": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in objects},
        "verifier": verifier(),
        "signals": signals(),
        "absent": absent(),
    }
    for name, verdict in result["verifier"].items():
        print(f"{name}: {verdict.get('instructions') or verdict['error']}", flush=True)
    recorder = Recorder()
    chosen = Path("arguments").read_text().split() if Path("arguments").exists() else []
    options = ["-v", "-p", "no:cacheprovider", "--color=no", "--durations=10", "-o", "timeout=300"]
    options += ["-m", "not (one_kernel or slow or long)"]
    here = [*TESTS, *(WITH_PROMETHEUS if Path(COMPILED, "prometheus").exists() else ())]
    result["status"] = int(pytest.main([*options, *(chosen or here)], [recorder]))
    result["tests"] = recorder.tests
    result["seconds"] = round(time.monotonic() - began, 1)
    write_result(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
