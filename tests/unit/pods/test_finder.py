"""What the kernel tells of new cgroups and what a walk finds, brought together."""

import errno
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.cgroup.tree import Directory
from kpod_metrics.errors import UnavailableError
from kpod_metrics.kernel.libbpf import KernelError
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import Snapshot
from kpod_metrics.pods.standalone import StandaloneNamer


class Marks:
    """Stands in for what the kernel's programs know of containers."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[int, int], set[int], set[int]]] = []
        self.full = False

    def mark(self, levels: Mapping[int, int], present: Set[int], created: Iterable[int] = ()) -> None:
        self.told.append((dict(levels), {*present}, {*created}))
        if self.full:
            raise KernelError("map containers: update", errno.E2BIG, [])


class News:
    """Stands in for the kernel's word of new cgroups, which tests/live hears for real."""

    def __init__(self, refused: bool = False) -> None:
        self.told: list[tuple[int, str]] = []
        self.refused = refused
        self.closed = 0
        self.containers = Marks()

    def open(self) -> None:
        if self.refused:
            raise UnavailableError("no such hook")

    def take(self) -> list[tuple[int, str]]:
        told, self.told = self.told, []
        return told

    def close(self) -> None:
        self.closed += 1


class Namer(StandaloneNamer):
    vanished: Mapping[int, str]
    holders: Mapping[int, int] | None = None

    def snapshot(
        self, root: str, directories: Sequence[Directory], vanished: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        self.vanished = dict(vanished)
        snapshot = super().snapshot(root, directories, vanished, active)
        return snapshot if self.holders is None else replace(snapshot, holders=self.holders)


def test_news_that_the_walk_does_not_find_have_passed(tmp_path: Path) -> None:
    news, namer = News(), Namer()
    finder = Finder(str(tmp_path), namer, events=cast(CgroupEvents, news))
    finder.open()
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/cgroup.procs").touch()
    there = (tmp_path / "there").stat().st_ino
    assert not finder.has_news()
    news.told = [(there, "there"), (10**15, "gone")]
    assert finder.has_news()
    assert finder.has_news()  # until the next refresh
    snapshot = finder.refresh()
    assert namer.vanished == {10**15: "gone"}
    assert snapshot.identities[10**15].pod == "gone"
    assert not finder.has_news()
    finder.refresh()
    assert namer.vanished == {}
    finder.close()
    assert news.closed == 1


def test_the_kernel_learns_which_cgroups_are_containers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With each snapshot that is another one, and what the kernel may have marked itself; a refusal is logged once."""
    news, namer = News(), Namer()
    finder = Finder(str(tmp_path), namer, events=cast(CgroupEvents, news))
    finder.open()
    (tmp_path / "cgroup.procs").touch()
    finder.refresh()
    finder.refresh()
    root, marks = tmp_path.stat().st_ino, news.containers
    assert marks.told == [({}, {root}, set())]
    namer.holders = {17: 0, 18: 1}
    finder.refresh()
    assert marks.told.pop() == ({17: 0, 18: 1}, {root}, set())
    news.told, marks.full = [(20, "gone")], True
    for created in ({20}, set[int]()):
        assert finder.refresh().holders == {17: 0, 18: 1}
        assert marks.told.pop() == ({17: 0, 18: 1}, {root}, created)
    assert caplog.messages == [
        "not every container has a mark: its cgroups have entries of their own: "
        "map containers: update: E2BIG (Argument list too long)"
    ]
    marks.full = False
    finder.refresh()
    assert marks.told.pop() == ({17: 0, 18: 1}, {root}, set())


def test_cgroups_below_a_container_are_its(tmp_path: Path) -> None:
    """However deep they are. But the only one below a container has a mark itself."""
    ids = {}

    def make(path: str) -> None:
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "cgroup.procs").touch()
        ids[path] = (tmp_path / path).stat().st_ino

    for path in ("", "pod", "pod/a", "pod/a/x", "pod/a/x/y", "pod/a/z", "pod/b", "pod/b/only", "host"):
        make(path)
    news, namer = News(), Namer()
    finder = Finder(str(tmp_path), namer, events=cast(CgroupEvents, news))
    finder.open()
    assert finder.below == {}
    namer.holders = {ids["pod"]: 1, ids["pod/a"]: 0, ids["pod/b"]: 0}
    finder.refresh()
    assert finder.below == dict.fromkeys([ids["pod/a/x"], ids["pod/a/x/y"], ids["pod/a/z"]], ids["pod/a"])
    assert news.containers.told.pop()[0] == {**namer.holders, ids["pod/b/only"]: 0}
    make("pod/b/second")
    finder.refresh()
    assert {id_ for id_, container in finder.below.items() if container == ids["pod/b"]} == {
        ids["pod/b/only"],
        ids["pod/b/second"],
    }
    assert news.containers.told.pop()[0] == namer.holders


def test_without_the_hook_the_walk_goes_on(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    news = News(refused=True)
    finder = Finder(str(tmp_path), Namer(), events=cast(CgroupEvents, news))
    finder.open()
    assert news.closed == 1
    assert len(finder.refresh().identities) == 1


@pytest.mark.parametrize("hears", [True, False])
def test_below_a_part_of_the_hierarchy_what_was_never_seen_is_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hears: bool
) -> None:
    """Not what was there once, nor what the kernel told of; without its word, no one that may be younger."""
    monkeypatch.setattr("kpod_metrics.pods.finder.CAPACITY", 2)
    news = News(refused=not hears)
    finder = Finder(str(tmp_path), Namer(), events=cast(CgroupEvents, news))
    finder.open()
    ids = {}
    for name in ("", "stays", "goes"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cgroup.procs").touch()
        ids[name] = (tmp_path / name).stat().st_ino
    old, young = 1, 10**15
    assert not finder.is_outside(old)  # nothing is known yet
    finder.refresh()
    assert finder.is_outside(old)
    assert finder.is_outside(young) is hears
    (tmp_path / "goes/cgroup.procs").unlink()
    (tmp_path / "goes").rmdir()
    if hears:
        news.told = [(young, "vanished")]
        assert finder.has_news()
        assert not finder.is_outside(young)
    for _ in range(2):
        finder.refresh()
        assert not any(map(finder.is_outside, ids.values()))
        assert not finder.is_outside(young)
        assert finder.is_outside(old)
    assert finder.forgotten["outside"] == 0
    if hears:
        news.told = [(young + 1, "another")]
        finder.refresh()
        assert finder.forgotten["outside"] == 1
        assert finder.is_outside(ids["goes"])
        assert not finder.is_outside(young + 1)


def test_of_the_whole_hierarchy_nothing_is_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpod_metrics.pods.finder.is_whole", lambda root: True)
    (tmp_path / "cgroup.procs").touch()
    finder = Finder(str(tmp_path), Namer(), events=cast(CgroupEvents, News()))
    finder.open()
    finder.refresh()
    assert not finder.is_outside(1)
