"""What a cgroup that cannot be read does to the others, with the simplest of the collectors."""

import logging
from pathlib import Path

import pytest

from kpod_metrics.collectors.cpu import Cpu
from kpod_metrics.collectors.disk import Disk
from kpod_metrics.collectors.memory import Memory
from kpod_metrics.collectors.parts.per_group import FileCollector
from kpod_metrics.pods.model import Group
from tests.unit.collectors.cycles import Tree, refuse, write


@pytest.fixture
def groups(tree: Tree) -> list[Group]:
    found = [tree.group(name, id_) for id_, name in enumerate(["readable", "refused", "other"])]
    for group in found:
        write(Path(group.path), cpu__stat="usage_usec 1000000\n")
    return found


def test_refused_group_does_not_lose_the_others(
    tree: Tree, groups: list[Group], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collector = Cpu(tree.environment)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        refuse(patch, "/refused/")
        for _ in range(3):
            assert [row.owner for row in collector.collect(groups)] == [0, 2]
        assert [record.getMessage() for record in caplog.records] == [
            f"collector cpu: 1 of 3 cgroups cannot be read, among them {groups[1].path}: "
            f"[Errno 13] Permission denied: '{groups[1].path}/cpu.stat'"
        ]
    assert collector.unread_cgroups == 3
    assert [row.owner for row in collector.collect(groups)] == [0, 1, 2]
    assert collector.unread_cgroups == 3
    refuse(monkeypatch, "/refused/")
    collector.collect(groups)
    assert len(caplog.records) == 2  # it began again


def test_collector_fails_if_every_group_is_refused(
    tree: Tree, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "cpu.stat")
    with pytest.raises(PermissionError, match=r"readable/cpu\.stat"):
        Cpu(tree.environment).collect(groups)
    assert Cpu(tree.environment).collect([]) == []


def test_group_that_goes_while_it_is_read_is_no_failure(
    tree: Tree, groups: list[Group], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_device(fd: int, count: int) -> bytes:
        raise OSError(19, "No such device")

    monkeypatch.setattr("kpod_metrics.files.os.read", no_device)
    assert Cpu(tree.environment).collect(groups) == []
    assert not caplog.records


@pytest.mark.parametrize(("kind", "controller"), [(Disk, "io"), (Memory, "memory")])
def test_absent_controller_is_said(tree: Tree, kind: type[FileCollector], controller: str) -> None:
    """Beside cgroup v1 the tree may have none: no failure, but `check` must not promise the metrics."""
    for controllers, absent in (
        ("cpu io memory\n", ""),
        ("cpu pids\n", f"there is no {controller} controller in this cgroup v2 tree"),
    ):
        write(tree.root, cgroup__controllers=controllers)
        collector = kind(tree.environment)
        [signal] = collector.open()
        collector.close()
        assert (signal.hook, signal.problem, signal.absent) == ("file", "", absent)
