"""Real OOM kills in cgroups that the memory controller limits: whose they are, and how many."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kpod_metrics import agent as agents
from kpod_metrics.cgroup.keyed import flat
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.oom import GROUP_KILLS, OOM_KILLS, Oom
from kpod_metrics.kernel import libbpf
from kpod_metrics.settings import load
from tests.live.harness import Cgroup, Totals, go, opened, proves, stop_point

KILLS, GROUPS = OOM_KILLS.name, GROUP_KILLS.name
MIB = 1 << 20
HASH, LRU_HASH = 1, 9
"""Types of maps (enum bpf_map_type, uapi/linux/bpf.h)."""

Limited = Callable[..., Cgroup]
Process = subprocess.Popen[bytes]


def events(cgroup: Cgroup, key: str) -> int | None:
    """What the kernel itself counts; hierarchical, and None where it does not."""
    (value,) = flat((cgroup.path / "memory.events").read_bytes(), key.encode())
    return value


def starve(owner: Cgroup, program: str, *arguments: str) -> None:
    """Eat memory in it until the kernel kills."""
    assert owner.start(program, *arguments).wait(60) == -signal.SIGKILL


def gone(processes: Sequence[Process]) -> None:
    for process in processes:
        assert process.wait(60) == -signal.SIGKILL


@pytest.fixture
def limited_by_v1() -> Iterator[Cgroup]:
    """A memory limit that calls the real OOM killer, from a v1 controller beside the v2 tree (a hybrid host)."""
    parent = Path("/sys/fs/cgroup/memory")
    if not (parent / "memory.limit_in_bytes").exists():
        pytest.skip("no v1 memory controller beside the cgroup2 tree to limit memory with")
    path = parent / f"kpod-test-{os.getpid()}"
    path.mkdir()
    (path / "memory.limit_in_bytes").write_text(str(24 << 20))
    group = Cgroup(path)
    yield group
    group.destroy()


def test_oom_kills_are_the_victims(
    cgroup: Callable[[str], Cgroup], workload: Callable[[str], str], limited_by_v1: Cgroup
) -> None:
    """Two kills in A, one of them of a process whose first thread is gone; one in B; a plain SIGKILL is none."""
    a, b, c = cgroup("a"), cgroup("b"), cgroup("c")
    program = workload("glutton")

    def starve(owner: Cgroup, *arguments: str) -> None:
        def enter() -> None:
            owner.enter()
            limited_by_v1.enter()

        process = subprocess.Popen([program, *arguments], preexec_fn=enter)  # noqa: PLW1509
        assert process.wait(30) == -signal.SIGKILL

    with opened(Oom(Environment())) as collector:
        totals = Totals(collector)
        starve(a)
        starve(b)
        totals.read()
        assert (totals.number(a, KILLS), totals.number(b, KILLS), totals.number(c, KILLS)) == (1, 1, 0)
        starve(a, "thread")
        killed = c.start("sleep", "60")
        killed.kill()
        killed.wait()
        totals.read()
        assert (totals.number(a, KILLS), totals.number(b, KILLS), totals.number(c, KILLS)) == (2, 1, 0)


@proves(KILLS)
def test_kills_equal_memory_events(limited: Limited, workload: Callable[[str], str]) -> None:
    """One in A and then another, of a process whose first thread is gone; one in B; C is killed by hand."""
    a, b, c = (limited(name, memory_max=24 * MIB) for name in "abc")
    program = workload("glutton")
    with opened(Oom(Environment())) as collector:
        totals = Totals(collector)
        starve(a, program)
        starve(b, program)
        totals.read()
        assert [totals.number(owner, KILLS) for owner in (a, b, c)] == [1, 1, 0]
        starve(a, program, "thread")
        killed = c.start("sleep", "60")
        killed.kill()
        killed.wait()
        totals.read()
        assert [totals.number(owner, KILLS) for owner in (a, b, c)] == [2, 1, 0]
        assert [events(owner, "oom_kill") for owner in (a, b, c)] == [2, 1, 0]
        assert all(totals.number(owner, GROUPS) == 0 for owner in (a, b, c))


@proves(KILLS)
def test_the_victims_not_the_triggers(
    limited: Limited, workload: Callable[[str], str], children: list[Process]
) -> None:
    """A holds most of what A and B may have together; B asks for more, and a process of A is killed for it."""
    parent = limited("parent", memory_max=64 * MIB)
    a, b = limited("parent/a"), limited("parent/b")
    holder, trigger = (owner.start(workload("glutton"), size) for owner, size in ((a, "44"), (b, "36")))
    children += [holder, trigger]
    with opened(Oom(Environment())) as collector:
        totals = Totals(collector)
        stop_point(holder)
        go(holder)
        stop_point(holder)
        stop_point(trigger)
        # Never to be killed: what the victim had comes back a moment after its end, and B asks for it at once.
        Path(f"/proc/{trigger.pid}/oom_score_adj").write_text("-1000")
        go(trigger)
        stop_point(trigger)  # it got all that it asked for, and lives
        gone([holder])
        totals.read()
        assert (totals.number(a, KILLS), totals.number(b, KILLS)) == (1, 0)
        assert [events(owner, "oom_kill") for owner in (a, b, parent)] == [1, 0, 1]


@proves(KILLS, GROUPS)
def test_a_group_is_so_many_kills_and_one_of_the_group(limited: Limited, workload: Callable[[str], str]) -> None:
    """Five processes, twice in the same cgroup, then three in a cgroup below one that is killed as a whole."""
    a = limited("a", memory_max=24 * MIB)
    pod = limited("pod", memory_max=24 * MIB)
    inner, beside = limited("pod/inner"), limited("pod/beside")
    for group in (a, pod):
        (group.path / "memory.oom.group").write_text("1")
    program = workload("glutton")
    with opened(Oom(Environment())) as collector:
        totals = Totals(collector)
        for done in (1, 2):
            idle = [a.start("sleep", "60") for _ in range(4)]
            starve(a, program)
            gone(idle)
            time.sleep(0.1)
            totals.read()
            assert totals.number(a, KILLS) == 5 * done
            assert totals.number(a, GROUPS) == done
        idle = [beside.start("sleep", "60") for _ in range(2)]
        starve(inner, program)
        gone(idle)
        time.sleep(0.1)
        totals.read()
        assert [totals.number(owner, KILLS) for owner in (pod, inner, beside)] == [0, 1, 2]
        assert [totals.number(owner, GROUPS) for owner in (pod, inner, beside)] == [1, 0, 0]
        for owner, groups, processes in ((a, 2, 10), (pod, 1, 3)):
            assert events(owner, "oom_group_kill") in {None, groups}
            # The kernel's own count has the first victim of a group twice where it has not gone yet.
            told = events(owner, "oom_kill") or 0
            assert processes <= told <= processes + groups


def test_kills_survive_the_containers_restart(
    limited: Limited, cgroup_root: str, workload: Callable[[str], str]
) -> None:
    """The same path, another cgroup: the first one is gone before the agent reads what happened in it."""
    program = workload("glutton")
    settings, _ = load({"listen": "127.0.0.1:0", "discovery": "cgroup"}, {}, None, list(registered()))
    agent = agents.build(settings)

    def value(name: str, owner: Cgroup) -> int | None:
        page = agent.published.get("text/plain; version=0.0.4; charset=utf-8", False).decode()
        pod = f'pod="{owner.path.relative_to(cgroup_root)}"'
        found = [int(line.split()[-1]) for line in page.splitlines() if line.startswith(name) and pod in line]
        return found[0] if found else None

    try:
        agent.open()
        for kills in (1, 2, 3):
            container = limited("container", memory_max=24 * MIB)
            (container.path / "memory.oom.group").write_text("1")
            idle = container.start("sleep", "60")
            agent.cycle()
            assert value(KILLS, container) == 2 * (kills - 1)
            starve(container, program)
            gone([idle])
            container.destroy()
            agent.cycle()
            assert value(KILLS, container) == 2 * kills
            assert value(GROUPS, container) == kills
    finally:
        agent.stop()


class Small(Oom):
    """With a map of who was counted that is of this type, and has room for so many."""

    def __init__(self, **maps: tuple[int, int]) -> None:
        super().__init__(Environment())
        self._small = maps

    def prepare(self, bpf: libbpf.Object) -> None:
        super().prepare(bpf)
        for name, (kind, entries) in self._small.items():
            map_ = bpf.maps[name]
            map_.max_entries = entries
            assert map_._lib.so.bpf_map__set_type(map_._pointer, kind) == 0

    def errors(self) -> dict[str, int]:
        """Failed updates of these maps, where there are some."""
        return {map_.name: map_.update_errors for map_ in self.maps() if map_.update_errors}


@pytest.fixture
def groups(limited: Limited) -> list[Cgroup]:
    """Cgroups of two processes each, that are killed as a whole."""
    made = [limited(f"group{number}", memory_max=24 * MIB) for number in range(6)]
    for group in made:
        (group.path / "memory.oom.group").write_text("1")
    return made


def kill_group(group: Cgroup, program: str) -> None:
    """Have the kernel kill both of its processes."""
    idle = group.start("sleep", "60")
    starve(group, program)
    gone([idle])


def test_more_victims_than_there_is_room_for(groups: list[Cgroup], workload: Callable[[str], str]) -> None:
    """A remembered victim is replaced by the next one: each is still counted once."""
    program = workload("glutton")
    with opened(Small(oom_victims=(LRU_HASH, 4), oom_groups=(LRU_HASH, 4))) as collector:
        assert isinstance(collector, Small)
        for _ in range(2):
            for group in groups:
                kill_group(group, program)
        time.sleep(0.1)
        totals = Totals(collector).read()
        assert [(totals.number(group, KILLS), totals.number(group, GROUPS)) for group in groups] == [(4, 2)] * 6
        assert collector.errors() == {}


@pytest.mark.parametrize(("full", "counted"), [("oom_victims", (0, 0)), ("oom_groups", (2, 0))])
def test_who_cannot_be_entered_is_counted_as_a_failure(
    groups: list[Cgroup], workload: Callable[[str], str], full: str, counted: tuple[int, int]
) -> None:
    """In a map that keeps what it has: the first victim, or its group, is all there is room for."""
    program = workload("glutton")
    first, second, *_ = groups
    with opened(Small(**{full: (HASH, 1)})) as collector:
        assert isinstance(collector, Small)
        starve(first, program)
        totals = Totals(collector).read()
        assert (totals.number(first, KILLS), totals.number(first, GROUPS)) == (1, 1)
        assert collector.errors() == {}
        kill_group(second, program)
        time.sleep(0.1)
        totals.read()
        assert (totals.number(second, KILLS), totals.number(second, GROUPS)) == counted
        assert collector.errors() == {full: 2}


@pytest.mark.parametrize("forced_off", [(), ("batch",), ("tp_btf",)], ids=["newest", "oldest", "raw"])
def test_kill_of_a_process_that_was_there_before(
    limited: Limited, workload: Callable[[str], str], children: list[Process], forced_off: tuple[str, ...]
) -> None:
    a = limited("a", memory_max=24 * MIB)
    (a.path / "memory.oom.group").write_text("1")
    process = a.start(workload("glutton"), "100")
    children.append(process)
    stop_point(process)
    with opened(Oom(Environment(forced_off=frozenset(forced_off)))) as collector:
        go(process)
        gone([process])
        totals = Totals(collector).read()
        assert (totals.number(a, KILLS), totals.number(a, GROUPS)) == (1, 1)
