from pathlib import Path

import pytest

from kpod_metrics.collectors.page_faults import PageFaults
from tests.unit.collectors.cycles import Tree, refuse, write


def test_cgroup_whose_faults_cannot_be_read_is_counted(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no perf event is opened, they come from a file of each cgroup."""
    groups = [tree.group(name, at) for at, name in enumerate(("a", "refused", "gone"))]
    for group in groups[:2]:
        write(Path(group.path), memory__stat="anon 1\npgmajfault 3\n")
    collector = PageFaults(tree.environment)
    with monkeypatch.context() as patch:
        refuse(patch, "/refused/")
        for cycle in (1, 2):
            assert [row.owner for row in collector._read_files(groups)] == [0]
            assert collector.unread_cgroups == cycle
    assert [row.values[0] for row in collector._read_files(groups)] == [3, 3]
