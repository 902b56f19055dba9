"""Runs in a virtual machine whose clock counts executed instructions: counts the instructions of each event.

There (qemu's -icount, testkit/vm/machine.py) an instruction takes a nanosecond. So a program's run time
(kernel.bpf_stats_enabled) is the number of instructions that it executed, with those of helpers and the few of the
statistics themselves. It does not depend on the speed of the machine.
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


def create_cgroups(times: int, file: Path) -> None:
    """Create and remove a cgroup, `times` times."""
    path = Path("/sys/fs/cgroup/executed")
    for _ in range(times):
        path.mkdir()
        path.rmdir()


Create = Callable[[], BpfCollector | CgroupEvents]


def events() -> Iterator[tuple[str, Event, Create]]:
    """Return the events: name, how to make them, and the collector that counts them."""
    for name, kind in registered().items():
        if issubclass(kind, BpfCollector):
            create = partial(kind, Environment(syscalls=DEFAULT_SYSCALLS))
            yield from ((what, event, create) for what, event in events_of(name).items())
    yield "a new cgroup", Event(create_cgroups, 500), CgroupEvents


def measured() -> dict[str, dict[str, int]]:
    """Return the instructions per run, by event and program, of the programs that run at each event."""
    knob = Path("/proc/sys/kernel/bpf_stats_enabled")
    knob.write_text("1")
    found = {}
    for what, event, create in events():
        loaded = create()
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
