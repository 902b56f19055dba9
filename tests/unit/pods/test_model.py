from kpod_metrics.cgroup.tree import Directory
from kpod_metrics.pods.model import Group, Identity


def test_group_of_directories() -> None:
    own, inner, empty = Directory(7, "a", (1, 2)), Directory(8, "a/b", (3,)), Directory(9, "a/c", ())
    identity = Identity("test", "one", "a")
    assert Group.of(own, "/cg", [own, inner], identity) == Group(7, "/cg/a", (1, 2, 3), identity, (8,))
    assert Group.of(empty, "/cg", [], identity) == Group(9, "/cg/a/c", (), identity)
    assert Group.of(empty, "/cg", [own], identity).below == (7,)
