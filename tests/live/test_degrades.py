"""What the machine refuses is one clear line, and takes nothing else down."""

import errno
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hatch_build import compile_objects
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.run_queue import RunQueue
from kpod_metrics.errors import UnavailableError
from kpod_metrics.kernel.programs import OBJECTS
from kpod_metrics.metrics import Row
from kpod_metrics.pods.model import Group
from tests.live.agents import eventually, get
from tests.live.harness import COMPILED, Cgroup

AGENT = [sys.executable, "-m", "kpod_metrics"]
RUN = [*AGENT, "run", "--poll-interval", "100ms", "--collector-deadline", "10s", "--listen", "127.0.0.1:0"]


def outcome(command: list[str], script: str = "") -> tuple[int, list[str]]:
    """Run to its end; `script` is run by a shell in a private mount namespace before. Status and lines of stderr."""
    if script:
        command = ["unshare", "--mount", "sh", "-ec", f'{script}\nexec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stderr.splitlines()


@pytest.fixture
def running() -> Iterator[Callable[..., tuple[str, str]]]:
    """Start an agent, return its /metrics and /readyz after its first cycles."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str) -> tuple[str, str]:
        agent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(agent)
        assert agent.stderr is not None
        port = ""
        for line in agent.stderr:
            if match := re.search(r"serves http://[^:]+:(\d+)/", line):
                port = match[1]
                break
        assert port, "the agent ended without serving"
        eventually(lambda: get(f"http://127.0.0.1:{port}/readyz"))
        time.sleep(0.5)
        pages = []
        for path in ("metrics", "readyz"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as page:
                pages.append(page.read().decode())
        return pages[0], pages[1]

    yield start
    for agent in started:
        agent.terminate()
        agent.communicate(timeout=30)
        assert agent.returncode == 0


HIDE_BTF = "mount -t tmpfs none /sys/kernel/btf"
HIDE_CGROUP2 = 'for at in $(findmnt -n -l -t cgroup2 -o TARGET); do umount -l "$at"; done'
DROP = ["setpriv", "--bounding-set=-sys_admin,-bpf,-perfmon"]


REFUSE_OPENAT2 = """
import ctypes, os, struct, sys
number = int(sys.argv[1])
# Load the call's number; if it is openat2's, the error, else allow (linux/filter.h, linux/seccomp.h).
code = b"".join(struct.pack("=HBBI", *one) for one in (
    (0x20, 0, 0, 0), (0x15, 0, 1, 437), (0x06, 0, 0, 0x00050000 | number), (0x06, 0, 0, 0x7FFF0000)))
program = struct.pack("@HP", 4, ctypes.addressof(held := ctypes.create_string_buffer(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert not libc.prctl(38, 1, 0, 0, 0)
assert not libc.prctl(22, 2, program, 0, 0), os.strerror(ctypes.get_errno())
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.one_kernel
@pytest.mark.parametrize("refusal", ["EPERM", "ENOSYS"])
def test_without_openat2_no_file_system_of_a_pod_is_looked_at(
    running: Callable[..., tuple[str, str]], refusal: str
) -> None:
    """As under a seccomp profile that is older than that call: there is no other safe way to look them up."""
    refused = [sys.executable, "-c", REFUSE_OPENAT2, str(getattr(errno, refusal))]
    metrics, ready = running(*refused, *RUN)
    assert 'kpod_collector_up{collector="filesystem"} 0' in metrics
    assert 'kpod_collector_up{collector="net_iface"} 1' in metrics
    assert "kpod_fs_" not in metrics
    assert f"collector filesystem is off: {refusal}: openat2() is refused, by a seccomp profile" in ready
    checked = subprocess.run([*refused, *AGENT, "check"], capture_output=True, text=True, timeout=60, check=False)
    assert f"{refusal}: openat2() is refused" in checked.stdout


@pytest.mark.usefixtures("mount_namespaces")
def test_without_btf_kernel_programs_are_off_and_files_are_read(running: Callable[..., tuple[str, str]]) -> None:
    metrics, ready = running("unshare", "--mount", "sh", "-ec", f'{HIDE_BTF}\nexec "$@"', "sh", *RUN)
    assert 'kpod_collector_up{collector="run_queue"} 0' in metrics
    assert 'kpod_collector_up{collector="cpu"} 1' in metrics
    assert "kpod_cpu_context_switches_total" not in metrics, "an unavailable metric must not be exported as 0"
    assert re.search(r"collector run_queue is off: .*/sys/kernel/btf/vmlinux is missing", ready)


@pytest.mark.usefixtures("mount_namespaces")
@pytest.mark.one_kernel
def test_check_says_that_btf_is_missing() -> None:
    command = ["unshare", "--mount", "sh", "-ec", f'{HIDE_BTF}\nexec "$@"', "sh", *AGENT, "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert re.search(r"^FAIL\s+BTF .*vmlinux is missing", done.stdout, re.MULTILINE)
    assert re.search(r"^FAIL\s+net_tcp .*CO-RE needs a kernel with CONFIG_DEBUG_INFO_BTF", done.stdout, re.MULTILINE)
    assert re.search(r"^ok\s+pressure", done.stdout, re.MULTILINE)


def test_a_small_limit_of_locked_memory_is_raised() -> None:
    """Before 5.11 maps count towards it; later the memory controller has them. libbpf sees to both."""
    command = ["prlimit", "--memlock=65536:65536", *AGENT, "check", "--discovery", "cgroup"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    for collector in ("run_queue", "oom", "page_faults", "net_tcp"):
        assert re.search(rf"^ok\s+{collector} ", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.one_kernel
def test_without_btf_and_nothing_left_to_collect() -> None:
    status, lines = outcome([*RUN, "--profile", "custom", "--collectors-run-queue-enabled", "true"], HIDE_BTF)
    assert status == 1
    [line] = lines
    assert re.search(r"^kpod-metrics: nothing can be collected here: .*vmlinux is missing", line)


def test_without_bpf_capabilities_files_are_read(running: Callable[..., tuple[str, str]]) -> None:
    metrics, ready = running(*DROP, *RUN)
    assert 'kpod_collector_up{collector="oom"} 0' in metrics
    assert 'kpod_collector_up{collector="pressure"} 1' in metrics
    assert re.search(r"collector oom is off: .*EPERM", ready)


@pytest.mark.one_kernel
def test_check_says_what_is_missing() -> None:
    done = subprocess.run([*DROP, *AGENT, "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"^FAIL\s+rights .*without CAP_BPF and CAP_PERFMON", done.stdout, re.MULTILINE)
    assert re.search(r"^FAIL\s+run_queue .*EPERM", done.stdout, re.MULTILINE)
    assert re.search(r"^ok\s+cpu ", done.stdout, re.MULTILINE)


@pytest.mark.usefixtures("mount_namespaces")
@pytest.mark.one_kernel
def test_where_processes_are_hidden_check_says_what_run_refuses() -> None:
    alone = ["unshare", "--pid", "--fork", "--mount-proc"]
    status, lines = outcome([*alone, *RUN, "--profile", "minimal"])
    assert status == 1
    [refused] = lines
    done = subprocess.run(
        [*alone, *AGENT, "check", "--profile", "minimal"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    [said] = re.findall(r"^FAIL\s+processes\s+(.*)$", done.stdout, re.MULTILINE)
    assert refused == f"kpod-metrics: {said}"


@pytest.mark.one_kernel
def test_without_root() -> None:
    """All is imported before the process becomes nobody: the interpreter may be where nobody can read."""
    code = """
        import os, shutil, sys  # argparse imports shutil late, which that user may not read everywhere
        from kpod_metrics import agent, check, cli, collectors, server
        collectors.registered()
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        sys.exit(cli.main(["run", "--listen", "127.0.0.1:0"]))
    """
    status, lines = outcome([sys.executable, "-c", textwrap.dedent(code)])
    assert status == 1
    assert lines == ["kpod-metrics: uid 65534 may not load BPF programs: run as root, or with CAP_BPF and CAP_PERFMON"]


@pytest.mark.usefixtures("mount_namespaces")
@pytest.mark.one_kernel
def test_without_cgroup2() -> None:
    status, lines = outcome(RUN, HIDE_CGROUP2)
    assert status == 1
    assert lines == ["kpod-metrics: no cgroup2 mount in /proc/self/mountinfo: mount one, or name it with --cgroup-root"]


def refusal(objects: Path) -> str:
    collector = RunQueue(Environment(objects=str(objects)))
    try:
        with pytest.raises(UnavailableError) as caught:
            collector.open()
    finally:
        collector.close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", os.urandom(4096)], ids=["empty", "cut", "noise"])
def test_object_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run_queue.bpf.o"
    path.write_bytes(content)
    assert refusal(tmp_path) == f"{path}: damaged or cut short: its checksum is wrong"
    path.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))
    assert re.match(rf"{re.escape(str(path))}: not a BPF object: (FORMAT|LIBELF): ", refusal(tmp_path))


def test_object_that_is_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}/run_queue.bpf.o: No such file or directory"


def test_object_of_another(tmp_path: Path) -> None:
    (tmp_path / "run_queue.bpf.o").write_bytes(Path(OBJECTS, "cgroups.bpf.o").read_bytes())
    said = refusal(tmp_path)
    assert said == "run_queue.bpf.o is not the object that belongs to this agent: KeyError: 'run_queue'"


def variant(tmp_path: Path, old: str, new: str) -> Path:
    """The shipped program with one text replaced, compiled."""
    if COMPILED:
        pytest.skip("a machine without a compiler")
    source = Path(__file__).parents[2] / "bpf" / "run_queue.bpf.c"
    text = source.read_text()
    assert old in text
    (tmp_path / "run_queue.bpf.c").write_text(text.replace(old, new))
    compile_objects([tmp_path / "run_queue.bpf.c"], tmp_path)
    return tmp_path


def test_hook_that_this_kernel_lacks_is_named(tmp_path: Path) -> None:
    said = refusal(variant(tmp_path, "raw_tp/task_newtask", "raw_tp/no_such_hook"))
    assert "no_such_hook" in said


def test_verifier_is_quoted(tmp_path: Path) -> None:
    said = refusal(variant(tmp_path, "if (!READ(prev, pid))", "if (*(volatile char *)0)"))
    assert re.search(r"E(ACCES|INVAL|PERM)", said)
    assert re.search(r"task_leaves|R\d", said)


@pytest.mark.one_kernel
def test_a_collector_that_raises_takes_nothing_down(
    monkeypatch: pytest.MonkeyPatch, cgroup_root: str, tell: Callable[..., None]
) -> None:
    """In process, as only a defect can do it: the others' values move on, the fault is a metric."""
    from kpod_metrics import agent as agents
    from kpod_metrics.collectors import registered
    from kpod_metrics.collectors.pressure import Pressure
    from kpod_metrics.settings import load

    def broken(self: Pressure, groups: list[Group]) -> list[object]:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Pressure, "collect", broken)
    names = list(registered())
    settings, _ = load({"listen": "127.0.0.1:0"}, {}, None, names)
    agent = agents.build(settings)
    try:
        agent.open()
        for cycle in (1, 2):
            agent.cycle()
            page = agent.published.get("text/plain; version=0.0.4; charset=utf-8", False).decode()
            assert 'kpod_collector_up{collector="pressure"} 0' in page
            assert f'kpod_collector_errors_total{{collector="pressure"}} {cycle}' in page
            assert 'kpod_collector_up{collector="run_queue"} 1' in page
            assert 'kpod_cpu_context_switches_total{namespace="cgroup",pod="/"' in page
        problems = [problem for problem in agent.problems() if "page_faults" not in problem]
        assert problems == ["collector pressure is failing: ZeroDivisionError: planted"]
    finally:
        agent.stop()
    happened = "it was reported as failing, and counted each time; all others continued"
    tell("Faults", "A collector raises an error in each cycle", 2, happened, "its own metrics")


@pytest.mark.one_kernel
@pytest.mark.parametrize("fault", ["the read fails", "a row is refused", "the cycle fails"])
def test_counters_are_there_after_a_fault(
    monkeypatch: pytest.MonkeyPatch, cgroup: Callable[[str], Cgroup], fault: str
) -> None:
    """An idle container's file counters, after a fault in the first cycle."""
    from kpod_metrics import agent as agents
    from kpod_metrics.agent import Agent
    from kpod_metrics.collectors import registered
    from kpod_metrics.collectors.pressure import Pressure
    from kpod_metrics.settings import load

    idle = cgroup("idle")
    child = idle.start("sleep", "1000")
    reads: list[int] = []
    real, take = Pressure.collect, Agent._take

    def collect(self: Pressure, groups: Sequence[Group]) -> Iterable[Row]:
        rows = list(real(self, groups))
        reads.append(len(rows))
        if len(reads) == 1 and fault == "the read fails":
            raise OSError(errno.EMFILE, "planted")
        if len(reads) == 1 and fault == "a row is refused":
            return [row._replace(values=[-1] * len(row.values)) for row in rows]
        return rows

    def taken(self: Agent, *result: Any) -> None:
        if len(reads) == 1 and fault == "the cycle fails":
            raise OSError(errno.EMFILE, "planted")
        take(self, *result)

    monkeypatch.setattr(Pressure, "collect", collect)
    monkeypatch.setattr(Agent, "_take", taken)
    flags = {"cgroup_root": str(idle.path.parent), "profile": "custom", "collectors_pressure_enabled": "true"}
    settings, _ = load(flags, {}, None, list(registered()))
    agent = agents.build(settings)
    try:
        agent.open()
        for _ in range(3):
            with suppress(OSError):
                agent.cycle()
        page = agent.published.get("text/plain; version=0.0.4; charset=utf-8", False).decode()
        assert "kpod_pressure_io_waiting_seconds_total{" in page
        assert reads == [1, 1, 1]
    finally:
        agent.stop()
        child.kill()
        child.wait()


def test_a_hook_that_is_refused_is_told_in_a_metric_and_takes_nothing_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector is not up; all other metrics are there."""
    from kpod_metrics import agent as agents
    from kpod_metrics.collectors import registered
    from kpod_metrics.collectors.page_faults import PageFaults
    from kpod_metrics.settings import load

    def refused(self: PageFaults, bpf: object, links: object) -> None:
        raise UnavailableError("perf_event_open: EPERM")

    monkeypatch.setattr(PageFaults, "attach", refused)
    settings, _ = load({"listen": "127.0.0.1:0"}, {}, None, list(registered()))
    agent = agents.build(settings)
    try:
        agent.open()
        agent.cycle()
        page = agent.published.get("text/plain; version=0.0.4; charset=utf-8", False).decode()
        up = dict(re.findall(r'^kpod_collector_up\{collector="(\w+)"\} (\d)$', page, re.MULTILINE))
        assert {name for name, value in up.items() if value == "0"} == {"page_faults"}
        assert 'kpod_mem_oom_kills_total{namespace="cgroup",pod="/"' in page
        assert "kpod_mem_major_page_faults_total" not in page
        assert agent.problems() == ["collector page_faults is off: perf_event_open: EPERM"]
    finally:
        agent.stop()


@pytest.mark.one_kernel
def test_a_slow_collector_delays_no_other(monkeypatch: pytest.MonkeyPatch, tell: Callable[..., None]) -> None:
    """One that hangs: its cycle ends at the deadline, the next ones do not wait for it, and its rows are not lost."""
    from kpod_metrics import agent as agents
    from kpod_metrics.collectors import registered
    from kpod_metrics.collectors.run_queue import RunQueue as Slow
    from kpod_metrics.settings import load

    gate = threading.Event()
    gate.set()
    real = Slow.collect

    def slow(self: Slow, groups: list[Group]) -> Iterable[Row]:
        gate.wait(20)
        return real(self, groups)

    monkeypatch.setattr(Slow, "collect", slow)
    settings, _ = load({"listen": "127.0.0.1:0", "collector_deadline": "2s"}, {}, None, list(registered()))
    agent = agents.build(settings)

    def cycle() -> tuple[str, float, int]:
        began = time.monotonic()
        agent.cycle()
        took = time.monotonic() - began
        page = agent.published.get("text/plain; version=0.0.4; charset=utf-8", False).decode()
        switches = re.search(
            r'^kpod_cpu_context_switches_total\{namespace="cgroup",pod="/".* (\d+)$', page, re.MULTILINE
        )
        assert switches
        return page, took, int(switches[1])

    try:
        agent.open()
        _, _, before = cycle()
        gate.clear()
        page, took, switches = cycle()
        assert took >= 2
        assert switches == before
        assert 'kpod_collector_up{collector="run_queue"} 0' in page
        assert 'kpod_collector_errors_total{collector="run_queue"} 1' in page
        for name in ("memory", "pressure", "net_tcp"):
            assert f'kpod_collector_up{{collector="{name}"}} 1' in page
        assert "collector run_queue is failing: late: no answer within its 2 s deadline" in agent.problems()
        page, took, _ = cycle()
        assert took < 2
        assert 'kpod_collector_errors_total{collector="run_queue"} 1' in page  # it is late once, however long
        gate.set()
        time.sleep(0.1)
        page, _, _ = cycle()
        page, _, switches = cycle()
        assert switches > before
        assert 'kpod_collector_up{collector="run_queue"} 1' in page
        assert not [problem for problem in agent.problems() if "run_queue" in problem]
    finally:
        gate.set()
        agent.stop()
    happened = "it was reported as late, once; cycles ended at the deadline, then without it, and all others continued"
    tell("Faults", "A collector hangs, and continues", 1, happened, "nothing: its rows are used when it continues")
