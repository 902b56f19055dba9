"""Tables of running totals by cgroup: one entry for each container, and every eviction from a full one is counted."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.collectors.kit import BpfCollector, Environment
from kpod_metrics.collectors.net_tcp import NetTcp
from kpod_metrics.collectors.page_faults import MAJOR_FAULTS, PageFaults
from kpod_metrics.collectors.run_queue import RunQueue
from kpod_metrics.collectors.syscall import Syscall
from kpod_metrics.features import BATCH, PERF_EVENT, SOCKET_ITERATOR, SOCKET_STORAGE
from tests.forced import needs
from tests.live.agents import Page, eventually, get, running_agent
from tests.live.harness import SCALE, Cgroup, Totals, go, opened, stop_point, switches

MakeCgroup = Callable[[str], Cgroup]
Process = subprocess.Popen[bytes]
COUNT = "kpod_syscall_count_total"
SWITCHES = "kpod_cpu_context_switches_total"
WAITS = "kpod_cpu_runqueue_latency_seconds"
SENT, RECEIVED = "kpod_net_tcp_bytes_sent_total", "kpod_net_tcp_bytes_received_total"
FAULTS = MAJOR_FAULTS.name
UID = "0a1b2c3d_0a1b_0a1b_0a1b_0a1b2c3d4e5f"
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


VISITING = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
for number in range(int(sys.argv[2])):
    with open(f"{sys.argv[1]}/{number}/cgroup.procs", "w") as procs:
        procs.write("0")
    os.sched_rr_get_interval(0)
"""
"""A process has one event in each of many cgroups. It stays on one CPU: an LRU map keeps free entries for each."""


def evictions_of(collector: BpfCollector) -> int:
    """As the agent exports them."""
    return next(map_.evictions or 0 for map_ in collector.maps() if map_.name == collector.name)


def test_every_eviction_is_counted_also_of_entries_that_no_read_saw(cgroup: MakeCgroup) -> None:
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


def test_events_between_the_read_and_the_deletion_of_an_entry_count(cgroup: MakeCgroup) -> None:
    one = cgroup("one")

    def call(times: int) -> None:
        one.run(sys.executable, "-c", f"import os\nfor _ in range({times}): os.sched_rr_get_interval(0)")

    with opened(Syscall(Environment(syscalls=(RARE,)))) as collector:
        totals = Totals(collector)
        counts = []
        for _ in range(2):
            call(7)
            totals.read()
            counts.append(totals.number(one, COUNT, RARE))
            call(5)
            collector.forget(lambda cgroup: True)
            totals.add(collector.late_rows())
            counts.append(totals.number(one, COUNT, RARE))
        assert counts == [7, 12, 19, 24]


DEPTHS = (1, 5, 12, 40)
RAW = pytest.mark.parametrize("forced_off", [(), ("tp_btf",)], ids=["newest", "raw"])
TCP_BYTES = 12_345
TALK = f"""
import socket
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
    accepted = server.accept()[0]
    client.sendall(bytes({TCP_BYTES}))
    assert len(accepted.recv({TCP_BYTES}, socket.MSG_WAITALL)) == {TCP_BYTES}
    accepted.close()
"""
TALK_LATER = TALK.replace("    client.send", "    print('connected', flush=True)\n    input()\n    client.send")
CALL = "import os\nfor _ in range(%d): os.sched_rr_get_interval(0)"


class Box(NamedTuple):
    """A container's cgroup, and some that a process in it created below."""

    itself: Cgroup
    nested: tuple[Cgroup, ...]

    @property
    def ids(self) -> set[int]:
        return {cgroup.id for cgroup in (self.itself, *self.nested)}


@pytest.fixture
def box(cgroup: MakeCgroup) -> Box:
    itself = cgroup("box")
    cgroup("box/" + "/".join(["n"] * DEPTHS[-1]))
    return Box(itself, tuple(Cgroup(itself.path.joinpath(*["n"] * depth)) for depth in DEPTHS))


def mark(environment: Environment, *cgroups: Cgroup) -> None:
    """Tell the programs that these are containers."""
    ids = dict.fromkeys([cgroup.id for cgroup in cgroups], 0)
    environment.containers.mark(ids, ids.keys())


@contextmanager
def boxed(kind: type[BpfCollector], environment: Environment, *boxes: Box) -> Iterator[BpfCollector]:
    """Open a collector whose programs know these containers."""
    with opened(kind(environment)) as collector:
        assert isinstance(collector, BpfCollector)
        mark(environment, *(box.itself for box in boxes))
        yield collector


def owners(collector: BpfCollector, box: Box) -> set[int]:
    """Which of its cgroups have an entry."""
    return box.ids & {row.owner for row in collector.collect(())}


@RAW
def test_switches_of_nested_cgroups_are_in_the_entry_of_the_container(
    box: Box, workload: Callable[[str], str], children: list[Process], forced_off: tuple[str, ...]
) -> None:
    with boxed(RunQueue, Environment(forced_off=frozenset(forced_off)), box) as collector:
        totals = Totals(collector)
        hogs = [owner.start(workload("hog"), "0", "1000") for owner in (box.itself, *box.nested)]
        children += hogs
        for hog in hogs:
            stop_point(hog)
        start = totals.read().number(box.itself, SWITCHES) - sum(switches(hog.pid) for hog in hogs)
        for hog in hogs:
            go(hog)
        while min(switches(hog.pid) for hog in hogs) < 100:
            time.sleep(0.01)
        for hog in hogs:
            hog.send_signal(signal.SIGSTOP)
            stop_point(hog)
        time.sleep(0.05)
        counted = totals.read().number(box.itself, SWITCHES)
        assert counted - start == sum(switches(hog.pid) for hog in hogs)
        assert totals.histogram(box.itself, WAITS).count == counted
        assert owners(collector, box) == {box.itself.id}


@RAW
def test_calls_of_nested_cgroups_are_in_the_entry_of_the_container(box: Box, forced_off: tuple[str, ...]) -> None:
    environment = Environment(syscalls=(RARE,), forced_off=frozenset(forced_off))
    with boxed(Syscall, environment, box) as collector:
        totals = Totals(collector)
        for cycle in (1, 2):
            for times, owner in enumerate((box.itself, *box.nested), 1):
                owner.run(sys.executable, "-c", CALL % times)
            assert totals.read().number(box.itself, COUNT, RARE) == cycle * (1 + 2 + 3 + 4 + 5)
        assert owners(collector, box) == {box.itself.id}
        assert collector.reader("syscall").entries == 1


@pytest.mark.parametrize(
    "forced_off",
    [(), (SOCKET_ITERATOR,), (SOCKET_STORAGE, BATCH), ("tp_btf",)],
    ids=["newest", "hooks", "oldest", "raw"],
)
def test_bytes_of_nested_cgroups_are_in_the_entry_of_the_container(box: Box, forced_off: tuple[str, ...]) -> None:
    with boxed(NetTcp, Environment(forced_off=frozenset(forced_off)), box) as collector:
        totals = Totals(collector)

        def counted() -> tuple[float, float]:
            totals.read()
            return totals.number(box.itself, SENT), totals.number(box.itself, RECEIVED)

        for owner in (box.itself, *box.nested):
            owner.run(sys.executable, "-c", TALK)
        talks = (1 + len(DEPTHS)) * TCP_BYTES
        eventually(lambda: counted() == (talks, talks))
        assert counted() == (talks, talks)
        assert owners(collector, box) == {box.itself.id}


def test_sockets_of_a_removed_container_take_one_entry(cgroup: MakeCgroup, children: list[Process]) -> None:
    """A socket stays in the cgroup that it was created in: here its process has left, and all cgroups are removed."""
    gone, other, environment = cgroup("gone"), cgroup("other"), Environment()
    nested = [cgroup(f"gone/{number}") for number in range(5)]
    with opened(NetTcp(environment)) as collector:
        mark(environment, gone)
        totals = Totals(collector)
        for owner in nested:
            process = owner.start(sys.executable, "-c", TALK_LATER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            children.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"connected\n"
            (other.path / "cgroup.procs").write_text(str(process.pid))
            owner.path.rmdir()
        gone.path.rmdir()
        environment.containers.mark({}, {other.id})
        for process in children:
            process.communicate(b"now\n", timeout=10)
        eventually(lambda: totals.read().number(gone, SENT) == len(nested) * TCP_BYTES)
        assert {gone.id, *(owner.id for owner in nested)} & {row.owner for row in collector.collect(())} == {gone.id}


@needs(PERF_EVENT)
def test_faults_of_nested_cgroups_are_in_the_entry_of_the_container(
    box: Box, workload: Callable[[str], str], children: list[Process], on_disk: Path
) -> None:
    with boxed(PageFaults, Environment(), box) as collector:
        totals = Totals(collector)
        for pages, owner in enumerate((box.itself, *box.nested), 101):
            process = owner.start(workload("faults"), str(on_disk), str(pages), stdout=subprocess.PIPE)
            children.append(process)
            assert process.stdout is not None
            stop_point(process)
            start = totals.read().number(box.itself, FAULTS)
            go(process)
            stop_point(process)
            assert int(process.stdout.readline()) == pages
            assert totals.read().number(box.itself, FAULTS) - start == pages
        assert owners(collector, box) == {box.itself.id}


def test_an_entry_that_was_created_before_the_mark_is_used_on(box: Box) -> None:
    environment = Environment(syscalls=(RARE,))
    with boxed(Syscall, environment) as collector:
        totals = Totals(collector)
        before, after = box.nested[:2]
        before.run(sys.executable, "-c", CALL % 3)
        assert owners(collector, box) == {before.id}
        mark(environment, box.itself)
        for owner in (before, after, box.itself):
            owner.run(sys.executable, "-c", CALL % 3)
        totals.read()
        assert [totals.number(owner, COUNT, RARE) for owner in (before, box.itself, after)] == [6, 6, 0]
        environment.containers.mark({}, box.ids)
        after.run(sys.executable, "-c", CALL % 3)
        totals.read()
        assert [totals.number(owner, COUNT, RARE) for owner in (before, box.itself, after)] == [6, 6, 3]


def test_a_nested_cgroup_that_is_marked_itself_has_an_entry(box: Box) -> None:
    environment = Environment(syscalls=(RARE,))
    with boxed(Syscall, environment, box) as collector:
        first, second = box.nested[:2]
        mark(environment, box.itself, first)
        for owner in (box.itself, first, second):
            owner.run(sys.executable, "-c", CALL % 2)
        totals = Totals(collector).read()
        assert [totals.number(owner, COUNT, RARE) for owner in (box.itself, first, second)] == [4, 2, 0]


def test_a_container_that_creates_thousands_of_cgroups_takes_one_entry(cgroup: MakeCgroup) -> None:
    """In a small table, beside a container that nobody evicts."""
    attacker, victim, cgroups = cgroup("attacker"), cgroup("victim"), 3000 // SCALE
    cgroup("attacker/last")
    environment = Environment(map_entries=512, syscalls=(RARE,))
    with opened(Syscall(environment)) as collector:
        assert isinstance(collector, Syscall)
        mark(environment, attacker, victim)
        totals = Totals(collector)
        victim.run(sys.executable, "-c", CALL % 301)
        subprocess.run([sys.executable, "-c", SHORT_LIVED, str(attacker.path), str(cgroups)], check=True)
        totals.read()
        assert totals.number(victim, COUNT, RARE) == 301
        assert totals.number(attacker, COUNT, RARE) == cgroups
        assert (collector.reader("syscall").entries, evictions_of(collector)) == (2, 0)


def test_a_container_that_filled_a_table_before_its_mark_makes_room(cgroup: MakeCgroup) -> None:
    """As if the agent had started after it: what was counted stays, and what comes is in the container's entry."""
    attacker, victim, room = cgroup("attacker"), cgroup("victim"), 2048
    cgroups = [cgroup(f"attacker/{number}") for number in range(1600)]
    environment = Environment(map_entries=room, syscalls=(RARE,))
    with opened(Syscall(environment)) as collector:
        assert isinstance(collector, Syscall)
        reader, totals = collector.reader("syscall"), Totals(collector)

        def attack() -> None:
            subprocess.run([sys.executable, "-c", VISITING, str(attacker.path), str(len(cgroups))], check=True)

        def attacked() -> float:
            return sum(totals.number(owner, COUNT, RARE) for owner in (attacker, *cgroups))

        victim.run(sys.executable, "-c", CALL % 301)
        attack()
        mark(environment, attacker, victim)
        totals.read()
        assert (reader.entries, attacked()) == (1601, 1600)
        collector.make_room(dict.fromkeys([one.id for one in cgroups], attacker.id))
        assert reader.entries == 1
        assert [(row.owner, row.labels, row.values) for row in environment.exceeded.rows()] == [
            (attacker.id, ("map_entries",), (1600,))
        ]
        attack()
        victim.run(sys.executable, "-c", CALL % 100)
        totals.read()
        assert (totals.number(attacker, COUNT, RARE), attacked()) == (1600, 3200)
        assert totals.number(victim, COUNT, RARE) == 401
        assert (reader.entries, evictions_of(collector)) == (2, 0)


def test_new_pods_and_containers_are_marked_before_their_first_event(cgroup: MakeCgroup) -> None:
    """By the kernel, from the mark of the directory that they are created in."""
    environment = Environment(syscalls=(RARE,))
    events = CgroupEvents(containers=environment.containers)
    pod, container = f"kubepods-burstable-pod{UID}.slice", f"cri-containerd-{64 * 'a'}.scope"
    names = {
        "burstable": None,
        f"burstable/{pod}": 1,
        f"burstable/{pod}/{container}": 0,
        f"burstable/{pod}/{container}/nested": None,
        f"burstable/{pod}/{64 * 'b'}": 0,
        f"burstable/{pod}/{63 * 'c'}": None,
        f"burstable/pod{32 * 'd'}": 1,
        f"burstable/pod{31 * 'd'}": None,
        f"other-{UID}": None,
        f"other-{UID}/{64 * 'a'}": None,
    }
    with closing(events), opened(Syscall(environment)) as collector:
        assert isinstance(collector, Syscall)
        events.open()
        made = {}
        for name, expected in names.items():
            made[name] = cgroup(name)
            if name == "burstable":
                environment.containers.mark({made[name].id: 2}, {made[name].id})
            assert levels_of(collector, made[name]) == (2 if name == "burstable" else expected), name
        made[f"burstable/{pod}/{container}/nested"].run(sys.executable, "-c", CALL % 7)
        totals = Totals(collector).read()
        assert totals.number(made[f"burstable/{pod}/{container}"], COUNT, RARE) == 7
        # What does not belong is unmarked, also if the agent never knew it.
        ids = {cgroup.id for cgroup in made.values()}
        environment.containers.mark({}, ids, ids)
        assert {levels_of(collector, cgroup) for cgroup in made.values()} == {None}


def levels_of(collector: BpfCollector, cgroup: Cgroup) -> int | None:
    """The mark of a cgroup."""
    assert collector._loaded is not None
    found = collector._loaded.object.maps["containers"].lookup(cgroup.id.to_bytes(8, "little"))
    return None if found is None else int.from_bytes(found, "little")


def test_units_that_begin_in_a_container_have_their_own_counts(tmp_path: Path, cgroup: MakeCgroup) -> None:
    """Without Kubernetes a unit has a name of its own, also if its container had none when the agent looked."""
    settings = ["--discovery", "cgroup", "--profile", "custom", "--collectors-syscall-enabled", "true"]
    settings += ["--syscalls", RARE, "--poll-interval", "500ms"]
    with running_agent(tmp_path / "agent.log", *settings) as (_, port):

        def counts() -> dict[str, float]:
            found = Page(get(f"http://127.0.0.1:{port}/metrics")).find(COUNT)
            return {dict(labels)["pod"].rpartition("/")[2]: value for labels, value in found.items() if value}

        box = cgroup("box.scope")
        box.run(sys.executable, "-c", CALL % 3)
        eventually(lambda: counts() == {"box.scope": 3})
        unit = cgroup("box.scope/x.service")
        unit.run(sys.executable, "-c", CALL % 5)
        eventually(lambda: counts() == {"box.scope": 3, "x.service": 5})
        cgroup("box.scope/x.service/nested").run(sys.executable, "-c", CALL % 7)
        eventually(lambda: counts() == {"box.scope": 3, "x.service": 12})
