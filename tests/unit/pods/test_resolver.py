"""From a cgroup id to a pod, also after the cgroup is gone; the time is the test's."""

import pytest

from kpod_metrics.bounds import Ledger
from kpod_metrics.pods.model import FILTERED, HOST, PENDING, UNRESOLVED, Identity, Snapshot
from kpod_metrics.pods.resolver import Resolver

A, B = Identity("n", "a", "c"), Identity("n", "b", "c")
GRACE = 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resolver(clock: Clock) -> Resolver:
    return Resolver(GRACE, clock)


def snapshot(owners: dict[int, Identity], *, others: tuple[int, ...] = (), idle: tuple[int, ...] = ()) -> Snapshot:
    """`others` exist without an owner, `idle` have one but are not reported."""
    return Snapshot(
        identities=owners,
        reported={id_: identity for id_, identity in owners.items() if id_ not in idle},
        present=frozenset({*owners, *others}),
    )


def test_nothing_is_known_at_first(resolver: Resolver) -> None:
    assert resolver.owner(1) is None
    assert resolver.identities() == set()
    assert resolver.is_gone(1)


def test_present_cgroups_are_known(resolver: Resolver) -> None:
    resolver.update(snapshot({1: A, 2: B}, others=(3,), idle=(2,)))
    assert (resolver.owner(1), resolver.owner(2), resolver.owner(3)) == (A, B, None)
    assert [resolver.is_gone(id_) for id_ in (1, 2, 3, 4)] == [False, False, False, True]
    assert resolver.identities() == {A, B}


def test_gone_cgroup_is_known_through_the_grace_time(resolver: Resolver, clock: Clock) -> None:
    resolver.update(snapshot({1: A, 2: B}))
    resolver.update(snapshot({2: B}))
    clock.now += GRACE - 0.1
    resolver.expire()
    assert resolver.owner(1) == A
    assert not resolver.is_gone(1)
    assert resolver.identities() == {A, B}
    clock.now += 0.1
    # Its last values are on a page first: it ends with expire(), not by itself.
    assert resolver.owner(1) == A
    resolver.expire()
    assert resolver.owner(1) is None
    assert resolver.is_gone(1)
    assert resolver.identities() == {B}
    assert resolver.owner(2) == B


def test_grace_time_counts_from_the_first_snapshot_without_it(resolver: Resolver, clock: Clock) -> None:
    resolver.update(snapshot({1: A}))
    for _ in range(5):
        resolver.update(snapshot({}))
        clock.now += GRACE / 4
        resolver.expire()
    assert resolver.owner(1) is None


def test_cgroup_that_comes_back_is_present(resolver: Resolver, clock: Clock) -> None:
    """As when a walk missed it, or a source was incomplete for a while."""
    resolver.update(snapshot({1: A}))
    resolver.update(snapshot({}))
    resolver.update(snapshot({1: A}))
    clock.now += 2 * GRACE
    resolver.expire()
    assert resolver.owner(1) == A


def test_cgroup_that_goes_again_has_its_whole_grace_time_again(resolver: Resolver, clock: Clock) -> None:
    for owners in ({1: A}, {}, {1: A}):
        resolver.update(snapshot(owners))
    clock.now += GRACE - 1
    resolver.update(snapshot({}))
    clock.now += GRACE - 1
    resolver.expire()
    assert resolver.owner(1) == A
    clock.now += 1
    resolver.expire()
    assert resolver.owner(1) is None


def test_new_owner_of_a_present_cgroup_counts(resolver: Resolver) -> None:
    resolver.update(snapshot({1: A}))
    resolver.update(snapshot({1: B}))
    assert resolver.owner(1) == B
    assert resolver.identities() == {A, B}  # the old one's last values are on a page first


def test_cgroup_that_lost_its_owner_but_exists_keeps_it_for_the_grace_time(resolver: Resolver, clock: Clock) -> None:
    resolver.update(snapshot({1: A}))
    resolver.update(snapshot({}, others=(1,)))
    assert resolver.owner(1) == A
    clock.now += GRACE
    resolver.expire()
    assert resolver.owner(1) is None
    assert not resolver.is_gone(1)


@pytest.mark.parametrize("reason", [HOST, FILTERED, UNRESOLVED])
def test_why_a_cgroup_has_no_owner_outlives_it(resolver: Resolver, clock: Clock, reason: str) -> None:
    resolver.update(Snapshot(present=frozenset({1}), reasons={1: reason}))
    resolver.update(snapshot({}))
    assert resolver.owner(1) == reason
    clock.now += GRACE
    resolver.expire()
    assert (resolver.owner(1), resolver.is_gone(1)) == (None, True)


def test_pod_that_is_filtered_from_now_on(resolver: Resolver) -> None:
    resolver.update(snapshot({1: A}))
    resolver.update(Snapshot(present=frozenset({1}), reasons={1: FILTERED}))
    assert resolver.owner(1) == FILTERED
    assert resolver.identities() == {A}


def test_name_that_is_pending_again_is_the_old_one_for_the_grace_time(resolver: Resolver, clock: Clock) -> None:
    resolver.update(snapshot({1: A}))
    resolver.update(Snapshot(present=frozenset({1}), reasons={1: PENDING}))
    assert resolver.owner(1) == A
    clock.now += GRACE
    resolver.expire()
    assert resolver.owner(1) == PENDING


def test_cgroup_that_goes_before_it_has_a_name_is_forgotten(resolver: Resolver) -> None:
    """What is pending is to be told; of one that is gone nobody will."""
    resolver.update(Snapshot(present=frozenset({1}), reasons={1: PENDING}))
    assert resolver.owner(1) is not None
    resolver.update(Snapshot())
    assert resolver.owner(1) is None


def test_cgroup_that_comes_back_as_nobodys_is_nobodys(resolver: Resolver) -> None:
    resolver.update(snapshot({1: A}))
    resolver.update(Snapshot())
    assert resolver.owner(1) == A
    resolver.update(Snapshot(present=frozenset({1}), reasons={1: FILTERED}))
    assert resolver.owner(1) == FILTERED


def test_container_that_will_be_started_again_keeps_its_series(resolver: Resolver, clock: Clock) -> None:
    resolver.update(snapshot({1: A}))
    resolver.update(Snapshot(kept=frozenset({A})))
    clock.now += GRACE
    resolver.expire()
    assert resolver.is_gone(1)
    assert resolver.identities() == {A}
    resolver.update(Snapshot())
    assert resolver.identities() == {A}
    clock.now += GRACE
    resolver.expire()
    assert resolver.identities() == set()


def test_pod_is_there_as_long_as_a_container_may_have_series(resolver: Resolver, clock: Clock) -> None:
    assert not resolver.has_pod(A.of_pod)
    resolver.update(snapshot({1: A}))
    assert resolver.has_pod(A.of_pod)
    assert not resolver.has_pod(B.of_pod)
    resolver.update(snapshot({2: B}))
    resolver.expire()
    assert resolver.has_pod(A.of_pod)
    assert resolver.has_pod(B.of_pod)
    clock.now += GRACE
    resolver.expire()
    assert not resolver.has_pod(A.of_pod)
    assert resolver.has_pod(B.of_pod)


def test_capacity(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest make room."""
    monkeypatch.setattr("kpod_metrics.pods.resolver.CAPACITY", 3)
    for id_ in range(5):
        resolver.update(snapshot({id_: Identity("n", f"p{id_}", "c")}))
    resolver.update(snapshot({}))
    assert [resolver.owner(id_) is not None for id_ in range(5)] == [False, False, True, True, True]
    assert {identity.pod for identity in resolver.identities()} == {"p2", "p3", "p4"}


@pytest.mark.parametrize("number", [20, 200, 2_000])
def test_pod_with_most_removed_cgroups_makes_room_for_others(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """However many it creates and removes, before and after others end; its newest stay."""
    monkeypatch.setattr("kpod_metrics.pods.resolver.CAPACITY", 10)
    victims = {id_: Identity("n", f"v{id_}", "c") for id_ in range(5)}
    resolver.update(snapshot({0: victims[0], 1: victims[1]}))
    flood = dict.fromkeys(range(100, 100 + number), A)
    resolver.update(snapshot(flood))
    resolver.update(snapshot({2: victims[2], 3: victims[3]}))
    resolver.update(Snapshot(present=frozenset({50, 4}), reasons={50: HOST}, identities={4: victims[4]}))
    resolver.update(Snapshot())
    assert {id_: resolver.owner(id_) for id_ in (*victims, 50)} == victims | {50: HOST}
    assert [id_ for id_ in flood if resolver.owner(id_) is not None] == [*flood][-4:]
    assert resolver.forgotten == number - 4


@pytest.mark.parametrize("number", [1_001, 2_000, 9_000])
def test_pod_that_removes_very_many_cgroups_is_counted(clock: Clock, number: int) -> None:
    """The host may remove more."""
    ledger = Ledger()
    resolver = Resolver(GRACE, clock, ledger)
    resolver.update(snapshot({1: B, 2: A} | dict.fromkeys(range(100, 100 + number), A)))
    resolver.update(snapshot({2: A}))
    assert [resolver.owner(id_) for id_ in (1, 100 + number - 1000, 100 + number - 1)] == [B, A, A]
    assert resolver.owner(100 + number - 1001) is None
    assert [(row.owner, row.labels, row.values) for row in ledger.rows()] == [(2, ("cgroups",), (number - 1000,))]
    assert resolver.forgotten == number - 1000
    host = dict.fromkeys(range(20_000, 22_000), HOST)
    resolver.update(Snapshot(present=frozenset(host), reasons=host))
    resolver.update(Snapshot())
    assert [id_ for id_ in host if resolver.owner(id_) != HOST] == []


def test_restarted_container_keeps_its_series(resolver: Resolver, clock: Clock) -> None:
    resolver.update(snapshot({1: A}))
    resolver.update(snapshot({2: A}))
    clock.now += GRACE
    resolver.expire()
    assert resolver.is_gone(1)
    assert resolver.identities() == {A}


def test_no_grace_time(clock: Clock) -> None:
    resolver = Resolver(0.0, clock)
    resolver.update(snapshot({1: A}))
    resolver.update(snapshot({}))
    assert resolver.owner(1) == A
    resolver.expire()
    assert resolver.owner(1) is None


def test_who_went_after_the_last_read_is_kept_beyond_the_grace_time(resolver: Resolver, clock: Clock) -> None:
    resolver.update(snapshot({1: A, 2: B}))
    resolver.update(snapshot({2: B}))
    gone_at = clock.now
    clock.now += 3 * GRACE
    resolver.update(snapshot({}))
    resolver.expire(gone_at - 0.1)
    assert (resolver.owner(1), resolver.owner(2)) == (A, B)
    resolver.expire(gone_at)
    assert (resolver.owner(1), resolver.owner(2)) == (None, B)
    assert resolver.identities() == {B}
    # A read does not shorten the grace time.
    resolver.expire(clock.now)
    assert resolver.owner(2) == B


def test_changes_tell_when_an_answer_may_be_another(resolver: Resolver, clock: Clock) -> None:
    seen = [resolver.changes]

    def changed() -> bool:
        seen.append(resolver.changes)
        return seen[-1] > seen[-2]

    first = snapshot({1: A})
    resolver.update(first)
    assert changed()
    resolver.update(first)
    resolver.expire()
    assert not changed()
    for gone in (snapshot({}), first):
        resolver.update(gone)
        assert changed()
    # It came back: nothing is left to forget.
    clock.now += GRACE
    resolver.expire()
    assert not changed()
    resolver.update(snapshot({}))
    assert changed()
    clock.now += GRACE - 1
    resolver.expire()
    assert not changed()
    clock.now += 1
    resolver.expire()
    assert changed()
    resolver.expire()
    assert not changed()


def test_what_makes_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpod_metrics.pods.resolver.CAPACITY", 2)
    resolver = Resolver()
    owners = {id_: Identity("shop", "web", f"c{id_}") for id_ in range(5)}
    resolver.update(Snapshot(identities=owners, present=frozenset(owners)))
    assert resolver.forgotten == 0
    resolver.update(Snapshot())
    assert resolver.forgotten == 3 + 3  # cgroups, and containers
    assert sum(resolver.owner(id_) is not None for id_ in owners) == 2
