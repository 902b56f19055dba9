"""The store's totals: differences and running totals added up, and what bounds them."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.histogram import SLOTS, Histogram
from kpod_metrics.metrics import HistogramDelta, Kind, Label, Metric, Scope, Table, Value, counter, gauge, latency
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import OVERFLOW, Store
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
FILES = Table((READ, WRITTEN), (DEVICE,), totals=True)
GAUGES = Table((LEVEL, OTHER))
COMBINED = Table((EVENTS,), (DIRECTION, CALL))
POD = Table((EVENTS,), scope=Scope.POD)
AGENT = Table((EVENTS,), (DEVICE,), Scope.AGENT)

ONE, TWO, THREE = (Identity("n", "p", name) for name in ("one", "two", "three"))
ELSEWHERE = Identity("n", "q", "one")


def store_of(*every: Table, limit: int = 1_000_000) -> Store:
    return Store(every, frozenset(metric for table in every for metric in table.metrics), limit)


def delta(*counts: int, sum_ns: int = 0) -> HistogramDelta:
    return HistogramDelta([*counts, *[0] * (SLOTS - len(counts))], sum_ns)


def read(store: Store, metric: Metric) -> dict[tuple[Identity, tuple[str, ...]], object]:
    """All series of a metric; histograms as (slots that are not 0, sum)."""
    return {
        (series.identity, series.labels): (
            ({slot: n for slot, n in enumerate(value.slots) if n}, value.sum_ns)
            if isinstance(value := series.values[at], Histogram)
            else value
        )
        for _, at, found, children in store.families()
        if found is metric
        for series in children
    }


def test_differences_are_added_up() -> None:
    store = store_of(DELTAS)
    store.put(DELTAS, ONE, (), (3, delta(1, 2, sum_ns=10)), (1, 0))
    store.put(DELTAS, TWO, (), (1, delta(0, 0, 5, sum_ns=1)), (2, 0))
    store.put(DELTAS, ONE, (), (4, delta(1, sum_ns=7)), (1, 0))
    assert read(store, EVENTS) == {(ONE, ()): 7, (TWO, ()): 1}
    assert read(store, WAIT) == {(ONE, ()): ({0: 2, 1: 2}, 17), (TWO, ()): ({2: 5}, 1)}


def test_differences_of_several_cgroups_of_one_container_are_added_up() -> None:
    store = store_of(DELTAS)
    for owner in (1, 2):
        store.put(DELTAS, ONE, (), (3, None), (owner, 0))
    assert read(store, EVENTS) == {(ONE, ()): 6}


def test_zero_is_told_where_nothing_was() -> None:
    """A counter that had no number yet has one from then on, if it is 0."""
    store = store_of(DELTAS)
    store.put(DELTAS, ONE, (), (None, delta(1)), (1, 0))
    assert read(store, EVENTS) == {(ONE, ()): None}
    store.put(DELTAS, ONE, (), (0, None), (1, 0))
    assert read(store, EVENTS) == {(ONE, ()): 0}


@given(st.lists(st.integers(0, 100), max_size=30))
def test_running_totals_that_reset(totals: list[int]) -> None:
    """A total that went down began anew: all of it is new."""
    store = store_of(FILES)
    expected = previous = 0
    for total in totals:
        store.put(FILES, ONE, ("sda",), (total, None), (1, 0))
        expected += total - previous if total >= previous else total
        previous = total
        assert read(store, READ) == {(ONE, ("sda",)): expected}


def test_equal_gauges_of_two_cgroups_are_summed() -> None:
    store = store_of(GAUGES)
    for _ in range(2):
        store.begin_cycle(GAUGES)
        for owner in (1, 2):
            store.put(GAUGES, ONE, (), (5, 3), (owner, 0))
        assert read(store, LEVEL) == {(ONE, ()): 10}
        assert read(store, OTHER) == {(ONE, ()): 6}


def test_running_total_of_a_series_that_is_back_is_not_counted_again() -> None:
    store = store_of(FILES)
    store.put(FILES, ONE, ("sda",), (10, 7), (1, 0))
    store.retain({TWO})
    for total, expected in ((10, 0), (12, 2)):
        store.put(FILES, ONE, ("sda",), (total, 7), (1, 0))
        assert read(store, READ) == {(ONE, ("sda",)): expected}
        assert read(store, WRITTEN) == {(ONE, ("sda",)): 0}


@pytest.mark.parametrize("values", [("7", 1), (1, delta(1)), (1,)])
def test_gauges_that_are_none_are_refused(values: Any) -> None:
    store = store_of(GAUGES)
    store.put(GAUGES, ONE, (), (5, 6), (1, 0))
    store.begin_cycle(GAUGES)
    with pytest.raises((ValueError, TypeError)):
        store.put(GAUGES, ONE, (), values, (1, 0))
    assert read(store, LEVEL) == read(store, OTHER) == {(ONE, ()): None}


def test_running_totals_are_told_apart_by_owner_source_and_labels() -> None:
    store = store_of(FILES)
    for _ in range(2):
        store.put(FILES, ONE, ("sda",), (10, None), (1, 0))
        store.put(FILES, ONE, ("sda",), (100, None), (2, 0))
        store.put(FILES, ONE, ("sda",), (1000, None), (1, 7))
        store.put(FILES, ONE, ("sdb",), (5, None), (1, 0))
    assert read(store, READ) == {(ONE, ("sda",)): 1110, (ONE, ("sdb",)): 5}


def test_running_total_that_is_absent_for_a_cycle_goes_on() -> None:
    store = store_of(FILES)
    for total in (10, None, 15):
        store.put(FILES, ONE, ("sda",), (total, 1), (1, 0))
    assert read(store, READ) == {(ONE, ("sda",)): 15}


def test_counter_outlives_the_cgroup_it_came_from() -> None:
    """A restarted container is a new cgroup, whose totals begin at 0."""
    store = store_of(FILES)
    store.put(FILES, ONE, ("sda",), (1000, None), (1, 0))
    store.forget_owners({1}.__contains__)
    store.put(FILES, ONE, ("sda",), (3, None), (2, 0))
    store.put(FILES, ONE, ("sda",), (5, None), (2, 0))
    assert read(store, READ) == {(ONE, ("sda",)): 1005}


def all_metrics() -> Iterable[tuple[Table, int, Metric]]:
    for table in tables():
        if table.scope is not Scope.AGENT:
            for at, metric in enumerate(table.metrics):
                yield table, at, metric


@pytest.mark.parametrize(("table", "at", "metric"), list(all_metrics()), ids=lambda v: getattr(v, "name", ""))
def test_two_cycles_of_every_metric(table: Table, at: int, metric: Metric) -> None:
    """Two cycles in which the kernel's files say the same, and its maps two events more."""
    store = store_of(table)
    [labels, *_] = label_sets(table)
    for _ in range(2):
        store.begin_cycle(table)
        value: Value = delta(2, sum_ns=9) if metric.kind is Kind.HISTOGRAM else 2
        values: list[Value] = [None] * len(table.metrics)
        values[at] = value
        store.put(table, ONE, labels, values, (1, 0))
    whose = ONE.of_pod if table.scope is Scope.POD else ONE
    same = table.totals or metric.kind is Kind.GAUGE
    expected = ({0: 4}, 18) if metric.kind is Kind.HISTOGRAM else 2 if same else 4
    assert read(store, metric) == {(whose, labels): expected}


def test_gauges_are_summed_within_a_cycle_and_absent_without_a_row() -> None:
    store = store_of(GAUGES)
    for cycle in range(2):
        store.begin_cycle(GAUGES)
        store.put(GAUGES, ONE, (), (10 + cycle, None), (1, 0))
        store.put(GAUGES, ONE, (), (5, 1.5), (2, 0))
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
    store.put(DELTAS, ONE, (), (5, None), (1, 0))
    store.discover({ONE, TWO})
    store.discover({ONE, TWO})
    assert read(store, EVENTS) == {(ONE, ()): 5, (TWO, ()): 0}


def test_discover_fills_the_combinations_that_had_no_event() -> None:
    store = store_of(COMBINED)
    store.put(COMBINED, ONE, ("out", "b"), (5,), (1, 0))
    store.discover({ONE})
    found = read(store, EVENTS)
    assert len(found) == 6
    assert found.pop((ONE, ("out", "b"))) == 5
    assert set(found.values()) == {0}


def test_pod_scope_has_no_container() -> None:
    store = store_of(POD, DELTAS)
    for table in (POD, DELTAS):
        store.put(table, ONE, (), (1,) if table is POD else (10, None), (1, 0))
        store.put(table, TWO, (), (2,) if table is POD else (20, None), (2, 0))
    assert read(store, EVENTS) == {(ONE.of_pod, ()): 3, (ONE, ()): 10, (TWO, ()): 20}


def test_scopes_are_three() -> None:
    """Members of an enumeration with equal values are one member."""
    assert len(Scope) == 3


def test_retain_drops_the_series_of_all_others() -> None:
    store = store_of(DELTAS, POD, AGENT)
    for identity in (ONE, TWO, ELSEWHERE):
        store.put(DELTAS, identity, (), (1, None), (1, 0))
        store.put(POD, identity, (), (1,), (1, 0))
    store.set(AGENT, ("x",), (9,))
    store.retain({ONE})
    kept = {key[0] for key in read(store, EVENTS)}
    assert kept == {ONE, ONE.of_pod, Identity("", "", "")}
    assert read(store, EVENTS)[Identity("", "", ""), ("x",)] == 9


def test_forget_owners_forgets_only_who_is_gone() -> None:
    store = store_of(FILES)
    for owner in (1, 2):
        store.put(FILES, ONE, ("sda",), (100, None), (owner, 0))
    store.forget_owners({1}.__contains__)
    for owner in (1, 2):
        store.put(FILES, ONE, ("sda",), (100, None), (owner, 0))
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
        store.put(DELTAS, Identity("n", str(who), ""), (), (events, delta(events, sum_ns=events)), (who, 0))
    found = read(store, EVENTS)
    numbers = [value for value in found.values() if isinstance(value, int)]
    assert sum(numbers) == sum(events for _, events in rows)
    assert len(found) <= limit + 1
    assert ((OVERFLOW, ()) in found) == bool(folded)
    assert store.overflow == ({EVENTS.name: folded, WAIT.name: folded} if folded else {})


def test_overflow_keeps_bounded_labels_and_folds_the_others() -> None:
    table = Table((EVENTS,), (DIRECTION, DEVICE))
    store = store_of(table, limit=1)
    store.put(table, ONE, ("in", "sda"), (1,), (1, 0))
    for direction, device, events in (("in", "sdb", 2), ("in", "sdc", 4), ("out", "sda", 8)):
        store.put(table, ONE, (direction, device), (events,), (1, 0))
    assert read(store, EVENTS) == {
        (ONE, ("in", "sda")): 1,
        (OVERFLOW, ("in", "")): 6,
        (OVERFLOW, ("out", "")): 8,
    }
    assert store.overflow == {EVENTS.name: 3}


def test_overflow_takes_running_totals_by_their_differences() -> None:
    store = store_of(FILES, limit=1)
    for total in (10, 15):
        store.put(FILES, ONE, ("sda",), (total, None), (1, 0))
        store.put(FILES, TWO, ("sda",), (total, None), (2, 0))
        store.put(FILES, THREE, ("sda",), (total, None), (3, 0))
    assert read(store, READ) == {(ONE, ("sda",)): 15, (OVERFLOW, ("",)): 30}


def test_tables_that_lack_something_are_told_once_there_is_room() -> None:
    store = store_of(FILES, DELTAS, limit=1)
    assert store.took_all([FILES, DELTAS])
    for identity, total in ((ONE, 10), (TWO, 10), (TWO, 15)):
        store.put(FILES, identity, ("sda",), (total, None), (1, 0))
    store.retain([ONE])
    assert store.took_all([FILES, DELTAS])  # told again, they would be folded again
    store.retain([])
    assert store.took_all([DELTAS])
    assert not store.took_all([FILES])
    assert store.took_all([DELTAS, FILES])


def test_room_of_one_table_is_told_to_all_that_lacked_it() -> None:
    """The limit of all series together: room is anybody's."""
    plain = Table((EVENTS,))
    store = Store([FILES, plain], frozenset((*FILES.metrics, EVENTS)), max_total=len(FILES.metrics))
    store.put(FILES, ONE, ("sda",), (10, None), (1, 0))
    store.put(plain, TWO, (), (1,), (2, 0))
    assert store.took_all([FILES, plain])
    store.retain([TWO])
    assert not store.took_all([plain])
    assert not store.took_all([FILES])


def test_memory_that_is_there_again_is_told_to_all_that_lacked_it() -> None:
    full = [True]
    plain = Table((EVENTS,))
    store = Store([plain], frozenset({EVENTS}), is_full=lambda series: full[0])
    assert store.look_for_room()
    store.put(plain, ONE, (), (1,), (1, 0))
    assert store.look_for_room()
    assert store.took_all([plain])
    full[0] = False
    assert not store.look_for_room()
    assert not store.took_all([plain])


def test_discovery_over_the_limit_is_no_update() -> None:
    store = store_of(COMBINED, limit=6)
    for _ in range(3):
        store.discover({ONE})
        store.discover({ONE, TWO})
    assert store.overflow == {}
    assert {identity for identity, _ in read(store, EVENTS)} == {ONE, OVERFLOW}
    store.put(COMBINED, TWO, ("in", "b"), (1,), (2, 0))
    assert store.overflow == {EVENTS.name: 1}
    assert read(store, EVENTS)[OVERFLOW, ("in", "b")] == 1


def test_all_series_together_are_bounded() -> None:
    """A histogram counts as its buckets, sum and count; what left makes room."""
    weight = 1 + len(WAIT.exponents) + 3
    every = frozenset({EVENTS, WAIT, READ, WRITTEN})
    store = Store([DELTAS, FILES, AGENT], every, max_total=2 * weight + 2)
    for _ in range(2):
        store.put(DELTAS, ONE, (), (1, delta(1)), (1, 0))
        store.put(DELTAS, TWO, (), (1, delta(1)), (2, 0))
        store.put(FILES, ONE, ("sda",), (1, 1), (1, 0))
        store.put(DELTAS, THREE, (), (1, delta(1)), (3, 0))
        store.put(FILES, TWO, ("sda",), (1, 1), (2, 0))
        store.set(AGENT, ("x",), (1,))
    assert store.overflow == {EVENTS.name: 2, WAIT.name: 2, READ.name: 2, WRITTEN.name: 2}
    assert {owner for owner, _ in read(store, WAIT)} == {ONE, TWO, OVERFLOW}
    store.retain({TWO, THREE})
    store.put(DELTAS, THREE, (), (1, delta(1)), (3, 0))
    store.put(FILES, TWO, ("sda",), (1, 1), (2, 0))
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
    store.put(DELTAS, ONE, (), (1, None), (1, 0))
    store.retain({TWO})
    store.put(DELTAS, TWO, (), (1, None), (2, 0))
    assert read(store, EVENTS) == {(TWO, ()): 1}


def test_what_is_not_wanted_is_not_kept() -> None:
    store = Store([DELTAS, FILES], frozenset({WAIT}))
    store.put(DELTAS, ONE, (), (1, delta(1)), (1, 0))
    store.put(FILES, ONE, ("sda",), (1, 1), (1, 0))
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


@pytest.mark.parametrize("totals", [False, True])
@pytest.mark.parametrize(("labels", "values"), NONSENSE)
def test_a_row_that_is_none_is_refused_and_spoils_nothing(labels: Any, values: Any, totals: bool) -> None:
    metric = counter("kpod_sane_total", "Test.", "test")
    table = Table((metric,), totals=totals)
    store = store_of(table)
    with pytest.raises((ValueError, TypeError)):
        store.put(table, ONE, labels, values, (1, 0))
    assert read(store, metric) == {}
    store.put(table, ONE, (), (5,), (1, 0))
    with pytest.raises((ValueError, TypeError)):
        store.put(table, ONE, labels, values, (1, 0))
    store.put(table, ONE, (), (8,), (1, 0))
    assert read(store, metric) == {(ONE, ()): 8 if totals else 13}


def test_a_histogram_takes_no_number() -> None:
    metric = latency("kpod_sane_seconds", "Test.", "test")
    table = Table((metric,))
    with pytest.raises(TypeError, match="kpod_sane_seconds cannot take 3"):
        store_of(table).put(table, ONE, (), (3,), (1, 0))


def test_without_memory_new_series_are_folded_and_old_ones_go_on() -> None:
    metric = counter("kpod_sane_total", "Test.", "test")
    table = Table((metric,))
    asked: list[int] = []

    def is_full(series: int) -> bool:
        asked.append(series)
        return series >= 256

    store = Store([table], frozenset(table.metrics), is_full=is_full)
    owners = [Identity("n", f"p{number}", "") for number in range(400)]
    for owner in owners:
        store.put(table, owner, (), (1,), (1, 0))
    found = read(store, metric)
    assert len(found) == 257  # and the overflow series
    assert found[OVERFLOW, ()] == 400 - 256
    assert store.overflow == {metric.name: 400 - 256}
    assert asked == [256]
    store.put(table, owners[0], (), (1,), (1, 0))
    assert read(store, metric)[owners[0], ()] == 2
    store.retain(owners[:100])
    assert not store.look_for_room()
    store.put(table, owners[-1], (), (1,), (1, 0))
    assert read(store, metric)[owners[-1], ()] == 1


def test_without_memory_who_has_series_gets_the_rest_of_them() -> None:
    """All of a container's series or none: half of them would be no use."""
    few, more = (
        Table((counter("kpod_few_total", "Test.", "test"),)),
        Table((counter("kpod_more_total", "Test.", "test"),)),
    )
    store = Store([few, more], frozenset([*few.metrics, *more.metrics]), is_full=lambda series: True)
    store.put(few, ONE, (), (1,), (1, 0))
    assert store.look_for_room()
    for owner in (ONE, TWO):
        store.put(more, owner, (), (1,), (1, 0))
    assert read(store, more.metrics[0]) == {(ONE, ()): 1, (OVERFLOW, ()): 1}
    assert store.has(ONE)
    assert not store.has(TWO)
    store.retain([TWO])
    assert not store.has(ONE)
