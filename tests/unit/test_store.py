"""The store's totals: differences of running totals added up, and what bounds them."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.bounds import clipped
from kpod_metrics.histogram import BUCKETS, Histogram
from kpod_metrics.limits import SERIES_BYTES, Limits, Room
from kpod_metrics.metrics import Kind, Label, Metric, Row, Scope, Table, Value, counter, gauge, latency
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import OVERFLOW, Store
from tests.growth import grow
from tests.unit.exposition.fixture import label_sets, tables

EVENTS = counter("kpod_events_total", "Events.", "test")
WAIT = latency("kpod_wait_seconds", "Wait.", "test")
LEVEL = gauge("kpod_level_bytes", "Level.", "test")
OTHER = gauge("kpod_other_bytes", "Other level.", "test")
READ = counter("kpod_read_bytes_total", "Read.", "test")
WRITTEN = counter("kpod_written_bytes_total", "Written.", "test")
DIRECTION = Label("direction", ("in", "out"))
CALL = Label("call", ("a", "b", "c"))
DEVICE = Label("device", per="device")

DELTAS = Table((EVENTS, WAIT))
FILES = Table((READ, WRITTEN), (DEVICE,), preexisting=True)
GAUGES = Table((LEVEL, OTHER))
FOLDERS = Table((LEVEL,), (Label("folder", per="folder"),))
COMBINED = Table((EVENTS,), (DIRECTION, CALL))
POD = Table((EVENTS,), scope=Scope.POD)
SPARSE = Table((EVENTS, READ), (DIRECTION,), sparse=True)
AGENT = Table((EVENTS,), (DEVICE,), Scope.AGENT)

ONE, TWO, THREE = (Identity("n", "p", name) for name in ("one", "two", "three"))
ELSEWHERE = Identity("n", "q", "one")


def store_of(*every: Table, limit: int = 1_000_000) -> Store:
    return Store(every, frozenset(metric for table in every for metric in table.metrics), Limits(limit))


def put(  # noqa: PLR0917
    store: Store,
    table: Table,
    identity: Identity,
    labels: tuple[str, ...],
    values: Any,
    owner: int = 1,
    epoch: int = 0,
) -> None:
    store.put(Row(table, owner, labels, values, epoch), identity)


def delta(*counts: int, sum_ns: int = 0) -> Histogram:
    return Histogram([*counts, *[0] * (BUCKETS - len(counts))], sum_ns)


def read(store: Store, metric: Metric) -> dict[tuple[Identity, tuple[str, ...]], object]:
    """All series of a metric; histograms as (buckets that are not 0, sum)."""
    return {
        (series.identity, series.labels): (
            ({bucket: n for bucket, n in enumerate(value.buckets) if n}, value.sum_ns)
            if isinstance(value := series.values[at], Histogram)
            else value
        )
        for _, at, found, children in store.families()
        if found is metric
        for series in children
    }


def test_differences_are_added_up() -> None:
    store = store_of(DELTAS)
    grow(store, DELTAS, ONE, (), (3, delta(1, 2, sum_ns=10)))
    grow(store, DELTAS, TWO, (), (1, delta(0, 0, 5, sum_ns=1)), 2)
    grow(store, DELTAS, ONE, (), (4, delta(1, sum_ns=7)))
    assert read(store, EVENTS) == {(ONE, ()): 7, (TWO, ()): 1}
    assert read(store, WAIT) == {(ONE, ()): ({0: 2, 1: 2}, 17), (TWO, ()): ({2: 5}, 1)}


def test_differences_of_several_cgroups_of_one_container_are_added_up() -> None:
    store = store_of(DELTAS)
    for owner in (1, 2):
        grow(store, DELTAS, ONE, (), (3, None), owner)
    assert read(store, EVENTS) == {(ONE, ()): 6}


def test_zero_is_told_where_nothing_was() -> None:
    """A counter that had no number yet has one from then on, if it is 0."""
    store = store_of(DELTAS)
    grow(store, DELTAS, ONE, (), (None, delta(1)))
    assert read(store, EVENTS) == {(ONE, ()): None}
    grow(store, DELTAS, ONE, (), (0, None))
    assert read(store, EVENTS) == {(ONE, ()): 0}


@given(st.lists(st.integers(0, 100), max_size=30))
def test_running_totals_that_reset(totals: list[int]) -> None:
    """A total that went down started again at 0: all of it is new."""
    store = store_of(FILES)
    expected = previous = 0
    for total in totals:
        put(store, FILES, ONE, ("sda",), (total, None))
        expected += total - previous if total >= previous else total
        previous = total
        assert read(store, READ) == {(ONE, ("sda",)): expected}


def test_equal_gauges_of_two_cgroups_are_summed() -> None:
    store = store_of(GAUGES)
    for _ in range(2):
        store.begin_cycle(GAUGES)
        for owner in (1, 2):
            grow(store, GAUGES, ONE, (), (5, 3), owner)
        assert read(store, LEVEL) == {(ONE, ()): 10}
        assert read(store, OTHER) == {(ONE, ()): 6}


def test_running_total_of_a_series_that_is_back_is_not_counted_again() -> None:
    store = store_of(FILES)
    put(store, FILES, ONE, ("sda",), (10, 7))
    store.retain({TWO})
    for total, expected in ((10, 0), (12, 2)):
        put(store, FILES, ONE, ("sda",), (total, 7))
        assert read(store, READ) == {(ONE, ("sda",)): expected}
        assert read(store, WRITTEN) == {(ONE, ("sda",)): 0}


@pytest.mark.parametrize("values", [("7", 1), (1, delta(1)), (1,)])
def test_gauges_that_are_none_are_refused(values: Any) -> None:
    store = store_of(GAUGES)
    grow(store, GAUGES, ONE, (), (5, 6))
    store.begin_cycle(GAUGES)
    with pytest.raises((ValueError, TypeError)):
        grow(store, GAUGES, ONE, (), values)
    assert read(store, LEVEL) == read(store, OTHER) == {(ONE, ()): None}


def test_counters_are_told_apart_by_owner_and_labels() -> None:
    store = store_of(FILES)
    for _ in range(2):
        put(store, FILES, ONE, ("sda",), (10, None))
        put(store, FILES, ONE, ("sda",), (100, None), 2)
        put(store, FILES, ONE, ("sdb",), (5, None))
    assert read(store, READ) == {(ONE, ("sda",)): 110, (ONE, ("sdb",)): 5}


def test_counter_begins_at_0_in_each_epoch() -> None:
    """As an entry that the kernel evicted and made again, whose totals may be larger than they were."""
    store = store_of(DELTAS)
    for epoch, total in ((1, 5), (1, 7), (2, 9), (2, 9), (3, 2)):
        put(store, DELTAS, ONE, (), (total, delta(total, sum_ns=total)), epoch=epoch)
    assert read(store, EVENTS) == {(ONE, ()): 7 + 9 + 2}
    assert read(store, WAIT) == {(ONE, ()): ({0: 7 + 9 + 2}, 18)}


def test_histogram_and_counter_of_32_bits_wrap() -> None:
    wrapping = counter("kpod_wrapping_total", "Test.", "test", wraps=True)
    table = Table((wrapping, WAIT))
    store = store_of(table)
    for total in (2**32 - 3, 2**32 + 4, 2**33 + 4):
        # The sum of two buckets of 32 bits, of which one has wrapped.
        buckets = (total % 2**32, 1)
        put(store, table, ONE, (), (sum(buckets), delta(*buckets, sum_ns=total)))
    expected = 2**32 + 4 + 1  # a whole 2**32 between two reads is not seen
    assert read(store, wrapping) == {(ONE, ()): expected}
    assert read(store, WAIT) == {(ONE, ()): ({0: expected - 1, 1: 1}, 2**33 + 4)}


def test_counter_of_a_pod_is_told_by_its_epoch_through_whichever_cgroup_it_is_read() -> None:
    store = store_of(POD)
    for owner, epoch, total in ((1, 70, 5), (2, 70, 6), (2, 71, 100), (3, 70, 8)):
        put(store, POD, ONE if owner == 1 else TWO, (), (total,), owner, epoch)
    put(store, POD, ELSEWHERE, (), (1000,), 4, 70)
    assert read(store, EVENTS) == {(ONE.of_pod, ()): 108, (ELSEWHERE.of_pod, ()): 1000}


@pytest.mark.parametrize(
    ("stays", "other_lives", "expected"), [(True, False, 8), (False, False, 13), (True, True, 13), (False, True, 13)]
)
def test_counter_of_a_pod_outlives_its_cgroup_while_nothing_else_of_the_pod_is_read(
    stays: bool, other_lives: bool, expected: int
) -> None:
    store = store_of(POD)
    put(store, POD, ONE, (), (5,), owner=1, epoch=70)
    if other_lives:
        put(store, POD, ONE, (), (0,), owner=2, epoch=71)
    store.forget([POD], {1}.__contains__, lambda pod: stays and pod == ONE.of_pod)
    put(store, POD, ONE, (), (8,), owner=3, epoch=70)
    assert read(store, EVENTS) == {(ONE.of_pod, ()): expected}


def test_row_that_no_series_gets_is_counted_once() -> None:
    events = counter("kpod_some_total", "Test.", "test", events=True)
    table = Table((events, WAIT))
    store = store_of(table)
    rows = [Row(table, 1, (), (total, delta(total)), epoch) for total, epoch in ((3, 1), (5, 1), (4, 2))]
    assert [store.events(rows[0]), store.events(rows[0])] == [3, 3], "a look takes nothing"
    assert [store.pass_over(row) for row in (rows[0], rows[0], rows[1])] == [3, 0, 2]
    assert store.events(rows[2]) == 4
    assert read(store, events) == {}
    store.put(Row(table, 1, (), (6, delta(6)), 1), ONE)
    assert read(store, events) == {(ONE, ()): 1}, "what was passed over is not charged later"
    assert store.pass_over(Row(GAUGES, 1, (), (1, 1))) == 0


def test_running_total_that_is_absent_for_a_cycle_goes_on() -> None:
    store = store_of(FILES)
    for total in (10, None, 15):
        put(store, FILES, ONE, ("sda",), (total, 1))
    assert read(store, READ) == {(ONE, ("sda",)): 15}


def test_counter_outlives_the_cgroup_it_came_from() -> None:
    """A restarted container is a new cgroup, whose totals begin at 0."""
    store = store_of(FILES)
    put(store, FILES, ONE, ("sda",), (1000, None))
    store.forget([FILES], {1}.__contains__, lambda pod: True)
    put(store, FILES, ONE, ("sda",), (3, None), 2)
    put(store, FILES, ONE, ("sda",), (5, None), 2)
    assert read(store, READ) == {(ONE, ("sda",)): 1005}


def all_metrics() -> Iterable[tuple[Table, int, Metric]]:
    for table in tables():
        if table.scope is not Scope.AGENT:
            for at, metric in enumerate(table.metrics):
                yield table, at, metric


@pytest.mark.parametrize(("table", "at", "metric"), list(all_metrics()), ids=lambda v: getattr(v, "name", ""))
def test_two_cycles_of_every_metric(table: Table, at: int, metric: Metric) -> None:
    """Two cycles in which the kernel says the same: nothing is counted twice."""
    store = store_of(table)
    [labels, *_] = label_sets(table)
    for _ in range(2):
        store.begin_cycle(table)
        value: Value = delta(2, sum_ns=9) if metric.kind is Kind.HISTOGRAM else 2
        values: list[Value] = [None] * len(table.metrics)
        values[at] = value
        put(store, table, ONE, labels, values)
    whose = ONE.of_pod if table.scope is Scope.POD else ONE
    expected = ({0: 2}, 9) if metric.kind is Kind.HISTOGRAM else 2
    assert read(store, metric) == {(whose, labels): expected}


def test_gauges_are_summed_within_a_cycle_and_absent_without_a_row() -> None:
    store = store_of(GAUGES)
    for cycle in range(2):
        store.begin_cycle(GAUGES)
        grow(store, GAUGES, ONE, (), (10 + cycle, None))
        grow(store, GAUGES, ONE, (), (5, 1.5), 2)
        assert read(store, LEVEL) == {(ONE, ()): 15 + cycle}
        assert read(store, OTHER) == {(ONE, ()): 1.5}
    store.begin_cycle(GAUGES)
    assert read(store, LEVEL) == read(store, OTHER) == {(ONE, ()): None}


def test_discover_has_every_combination_at_zero() -> None:
    store = store_of(DELTAS, COMBINED, FILES, GAUGES, POD)
    store.discover({ONE})
    zeros = {(ONE, (direction, call)): 0 for direction in ("in", "out") for call in ("a", "b", "c")}
    assert read(store, EVENTS) == {(ONE, ()): 0, (ONE.of_pod, ()): 0} | zeros
    assert read(store, WAIT) == {(ONE, ()): ({}, 0)}
    assert not read(store, READ)
    assert not read(store, LEVEL)


def test_discover_leaves_what_was_counted() -> None:
    store = store_of(DELTAS)
    grow(store, DELTAS, ONE, (), (5, None))
    store.discover({ONE, TWO})
    store.discover({ONE, TWO})
    assert read(store, EVENTS) == {(ONE, ()): 5, (TWO, ()): 0}


def test_discover_fills_the_combinations_that_had_no_event() -> None:
    store = store_of(COMBINED)
    grow(store, COMBINED, ONE, ("out", "b"), (5,))
    store.discover({ONE})
    found = read(store, EVENTS)
    assert len(found) == 6
    assert found.pop((ONE, ("out", "b"))) == 5
    assert set(found.values()) == {0}


def test_pod_scope_has_no_container() -> None:
    store = store_of(POD, DELTAS)
    for table in (POD, DELTAS):
        grow(store, table, ONE, (), (1,) if table is POD else (10, None))
        grow(store, table, TWO, (), (2,) if table is POD else (20, None), 2)
    assert read(store, EVENTS) == {(ONE.of_pod, ()): 3, (ONE, ()): 10, (TWO, ()): 20}


def test_scopes_are_three() -> None:
    """Members of an enumeration with equal values are one member."""
    assert len(Scope) == 3


def test_retain_drops_the_series_of_all_others() -> None:
    store = store_of(DELTAS, POD, AGENT)
    for identity in (ONE, TWO, ELSEWHERE):
        grow(store, DELTAS, identity, (), (1, None))
        grow(store, POD, identity, (), (1,))
    store.set(AGENT, ("x",), (9,))
    store.retain({ONE})
    kept = {key[0] for key in read(store, EVENTS)}
    assert kept == {ONE, ONE.of_pod, Identity("", "", "")}
    assert read(store, EVENTS)[Identity("", "", ""), ("x",)] == 9


def test_forget_forgets_only_who_is_gone() -> None:
    store = store_of(FILES)
    for owner in (1, 2):
        put(store, FILES, ONE, ("sda",), (100, None), owner)
    store.forget([FILES], {1}.__contains__, lambda pod: True)
    for owner in (1, 2):
        put(store, FILES, ONE, ("sda",), (100, None), owner)
    assert read(store, READ) == {(ONE, ("sda",)): 300}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), max_size=60), st.integers(1, 6))
def test_overflow_keeps_the_sum(rows: list[tuple[int, int]], limit: int) -> None:
    store = store_of(DELTAS, limit=limit)
    own: set[int] = set()
    folded = 0
    for who, events in rows:
        if who not in own and len(own) < limit:
            own.add(who)
        folded += who not in own
        grow(store, DELTAS, Identity("n", str(who), ""), (), (events, delta(events, sum_ns=events)), who)
    found = read(store, EVENTS)
    numbers = [value for value in found.values() if isinstance(value, int)]
    assert sum(numbers) == sum(events for _, events in rows)
    assert len(found) <= limit + 1
    assert ((OVERFLOW, ()) in found) == bool(folded)
    assert store.overflow == ({EVENTS.name: folded, WAIT.name: folded} if folded else {})


def test_overflow_keeps_bounded_labels_and_folds_the_others() -> None:
    table = Table((EVENTS,), (DIRECTION, DEVICE))
    store = store_of(table, limit=1)
    grow(store, table, ONE, ("in", "sda"), (1,))
    for direction, device, events in (("in", "sdb", 2), ("in", "sdc", 4), ("out", "sda", 8)):
        grow(store, table, ONE, (direction, device), (events,))
    assert read(store, EVENTS) == {
        (ONE, ("in", "sda")): 1,
        (OVERFLOW, ("in", "")): 6,
        (OVERFLOW, ("out", "")): 8,
    }
    assert store.overflow == {EVENTS.name: 3}


def test_overflow_takes_running_totals_by_their_differences() -> None:
    store = store_of(FILES, limit=1)
    for total in (10, 15):
        put(store, FILES, ONE, ("sda",), (total, None))
        put(store, FILES, TWO, ("sda",), (total, None), 2)
        put(store, FILES, THREE, ("sda",), (total, None), 3)
    assert read(store, READ) == {(ONE, ("sda",)): 15, (OVERFLOW, ("",)): 30}


def test_folded_row_has_a_series_once_there_is_room() -> None:
    """What was folded stays in the overflow series; the owner's begins at 0, though nothing happened since."""
    store = store_of(FILES, limit=1)
    for identity, total in ((ONE, 10), (TWO, 10), (TWO, 15), (TWO, 15)):
        put(store, FILES, identity, ("sda",), (total, None), owner=1 + (identity is TWO))
    assert store.overflow == {READ.name: 2, WRITTEN.name: 2}, "what stands still is no update"
    store.retain([TWO])
    for total, expected in ((15, 0), (18, 3)):
        put(store, FILES, TWO, ("sda",), (total, None), owner=2)
        assert read(store, READ) == {(TWO, ("sda",)): expected, (OVERFLOW, ("",)): 15}


def test_discovery_over_the_limit_is_no_update() -> None:
    store = store_of(COMBINED, limit=6)
    for _ in range(3):
        store.discover({ONE})
        store.discover({ONE, TWO})
    assert store.overflow == {}
    assert {identity for identity, _ in read(store, EVENTS)} == {ONE, OVERFLOW}
    grow(store, COMBINED, TWO, ("in", "b"), (1,), 2)
    assert store.overflow == {EVENTS.name: 1}
    assert read(store, EVENTS)[OVERFLOW, ("in", "b")] == 1


def test_all_series_together_are_bounded() -> None:
    """A histogram counts as its buckets, sum and count; what left makes room."""
    weight = 1 + len(WAIT.exponents) + 3
    every = frozenset({EVENTS, WAIT, READ, WRITTEN})
    store = Store([DELTAS, FILES, AGENT], every, Limits(total=2 * weight + 2))
    for _ in range(2):
        grow(store, DELTAS, ONE, (), (1, delta(1)))
        grow(store, DELTAS, TWO, (), (1, delta(1)), 2)
        put(store, FILES, ONE, ("sda",), (1, 1))
        grow(store, DELTAS, THREE, (), (1, delta(1)), 3)
        put(store, FILES, TWO, ("sda",), (1, 1), 2)
        store.set(AGENT, ("x",), (1,))
    assert store.overflow == {EVENTS.name: 2, WAIT.name: 2, READ.name: 1, WRITTEN.name: 1}
    assert {owner for owner, _ in read(store, WAIT)} == {ONE, TWO, OVERFLOW}
    store.retain({TWO, THREE})
    grow(store, DELTAS, THREE, (), (1, delta(1)), 3)
    put(store, FILES, TWO, ("sda",), (1, 1), 2)
    assert {owner for owner, _ in read(store, WAIT)} == {TWO, THREE, OVERFLOW}
    assert store.overflow[WAIT.name] == 2


def test_overflow_does_not_bound_the_agents_own() -> None:
    store = store_of(AGENT, limit=1)
    for name in ("x", "y", "z"):
        store.set(AGENT, (name,), (1,))
    assert len(read(store, EVENTS)) == 3
    assert store.overflow == {}


def test_series_end_with_their_pod_and_make_room() -> None:
    store = store_of(DELTAS, limit=1)
    grow(store, DELTAS, ONE, (), (1, None))
    store.retain({TWO})
    grow(store, DELTAS, TWO, (), (1, None), 2)
    assert read(store, EVENTS) == {(TWO, ()): 1}


def test_what_is_not_wanted_is_not_kept() -> None:
    store = Store([DELTAS, FILES], frozenset({WAIT}))
    grow(store, DELTAS, ONE, (), (1, delta(1)))
    put(store, FILES, ONE, ("sda",), (1, 1))
    assert [(table, metric) for table, _, metric, _ in store.families()] == [(DELTAS, WAIT)]


def test_set_replaces() -> None:
    store = store_of(AGENT)
    store.set(AGENT, ("x",), (5,))
    store.set(AGENT, ("x",), (3,))
    assert list(read(store, EVENTS).values()) == [3]


NONSENSE: list[tuple[tuple[object, ...], object]] = [
    ((), (1, 2)),
    ((), ()),
    ((), ("5",)),
    ((), (b"",)),
    ((), ([],)),
    ((), (-1,)),
    ((), (float("nan"),)),
    ((), (float("inf"),)),
    ((), (delta(1),)),
    (("more",), (1,)),
    ((7,), (1,)),
    (([],), (1,)),
]


@pytest.mark.parametrize(("labels", "values"), NONSENSE)
def test_a_row_that_is_none_is_refused_and_spoils_nothing(labels: Any, values: Any) -> None:
    metric = counter("kpod_sane_total", "Test.", "test")
    table = Table((metric,))
    store = store_of(table)
    with pytest.raises((ValueError, TypeError)):
        put(store, table, ONE, labels, values)
    assert read(store, metric) == {}
    put(store, table, ONE, (), (5,))
    with pytest.raises((ValueError, TypeError)):
        put(store, table, ONE, labels, values)
    put(store, table, ONE, (), (8,))
    assert read(store, metric) == {(ONE, ()): 8}


def test_a_histogram_takes_no_number() -> None:
    metric = latency("kpod_sane_seconds", "Test.", "test")
    table = Table((metric,))
    with pytest.raises(TypeError, match="kpod_sane_seconds cannot take 3"):
        grow(store_of(table), table, ONE, (), (3,))


def test_without_memory_new_series_are_folded_and_old_ones_go_on() -> None:
    metric = counter("kpod_sane_total", "Test.", "test")
    table = Table((metric,))
    asked: list[int] = []

    def room(needed: int) -> Room:
        asked.append(needed)
        return Room.NONE if needed >= 256 * SERIES_BYTES else Room.ALL

    store = Store([table], frozenset(table.metrics), Limits(room=room))
    owners = [Identity("n", f"p{number}", "") for number in range(400)]
    for owner in owners:
        grow(store, table, owner, (), (1,))
    found = read(store, metric)
    assert len(found) == 257  # and the overflow series
    assert found[OVERFLOW, ()] == 400 - 256
    assert store.overflow == {metric.name: 400 - 256}
    assert asked == [256 * SERIES_BYTES]
    grow(store, table, owners[0], (), (1,))
    assert read(store, metric)[owners[0], ()] == 2
    store.retain(owners[:100])
    assert not store.look_for_room()
    grow(store, table, owners[-1], (), (1,))
    assert read(store, metric)[owners[-1], ()] == 1


def test_without_memory_who_has_series_gets_the_rest_of_them() -> None:
    """All of a container's series or none: half of them would be no use."""
    few, more = (
        Table((counter("kpod_few_total", "Test.", "test"),)),
        Table((counter("kpod_more_total", "Test.", "test"),)),
    )
    store = Store([few, more], frozenset([*few.metrics, *more.metrics]), Limits(room=lambda needed: Room.NONE))
    grow(store, few, ONE, (), (1,))
    assert store.look_for_room()
    for owner in (ONE, TWO):
        grow(store, more, owner, (), (1,))
    assert read(store, more.metrics[0]) == {(ONE, ()): 1, (OVERFLOW, ()): 1}
    assert store.has(ONE)
    assert not store.has(TWO)
    store.retain([TWO])
    assert not store.has(ONE)


def test_sparse_series_are_at_zero_on_the_page_on_which_they_first_rise() -> None:
    store = store_of(SPARSE)
    store.discover([ONE])
    put(store, SPARSE, ONE, ("in",), (0, 0))
    assert read(store, EVENTS) == {}
    put(store, SPARSE, ONE, ("in",), (3, 0))
    assert read(store, EVENTS) == {(ONE, ("in",)): 0}
    assert read(store, READ) == {(ONE, ("in",)): 0}
    store.rise()
    assert read(store, EVENTS) == {(ONE, ("in",)): 3}
    put(store, SPARSE, ONE, ("in",), (5, 1))
    store.rise()
    assert read(store, EVENTS) == {(ONE, ("in",)): 5}
    assert read(store, READ) == {(ONE, ("in",)): 1}


def test_sparse_series_stay_for_a_page_with_their_value() -> None:
    store = store_of(SPARSE)
    put(store, SPARSE, ONE, ("out",), (7, 0))
    assert store.retain(())
    store.rise()
    assert read(store, EVENTS) == {(ONE, ("out",)): 7}
    assert not store.retain(())
    assert read(store, EVENTS) == {}


def test_long_label_values_are_cut_and_stay_different() -> None:
    store = store_of(FILES, FOLDERS)
    long, other = "/" + "é" * 2000, "/" + "é" * 1999 + "e"
    for total in (1, 3):
        store.begin_cycle(FOLDERS)
        for name, growth in ((long, 1), (other, 10)):
            put(store, FILES, ONE, (name,), (growth * total, 0))
            put(store, FOLDERS, ONE, (name,), (growth * total,))
    assert read(store, READ) == {(ONE, (clipped(long),)): 3, (ONE, (clipped(other),)): 30}
    assert read(store, LEVEL) == {(ONE, (clipped(long),)): 3, (ONE, (clipped(other),)): 30}
