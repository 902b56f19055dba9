"""Tracked syscalls, against workloads that make known numbers of them and time them themselves."""

import errno
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kpod_metrics.collectors.kit import Collector, Environment
from kpod_metrics.collectors.syscall import Syscall
from kpod_metrics.features import TASK_ITERATOR, TASK_TABLE
from kpod_metrics.histogram import BUCKETS, upper_bound
from kpod_metrics.kernel import syscalls
from kpod_metrics.settings import DEFAULT_SYSCALLS
from tests.forced import needs
from tests.live.harness import COMPILED, WORKLOADS, Cgroup, Totals, go, more_threads, opened, proves, stop_point

COUNT = "kpod_syscall_count_total"
ERRORS = "kpod_syscall_errors_total"
LATENCY = "kpod_syscall_latency_seconds"

SUCCEED = dict(zip(DEFAULT_SYSCALLS, (2, 3, 4, 5, 6 + 7, 7, 8, 8, 10, 11), strict=True))
"""How many calls of each succeed in a phase of `syscall FILE all 1`; each accepted connection is a connect more."""

X86 = os.uname().machine == "x86_64"
Process = subprocess.Popen[bytes]


class Done(NamedTuple):
    """What a workload says that it did: calls, those that failed, nanoseconds from before to after."""

    calls: int
    errors: int
    ns: int


class Workload:
    """`workloads/syscall.c`, stopped before its first phase."""

    def __init__(self, process: Process, file: Path) -> None:
        self.process = process
        self._file = file
        stop_point(process)

    def start_phase(self) -> None:
        go(self.process)

    def phase(self) -> None:
        """Run a phase to its end."""
        go(self.process)
        stop_point(self.process)

    def wait_until_in(self, name: str) -> None:
        """Until the process sleeps in a call."""
        native = syscalls.X86_64 if X86 else syscalls.ARM64
        number = native["epoll_pwait" if name == "epoll_wait" and not X86 else name]
        deadline = time.monotonic() + 10
        # The number, or "running".
        while Path(f"/proc/{self.process.pid}/syscall").read_text().split()[0] != str(number):
            assert time.monotonic() < deadline
            time.sleep(0.002)

    @property
    def done(self) -> dict[str, Done]:
        """By syscall, since its start."""
        return dict(
            zip(DEFAULT_SYSCALLS, map(Done._make, struct.iter_unpack("QQQ", self._file.read_bytes())), strict=True)
        )


Launch = Callable[..., Workload]


@pytest.fixture
def launch(workload: Callable[[str], str], tmp_path: Path, children: list[Process]) -> Iterator[Launch]:
    """Start the workload in a cgroup, up to its first stop."""
    program = workload("syscall")
    pipes = []

    def start(owner: Cgroup, *arguments: object) -> Workload:
        file = tmp_path / f"done-{len(children)}"
        file.write_bytes(bytes(24 * len(DEFAULT_SYSCALLS)))
        process = owner.start(program, str(file), *map(str, arguments), stdin=subprocess.PIPE)
        children.append(process)
        pipes.append(process.stdin)
        return Workload(process, file)

    yield start
    for pipe in pipes:
        assert pipe is not None
        pipe.close()


@pytest.fixture(scope="session")
def i386(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The 32-bit program: of instructions only, it needs no 32-bit C library."""
    if not X86:
        pytest.skip("an i386 program needs an x86 kernel")
    target = Path(COMPILED or tmp_path_factory.mktemp("i386")) / "syscall_i386"
    if not target.exists():
        flags = ["-m32", "-O1", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector", "-Wall", "-Werror"]
        subprocess.run(["clang", *flags, "-o", str(target), str(WORKLOADS / "syscall_i386.c")], check=True)
    try:
        # Stops itself at once; a kernel without IA32_EMULATION refuses to execute it.
        probe = subprocess.Popen([str(target)])
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        pytest.skip("this kernel runs no 32-bit programs")
    probe.kill()
    probe.wait()
    return str(target)


def collector(*names: str, **options: object) -> Syscall:
    return Syscall(Environment(syscalls=names or DEFAULT_SYSCALLS, **options))  # type: ignore[arg-type]


def bucket_of(ns: int) -> int:
    """The bucket that holds a duration: the first whose bound is not below it."""
    return next(bucket for bucket in range(BUCKETS) if ns / 1e9 <= upper_bound(bucket))


def seen(totals: Totals, owner: Cgroup) -> dict[str, tuple[float, float]]:
    """Calls and errors by name, of those with any; the histogram has as many observations as there are calls."""
    found = {}
    for cgroup_id, metric, labels in totals.numbers:
        if cgroup_id == owner.id and metric == COUNT:
            (name,) = labels
            calls = totals.number(owner, COUNT, name)
            assert totals.histogram(owner, LATENCY, name).count == calls
            found[name] = (calls, totals.number(owner, ERRORS, name))
    return found


def made(workload: Workload) -> dict[str, tuple[float, float]]:
    return {name: (done.calls, done.errors) for name, done in workload.done.items()}


@proves(COUNT, ERRORS)
@proves(LATENCY, within="what the caller measures around it")
@pytest.mark.parametrize(
    "forced_off",
    [frozenset(), {"task_table"}, {"task_storage"}, {"batch"}, {"tp_btf"}, {TASK_ITERATOR}],
    ids=["new", "storage", "5.10", "5.5", "raw", "no iterator"],
)
def test_every_default_syscall_is_counted_exactly(
    cgroup: Callable[[str], Cgroup], launch: Launch, forced_off: frozenset[str]
) -> None:
    """N in A, M in B, none in C, over two cycles; the time of each is at most what the workload measured around it."""
    a, b, c = cgroup("a"), cgroup("b"), cgroup("c")
    in_a, in_b, _in_c = launch(a, "all", 30), launch(b, "all", 17), launch(c, "all", 1)
    with opened(collector(forced_off=frozenset(forced_off))) as tracing:
        totals = Totals(tracing).read()
        assert seen(totals, a) == seen(totals, b) == {}
        for cycle in (1, 2):
            in_a.phase()
            in_b.phase()
            totals.read()
            for owner, workload, n in ((a, in_a, 30), (b, in_b, 17)):
                assert seen(totals, owner) == made(workload)
                for k, name in enumerate(DEFAULT_SYSCALLS):
                    assert workload.done[name].errors == cycle * (n + k)
                    assert workload.done[name].calls == cycle * (SUCCEED[name] * n + n + k)
                    took = totals.histogram(owner, LATENCY, name).sum_ns
                    assert 20 * workload.done[name].calls < took < workload.done[name].ns
        assert seen(totals.read(), a) == made(in_a), "counted twice"
        assert seen(totals, c) == {}


@proves(LATENCY, within="what the caller measures around it")
def test_latency_of_known_sleeps(cgroup: Callable[[str], Cgroup], launch: Launch) -> None:
    """Each observation is at least the sleep, and at most what the workload measured around it."""
    a = cgroup("a")
    blocked = launch(a, "block")
    assert blocked.process.stdin is not None
    with opened(collector()) as tracing:
        totals = Totals(tracing)
        before = dict.fromkeys(DEFAULT_SYSCALLS, 0)
        buckets = {name: [0] * BUCKETS for name in DEFAULT_SYSCALLS}
        for _ in range(2):
            already = blocked.done
            blocked.start_phase()
            blocked.wait_until_in("read")
            time.sleep(0.05)
            os.write(blocked.process.stdin.fileno(), b"x")
            stop_point(blocked.process)
            totals.read()
            for name, least in (("read", 50_000_000), ("epoll_wait", 30_000_000), ("futex", 20_000_000)):
                histogram = totals.histogram(a, LATENCY, name)
                true = blocked.done[name].ns - already[name].ns
                took = histogram.sum_ns - before[name]
                assert least <= took <= true
                new = [now - old for now, old in zip(histogram.buckets, buckets[name], strict=True)]
                assert [bucket for bucket, count in enumerate(new) if count] == [bucket_of(took)]
                before[name], buckets[name] = histogram.sum_ns, list(histogram.buckets)
        assert seen(totals, a) == {"read": (2, 0), "epoll_wait": (2, 0), "futex": (2, 2)}


@proves(COUNT, ERRORS)
def test_32_bit_numbers_are_a_table_of_their_own(
    cgroup: Callable[[str], Cgroup], i386: str, children: list[Process]
) -> None:
    """Also tracked: what the same numbers mean to a 64-bit process."""
    a = cgroup("a")
    process = a.start(i386)
    children.append(process)
    stop_point(process)
    meant = {number: name for name, number in syscalls.X86_64.items()}
    others = [meant[number] for number in (3, 4, 240)]
    assert others == ["close", "stat", "mq_open"]
    with opened(collector(*DEFAULT_SYSCALLS, *others)) as tracing:
        totals = Totals(tracing)
        for cycle in (1, 2):
            go(process)
            stop_point(process)
            assert seen(totals.read(), a) == {
                "read": (20 * cycle, 20 * cycle),
                "write": (30 * cycle, 30 * cycle),
                "futex": (90 * cycle, 0),
                "accept4": (60 * cycle, 60 * cycle),
            }


def test_32_and_64_bit_processes_of_one_cgroup(
    cgroup: Callable[[str], Cgroup], launch: Launch, i386: str, children: list[Process]
) -> None:
    a = cgroup("a")
    narrow = a.start(i386)
    children.append(narrow)
    stop_point(narrow)
    wide = launch(a, "one", syscalls.X86_64["close"], 7)
    with opened(collector("close", "read")) as tracing:
        go(narrow)
        stop_point(narrow)
        wide.phase()
        assert seen(Totals(tracing).read(), a) == {"close": (7, 7), "read": (20, 20)}


@proves(COUNT, ERRORS)
@pytest.mark.parametrize("forced_off", [frozenset(), {"unpreempted"}], ids=["new", "7.2"])
def test_threads(cgroup: Callable[[str], Cgroup], launch: Launch, forced_off: frozenset[str]) -> None:
    """On several CPUs at once, into the same value."""
    a = cgroup("a")
    threads = launch(a, "threads", 50_000, 4)
    with opened(collector("read", forced_off=frozenset(forced_off))) as tracing:
        totals = Totals(tracing)
        for cycle in (1, 2):
            threads.phase()
            assert seen(totals.read(), a) == {"read": (200_000 * cycle, 200_000 * cycle)}


def owners(tracing: Collector) -> list[int]:
    """What is in the table of tasks' states, place by place: 0 is free."""
    assert isinstance(tracing, Syscall)
    assert tracing._loaded is not None
    assert tracing._has_table()
    places = tracing._loaded.object.maps["task_syscall_table"].lookup_batch(65536)
    assert len(places) == 65536
    return [struct.unpack("QQQ", value)[0] for _, value in places]


@needs(TASK_TABLE)
@pytest.mark.parametrize("each", [1, 2], ids=["all", "half"])
def test_tasks_without_a_place_in_the_table(cgroup: Callable[[str], Cgroup], launch: Launch, each: int) -> None:
    """If all or half of the places are taken, the state is in task storage."""
    a = cgroup("a")
    with opened(collector("read")) as tracing:
        assert isinstance(tracing, Syscall)
        assert tracing._loaded is not None
        table, places = tracing._loaded.object.maps["task_syscall_table"], owners(tracing)
        for place, owner in enumerate(places):
            if not owner and place % each == 0:
                table.update(struct.pack("I", place), struct.pack("QQQ", 1, 0, 0))
        taken = owners(tracing)
        threads = launch(a, "threads", 8000, 4)
        totals = Totals(tracing).read()
        already = seen(totals, a).get("read", (0, 0))
        for cycle in (1, 2):
            threads.phase()
            calls, errors = seen(totals.read(), a)["read"]
            assert (calls - already[0], errors - already[1]) == (32_000 * cycle, 32_000 * cycle)
        if each == 1:
            assert len({*owners(tracing)} - {*taken}) < 10  # where others of the machine have ended


@needs(TASK_TABLE, TASK_ITERATOR)
def test_places_in_the_table_are_given_back(cgroup: Callable[[str], Cgroup], launch: Launch) -> None:
    """Threads have one each, older ones too; when they are over there is room for as many again."""
    a = cgroup("a")
    with more_threads(100), opened(collector("read")) as tracing:
        before = sum(map(bool, owners(tracing)))
        assert before > 100
        with more_threads(300):
            assert sum(map(bool, owners(tracing))) >= before + 280  # some share a place
        deadline = time.monotonic() + 10
        while sum(map(bool, owners(tracing))) > before + 20 and time.monotonic() < deadline:  # others come and go
            time.sleep(0.05)
        assert sum(map(bool, owners(tracing))) <= before + 20
        threads = launch(a, "threads", 500, 4)
        threads.phase()
        assert seen(Totals(tracing).read(), a)["read"][1] == 2000


@proves(COUNT)
@pytest.mark.parametrize("forced_off", [frozenset(), {"task_storage"}, {"tp_btf"}], ids=["new", "5.10", "raw"])
def test_children(cgroup: Callable[[str], Cgroup], launch: Launch, forced_off: frozenset[str]) -> None:
    """A fork returns twice and is one call; children's calls are counted, each once."""
    a = cgroup("a")
    parent = launch(a, "fork", 40, 11)
    names = ("read", "clone", "wait4", *(("vfork",) if X86 else ()))
    forks = {"clone": (11, 0), "vfork": (11, 0)} if X86 else {"clone": (22, 0)}
    with opened(collector(*names, forced_off=frozenset(forced_off))) as tracing:
        parent.phase()
        assert seen(Totals(tracing).read(), a) == {"read": (440, 440), "wait4": (22, 0), **forks}


def test_exec(cgroup: Callable[[str], Cgroup], launch: Launch) -> None:
    """On x86 each ends as execve, however it began."""
    a = cgroup("a")
    image = launch(a, "exec", "/dev/there-is-none", 5)
    with opened(collector("execve", "execveat")) as tracing:
        totals = Totals(tracing)
        for ended in ((0, 1), (1, 1), (1, 2), (2, 2), (2, 3)):
            image.phase()
            assert seen(totals.read(), a) == {
                name: (count, 0) for name, count in zip(("execve", "execveat"), ended, strict=True) if count
            }
        image.start_phase()
        assert image.process.wait(timeout=10) == 1
        assert seen(totals.read(), a) == {"execve": (3, 1), "execveat": (3, 0)}


@pytest.mark.parametrize("names", [("execve",), ("execveat",), ("execve", "execveat")])
@pytest.mark.parametrize("by", ["execve", "execveat"])
def test_exec_of_a_32_bit_image(
    cgroup: Callable[[str], Cgroup], launch: Launch, i386: str, names: tuple[str, ...], by: str
) -> None:
    """Begins under a 64-bit number and ends under a 32-bit one."""
    a = cgroup("a")
    image = launch(a, "exec", i386, 0, *(["other"] if by == "execveat" else []))
    with opened(collector(*names)) as tracing:
        totals = Totals(tracing)
        for _ in range(2):  # into the image, and in a separate phase
            image.phase()
            assert seen(totals.read(), a) == ({by: (1, 0)} if by in names else {})


@proves(COUNT)
@pytest.mark.parametrize("names", [("execve", "epoll_wait"), ("execve", "execveat", "epoll_wait")])
@pytest.mark.parametrize("forced_off", [frozenset(), {"task_storage"}, {"tp_btf"}], ids=["new", "5.10", "raw"])
def test_exec_in_a_thread_that_takes_the_leaders_pid(
    cgroup: Callable[[str], Cgroup], launch: Launch, forced_off: frozenset[str], names: tuple[str, ...]
) -> None:
    """The call in which the leader dies ends with EINTR."""
    a = cgroup("a")
    image = launch(a, "exec-thread")
    with opened(collector(*names, forced_off=frozenset(forced_off))) as tracing:
        image.start_phase()
        image.wait_until_in("epoll_wait")
        image.process.send_signal(signal.SIGHUP)
        stop_point(image.process)
        assert seen(Totals(tracing).read(), a) == {"epoll_wait": (1, 1), "execve": (1, 0)}


def test_a_call_that_began_before_is_not_counted(cgroup: Callable[[str], Cgroup], launch: Launch) -> None:
    a = cgroup("a")
    blocked = launch(a, "block")
    assert blocked.process.stdin is not None
    blocked.start_phase()
    blocked.wait_until_in("read")
    with opened(collector()) as tracing:
        totals = Totals(tracing)
        os.write(blocked.process.stdin.fileno(), b"x")
        stop_point(blocked.process)
        assert seen(totals.read(), a) == {"epoll_wait": (1, 0), "futex": (1, 1)}
        os.write(blocked.process.stdin.fileno(), b"x")
        blocked.phase()
        assert seen(totals.read(), a) == {"read": (1, 0), "epoll_wait": (2, 0), "futex": (2, 2)}


@pytest.mark.parametrize("restart", [True, False])
def test_interrupted_by_a_signal(cgroup: Callable[[str], Cgroup], launch: Launch, restart: bool) -> None:
    """A read ends as ERESTARTSYS, no error to us, and is made again or not; epoll_wait ends as EINTR, an error."""
    a = cgroup("a")
    blocked = launch(a, "signal")
    assert blocked.process.stdin is not None
    with opened(collector()) as tracing:
        totals = Totals(tracing)
        blocked.start_phase()
        blocked.wait_until_in("read")
        blocked.process.send_signal(signal.SIGUSR1 if restart else signal.SIGUSR2)
        if restart:
            deadline = time.monotonic() + 10
            while not seen(totals.read(), a):
                assert time.monotonic() < deadline
            blocked.wait_until_in("read")
            assert seen(totals.read(), a) == {"read": (1, 0)}
            os.write(blocked.process.stdin.fileno(), b"x")
        blocked.wait_until_in("epoll_wait")
        blocked.process.send_signal(signal.SIGUSR1)
        stop_point(blocked.process)
        assert made(blocked)["read"] == (1, 0 if restart else 1)
        assert made(blocked)["epoll_wait"] == (1, 1)
        assert seen(totals.read(), a) == {"read": (2 if restart else 1, 0), "epoll_wait": (1, 1)}


def test_what_seccomp_refused_is_not_counted(cgroup: Callable[[str], Cgroup], launch: Launch) -> None:
    """The kernel tells of its end only: no call before it may be taken for its beginning."""
    a = cgroup("a")
    filtered = launch(a, "seccomp", 25)
    with opened(collector()) as tracing:
        filtered.phase()
        assert made(filtered)["write"] == (25, 25), "those that were refused"
        assert seen(Totals(tracing).read(), a) == {"write": (25, 0)}, "those that were not"


def test_as_many_names_as_there_may_be(cgroup: Callable[[str], Cgroup], launch: Launch) -> None:
    """The last has the highest index."""
    a = cgroup("a")
    native = syscalls.X86_64 if X86 else syscalls.ARM64
    usual = [name for name in native if name not in {"exit", "exit_group", "rt_sigreturn", "getppid", "getuid"}]
    names = (*usual[: syscalls.MAX_TRACKED - 1], "getppid")
    assert len(names) == 254
    calls = launch(a, "one", native["getppid"], 13), launch(a, "one", native["getuid"], 5)
    with opened(collector(*names)) as tracing:
        for workload in calls:
            workload.phase()
        counted = seen(Totals(tracing).read(), a)
        assert counted["getppid"] == (13, 0)
        assert "getuid" not in counted


def test_of_programs_that_stand_in_for_each_other_the_last_one_tells_what_is_lost() -> None:
    with opened(collector("read", forced_off=frozenset({"unpreempted"}))) as tracing:
        programs = [program.name for program in tracing.programs() if not program.name.startswith("task_syscall_")]
        copies = ("", "_2", "_3", "_4")
        assert sorted(programs) == sorted(f"syscall_{end}{copy}" for copy in copies for end in ("begins", "ends"))
        for program in tracing._loaded.object.programs.values():  # type: ignore[attr-defined]
            program.statistics = lambda: (0, 0, 7)
        missed = {program.name: program.missed for program in tracing.programs() if program.name in programs}
        assert {name for name, count in missed.items() if count} == {"syscall_begins_4", "syscall_ends_4"}


def test_a_wrong_name_is_one_line_and_status_2() -> None:
    command = [sys.executable, "-m", "kpod_metrics", "run", "--listen", "127.0.0.1:0", "--syscalls", "write,reed"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("kpod-metrics: syscalls: unknown syscall 'reed' (nearest: read")
