"""New cgroups are reported with their ids and paths, also those that were removed before the read."""

import mmap
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.cgroup.tree import Tree
from kpod_metrics.errors import UnavailableError
from tests.live.harness import Cgroup, bpf_ids

RING = "new_cgroups"


@contextmanager
def watching(ring_bytes: int = 0, root: str = "") -> Iterator[CgroupEvents]:
    """Watch for the length of a test."""
    events = CgroupEvents(root=root)
    events.ring_bytes = ring_bytes
    try:
        events.open()
        yield events
    finally:
        events.close()


Ours = Callable[[CgroupEvents], list[tuple[int, str]]]


def lost(events: CgroupEvents) -> int | None:
    return next(map_.update_errors for map_ in events.maps() if map_.name == RING)


def make(path: Path) -> tuple[int, str]:
    """Make a cgroup and remove it; what is to be told of it, below the mount of `cgroup_root`."""
    path.mkdir()
    id_ = path.stat().st_ino
    path.rmdir()
    return id_, str(path)


@pytest.fixture
def ours(cgroup: Callable[[str], Cgroup], cgroup_root: str) -> Ours:
    """Take the news of this test's own cgroups, with absolute paths: others may make cgroups meanwhile."""
    prefix = str(cgroup("own").path)

    def take(events: CgroupEvents) -> list[tuple[int, str]]:
        found = [(id_, f"{cgroup_root}/{path}") for id_, path in events.take()]
        return [(id_, path) for id_, path in found if path.startswith(f"{prefix}/")]

    return take


@pytest.fixture
def parent(cgroup: Callable[[str], Cgroup]) -> Path:
    return cgroup("own/parent").path


def test_all_that_came_and_went_are_told_in_order(ours: Ours, parent: Path) -> None:
    """Created and removed before a read; each is reported once."""
    with watching() as events:
        made = [make(parent / f"pod{number}") for number in range(300)]
        assert len({id_ for id_, _ in made}) == 300
        assert ours(events) == made
        assert ours(events) == []
        again = [make(parent / "pod0") for _ in range(2)]
        assert ours(events) == again
        assert again[0][0] != again[1][0] != made[0][0]
        assert lost(events) == 0


def test_nested_ones_and_any_name(ours: Ours, parent: Path) -> None:
    """Parents before children; bytes that are no UTF-8, the longest name, a path that the kernel cuts off."""
    names = [os.fsdecode(b"t\xfcr"), "a b\\x2d:", "x" * 255]
    with watching() as events:
        path, made = parent, []
        for name in names:
            path = path / name
            path.mkdir()
            made.append((path.stat().st_ino, str(path)))
        assert ours(events) == made
        assert {id_ for id_, _ in made} <= {d.id for d in Tree(str(parent)).walk()}
        while len(str(path)) < 1300:
            path = path / ("y" * 255)
            path.mkdir()
        told = ours(events)
        assert told[-1][0] == path.stat().st_ino
        assert str(path).startswith(told[-1][1])
        assert len(told[-1][1]) < len(str(path))
        assert lost(events) == 0


def test_the_path_is_whole_from_a_cgroup_namespace(ours: Ours, parent: Path) -> None:
    """Made by a process whose cgroup namespace begins at `parent`, as a container's does."""
    inside = parent / "inside"
    with watching() as events:
        subprocess.run(["unshare", "--cgroup", "mkdir", str(inside)], check=True, preexec_fn=Cgroup(parent).enter)
        assert ours(events) == [(inside.stat().st_ino, str(inside))]


def test_of_a_part_of_the_tree_is_told_what_is_below_it(cgroup: Callable[[str], Cgroup], cgroup_root: str) -> None:
    """With paths from there, though nothing says where that is: a node that is a container sees no more."""
    node, other = cgroup("own/node").path, cgroup("own/other").path
    events = CgroupEvents(root=str(node))
    try:
        events.open()
        made = [make(other / "pods"), make(node / "pods"), make(node.parent / "node2")]
        (node / "a/b").mkdir(parents=True)
        ids = [(node / "a").stat().st_ino, (node / "a/b").stat().st_ino]
        assert events.take() == [(made[1][0], "pods"), (ids[0], "a"), (ids[1], "a/b")]
    finally:
        events.close()


def test_other_hierarchies_are_not_told(parent: Path) -> None:
    """The directories of v1 controllers have their own numbers."""
    v1 = Path("/sys/fs/cgroup/pids")
    if not (v1 / "cgroup.clone_children").exists():
        pytest.skip("no v1 hierarchy beside the cgroup2 tree")
    name = f"kpod-test-{os.getpid()}"
    with watching() as events:
        (v1 / name).mkdir()
        (v1 / name).rmdir()
        id_, path = make(parent / name)
        told = [(id_, path) for id_, path in events.take() if path.endswith(name)]
    assert [told_id for told_id, _ in told] == [id_]
    assert path.endswith(told[0][1])


@pytest.mark.alone  # what others make takes room, too
def test_what_a_full_ring_loses_is_counted(parent: Path, cgroup_root: str) -> None:
    """A ring of one page: records that fit are reported, all others counted; a read makes room."""

    def take(events: CgroupEvents) -> list[tuple[int, str]]:
        return [(id_, f"{parent}/{path}") for id_, path in events.take()]

    with watching(ring_bytes=mmap.PAGESIZE, root=str(parent)) as events:
        made = [make(parent / f"{number:04}") for number in range(200)]
        # The kernel's 8 bytes, the id, the levels, the path with its slash and NUL, in steps of 8; one byte stays free.
        record = 24 + (len(made[0][1]) - len(cgroup_root) + 1 + 7) // 8 * 8
        told = take(events)
        assert len(told) == (mmap.PAGESIZE - 1) // record
        assert told == made[: len(told)]
        assert lost(events) == 200 - len(told)
        after = make(parent / "after")
        assert take(events) == [after]
        assert lost(events) == 200 - len(told)


@pytest.mark.parametrize("number", [10, 1_000, pytest.param(10_050, marks=pytest.mark.one_kernel)])
def test_container_cannot_fill_the_ring(ours: Ours, parent: Path, number: int) -> None:
    """What it creates is its own; others are reported beside it."""
    container = parent / "container"
    container.mkdir()
    with watching() as events:
        (container / "deep").mkdir()
        events.containers.mark({container.stat().st_ino: 0}, frozenset())
        for at in range(number):
            path = container / f"deep/{'x' * 200}{at}"
            path.mkdir()
            path.rmdir()
        victim = make(parent / "victim")
        assert [told for told in ours(events) if "/deep" not in told[1]] == [victim]
        assert lost(events) == 0
        events.containers.mark({}, {container.stat().st_ino})
        again = make(container / "again")
        assert ours(events) == [again]


def own_ids(kind: str) -> set[int]:
    """Ids of the programs, maps or links that this process holds: `prog_id` and the like of its descriptors."""
    found = set()
    for fd in os.listdir("/proc/self/fdinfo"):
        with suppress(OSError):
            lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
            found |= {int(line.split()[1]) for line in lines if line.startswith(f"{kind}_id:")}
    return found


def test_nothing_is_left_attached() -> None:
    """Closed twice; then nothing is reported."""
    with watching() as events:
        assert [program.name for program in events.programs()] == ["cgroup_created"]
        held = {kind: own_ids(kind) for kind in ("prog", "map", "link")}
        assert all(held.values())
    events.close()
    assert (events.take(), events.maps(), events.programs()) == ([], [], [])
    for _ in range(50):  # the kernel frees them a moment after their last user
        left = {kind: ids & bpf_ids(kind) for kind, ids in held.items()}
        if not any(left.values()):
            return
        time.sleep(0.1)
    pytest.fail(f"left behind: {left}")


def test_where_it_cannot_work_it_says_why(tmp_path: Path) -> None:
    """Without BTF, without the object; nothing is to be taken then, and close gives all back."""
    for events, reason in (
        (CgroupEvents(sys_root=str(tmp_path)), "kernel/btf/vmlinux is missing"),
        (CgroupEvents(objects=str(tmp_path)), "cgroups.bpf.o"),
    ):
        with pytest.raises(UnavailableError, match=reason):
            events.open()
        assert events.take() == []
        events.close()
        assert events.maps() == []
