"""What runs in a virtual machine whose clock is the count of executed instructions: what an event costs there.

There (qemu's -icount, testkit/vm/machine.py) an instruction is a nanosecond, so what the kernel's account
(kernel.bpf_stats_enabled) has as a program's time is the instructions that it executed: helpers included, and the few
of the account itself. No machine's speed changes it.
"""

import mmap
import socket
from pathlib import Path

from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import BpfCollector, Environment
from kpod_metrics.settings import DEFAULT_SYSCALLS
from testkit.vm import events
from testkit.vm.events import Event
from tests.live.harness import COMPILED


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


EVENTS: dict[str, Event] = events.EVENTS | {
    "a TCP connection": ("net_tcp", connect, 500),
    "a major page fault": ("memory", fault, 1_000),
    "a new cgroup": ("cgroups", make_cgroup, 500),
}


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
