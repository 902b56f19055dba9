"""SIGKILL at random moments: the next start is clean, nothing is attached twice."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.live.agents import COMMAND, eventually, free_port, get, process
from tests.live.harness import Cgroup, bpf_ids, go, stop_point, switches
from tests.live.test_agent import held_ids
from tests.reliability.agents import FAST, Monotonic, cycles_later, fast_agent, no_defects, switches_of
from tests.reliability.conftest import LONG, SEED

TIMES = 200 if LONG else 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_random_moments(
    tmp_path: Path,
    cgroup: Callable[[str], Cgroup],
    cgroup_root: str,
    workload: Callable[[str], str],
    children: list[subprocess.Popen[bytes]],
    tell: Callable[..., None],
) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    held: dict[str, set[int]] = {"prog": set(), "link": set(), "map": set()}
    serving = pages = 0
    port = free_port()  # the same for all: a port that is left in use would show
    for number in range(TIMES):
        moment = chance.uniform(0.05, 2)
        log = tmp_path / f"agent{number}.log"
        with process([COMMAND, "run", "--listen", f"127.0.0.1:{port}", *FAST], log) as started:
            if number % 2:  # the others may be killed before they serve
                eventually(lambda: get(f"http://127.0.0.1:{port}/metrics"))
            began = time.monotonic()
            counters = Monotonic()
            while time.monotonic() - began < moment:
                with suppress(OSError):
                    counters.see(get(f"http://127.0.0.1:{port}/metrics"))
                time.sleep(0.02)
            # Stopped first, so that what it holds when it is killed is known.
            started.send_signal(signal.SIGSTOP)
            assert os.waitid(os.P_PID, started.pid, os.WSTOPPED | os.WEXITED) is not None
            for kind, ids in held.items():
                ids.update(held_ids(started.pid, kind))
            started.kill()
            assert started.wait(30) == -signal.SIGKILL
        no_defects(log)
        serving += bool(counters.pages)
        pages += counters.pages
    assert serving
    assert len(held["prog"]) > TIMES
    for kind, ids in held.items():
        eventually(lambda kind=kind, ids=ids: not ids & bpf_ids(kind))  # type: ignore[misc]
    group = cgroup("after")
    with fast_agent(tmp_path / "last.log") as (_, port):
        worker = group.start(workload("hog"), "0", "1000")
        children.append(worker)
        stop_point(worker)
        before = switches_of(cycles_later(port), group, cgroup_root) - switches(worker.pid)
        go(worker)
        eventually(lambda: switches(worker.pid) > 200)
        worker.send_signal(signal.SIGSTOP)
        stop_point(worker)
        page = cycles_later(port)
        assert switches_of(page, group, cgroup_root) - switches(worker.pid) == before
        assert set(page.find("kpod_collector_up").values()) == {1}
    tell(
        "Faults",
        "SIGKILL at a random moment of the first 2 s",
        TIMES,
        f"every next start was clean; all {len(held['prog'])} programs and {len(held['link'])} attachments were "
        f"removed; no counter decreased in {pages} pages of {serving} runs; the last start counted exactly",
        "events after the last scrape of a killed agent",
    )
