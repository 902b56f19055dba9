"""Tables of running totals by cgroup: what is evicted from a full one is counted to the last entry."""

import subprocess
import sys
from collections.abc import Callable

from kpod_metrics.collectors.kit import BpfCollector, Environment
from kpod_metrics.collectors.syscall import Syscall
from tests.live.harness import SCALE, Cgroup, Totals, opened

COUNT = "kpod_syscall_count_total"
RARE = "sched_rr_get_interval"
"""A syscall that nothing else on the machine makes, so that every entry of the table is of the test."""
SHORT_LIVED = """
import os, sys
above, cgroups = sys.argv[1], int(sys.argv[2])
for number in range(cgroups):
    os.mkdir(f"{above}/{number}")
    with open(f"{above}/{number}/cgroup.procs", "w") as procs:
        procs.write("0")
    os.sched_rr_get_interval(0)
    with open(f"{above}/last/cgroup.procs", "w") as procs:
        procs.write("0")
    os.rmdir(f"{above}/{number}")
"""
"""A process makes one cgroup after another, has one event in each, and removes it."""


def evictions_of(collector: BpfCollector) -> int:
    """As the agent exports them."""
    return next(map_.evictions or 0 for map_ in collector.maps() if map_.name == collector.name)


def test_every_eviction_is_counted_also_of_entries_that_no_read_saw(cgroup: Callable[[str], Cgroup]) -> None:
    """Far more entries than a table has room for are created and evicted between two reads."""
    above, cgroups, room = cgroup("many"), 3000 // SCALE, 512
    cgroup("many/last")

    def churn() -> None:
        subprocess.run([sys.executable, "-c", SHORT_LIVED, str(above.path), str(cgroups)], check=True)

    with opened(Syscall(Environment(map_entries=room, syscalls=(RARE,)))) as collector:
        assert isinstance(collector, Syscall)
        reader = collector.reader("syscall")
        totals = Totals(collector).read()
        assert (reader.entries, evictions_of(collector)) == (0, 0)
        churn()
        totals.read()
        first = reader.entries
        assert 0 < first <= room
        assert evictions_of(collector) == cgroups - first
        deleted = reader.forget(lambda key: key[0] % 2 == 0)
        assert 0 < deleted < first
        totals.read()
        assert (reader.entries, evictions_of(collector)) == (first - deleted, cgroups - first)
        churn()
        totals.read()
        assert evictions_of(collector) == 2 * cgroups - deleted - reader.entries
