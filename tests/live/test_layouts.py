"""Every layout that the unit tests have as a path, as real cgroups with a real process in each."""

import subprocess
from collections.abc import Callable

from kpod_metrics.cgroup.tree import Tree
from kpod_metrics.pods.paths import place_of
from tests.live.harness import Cgroup
from tests.unit.pods.layouts import LAYOUTS


def test_every_layout_is_walked_and_named(
    cgroup: Callable[[str], Cgroup], cgroup_root: str, children: list[subprocess.Popen[bytes]]
) -> None:
    top = cgroup("node").path
    expected = {}
    for layout in LAYOUTS:
        path = top / layout.path
        path.mkdir(parents=True, exist_ok=True)  # one may lie in another
        owner = Cgroup(path)
        children.append(owner.start("sleep", "60"))
        expected[owner.id] = (children[-1].pid, layout.uid, layout.container)
    found = {
        directory.id: (*directory.pids, *(place_of(directory.path) or ())[:2])
        for directory in Tree(cgroup_root).walk()
        if directory.id in expected
    }
    assert found == expected
