"""The source without Kubernetes, on trees of plain directories."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import Identity
from kpod_metrics.pods.standalone import StandaloneNamer

UID = "3f1c0b1e-0d3c-4b7e-9a51-0c1d2e3f4a5b"
ID = "0123456789abcdef" * 4
POD = f"kubepods/burstable/pod{UID}"

Make = Callable[..., int]


def finder(root: Path) -> Finder:
    return Finder(str(root), StandaloneNamer())


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a cgroup's directory, or change what processes it holds; gives its id."""

    def make_one(path: str, *pids: int) -> int:
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        for each in (folder, *folder.parents):
            if each.is_relative_to(tmp_path) and not (each / "cgroup.procs").exists():
                (each / "cgroup.procs").write_text("")
        (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        return folder.stat().st_ino

    make_one("")
    return make_one


def test_names(make: Make, tmp_path: Path) -> None:
    expected = {
        make("", 1): Identity("cgroup", "/", ""),
        make("system.slice/ssh.service", 2): Identity("system", "ssh.service", ""),
        make(f"{POD}/{ID}", 3): Identity("", UID, ID[:12]),
        make("my/own", 4): Identity("cgroup", "my/own", ""),
    }
    assert finder(tmp_path).refresh().reported == expected


def test_every_cgroup_has_an_owner_and_only_used_ones_are_reported(make: Make, tmp_path: Path) -> None:
    used, empty = make("a/b", 1, 2), make("c")
    snapshot = finder(tmp_path).refresh()
    above, root = make("a"), make("")
    assert snapshot.present == {root, above, used, empty}
    assert snapshot.identities == {
        root: Identity("cgroup", "/", ""),
        above: Identity("cgroup", "a", ""),
        used: Identity("cgroup", "a/b", ""),
        empty: Identity("cgroup", "c", ""),
    }
    assert set(snapshot.reported) == {used}
    [group] = snapshot.groups
    assert (group.id, group.path, group.pids) == (used, str(tmp_path / "a/b"), (1, 2))
    assert group.identity == Identity("cgroup", "a/b", "")


def test_files_are_read_of_the_lowest_reported_only(make: Make, tmp_path: Path) -> None:
    """Files count a subtree: those of a cgroup with reported ones below would count twice."""
    make("", 1)
    make("a", 2)
    make("a/b", 3)
    make("a/b/empty")
    make("a-b", 4)
    snapshot = finder(tmp_path).refresh()
    assert {identity.pod for identity in snapshot.reported.values()} == {"/", "a", "a/b", "a-b"}
    assert {group.identity.pod for group in snapshot.groups} == {"a/b", "a-b"}


def test_root_has_events_only(make: Make, tmp_path: Path) -> None:
    root = make("", 1)
    snapshot = finder(tmp_path).refresh()
    assert set(snapshot.reported) == {root}
    assert snapshot.groups == ()


def test_nested_cgroups_of_a_container_are_the_container(make: Make, tmp_path: Path) -> None:
    first, second = make(f"{POD}/{ID}/init.scope", 1), make(f"{POD}/{ID}/app", 2)
    snapshot = finder(tmp_path).refresh()
    assert set(snapshot.reported) == {first, second}
    assert set(snapshot.reported.values()) == {Identity("", UID, ID[:12])}
    assert {group.id for group in snapshot.groups} == {first, second}
    assert {group.pod for group in snapshot.groups} == {Identity("", UID, "")}


def test_cgroup_that_held_processes_is_reported_until_it_is_removed(make: Make, tmp_path: Path) -> None:
    namer = StandaloneNamer()
    source = Finder(str(tmp_path), namer)
    used = make("a", 1)
    assert set(source.refresh().reported) == {used}
    make("a")
    snapshot = source.refresh()
    assert set(snapshot.reported) == {used}
    assert [group.pids for group in snapshot.groups] == [()]
    (tmp_path / "a/cgroup.procs").unlink()
    (tmp_path / "a").rmdir()
    snapshot = source.refresh()
    assert snapshot.reported == {}
    assert used not in snapshot.present
    assert not namer._held  # it would grow for ever


def test_cgroup_with_events_held_processes(make: Make, tmp_path: Path) -> None:
    """Its processes may have come and gone between two walks."""
    source = finder(tmp_path)
    brief, idle = make("brief"), make("idle")
    assert source.refresh().reported == {}
    assert set(source.refresh(frozenset({brief, 10**15})).reported) == {brief}
    snapshot = source.refresh()
    assert set(snapshot.reported) == {brief}
    assert idle in snapshot.identities


def test_source_that_cannot_be_read_says_so_and_comes_back(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "mount"
    make("mount", 1)
    source = finder(root)
    source.refresh()
    assert (source.connected, source.relists) == (True, 0)
    root.rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            source.refresh()
        assert (source.connected, source.error) == (False, f"{root}: No such file or directory")
    (tmp_path / "elsewhere").rename(root)
    assert len(source.refresh().reported) == 1
    assert (source.connected, source.error, source.relists) == (True, "", 1)
    source.refresh()
    assert source.relists == 1


def test_one_that_is_made_later_is_reported_before_its_first_process(make: Make, tmp_path: Path) -> None:
    """Where it has none below it: what is made on the way to one is no container."""
    make("before")
    source = finder(tmp_path)
    assert not source.refresh().reported
    leaf = make("slice/scope")
    assert source.refresh().reported == {leaf: Identity("cgroup", "slice/scope", "")}
    make("slice/scope/inner")
    assert {identity.pod for identity in source.refresh().reported.values()} == {"slice/scope/inner"}
    make("slice/scope", 7)
    assert {identity.pod for identity in source.refresh().reported.values()} == {"slice/scope", "slice/scope/inner"}
