"""The command `demo`: however it ends, nothing is left; what is refused is refused before anything starts."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kpod_metrics.demo.catalogue import WORKLOADS
from kpod_metrics.demo.groups import PREFIX, Workloads
from kpod_metrics.features import TASK_ITERATOR
from tests.forced import lacking, variables
from tests.live.agents import eventually, free_port, get

DEMO = [sys.executable, "-m", "kpod_metrics", "demo"]


def groups(cgroup_root: str, process: "subprocess.Popen[str]") -> list[Path]:
    return sorted(Path(cgroup_root, f"{PREFIX}{process.pid}").glob("*/cgroup.procs"))


def processes(cgroup_root: str, process: "subprocess.Popen[str]") -> set[int]:
    """All that the demo started: what is in its cgroups, and the agent."""
    inside = {int(pid) for group in groups(cgroup_root, process) for pid in group.read_text().split()}
    return inside | {int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}


def gone(pids: set[int]) -> bool:
    """Whether all have ended; one that nobody has waited for yet has ended."""
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            continue
        if state not in "ZX":
            return False
    return True


class Started:
    """A demo past its start."""

    def __init__(self, cgroup_root: str, *more: str) -> None:
        self.port = free_port()
        self._root = cgroup_root
        command = [*DEMO, "--listen", f"127.0.0.1:{self.port}", "--profile", "minimal", *more]
        self.process = subprocess.Popen(
            command,
            env=variables() | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            eventually(lambda: get(f"http://127.0.0.1:{self.port}/readyz").startswith("ready"), 60)
            eventually(lambda: all(group.read_text() for group in groups(cgroup_root, self.process)), 30)
        except AssertionError as error:
            self.process.kill()
            raise AssertionError(self.process.communicate()[0]) from error
        self.top = Path(cgroup_root, f"{PREFIX}{self.process.pid}")
        self.pids = processes(cgroup_root, self.process)
        assert len(self.pids) > len(groups(cgroup_root, self.process)) >= 7

    def end(self, how: signal.Signals, *, all_of_them: bool = False) -> tuple[int, str]:
        """Send a signal, to the group as a terminal does or to the process alone; return status and output."""
        (os.killpg if all_of_them else os.kill)(self.process.pid, how)
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output


@pytest.mark.parametrize(
    ("how", "all_of_them"), [(signal.SIGTERM, False), (signal.SIGINT, True)], ids=["terminated", "Ctrl-C"]
)
def test_ended_it_leaves_nothing(how: signal.Signals, all_of_them: bool, cgroup_root: str) -> None:
    demo = Started(cgroup_root)
    status, output = demo.end(how, all_of_them=all_of_them)
    assert status == 0
    assert gone(demo.pids)
    assert not demo.top.exists()
    assert "Traceback" not in output
    assert f"http://127.0.0.1:{demo.port}/metrics" in output
    for work in WORKLOADS:
        [line] = [line for line in output.splitlines() if line.startswith(f"{work.name} ")]
        assert work.does in line or f"no {work.needs} controller" in line


def test_killed_it_takes_all_with_it_and_the_next_one_cleans_up(cgroup_root: str) -> None:
    demo = Started(cgroup_root)
    status, _ = demo.end(signal.SIGKILL)
    assert status == -signal.SIGKILL
    eventually(lambda: gone(demo.pids), 20)
    assert demo.top.exists()
    with Workloads(cgroup_root) as workloads:
        assert not demo.top.exists()
        with Workloads(cgroup_root) as other:  # one that runs is left alone
            assert workloads.name != other.name
            assert len(list(Path(cgroup_root, workloads.name).glob("*/cgroup.procs"))) == len(workloads.chosen)
        assert not Path(cgroup_root, other.name).exists()
        assert workloads.ended() == []
    assert not Path(cgroup_root, workloads.name).exists()


def test_duration(cgroup_root: str) -> None:
    demo = Started(cgroup_root, "--duration", "5s")
    output, _ = demo.process.communicate(timeout=60)
    assert demo.process.returncode == 0, output
    assert gone(demo.pids)
    assert not demo.top.exists()


SAID = {
    "hog": "CPU: ",
    "lossy": "network: ",
    "refused": "connects: ",
    "faults": "page faults: ",
    "syscalls": "openat: 100 % of its calls fail",
}
"""What the page at `/` says of workloads that need no controller."""


def test_the_page_says_what_each_waits_for(cgroup_root: str) -> None:
    demo = Started(cgroup_root, "--profile", "comprehensive", "--poll-interval", "1s")
    # Without the iterator the waits of tasks that are older than the agent are not known.
    expected = {name: text for name, text in SAID.items() if name != "hog" or not lacking(TASK_ITERATOR)}
    said: dict[str, str] = {}

    def found() -> bool:
        rows = re.findall(r"<tr class.*?</tr>", get(f"http://127.0.0.1:{demo.port}/"), re.DOTALL)
        for name, text in expected.items():
            for row in rows:
                if f"{demo.top.name}/{name}<" in row and f">{text}" in row:
                    said[name] = text
        return said == expected

    try:
        eventually(found, 60)
    finally:
        print(said)  # seen where the test has failed
        demo.end(signal.SIGTERM)


def refused(status: int, *command: str) -> str:
    """The only line of the output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")


@pytest.mark.alone  # others start demos, too
def test_what_is_refused_is_refused_before_anything_starts(cgroup_root: str) -> None:
    before = sorted(Path(cgroup_root).glob(f"{PREFIX}*"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused(1, *DEMO, "--listen", listen)
        why = "Address already in use; --listen HOST:PORT sets another address"
        assert said == f"kpod-metrics: cannot listen on {listen}: {why}"
    assert "poll_interval: 'soon'" in refused(2, *DEMO, "--poll-interval", "soon")
    assert "--duration" in refused(2, *DEMO, "--duration", "0")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *DEMO, "--listen", "127.0.0.1:0")
    assert refused(1, *nobody).startswith("kpod-metrics: uid 65534 may not load BPF programs: run as root")
    assert sorted(Path(cgroup_root).glob(f"{PREFIX}*")) == before
