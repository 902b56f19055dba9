"""What runs in a virtual machine whose clock is the count of executed instructions: what an event costs there.

There (qemu's -icount, machine.py) an instruction is a nanosecond, so what the kernel's account
(kernel.bpf_stats_enabled) has as a program's time is the instructions that it executed: helpers included, and the few
of the account itself. No machine's speed changes it.
"""

import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path

from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.base import BpfCollector, Environment
from kpod_metrics.settings import DEFAULT_SYSCALLS
from tests.live.harness import COMPILED

Doing = Callable[[int], None]


def switch(times: int) -> None:
    """Send a byte to another process and wait for it: it waits, too."""
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        for _ in range(times):
            os.write(back[1], os.read(there[0], 1))
        os._exit(0)
    for _ in range(times):
        os.write(there[1], b"x")
        os.read(back[0], 1)
    os.waitpid(child, 0)
    for end in (*there, *back):
        os.close(end)


def read(times: int) -> None:
    """Read, which is tracked."""
    with open("/dev/zero", "rb", buffering=0) as file:
        for _ in range(times):
            os.read(file.fileno(), 1)


def getppid(times: int) -> None:
    """Make a call that is not tracked."""
    for _ in range(times):
        os.getppid()


def exchange(times: int) -> None:
    """Send a byte there and back over one connection."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            for _ in range(times):
                client.sendall(b"x")
                accepted.sendall(accepted.recv(1))
                client.recv(1)


def connect(times: int) -> None:
    """Open a connection, close it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(times):
            with socket.create_connection(server.getsockname()):
                server.accept()[0].close()


def fault(times: int) -> None:
    """Look at pages that only the disk has."""
    Path("/proc/sys/vm/drop_caches").write_text("1")
    seen = 0
    for path in sorted(Path(COMPILED).iterdir()):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
            pages.madvise(mmap.MADV_RANDOM)
            for at in range(0, len(pages), mmap.PAGESIZE):
                pages[at]
                seen += 1
                if seen == times:
                    return


def make_cgroup(times: int) -> None:
    """Make a cgroup and remove it."""
    path = Path("/sys/fs/cgroup/executed")
    for _ in range(times):
        path.mkdir()
        path.rmdir()


EVENTS: dict[str, tuple[str, Doing, int]] = {
    "a message there and back": ("cpu_sched", switch, 5_000),
    "a tracked syscall": ("syscall", read, 20_000),
    "another syscall": ("syscall", getppid, 20_000),
    "a byte there and back by TCP": ("net_tcp", exchange, 5_000),
    "a TCP connection": ("net_tcp", connect, 500),
    "a major page fault": ("memory", fault, 1_000),
    "a new cgroup": ("cgroups", make_cgroup, 500),
}
"""By what is done: the programs that are loaded, who does it, how often."""


def measured() -> dict[str, dict[str, int]]:
    """Instructions that a run of a program executes, by event and program: of those that ran at each of the events."""
    knob = Path("/proc/sys/kernel/bpf_stats_enabled")
    knob.write_text("1")
    found = {}
    for event, (name, do, times) in EVENTS.items():
        loaded: BpfCollector | CgroupEvents
        if name == "cgroups":
            loaded = CgroupEvents()
        else:
            kind = registered()[name]
            assert issubclass(kind, BpfCollector)
            loaded = kind(Environment(syscalls=DEFAULT_SYSCALLS))
        try:
            loaded.open()
            do(times // 10)  # the first events make what the others find
            before = {program.name: program for program in loaded.programs()}
            do(times)
            ran = [(after, before[after.name]) for after in loaded.programs()]
            found[event] = {
                after.name: round((after.run_seconds - was.run_seconds) * 1e9 / (after.runs - was.runs))
                for after, was in ran
                if after.runs - was.runs >= times
            }
        finally:
            loaded.close()
        print(f"{event}: {found[event]}", flush=True)
    knob.write_text("0")
    return found
