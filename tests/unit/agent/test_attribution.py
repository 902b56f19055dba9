"""Whose events are: the answers of one look, of a look that failed, and of those before."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kpod_metrics.agent.attribution import MAX_HELD, Attribution, Ownerless
from kpod_metrics.cgroup.tree import Directory
from kpod_metrics.metrics import Row
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import FILTERED, HOST, PENDING, UNRESOLVED, Identity, Snapshot
from kpod_metrics.store import Store
from tests.unit.agent.hub import EVENTS, OTHERS, Names

A, B = Identity("n", "a", "c"), Identity("n", "b", "c")
OUTSIDE = 1


class Idle(Names):
    """Reports a cgroup only if it has processes (says its file `is-busy`), or had events."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[frozenset[int]] = []

    def snapshot(
        self, root: str, directories: Sequence[Directory], passed: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        """Keep what was asked."""
        self.asked.append(active)
        found = super().snapshot(root, directories, passed, active)
        busy = {d.id for d in directories if Path(root, d.path, "is-busy").exists()} | active
        return replace(found, reported={id_: owner for id_, owner in found.identities.items() if id_ in busy})


class There:
    """A tree of cgroups, and who answers for them."""

    def __init__(self, root: Path) -> None:
        self.root, self.names = root, Idle()
        self.names.owners[""] = HOST
        self.finder = Finder(str(root), self.names)
        self.attribution = Attribution(self.finder, 0)
        self.make("")

    def make(self, path: str, owner: Identity | str = PENDING, *, busy: bool = True) -> int:
        """A cgroup; return its id."""
        directory = self.root / path
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.procs").touch()
        if busy:
            (directory / "is-busy").touch()
        self.names.owners.setdefault(path, owner)
        return directory.stat().st_ino

    def remove(self, path: str) -> None:
        """Remove it."""
        for file in (self.root / path).iterdir():
            file.unlink()
        (self.root / path).rmdir()


@pytest.fixture
def there(tmp_path: Path) -> There:
    return There(tmp_path)


def store() -> Store:
    return Store([EVENTS, OTHERS], frozenset((*EVENTS.metrics, *OTHERS.metrics)))


def totals(of: Store) -> dict[tuple[str, str], float]:
    return {
        (metric.name, one.identity.pod): value
        for _, at, metric, series in of.families()
        for one in series
        if isinstance(value := one.values[at], int)
    }


def test_look_tells_whether_somebody_is_new(there: There) -> None:
    look = there.attribution.look
    assert look() is False
    there.make("a", A)
    assert [look(), look()] == [True, False]
    assert there.attribution.owners() == {A}
    there.make("b", B)
    assert look() is True
    there.remove("a")
    assert look() is False


def test_each_cgroup_has_an_owner_or_a_reason(there: There) -> None:
    every: tuple[Identity | str, ...] = (A, HOST, FILTERED, PENDING, UNRESOLVED)
    ids = {owner: there.make(f"x{at}", owner) for at, owner in enumerate(every)}
    there.attribution.look()
    for owner, id_ in ids.items():
        assert there.attribution.owner(id_) == owner
        assert there.attribution.is_pending(id_) is (owner == PENDING)
    assert there.attribution.waits_for_names
    assert there.attribution.owner(OUTSIDE) == HOST
    there.names.owners["x3"] = B
    there.attribution.look()
    assert not there.attribution.waits_for_names
    assert there.attribution.owner(ids[PENDING]) == B
    assert there.attribution.has_pod(B.of_pod)
    assert not there.attribution.has_pod(A)


def test_rows_of_one_cgroup_are_held_up_to_a_limit(there: There) -> None:
    waiting = there.make("a")
    there.attribution.look()
    of, reader = store(), Reads()
    for epoch in range(1, MAX_HELD + 4):
        for _ in range(2):
            there.attribution.charge([Row(EVENTS, waiting, (), (1,), epoch)], of, reader)
    assert reader.ownerless.pending(of) == MAX_HELD
    assert reader.ownerless.unattributed[UNRESOLVED] == 3
    there.names.owners["a"] = A
    there.attribution.look()
    there.attribution.charge(reader.ownerless.release(there.attribution.is_pending), of, reader)
    assert totals(of) == {("kpod_events_total", "a"): MAX_HELD}


def test_newer_cgroup_that_was_never_seen_is_unresolved(there: There) -> None:
    a = there.make("a", A)
    there.attribution.look()
    assert there.attribution.owner(a + 1_000_000) == UNRESOLVED


def test_failed_look_is_counted_logged_and_leaves_what_was_known(
    there: There, caplog: pytest.LogCaptureFixture
) -> None:
    a = there.make("a", A)
    assert there.attribution.look()
    there.names.error = OSError(5, "planted")
    assert there.attribution.look() is False
    assert (there.finder.errors, there.finder.error) == (1, f"{there.root}: planted")
    assert [(record.message, bool(record.exc_info)) for record in caplog.records] == [
        (f"source of pods: {there.root}: planted", False)
    ]
    assert there.attribution.owner(a) == A
    # Who is not known may be known by a look that works.
    assert there.attribution.owner(OUTSIDE) == PENDING
    there.names.error = None
    there.attribution.look()
    assert there.attribution.owner(OUTSIDE) == HOST


def test_defect_of_a_look_is_logged_with_its_traceback(
    there: There, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.names.error = ValueError("planted")
    there.attribution.look()
    there.names.error = None

    def update(snapshot: Snapshot) -> None:
        raise KeyError("planted")

    with monkeypatch.context() as planted:
        planted.setattr(there.attribution._resolver, "update", update)
        there.attribution.look()
    # The finder's part worked that time: it has to be told that all of it failed.
    assert (there.finder.errors, there.finder.error) == (2, "KeyError: 'planted'")
    assert [record.message for record in caplog.records] == [
        "source of pods: ValueError: planted",
        "source of pods: KeyError: 'planted'",
    ]
    assert all(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)
    there.attribution.look()
    assert there.finder.error == ""


def test_cgroup_with_events_and_no_processes_gets_series(there: There) -> None:
    idle, busy = there.make("idle", A, busy=False), there.make("busy", B)
    there.attribution.look()
    there.attribution.look_for({busy})
    assert there.names.asked == [frozenset()]
    there.attribution.look_for({idle, busy})
    assert there.names.asked[1:] == [{idle}]
    assert there.attribution.snapshot.reported == {idle: A, busy: B}
    there.attribution.look_for({idle, busy})
    assert len(there.names.asked) == 2
    there.remove("idle")
    there.attribution.look()
    there.attribution.look()
    assert there.names.asked[2:] == [{idle}, frozenset()]


def test_unknown_cgroup_is_looked_for_and_one_outside_once(there: There) -> None:
    there.attribution.look()
    a = there.make("a", A)
    there.attribution.look_for({a})
    assert len(there.names.asked) == 2
    assert there.attribution.owner(a) == A
    there.attribution.look_for({a, OUTSIDE})
    there.attribution.look_for({a, OUTSIDE})
    assert len(there.names.asked) == 3
    # It had no events for some time; now the next events lead to another look.
    there.attribution.look_for({a})
    there.attribution.look_for({OUTSIDE})
    assert len(there.names.asked) == 4


class Reads:
    """Who reads rows."""

    def __init__(self) -> None:
        self.ownerless = Ownerless()
        self.errors: list[Exception] = []

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


def test_rows_go_to_their_owners_or_are_counted_or_held(there: There) -> None:
    a, host, pending = there.make("a", A), there.make("h", HOST), there.make("p")
    there.attribution.look()
    of, reader = store(), Reads()
    ownerless = reader.ownerless
    of.discover([A])
    rows = [
        Row(EVENTS, owner, (), (number,)) for owner, number in ((a, 1), (host, 10), (pending, 100), (OUTSIDE, 1000))
    ]
    there.attribution.charge(rows, of, reader)
    assert reader.errors == []
    assert totals(of) == {("kpod_events_total", "a"): 1, ("kpod_others_total", "a"): 0}
    assert ownerless.unattributed == {HOST: 1010, FILTERED: 0, UNRESOLVED: 0}
    assert ownerless.pending(of) == 100
    # Running totals: the last one is held.
    there.attribution.charge([Row(EVENTS, pending, (), (300,)), Row(OTHERS, pending, (), (7,))], of, reader)
    assert ownerless.pending(of) == 307
    assert ownerless.release(there.attribution.is_pending) == []
    there.names.owners["p"] = B
    there.attribution.look()
    released = ownerless.release(there.attribution.is_pending)
    assert released == [Row(EVENTS, pending, (), (300,)), Row(OTHERS, pending, (), (7,))]
    assert ownerless.pending(of) == 0
    assert ownerless.release(there.attribution.is_pending) == []


def test_first_wrong_row_is_told_and_the_others_are_taken(there: There) -> None:
    a = there.make("a", A)
    there.attribution.look()
    of = store()
    rows = [Row(EVENTS, a, (), (-1,)), Row(EVENTS, a, ("x",), (1,)), Row(OTHERS, a, (), (5,))]
    reader, alone = Reads(), Reads()
    there.attribution.charge(rows, of, reader)
    there.attribution.charge(rows[:1], store(), alone)
    assert [*map(str, reader.errors)] == [*map(str, alone.errors)] == ["kpod_events_total cannot be -1"]
    assert totals(of)["kpod_others_total", "a"] == 5


def test_what_is_gone_expires_once_it_was_read(there: There) -> None:
    a = there.make("a", A)
    there.attribution.look()
    assert there.attribution.expire(1e12) is True
    assert there.attribution.expire(1e12) is False
    there.remove("a")
    there.attribution.look()
    # Not all that it counted was read yet.
    assert there.attribution.expire(0) is True
    assert (there.attribution.owners(), there.attribution.is_gone(a)) == ({A}, False)
    assert there.attribution.expire(0) is False
    assert there.attribution.expire(1e12) is True
    assert (there.attribution.owners(), there.attribution.is_gone(a)) == (set(), True)
    assert there.attribution.expire(1e12) is False


def test_what_had_to_make_room_is_told_by_kind(there: There) -> None:
    there.names.forgotten = {"pod": 3}
    there.attribution._resolver._gone.forgotten = 5
    assert there.attribution.forgotten == {"cgroup": 5, "pod": 3, "outside": 0}
