"""What the kernel tells of new cgroups and what a walk finds, brought together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.cgroup.tree import Directory
from kpod_metrics.errors import UnavailableError
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import Snapshot
from kpod_metrics.pods.standalone import StandaloneNaming


class News:
    """Stands in for the kernel's word of new cgroups, which tests/live hears for real."""

    def __init__(self, refused: bool = False) -> None:
        self.told: list[tuple[int, str]] = []
        self.refused = refused
        self.closed = 0

    def open(self) -> None:
        if self.refused:
            raise UnavailableError("no such hook")

    def take(self) -> list[tuple[int, str]]:
        told, self.told = self.told, []
        return told

    def close(self) -> None:
        self.closed += 1


class Naming(StandaloneNaming):
    passed: Mapping[int, str]

    def snapshot(
        self, root: str, directories: Sequence[Directory], passed: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        self.passed = dict(passed)
        return super().snapshot(root, directories, passed, active)


def test_news_that_the_walk_does_not_find_have_passed(tmp_path: Path) -> None:
    news, naming = News(), Naming()
    finder = Finder(str(tmp_path), naming, events=cast(CgroupEvents, news))
    finder.open()
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/cgroup.procs").touch()
    there = (tmp_path / "there").stat().st_ino
    assert not finder.has_news()
    news.told = [(there, "there"), (10**15, "gone")]
    assert finder.has_news()
    assert finder.has_news()  # until somebody looks
    snapshot = finder.refresh()
    assert naming.passed == {10**15: "gone"}
    assert snapshot.identities[10**15].pod == "gone"
    assert not finder.has_news()
    finder.refresh()
    assert naming.passed == {}
    finder.close()
    assert news.closed == 1


def test_without_the_hook_the_walk_goes_on(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    news = News(refused=True)
    finder = Finder(str(tmp_path), Naming(), events=cast(CgroupEvents, news))
    finder.open()
    assert news.closed == 1
    assert len(finder.refresh().identities) == 1
