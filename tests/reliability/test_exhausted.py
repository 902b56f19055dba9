"""Out of descriptors, out of room for the log, out of memory: the agent goes on or says one line, and recovers."""

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.live.agents import COMMAND, Page, eventually, free_port, get
from tests.live.harness import Cgroup, go, stop_point, switches
from tests.reliability.agents import FAST, SWITCHES, cycles_later, fast_agent, no_defects, scrape, switches_of
from tests.reliability.conftest import LONG

Children = list[subprocess.Popen[bytes]]
LIMITS = (*range(8, 64, 11), *range(63, 160, 8)) if LONG else (8, 24, 63, 64, 80, 128)
"""With fewer the interpreter itself does not start."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_start_with_few_descriptors(tmp_path: Path, tell: Callable[..., None]) -> None:
    """It serves, and says what it lacks, or ends with one line."""
    ended = served = 0
    for limit in LIMITS:
        log = tmp_path / f"{limit}.log"
        port = free_port()

        def lower(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

        with (
            log.open("wb") as file,
            subprocess.Popen(
                [COMMAND, "run", "--listen", f"127.0.0.1:{port}", *FAST],
                stdout=file,
                stderr=file,
                preexec_fn=lower,  # noqa: PLW1509
            ) as started,
        ):
            try:
                eventually(lambda log=log, started=started: started.poll() is not None or "serves" in log.read_text())  # type: ignore[misc]
                if started.poll() is None:
                    time.sleep(0.3)
                    started.send_signal(signal.SIGTERM)
                status = started.wait(30)
            finally:
                started.kill()
        said = log.read_text()
        assert "Traceback" not in said, (limit, said[-2000:])
        if status:
            assert status == 1, (limit, said)
            assert re.fullmatch(r"kpod-metrics: .+\n", said.splitlines(keepends=True)[-1]), (limit, said)
            ended += 1
        else:
            served += 1
    assert ended
    assert served
    tell(
        "Faults",
        "RLIMIT_NOFILE of 8 and more at the start",
        len(LIMITS),
        f"{ended} starts ended with one line and status 1; {served} served, and the log had what could not be opened",
        "the metrics of collectors that could not be opened",
    )


@pytest.mark.slow
def test_descriptors_run_out(
    tmp_path: Path,
    cgroup: Callable[[str], Cgroup],
    cgroup_root: str,
    workload: Callable[[str], str],
    children: Children,
    tell: Callable[..., None],
) -> None:
    """Scrapes over open connections continue; once there are descriptors again, nothing is lost."""
    group = cgroup("busy")
    log = tmp_path / "agent.log"
    with fast_agent(log) as (started, port):
        worker = group.start(workload("hog"), "0", "1000")
        children.append(worker)
        stop_point(worker)
        before = switches_of(cycles_later(port), group, cgroup_root) - switches(worker.pid)
        connection = HTTPConnection("127.0.0.1", port, timeout=5)

        def read() -> Page:
            connection.request("GET", "/metrics")
            return Page(connection.getresponse().read().decode())

        end = read().sum("kpod_last_cycle_timestamp_seconds")
        limits = resource.prlimit(started.pid, resource.RLIMIT_NOFILE)
        times = 10 if LONG else 2
        for _ in range(times):
            resource.prlimit(started.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
            go(worker)
            late = cgroup(f"late{time.monotonic_ns()}")
            late.run("true")
            # The cycles go on, and the page is theirs.
            for _ in range(3):
                eventually(lambda end=end: read().sum("kpod_last_cycle_timestamp_seconds") > end)  # type: ignore[misc]
                end = read().sum("kpod_last_cycle_timestamp_seconds")
            worker.send_signal(signal.SIGSTOP)
            stop_point(worker)
            resource.prlimit(started.pid, resource.RLIMIT_NOFILE, limits)
            eventually(lambda: set(read().find("kpod_collector_up").values()) == {1})
            page = cycles_later(port)
            assert switches_of(page, group, cgroup_root) - switches(worker.pid) == before
            assert switches_of(page, late, cgroup_root) > 0
        assert switches(worker.pid) > 100
        connection.close()
    no_defects(log)
    tell(
        "Faults",
        "Descriptors run out while the agent runs (RLIMIT_NOFILE of 3 for some cycles)",
        times,
        "cycles continued, and open connections got their pages; with descriptors again all collectors worked, and the "
        "switches of the whole time were exact",
        "no kernel events; new connections waited",
    )


def log_of(kind: str) -> int:
    """A standard error that takes nothing."""
    if kind == "a full disk":
        return os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("kind", ["a full disk", "a pipe that nobody reads", "nothing"])
def test_log_that_takes_nothing(kind: str, cgroup_root: str, tell: Callable[..., None]) -> None:
    port = free_port()
    descriptor = log_of(kind) if kind != "nothing" else -1

    def close() -> None:
        os.close(1)
        os.close(2)

    with subprocess.Popen(
        [COMMAND, "run", "--listen", f"127.0.0.1:{port}", *FAST, "--log-level", "debug"],
        stdout=None if descriptor < 0 else descriptor,
        stderr=None if descriptor < 0 else descriptor,
        preexec_fn=close if descriptor < 0 else None,  # noqa: PLW1509
    ) as started:
        if descriptor >= 0:
            os.close(descriptor)
        try:
            eventually(lambda: get(f"http://127.0.0.1:{port}/readyz").startswith("ready"))
            page = cycles_later(port, 3)
            assert set(page.find("kpod_collector_up").values()) == {1}
            assert page.sum("kpod_cpu_context_switches_total", pod="/") > 0
            started.send_signal(signal.SIGTERM)
            assert started.wait(30) == 0
        finally:
            started.kill()
    tell("Faults", f"Standard output and error are {kind}", 1, "it served, counted and ended as usual", "the log")


LIMIT, HERD = 64, 3000 if LONG else 800


@pytest.mark.slow
def test_memory_limit(
    tmp_path: Path,
    cgroup: Callable[[str], Cgroup],
    cgroup_root: str,
    workload: Callable[[str], str],
    children: Children,
    tell: Callable[..., None],
) -> None:
    """More pods than there is memory for: it stops growing below its limit, says so, and goes on with those it has."""
    parent = cgroup("herd")
    log = tmp_path / "agent.log"
    with fast_agent(log, "--memory-limit", f"{LIMIT}Mi", "--poll-interval", "500ms") as (started, port):
        first = cgroup("first")
        children.append(first.start("sleep", "1000"))
        eventually(lambda: scrape(port).find(SWITCHES, pod=str(first.path.relative_to(cgroup_root))))
        herd = subprocess.Popen(
            [workload("herd"), str(parent.path), str(HERD), "g"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        children.append(herd)
        assert herd.stdout is not None
        assert herd.stdout.readline() == b"ready\n"
        most = 0.0
        for _ in range(3):
            page = cycles_later(port)
            most = max(most, page.sum("process_resident_memory_bytes"))
        assert 0.5 * (LIMIT << 20) < most < LIMIT << 20
        assert page.sum("kpod_series_overflow_total") > 0
        assert page.find(SWITCHES, pod=str(first.path.relative_to(cgroup_root)))
        assert page.find(SWITCHES, pod="kpod-overflow")
        ready = get(f"http://127.0.0.1:{port}/readyz")
        line = next(line for line in ready.splitlines() if line.startswith("memory: "))
        assert line.endswith(
            "for what is there: no new series are admitted, what they would count is in the overflow series"
        )
        assert started.poll() is None
        assert herd.stdin is not None
        herd.stdin.close()
        herd.wait()
        for directory in list(parent.path.iterdir()):
            if directory.is_dir():
                Cgroup(directory).destroy()
        # Once they are gone there is room for others.
        late = cgroup("late")
        children.append(late.start("sleep", "1000"))
        eventually(lambda: scrape(port).find(SWITCHES, pod=str(late.path.relative_to(cgroup_root))), 20)
    said = no_defects(log)
    assert said.count("no new series are admitted") >= 1
    tell(
        "Faults",
        f"{HERD:,} cgroups with a memory limit of {LIMIT} MiB (setting `memory_limit`)",
        1,
        f"resident memory stopped at {most / (1 << 20):.0f} MiB; log and /readyz reported it; after their "
        "end, new cgroups had series again",
        "the names of the cgroups without series: their events are in the overflow series",
    )
