"""Others on the same node and hooks, a clock that is set, a file system that hangs, requests that are none."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.parts.statvfs import MAX_STUCK
from kpod_metrics.collectors.run_queue import RunQueue
from kpod_metrics.features import PERF_EVENT
from tests.forced import needs
from tests.live.agents import COMMAND, Page, eventually, free_port, get, process
from tests.live.harness import WORKLOADS, Cgroup, go, opened, stop_point, switches
from tests.reliability.agents import FAST, Monotonic, cycles_later, fast_agent, no_defects, scrape, switches_of
from tests.reliability.conftest import LONG, SEED
from tests.reliability.fuzz.mutate import Mutator

MakeCgroup = Callable[[str], Cgroup]
Children = list[subprocess.Popen[bytes]]


class Worker:
    """A process with a known number of switches, and what an agent is off by before it goes."""

    def __init__(self, cgroup: Cgroup, root: str, program: str, children: Children) -> None:
        self.cgroup, self._root = cgroup, root
        self.process = cgroup.start(program, "0", "1000")
        children.append(self.process)
        stop_point(self.process)

    def error(self, page: Page) -> float:
        """Switches that an agent has more than the kernel: those of its start, which stay the same."""
        return switches_of(page, self.cgroup, self._root) - switches(self.process.pid)

    def work(self, number: int = 300) -> None:
        until = switches(self.process.pid) + number
        go(self.process)
        eventually(lambda: switches(self.process.pid) > until)
        self.process.send_signal(signal.SIGSTOP)
        stop_point(self.process)


@pytest.fixture
def worker(cgroup: MakeCgroup, cgroup_root: str, workload: Callable[[str], str], children: Children) -> Worker:
    return Worker(cgroup("worker"), cgroup_root, workload("hog"), children)


def test_two_agents_and_another_tracer(tmp_path: Path, worker: Worker, tell: Callable[..., None]) -> None:
    with ExitStack() as stack:
        _, first = stack.enter_context(fast_agent(tmp_path / "first.log"))
        alone = worker.error(cycles_later(first))
        second_agent = ExitStack()
        stack.push(second_agent)
        _, second = second_agent.enter_context(fast_agent(tmp_path / "second.log"))
        other = worker.error(cycles_later(second))
        worker.work()
        assert worker.error(cycles_later(first)) == alone
        assert worker.error(cycles_later(second)) == other
        # The one that ends takes nothing from the other.
        second_agent.close()
        worker.work()
        assert worker.error(cycles_later(first)) == alone
        taken: list[str | Path] = [COMMAND, "run", "--listen", f"127.0.0.1:{first}", *FAST]
        refused = subprocess.run(taken, capture_output=True, text=True, check=False, timeout=20)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "Address already in use; " in refused.stderr
        # Another set of programs on every hook, and perf on the tracepoint, which come and go.
        perf = shutil.which("perf")
        assert perf or not LONG
        tracers = (
            [perf, "record", "-q", "-a", "-e", "sched:sched_switch", "-o", "/dev/null"] if perf else ["sleep", "60"]
        )
        with subprocess.Popen(tracers, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
            try:
                with opened(RunQueue(Environment())):
                    time.sleep(0.5)
                    assert tracer.poll() is None
                    worker.work()
                    assert worker.error(cycles_later(first)) == alone
            finally:
                tracer.kill()
        worker.work()
        assert worker.error(cycles_later(first)) == alone
    no_defects(tmp_path / "first.log")
    no_defects(tmp_path / "second.log")
    tell(
        "Faults",
        "Two agents on one node",
        1,
        "both were exact, also after one ended; a port in use is a one-line error",
        "nothing",
    )
    what = "Another set of programs on the same hooks, and `perf record -e sched:sched_switch -a`"
    tell("Faults", what, 1, "counts were exact with them, and after they ended", "nothing")


STEPS = (3600.0, -3600.0, 86400.0 * 400, -86400.0 * 400, 0.0)[: 5 if LONG else 2]


def test_clock_steps(tmp_path: Path, worker: Worker, tell: Callable[..., None]) -> None:
    """The wall clock goes back and forth; cycles, differences and the grace time go by the other one."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    port = free_port()
    command: list[str | Path] = [sys.executable, "-m", "tests.reliability.clock", offset]
    log = tmp_path / "agent.log"
    with process([*command, "--listen", f"127.0.0.1:{port}", *FAST], log):
        eventually(lambda: get(f"http://127.0.0.1:{port}/readyz").startswith("ready"))
        before = worker.error(cycles_later(port))
        counters = Monotonic()
        for step in STEPS:
            new = tmp_path / "new"
            new.write_text(str(step))
            new.rename(offset)
            worker.work(100)
            text = get(f"http://127.0.0.1:{port}/metrics")
            counters.see(text)

            def caught_up(step: float = step) -> Page | None:
                page = scrape(port)
                return page if abs(page.sum("kpod_last_cycle_timestamp_seconds") - time.time() - step) < 5 else None

            page = eventually(caught_up)
            ended = {page.sum("kpod_last_cycle_timestamp_seconds")}
            for _ in range(200):
                ended.add(scrape(port).sum("kpod_last_cycle_timestamp_seconds"))
                if len(ended) > 3:
                    break
                time.sleep(0.05)
            assert len(ended) > 3
            assert worker.error(scrape(port)) == before
            eventually(lambda: get(f"http://127.0.0.1:{port}/healthz") == "ok\n")
    no_defects(log)
    tell(
        "Faults",
        "The wall clock changes by an hour and by 400 days, forward and back",
        len(STEPS),
        "cycles kept their interval, no counter decreased, switches were exact, `kpod_last_cycle_timestamp_seconds` "
        "had the new time",
        "nothing",
    )


@pytest.mark.long
@pytest.mark.usefixtures("mount_namespaces")
def test_file_systems_that_hang_and_vanish(
    tmp_path: Path, cgroup: MakeCgroup, worker: Worker, children: Children, tell: Callable[..., None]
) -> None:
    """More than there are threads for, then they vanish: a daemon that is killed aborts its connection."""
    daemons = []
    number = MAX_STUCK + 4
    for at in range(number):
        point = tmp_path / f"silent{at}"
        point.mkdir()
        command = ["unshare", "-m", sys.executable, str(WORKLOADS / "silent_fuse.py"), str(point)]
        daemon = cgroup(f"fuse{at}").start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        children.append(daemon)
        daemons.append(daemon)
    for daemon in daemons:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"mounted\n"
    log = tmp_path / "agent.log"
    # Every cycle waits for a new one that hangs: at most half a second.
    with fast_agent(log) as (agent, port):
        before = worker.error(cycles_later(port))
        worker.work()
        page = cycles_later(port)
        assert worker.error(page) == before
        assert set(page.find("kpod_collector_up").values()) == {1}
        assert page.find("kpod_fs_capacity_bytes", mountpoint="/")
        assert not any("silent" in str(labels) for labels in page.find("kpod_fs_capacity_bytes"))
        tasks = len(list(Path(f"/proc/{agent.pid}/task").iterdir()))
        stuck = len(re.findall(r"does not answer: skipped", log.read_text()))
        assert 0 < stuck <= MAX_STUCK
        for daemon in daemons:
            daemon.kill()
            daemon.wait()
        eventually(lambda: len(list(Path(f"/proc/{agent.pid}/task").iterdir())) < tasks, 20)
        worker.work()
        page = cycles_later(port)
        assert worker.error(page) == before
        assert set(page.find("kpod_collector_up").values()) == {1}
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(5) == 0
    no_defects(log)
    tell(
        "Faults",
        "FUSE file systems that never answer, and then disappear",
        number,
        f"{stuck} threads waited (the maximum is {MAX_STUCK}); the sizes of other file systems and all other metrics "
        "continued; the threads ended with the file systems",
        "the sizes of the file systems that did not answer",
    )


REQUESTS = (
    b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\nAccept-Encoding: gzip\r\n\r\n",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /readyz?x=%00 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
)
_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def sockets(pid: int) -> int:
    """Return how many sockets a process has open; its other descriptors grow with the cgroups of the machine."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(descriptor).startswith("socket:")
    return found


@needs(PERF_EVENT)  # every collector is to be up
@pytest.mark.timeout(600)
def test_requests_that_are_none(tmp_path: Path, tell: Callable[..., None]) -> None:
    """Whatever comes is answered as HTTP or cut off; others are served meanwhile and afterwards."""
    count = 10_000 if LONG else 1000
    chance, mutator = random.Random(SEED), Mutator(REQUESTS, SEED)
    log = tmp_path / "agent.log"
    statuses: dict[bytes, int] = {}
    with fast_agent(log, "--poll-interval", "1s") as (agent, port):
        before = sockets(agent.pid)
        for _ in range(count):
            answer = b""
            with (
                socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
                suppress(OSError),  # cut off
            ):
                connection.sendall(mutator.next())
                if chance.randrange(4):
                    connection.shutdown(socket.SHUT_WR)
                    while more := connection.recv(1 << 16):
                        answer += more
            if answer:
                match = _ANSWER.match(answer)
                assert match, answer[:200]
                statuses[match[1]] = statuses.get(match[1], 0) + 1
        page = cycles_later(port)
        assert set(page.find("kpod_collector_up").values()) == {1}
        eventually(lambda: sockets(agent.pid) <= before)
        assert agent.poll() is None
    assert statuses.keys() <= {b"200", b"400", b"404", b"405", b"408", b"413", b"414", b"431", b"503", b"505"}, statuses
    assert len(statuses) > 2
    assert "Traceback" not in log.read_text()
    said = ", ".join(f"{number} x {status.decode()}" for status, number in sorted(statuses.items()))
    tell(
        "Bad input",
        "HTTP requests to a live agent",
        f"{count:,}",
        f"{said}; it served on, no descriptor stayed",
        "nothing",
    )
