"""The cgroup tree: the mount that shows all of it, its directories, their processes."""

import errno
import os
from pathlib import Path

import pytest

from kpod_metrics.cgroup import processes, tree
from kpod_metrics.errors import RefusedError
from kpod_metrics.files import RECORD_BYTES
from tests.nesting import nest, unnest


def proc(folder: Path, *mounts: str) -> str:
    """A /proc whose mountinfo has these lines."""
    (folder / "self").mkdir(exist_ok=True)
    lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw", *mounts]
    (folder / "self/mountinfo").write_bytes(b"".join(os.fsencode(line) + b"\n" for line in lines))
    return str(folder)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A folder that has inode 1, as the root of the cgroup tree has."""
    folder = tmp_path / "whole tree"
    folder.mkdir()
    real = os.stat

    def stat(path: str | int, **options: bool) -> os.stat_result:
        found = real(path, **options)
        return os.stat_result((found[0], 1, *found[2:])) if path == str(folder) else found

    monkeypatch.setattr(os, "stat", stat)
    return str(folder)


def test_root_is_the_mount_of_the_whole_tree(whole: str, tmp_path: Path) -> None:
    """Beside a v1 mount, one that is gone, and one of a subtree."""
    escaped = whole.replace(" ", "\\040")
    found = tree.find_root(
        proc(
            tmp_path,
            f"29 22 0:25 / {escaped}/v1 rw - cgroup cgroup rw,memory",
            "30 22 0:26 / /gone rw - cgroup2 cgroup2 rw",
            f"31 22 0:26 /a/b {tmp_path} rw shared:4 master:2 - cgroup2 cgroup2 rw",
            f"32 22 0:26 / {escaped} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
        )
    )
    assert found == whole


def test_whole_tree_is_told_from_a_part(whole: str, tmp_path: Path) -> None:
    assert tree.is_whole(whole)
    assert not tree.is_whole(str(tmp_path))


def test_mount_of_a_subtree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=rf"^cgroup2 is mounted at {tmp_path}, but only a part .*--cgroup-root$"):
        tree.find_root(proc(tmp_path, f"31 22 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw"))


def test_machine_that_is_a_container_has_its_subtree(tmp_path: Path) -> None:
    """kind: the node has its own cgroup namespace, and so has the agent, with a mount that shows the node's."""
    own, pod, node = (tmp_path / name for name in ("own", "pod", "node"))
    for folder in (own, pod, node):
        folder.mkdir()
    mounts = [
        f"31 22 0:26 / {own} rw - cgroup2 cgroup2 rw",
        f"32 22 0:26 /.. {pod} rw - cgroup2 cgroup2 rw",
        f"33 22 0:26 /../../../.. {node} ro - cgroup2 cgroup2 rw",
    ]
    assert tree.find_root(proc(tmp_path, *mounts)) == str(node)


def test_no_mount_is_refused(tmp_path: Path) -> None:
    v1 = "29 22 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
    with pytest.raises(RefusedError, match=r"^no cgroup2 mount in .*--cgroup-root$"):
        tree.find_root(proc(tmp_path, v1))


def test_no_mountinfo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"self/mountinfo: No such file or directory; --proc-root"):
        tree.find_root(str(tmp_path))


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("/sys/fs/cgroup", "/sys/fs/cgroup"),
        (r"/a\040b\011c\012d\134e", "/a b\tc\nd\\e"),
        (r"/\134040", r"/\040"),
        (r"/a\04", r"/a\04"),
        ("/ü", "/ü"),
    ],
)
def test_mount_escapes(field: str, expected: str) -> None:
    assert tree.unescape_mount(field) == expected


def test_walk_has_parents_before_children(tmp_path: Path) -> None:
    for path, pids in {"": "1\n2\n", "a": "", "a/b": "30\n", "a/b/c": "4\n", "d \udc80": "5\n"}.items():
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "cgroup.procs").write_text(pids)
        (tmp_path / path / "cpu.stat").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = tree.Tree(str(tmp_path)).walk()
    assert {directory.path: directory.pids for directory in found} == {
        "": (1, 2),
        "a": (),
        "a/b": (30,),
        "a/b/c": (4,),
        "d \udc80": (5,),
    }
    assert [directory.path for directory in found if directory.path[:1] != "d"] == ["", "a", "a/b", "a/b/c"]
    for directory in found:
        assert directory.id == (tmp_path / directory.path).stat().st_ino


def test_walk_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tree.Tree(str(tmp_path / "gone")).walk()


def make(path: Path, pids: str = "") -> None:
    path.mkdir()
    (path / "cgroup.procs").write_text(pids)


def test_cgroup_that_goes_during_the_walk_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name was read from its parent; then there is nothing to open."""
    for name in ("a", "a/b", "z"):
        make(tmp_path / name)
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("/a"):
            raise FileNotFoundError(errno.ENOENT, "gone", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert {directory.path for directory in tree.Tree(str(tmp_path)).walk()} == {"", "a", "z"}


def test_root_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a")

    def scandir(path: str) -> object:
        raise PermissionError(errno.EACCES, "no", path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        tree.Tree(str(tmp_path)).walk()


@pytest.mark.parametrize("kept", [0, 100], ids=["opened", "kept"])
def test_what_comes_and_goes_between_walks(tmp_path: Path, kept: int) -> None:
    """A child added, one replaced by another (the number of links stays), a process moved, all gone."""
    walker = tree.Tree(str(tmp_path), kept)

    def seen() -> dict[str, tuple[int, ...]]:
        return {directory.path: directory.pids for directory in walker.walk() if directory.path}

    make(tmp_path / "a", "1\n")
    make(tmp_path / "b")
    assert seen() == {"a": (1,), "b": ()}
    make(tmp_path / "b/c", "2\n")
    assert seen() == {"a": (1,), "b": (), "b/c": (2,)}
    make(tmp_path / "d", "3\n")
    (tmp_path / "a/cgroup.procs").unlink()
    (tmp_path / "a").rmdir()
    if not kept:  # a kept descriptor of a removed file answers ENODEV on kernfs alone: tests/live has that
        assert seen() == {"b": (), "b/c": (2,), "d": (3,)}
        (tmp_path / "d/cgroup.procs").write_text("3\n4\n")
        assert seen() == {"b": (), "b/c": (2,), "d": (3, 4)}
    walker.close()


@pytest.mark.parametrize("counted", [False, True], ids=["walked", "looked at again"])
def test_one_in_the_place_of_another_is_another(tmp_path: Path, counted: bool) -> None:
    """With no descriptor that would tell of the first one's end."""
    make(tmp_path / "a", "1\n")
    (tmp_path / "cgroup.procs").touch()
    if counted:
        (tmp_path / "cgroup.stat").write_text("nr_descendants 1\n")
    walker = tree.Tree(str(tmp_path), 0)

    def ids() -> dict[str, int]:
        return {directory.path: directory.id for directory in walker.walk() if directory.path}

    first = (tmp_path / "a").stat().st_ino
    assert ids() == {"a": first}
    make(tmp_path / "next", "1\n")  # while the first is there: its inode is another
    (tmp_path / "a/cgroup.procs").unlink()
    (tmp_path / "a").rmdir()
    (tmp_path / "next").rename(tmp_path / "a")
    second = (tmp_path / "a").stat().st_ino
    assert second != first
    assert ids() == ids() == {"a": second}


def test_tree_as_large_as_before_is_only_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the kernel counts what was there, and all of it is: nothing is listed."""
    count = tmp_path / "cgroup.stat"
    count.write_text("nr_descendants 2\nnr_dying_descendants 9\n")
    (tmp_path / "cgroup.procs").touch()
    for name, pids in (("a", "1\n"), ("a/b", "2\n")):
        make(tmp_path / name, pids)
    walker = tree.Tree(str(tmp_path))
    real, listed = os.scandir, []

    def scandir(path: str) -> object:
        listed.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)

    def seen() -> dict[str, tuple[int, ...]]:
        listed.clear()
        return {directory.path: directory.pids for directory in walker.walk() if directory.path}

    assert seen() == {"a": (1,), "a/b": (2,)}
    assert listed
    (tmp_path / "a/b/cgroup.procs").write_text("3\n")
    before = walker.walk()
    assert seen() == {"a": (1,), "a/b": (3,)}
    assert not listed
    assert all(now is then for now, then in zip(walker.walk(), before, strict=True))
    make(tmp_path / "a/c", "4\n")  # the kernel counts three
    count.write_text("nr_descendants 3\n")
    assert seen() == {"a": (1,), "a/b": (3,), "a/c": (4,)}
    for name in ("a/b", "a/c"):  # and three again, of which one was not there
        (tmp_path / name / "cgroup.procs").unlink()
        (tmp_path / name).rmdir()
    make(tmp_path / "d", "5\n")
    make(tmp_path / "d/e", "6\n")
    assert seen() == {"a": (1,), "d": (5,), "d/e": (6,)}
    (tmp_path / "d/e/cgroup.procs").unlink()
    (tmp_path / "d/e").rmdir()
    count.write_text("nr_descendants 2\n")
    assert seen() == {"a": (1,), "d": (5,)}
    count.unlink()
    assert seen() == {"a": (1,), "d": (5,)}


def test_processes(tmp_path: Path) -> None:
    procs = tmp_path / "cgroup.procs"
    assert tree.Tree(str(tmp_path)).walk()[0].pids == ()
    # 0 is a process of another pid namespace, that has no number here.
    procs.write_text("10\n0\n7\n")
    assert tree.Tree(str(tmp_path)).walk()[0].pids == (10, 7)
    procs.write_text("".join(f"{pid}\n" for pid in range(10_000, 19_000)))
    assert tree.Tree(str(tmp_path)).walk()[0].pids == tuple(range(10_000, 19_000))
    procs.write_text("".join(f"{pid}\n" for pid in range(10_000, 90_000)))
    fit = RECORD_BYTES // len("10000\n")
    assert tree.Tree(str(tmp_path)).walk()[0].pids == tuple(range(10_000, 10_000 + fit))


def test_processes_of_a_threaded_cgroup_are_its_threads(tmp_path: Path) -> None:
    """Reading cgroup.procs there answers EOPNOTSUPP, as a folder in its place answers EISDIR."""
    (tmp_path / "cgroup.procs").mkdir()
    (tmp_path / "cgroup.threads").write_text("10\n11\n")
    assert tree.Tree(str(tmp_path)).walk()[0].pids == (10, 11)


def test_deep_tree_is_walked_down_to_a_bound(tmp_path: Path) -> None:
    """Deeper than the interpreter's stack has frames; beside it all is seen, also what is new."""
    (tmp_path / "cgroup.procs").touch()
    nest(str(tmp_path), ["d"] * 1_100)
    make(tmp_path / "victim", "7\n")
    looked_at = [tmp_path / "/".join(["d"] * depth) / "cgroup.procs" for depth in range(1, tree.MAX_DEPTH + 2)]
    for procs in looked_at:  # so that they are taken for cgroups
        procs.touch()
    walker = tree.Tree(str(tmp_path))
    try:
        found = {directory.path: directory.pids for directory in walker.walk()}
        assert found["victim"] == (7,)
        assert len(found) == 2 + tree.MAX_DEPTH
        assert max(map(len, found)) == 2 * tree.MAX_DEPTH - 1
        assert walker.skipped == {"depth": 1, "path": 0, "number": 0, "unreadable": 0}
        make(tmp_path / "new", "8\n")
        assert {directory.path for directory in walker.walk()} == {*found, "new"}
        assert walker.skipped["depth"] == 1
        assert not processes.others_are_hidden(str(tmp_path), 9)
    finally:
        for procs in looked_at:
            procs.unlink()
        unnest(str(tmp_path), "d")
    assert {directory.path for directory in walker.walk()} == {"", "victim", "new"}
    assert not any(walker.skipped.values())


def test_path_that_is_too_long_for_the_kernel_ends_there(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    make(tmp_path / "victim", "7\n")
    name = "ä" * 127
    at, fitting = tmp_path, 0
    while len(os.fsencode(at / name)) <= tree.MAX_PATH_BYTES:
        at, fitting = at / name, fitting + 1
        make(at)
    nest(str(at), ["x" * 255] * 20)
    walker = tree.Tree(str(tmp_path))
    try:
        found = walker.walk()
        assert len(found) == 2 + fitting
        assert "victim" in {directory.path for directory in found}
        assert walker.skipped == {"depth": 0, "path": 1, "number": 0, "unreadable": 0}
    finally:
        unnest(str(at), "x" * 255)


def test_deeper_levels_are_left_out_first_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_CGROUPS", 6)
    (tmp_path / "cgroup.procs").touch()
    for path in ("a", "a/1", "a/1/x", "a/1/y", "a/1/z", "b", "b/1"):
        make(tmp_path / path)
    walker = tree.Tree(str(tmp_path))
    found = {directory.path for directory in walker.walk()}
    assert found >= {"", "a", "b", "a/1", "b/1"}
    assert len(found) == 6
    assert walker.skipped == {"depth": 0, "path": 0, "number": 2, "unreadable": 0}


@pytest.mark.parametrize(("mode", "below"), [(0o000, {}), (0o711, {}), (0o644, {"a/shut/below": ()})])
def test_what_may_not_be_read_is_left_out_alone(tmp_path: Path, mode: int, below: dict[str, tuple[int, ...]]) -> None:
    """By an agent that is not root, or that has given up the right to read all."""
    (tmp_path / "cgroup.procs").touch()
    for path, pids in {"a": "1\n", "a/shut": "2\n", "a/shut/below": "3\n", "b": "4\n"}.items():
        make(tmp_path / path, pids)
    for above in (tmp_path, *tmp_path.parents[:-2]):
        above.chmod(0o755)
    walker = tree.Tree(str(tmp_path))
    everything = {"": (), "a": (1,), "b": (4,), "a/shut": (2,), "a/shut/below": (3,)}
    assert {directory.path: directory.pids for directory in walker.walk()} == everything
    (tmp_path / "a/shut").chmod(mode)
    walker = tree.Tree(str(tmp_path))
    os.seteuid(65534)
    try:
        found = {directory.path: directory.pids for directory in walker.walk()}
    finally:
        os.seteuid(0)
    assert {path: pids for path, pids in found.items() if "shut" not in path} == {"": (), "a": (1,), "b": (4,)}
    assert {path: pids for path, pids in found.items() if "below" in path} == below
    assert walker.skipped == {"depth": 0, "path": 0, "number": 0, "unreadable": 1 + len(below)}
    assert {directory.path: directory.pids for directory in walker.walk()} == everything
    assert not any(walker.skipped.values())


def flood(path: Path, number: int) -> None:
    """Make so many cgroups in one."""
    for at in range(number):
        make(path / f"c{at}")


@pytest.mark.parametrize("number", [50, 200, 500])
@pytest.mark.parametrize("holder", ["a.service", "docker-" + "0" * 64, "lxc.payload.x", "owned"])
def test_flood_below_one_holder_displaces_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: str, number: int
) -> None:
    """Also what is deeper than the flood, and what is created later."""
    monkeypatch.setattr(tree, "MAX_HELD", 20)
    (tmp_path / "cgroup.procs").touch()
    for path in ("a", f"a/{holder}", "a/b", "a/b/c", "a/b/c/victim.scope", "a/b/c/victim.scope/inner"):
        make(tmp_path / path)
    flood(tmp_path / "a" / holder, number)
    if holder == "owned":
        os.chown(tmp_path / "a" / holder, 65534, 65534)
    walker = tree.Tree(str(tmp_path))
    found = {directory.path: directory for directory in walker.walk()}
    assert len(found) == 7 + 20
    assert {"a/b/c/victim.scope", "a/b/c/victim.scope/inner"} <= found.keys()
    assert walker.skipped == {"depth": 0, "path": 0, "number": number - 20, "unreadable": 0}
    assert walker.skipped_below == {found[f"a/{holder}"].id: number - 20}
    make(tmp_path / "a/b/c/victim.scope/new")
    assert {directory.path for directory in walker.walk()} == {*found, "a/b/c/victim.scope/new"}
    for at in range(number):
        (tmp_path / "a" / holder / f"c{at}/cgroup.procs").unlink()
        (tmp_path / "a" / holder / f"c{at}").rmdir()
    assert len(walker.walk()) == 8
    assert (walker.skipped["number"], walker.skipped_below) == (0, {})


def test_what_is_skipped_below_a_holder_is_counted_with_it(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    make(tmp_path / "x.scope", "1\n")
    nest(str(tmp_path / "x.scope"), ["d"] * 100)
    looked_at = [tmp_path / "x.scope" / "/".join(["d"] * depth) / "cgroup.procs" for depth in range(1, tree.MAX_DEPTH)]
    for procs in looked_at:
        procs.touch()
    walker = tree.Tree(str(tmp_path))
    try:
        found = walker.walk()
        assert len(found) == 1 + tree.MAX_DEPTH
        assert walker.skipped_below == {found[1].id: 1}
    finally:
        for procs in looked_at:
            procs.unlink()
        unnest(str(tmp_path / "x.scope"), "d")


def test_holders_share_the_room_so_that_all_small_ones_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says how many there are. Attackers in several containers get what the others leave."""
    monkeypatch.setattr(tree, "MAX_HELD", 100)
    monkeypatch.setattr(tree, "MAX_CGROUPS", 60)
    (tmp_path / "cgroup.procs").touch()
    sizes = {"a1.scope": 90, "a2.scope": 30, "v1.scope": 5, "v2.scope": 7, "v3.scope": 0}
    for name, number in sizes.items():
        make(tmp_path / name)
        flood(tmp_path / name, number)
        (tmp_path / name / "cgroup.stat").write_text(f"nr_descendants {number}\n")
    (tmp_path / "cgroup.stat").write_text(f"nr_descendants {sum(sizes.values()) + len(sizes)}\n")
    walker = tree.Tree(str(tmp_path))
    paths = [directory.path for directory in walker.walk()]
    below = {name: sum(path.startswith(f"{name}/") for path in paths) for name in sizes}
    # 60 without the root, the five and the twelve of the victims are 42.
    assert below == {"a1.scope": 21, "a2.scope": 21, "v1.scope": 5, "v2.scope": 7, "v3.scope": 0}
    assert sorted(walker.skipped_below.values()) == [9, 69]


def test_who_may_create_cgroups_where(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    for path in ("a.slice", "a.slice/u", "a.slice/u/b", "a.slice/u/b/c.scope", "s.service", "s.service/x", "z"):
        make(tmp_path / path)
    for path in ("a.slice/u", "a.slice/u/b"):
        os.chown(tmp_path / path, 65534, 65534)
    seen = {directory.path: directory for directory in tree.Tree(str(tmp_path)).walk()}
    owned, unit = seen["a.slice/u"].id, seen["s.service"].id
    assert {path: (directory.delegated, directory.holder) for path, directory in seen.items()} == {
        "": (False, 0),
        "a.slice": (False, 0),
        "z": (False, 0),
        "a.slice/u": (True, owned),
        "a.slice/u/b": (True, owned),
        "a.slice/u/b/c.scope": (True, owned),
        "s.service": (False, unit),
        "s.service/x": (False, unit),
    }
    seen = {directory.path: directory for directory in tree.Tree(str(tmp_path), 0, "a.slice/u/b").walk()}
    assert {path: (d.delegated, d.holder) for path, d in seen.items() if path.startswith("a.slice")} == {
        "a.slice": (False, 0),
        "a.slice/u": (True, 0),
        "a.slice/u/b": (False, 0),
        # Root's, in what the user's kubelet owns.
        "a.slice/u/b/c.scope": (True, seen["a.slice/u/b/c.scope"].id),
    }


def test_owner_that_changes_is_seen_by_the_next_walk(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    make(tmp_path / "a")
    walker = tree.Tree(str(tmp_path))
    assert [directory.delegated for directory in walker.walk()] == [False, False]
    os.chown(tmp_path / "a", 65534, 65534)
    make(tmp_path / "a/b")
    assert [directory.delegated for directory in walker.walk()] == [False, True, True]
