"""Runs in a virtual machine whose clock counts executed instructions: counts those of each event.

There (qemu's -icount, testkit/vm/machine.py) an instruction is a nanosecond, so what the kernel's account
(kernel.bpf_stats_enabled) has as a program's time is the instructions that it executed: helpers included, and the few
of the account itself. No machine's speed changes it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import BpfCollector, Environment
from kpod_metrics.settings import DEFAULT_SYSCALLS
from tests.live.harness import file_on_disk
from tests.live.workloads import Event, events_of


def make_cgroup(times: int, file: Path) -> None:
    """Make a cgroup and remove it."""
    path = Path("/sys/fs/cgroup/executed")
    for _ in range(times):
        path.mkdir()
        path.rmdir()


Loads = Callable[[], BpfCollector | CgroupEvents]


def events() -> Iterator[tuple[str, Event, Loads]]:
    """Return the events: name, how to make them, and the collector that counts them."""
    for name, kind in registered().items():
        if issubclass(kind, BpfCollector):
            load = partial(kind, Environment(syscalls=DEFAULT_SYSCALLS))
            yield from ((what, event, load) for what, event in events_of(name).items())
    yield "a new cgroup", Event(make_cgroup, 500), CgroupEvents


def measured() -> dict[str, dict[str, int]]:
    """Return the instructions per run, by event and program, of the programs that run at each event."""
    knob = Path("/proc/sys/kernel/bpf_stats_enabled")
    knob.write_text("1")
    found = {}
    for what, event, load in events():
        loaded = load()
        try:
            loaded.open()
            found[what] = _counted(loaded, event)
        finally:
            loaded.close()
        print(f"{what}: {found[what]}", flush=True)
    knob.write_text("0")
    return found


def _counted(loaded: BpfCollector | CgroupEvents, event: Event) -> dict[str, int]:
    """Return the instructions per run, by program."""
    with file_on_disk() as file:
        event.do(event.times // 10, file)  # the first events create entries, which cost more
        before = {program.name: program for program in loaded.programs()}
        event.do(event.times, file)
    ran = [(after, before[after.name]) for after in loaded.programs()]
    return {
        after.name: round((after.run_seconds - was.run_seconds) * 1e9 / (after.runs - was.runs))
        for after, was in ran
        if after.runs - was.runs >= event.times
    }
