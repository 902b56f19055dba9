"""The source without Kubernetes, on trees of plain directories."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kpod_metrics.bounds import Ledger
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import Identity
from kpod_metrics.pods.paths import identity_of_path
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
    """Their files count what is below, so the container's own have all of it."""
    first, second = make(f"{POD}/{ID}/init.scope", 1), make(f"{POD}/{ID}/app", 2)
    snapshot = finder(tmp_path).refresh()
    assert set(snapshot.reported) == {first, second}
    assert set(snapshot.reported.values()) == {Identity("", UID, ID[:12])}
    [group] = snapshot.groups
    assert (group.id, sorted(group.pids), group.pod) == (make(f"{POD}/{ID}"), [1, 2], Identity("", UID, ""))


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


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def rows(ledger: Ledger) -> list[tuple[int, str, object]]:
    return [(row.owner, row.labels[0], row.values[0]) for row in ledger.rows()]


@pytest.mark.parametrize("number", [257, 600, 1_000])
@pytest.mark.parametrize("who", ["delegated", "user.slice/user-1000.slice/user@1000.service"])
def test_user_with_too_many_cgroups_counts_as_one(make: Make, tmp_path: Path, who: str, number: int) -> None:
    """Others keep their names."""
    ledger, clock = Ledger(), Clock()
    source = Finder(str(tmp_path), StandaloneNamer(exceeded=ledger, clock=clock), exceeded=ledger)
    holder = make(who)
    os.chown(tmp_path / who, 65534, 65534)
    names = [f"pod{at:08x}-ffff-4b7e-9a51-0c1d2e3f4a5b.service" for at in range(number)]
    for at, name in enumerate(names[:256]):
        make(f"{who}/{name}", at + 1)
    victim = make("system.slice/ssh.service", 5000)
    snapshot = source.refresh()
    assert len({*snapshot.reported.values()}) == len(snapshot.groups) == 257
    assert (rows(ledger), snapshot.holders) == ([], {})
    for at, name in enumerate(names[256:], 256):
        make(f"{who}/{name}", at + 1)
    snapshot = source.refresh()
    own = identity_of_path(who)
    assert {*snapshot.reported.values()} == {own, Identity("system", "ssh.service", "")}
    groups = {group.id: group.pids for group in snapshot.groups}
    assert sorted(groups[holder]) == [*range(1, number + 1)]
    assert groups[victim] == (5000,)
    assert len(groups) == 2
    assert snapshot.holders == {holder: 0}
    assert sum(int(str(times)) for _, _, times in rows(ledger)) == number - 256
    assert {(owner, limit) for owner, limit, _ in rows(ledger)} == {(holder, "cgroups")}
    # It counts as one until it has far fewer.
    for name in names[129:]:
        (tmp_path / who / name / "cgroup.procs").unlink()
        (tmp_path / who / name).rmdir()
    clock.now += 31
    assert len({*source.refresh().reported.values()}) == 2
    (tmp_path / who / names[128] / "cgroup.procs").unlink()
    (tmp_path / who / names[128]).rmdir()
    clock.now += 31
    assert len({*source.refresh().reported.values()}) == 129
    assert sum(int(str(times)) for _, _, times in rows(ledger)) == number - 256


def test_cgroups_that_the_walk_skips_count_too(make: Make, tmp_path: Path) -> None:
    ledger = Ledger()
    holder = make("x.scope")
    for at in range(1_300):
        make(f"x.scope/{at}.service", 1)
    snapshot = Finder(str(tmp_path), StandaloneNamer(exceeded=ledger), exceeded=ledger).refresh()
    assert rows(ledger) == [(holder, "cgroups", 1_300 - 256)]
    assert {*snapshot.reported.values()} == {Identity("system", "x.scope", "")}
    assert len(snapshot.groups[0].pids) == 1_000


def test_names_that_come_and_go_count_for_a_while(make: Make, tmp_path: Path) -> None:
    ledger, clock = Ledger(), Clock()
    source = Finder(str(tmp_path), StandaloneNamer(exceeded=ledger, clock=clock))
    holder = make("x.scope")
    for round_ in range(3):
        for at in range(100):
            make(f"x.scope/{round_}-{at}.service", 1)
        source.refresh()
        assert rows(ledger) == ([(holder, "cgroups", 44)] if round_ == 2 else [])
        for at in range(100):
            (tmp_path / f"x.scope/{round_}-{at}.service/cgroup.procs").unlink()
            (tmp_path / f"x.scope/{round_}-{at}.service").rmdir()
        clock.now += 10


def test_what_came_and_went_below_a_holder_is_the_holders(make: Make, tmp_path: Path) -> None:
    """Else it could make names without end; a container of Kubernetes' has its own."""
    make("x.scope")
    make(f"{POD}/{ID}", 1)
    make("plain")
    os.chown(tmp_path / "plain", 65534, 65534)
    namer = StandaloneNamer()
    source = Finder(str(tmp_path), namer)
    source.refresh()
    directories = source._tree.walk()
    vanished = {
        10**15: "x.scope/a.service",
        10**15 + 1: "plain/a/b",
        10**15 + 2: f"{POD}/{'e' * 64}",
        10**15 + 3: "run-7.scope",
        10**15 + 4: f"plain/{POD}/{ID}",
    }
    found = namer.snapshot(str(tmp_path), directories, vanished, frozenset()).identities
    assert [found[id_] for id_ in vanished] == [
        Identity("system", "x.scope", ""),
        Identity("cgroup", "plain", ""),
        Identity("", UID, "e" * 12),
        Identity("system", "run-7.scope", ""),
        Identity("cgroup", "plain", ""),
    ]


def test_pods_elsewhere_have_the_names_of_their_paths(make: Make, tmp_path: Path) -> None:
    """A fake in what a user owns, however it is named; it takes nothing of the real one."""
    make("u")
    os.chown(tmp_path / "u", 65534, 65534)
    for part in ("u/kubepods", f"u/kubepods/pod{UID}"):
        make(part)
        os.chown(tmp_path / part, 65534, 65534)
    fake = make(f"u/kubepods/pod{UID}/{ID}")
    real = make(f"{POD}/{ID}", 1)
    source = finder(tmp_path)
    snapshot = source.refresh(frozenset({fake}))
    assert snapshot.reported == {
        real: Identity("", UID, ID[:12]),
        fake: Identity("cgroup", f"u/kubepods/pod{UID}/{ID}", ""),
    }
    assert snapshot.holders.keys() >= {real}
    assert source.refused_claims == 2


def test_where_all_below_has_one_name(make: Make, tmp_path: Path) -> None:
    ids = {path: make(path) for path in ("a.service", "a.service/x", "b.scope", "b.scope/init.scope", f"{POD}/{ID}")}
    make("plain/x")
    make("c.scope")
    assert finder(tmp_path).refresh().holders == {
        ids["a.service"]: 0,
        ids[f"{POD}/{ID}"]: 0,
        make(POD): 1,
        make(POD.rpartition("/")[0]): 2,
    }


def test_units_in_a_slice_of_another_user_do_not_take_the_name_of_the_systems(make: Make, tmp_path: Path) -> None:
    victim = make("system.slice/web.service", 1)
    units = [make(f"theirs.slice/{name}.service", at) for at, name in enumerate(("decoy", "web"), 2)]
    for path in ("theirs.slice", "theirs.slice/decoy.service", "theirs.slice/web.service"):
        os.chown(tmp_path / path, 65534, 65534)
    assert (
        finder(tmp_path).refresh().identities.items()
        >= {
            victim: Identity("system", "web.service", ""),
            units[0]: Identity("system", "theirs.slice/decoy.service", ""),
            units[1]: Identity("system", "theirs.slice/web.service", ""),
        }.items()
    )
