"""What one pod decides is bounded for that pod, and there is room for the basic series of the others."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.limits import FEW, LABEL_COPIES, MORE_ROWS, OTHER, ROW_BYTES, SERIES_BYTES, Limits, Room
from kpod_metrics.metrics import Label, Row, Scope, Table, Value, counter, gauge
from kpod_metrics.pods.model import Group, Identity
from kpod_metrics.store import OVERFLOW, Store

SENT = counter("kpod_sent_total", "Sent.", "test")
READ, WRITTEN = counter("kpod_read_total", "Read.", "test"), counter("kpod_written_total", "Written.", "test")
SIZE = gauge("kpod_size_bytes", "Size.", "test")
EVENTS = counter("kpod_events_total", "Events.", "test")
INFO = gauge("kpod_info", "1.", "test")

INTERFACES = Table((SENT,), (Label("interface", per="interface"), Label("way", ("in", "out"))), Scope.POD)
DEVICES = Table((READ, WRITTEN), (Label("device", per="device"),), preexisting=True)
MOUNTS = Table((SIZE,), (Label("mount", per="mount"),))
BASIC = Table((EVENTS,), (Label("kind", ("a", "b", "c")),))
SOLE = Table((INFO,), (Label("owner", per="owner"),), Scope.POD, sole=True)
TABLES = (INTERFACES, DEVICES, MOUNTS, BASIC, SOLE)

ONE, TWO, ELSEWHERE = Identity("n", "p", "one"), Identity("n", "p", "two"), Identity("n", "q", "one")
GROUPS = (Group(1, "/a", (10,), ONE), Group(2, "/b", (20,), TWO), Group(3, "/c", (30,), ELSEWHERE))


class Pods:
    """A store, and who went over a limit."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.exceeded: list[tuple[int, str]] = []
        metrics = frozenset(metric for table in TABLES for metric in table.metrics)
        self.store = Store(TABLES, metrics, limits, lambda owner, limit: self.exceeded.append((owner, limit)))

    def read(self, *rows: Row) -> dict[tuple[str, str, tuple[str, ...]], list[Value]]:
        """Take the rows of one read; return all series, by pod, container and labels."""
        for table in TABLES:
            self.store.begin_cycle(table)
        for row in rows:
            self.store.put(row, next(group.identity for group in GROUPS if group.id == row.owner))
        self.store.end_read(TABLES, GROUPS, ())
        self.store.take_changed()
        return {
            (series.identity.pod, series.identity.container, series.labels): series.values
            for table, at, _, children in self.store.families()
            if not at
            for series in children
        }


def interface(name: str, total: int, owner: int = 1, way: str = "in", namespace: int = 70) -> Row:
    return Row(INTERFACES, owner, (name, way), (total,), namespace)


def device(name: str, total: int, owner: int = 1) -> Row:
    return Row(DEVICES, owner, (name,), (total, 0))


def mount(name: str, size: int, owner: int = 1) -> Row:
    return Row(MOUNTS, owner, (name,), (size,))


def test_what_is_over_the_series_of_a_pod_is_in_its_other() -> None:
    pods = Pods(Limits(pod_series=5))
    rows = [mount("/a", 1), device("sda", 10), mount("/b", 2, 2), interface("e0", 7)]
    page = pods.read(*rows)
    assert len(page) == 4
    assert pods.exceeded == []
    over = [interface("e1", 20), interface("e2", 30, way="out"), mount("/c", 8)]
    page = pods.read(*rows, *over, mount("/d", 9), mount("/e", 1, 2), interface("e0", 1, 3, namespace=80))
    assert page == {
        ("p", "one", ("/a",)): [1],
        ("p", "one", ("sda",)): [10, 0],
        ("p", "two", ("/b",)): [2],
        ("p", "", ("e0", "in")): [7],
        ("p", "", (OTHER, "in")): [20],
        ("p", "", (OTHER, "out")): [30],
        ("p", "one", (OTHER,)): [8 + 9],
        ("p", "two", (OTHER,)): [1],
        ("q", "", ("e0", "in")): [1],
    }
    assert sorted(pods.exceeded) == [(1, "series")] * 4 + [(2, "series")]
    assert pods.store.overflow == {}


def test_each_table_has_its_other() -> None:
    pods = Pods(Limits(pod_series=1))
    pods.read(interface("e0", 1), device("sda", 5), device("sdb", 6), mount("/a", 7), mount("/b", 8))
    found = {
        (metric.name, series.labels): series.values[at]
        for _, at, metric, children in pods.store.families()
        for series in children
    }
    assert found == {
        ("kpod_sent_total", ("e0", "in")): 1,
        ("kpod_read_total", (OTHER,)): 11,
        ("kpod_written_total", (OTHER,)): 0,
        ("kpod_size_bytes", (OTHER,)): 15,
    }


def test_what_is_over_the_bytes_of_labels_is_in_other() -> None:
    pods = Pods(Limits(pod_label_bytes=10))
    page = pods.read(mount("/" + "é" * 3, 1), mount("/aa", 2), mount("/b", 3), mount("/c", 4, 3))
    assert page == {
        ("p", "one", ("/ééé",)): [1],
        ("p", "one", ("/aa",)): [2],
        ("p", "one", (OTHER,)): [3],
        ("q", "one", ("/c",)): [4],
    }
    assert pods.exceeded == [(1, "label_bytes")]


def test_gauges_in_other_are_summed_and_counted_in_every_read() -> None:
    pods = Pods(Limits(pod_series=1))
    for read in range(1, 4):
        page = pods.read(mount("/a", 1), mount("/b", 2), mount("/c", 3))
        assert page == {("p", "one", ("/a",)): [1], ("p", "one", (OTHER,)): [5]}
        assert pods.exceeded == [(1, "series")] * 2 * read


def test_counters_in_other_are_counted_when_they_begin_or_grow() -> None:
    pods = Pods(Limits(pod_series=1))
    for total, times in ((0, 1), (0, 1), (4, 2), (4, 2), (9, 3)):
        page = pods.read(interface("e0", 1), interface("e1", total))
        assert page == {("p", "", ("e0", "in")): [1], ("p", "", (OTHER, "in")): [total]}
        assert pods.exceeded == [(1, "series")] * times


def test_series_that_end_make_room_in_their_pod() -> None:
    pods = Pods(Limits(pod_series=1, pod_label_bytes=4))
    pods.read(interface("e0", 1), interface("e1", 5))
    for _ in range(2):
        page = pods.read(interface("e1", 7))
    assert page == {("p", "", (OTHER, "in")): [7]}
    # It has a series of its own from now on, which begins at 0.
    assert pods.read(interface("e1", 10)) == {("p", "", (OTHER, "in")): [7], ("p", "", ("e1", "in")): [3]}
    pods.store.retain({ELSEWHERE})
    pods.exceeded.clear()
    pods.read(interface("e2", 1))
    assert pods.exceeded == []


def test_rows_of_a_pod_are_bounded() -> None:
    """To take a difference, the last row of each source is kept, also of what is in `other`."""
    rooms = [Room.ALL]
    pods = Pods(Limits(pod_series=3, room=lambda needed: rooms[0]))
    most = MORE_ROWS + 3
    rows = [interface(f"e{number}", 1) for number in range(most + 2)]
    for times in (most - 3 + 2, most - 3 + 4):
        page = pods.read(*rows, interface("e0", 100, 3, namespace=80))
        assert page["p", "", (OTHER, "in")] == [most - 3]
        assert page["q", "", ("e0", "in")] == [100]
        assert pods.exceeded == [(1, "series")] * times
    pods.read()
    pods.read()
    rooms[0] = Room.LITTLE
    pods.store.look_for_room()
    pods.exceeded.clear()
    page = pods.read(*rows)
    assert page["p", "", (OTHER, "in")] == [MORE_ROWS - 3]
    assert pods.exceeded == [(1, "series")] * (MORE_ROWS - 3 + 5)


def test_churn_of_names_takes_no_more_than_the_limit() -> None:
    pods = Pods(Limits(pod_series=20))
    total = 0
    for read in range(30):
        page = pods.read(*[interface(f"e{read}-{number}", 1) for number in range(10)], interface("e0", read, 3))
        assert sum(pod == "p" for pod, *_ in page) <= 21
        total += 10
        assert page["q", "", ("e0", "in")] == [read]
    assert {owner for owner, _ in pods.exceeded} <= {1}


def test_series_of_pods_choice_leave_room_for_all_series_of_new_pods() -> None:
    pods = Pods(Limits(total=10 * FEW, pod_series=8 * FEW))
    rows = [interface(f"e{number}", 1) for number in range(9 * FEW)]
    page = pods.read(*rows)
    assert len([labels for pod, _, labels in page if pod == "p"]) == 5 * FEW + 1
    assert page["p", "", (OTHER, "in")] == [4 * FEW]
    assert pods.exceeded == [(1, "series")] * 4 * FEW
    fresh = [interface(f"e{number}", 1, 3) for number in range(FEW + 1)]
    page = pods.read(*rows, *fresh)
    assert len([labels for pod, _, labels in page if pod == "q"]) == FEW + 1
    assert page["q", "", (OTHER, "in")] == [1]
    assert (OVERFLOW.pod, "", ("", "in")) not in page
    pods.store.discover([ONE, ELSEWHERE, Identity("n", "r", "one")])
    assert {identity.pod for identity, *_ in pods.store._tables[BASIC]} == {"p", "q", "r"}
    assert pods.store.overflow == {}


def test_with_little_memory_a_pod_has_few_series_of_its_choice() -> None:
    rooms = [Room.ALL]
    pods = Pods(Limits(room=lambda needed: rooms[0]))
    rows = [interface(f"e{number}", 1) for number in range(FEW - 1)]
    pods.read(*rows)
    rooms[0] = Room.LITTLE
    assert not pods.store.look_for_room()
    page = pods.read(*rows, interface("f0", 1), interface("f1", 5), interface("e0", 7, 3), mount("/a", 3))
    assert {key: value for key, value in page.items() if not key[2][0].startswith("e")} == {
        ("p", "", ("f0", "in")): [1],
        ("p", "", (OTHER, "in")): [5],
        ("p", "one", (OTHER,)): [3],
    }
    assert page["q", "", ("e0", "in")] == [7]
    assert pods.exceeded == [(1, "series")] * 2


def test_without_memory_new_owners_have_no_series() -> None:
    rooms = [Room.ALL]
    pods = Pods(Limits(room=lambda needed: rooms[0]))
    pods.read(interface("e0", 1))
    rooms[0] = Room.NONE
    assert pods.store.look_for_room()
    page = pods.read(interface("e0", 2), interface("e1", 5), Row(SOLE, 1, ("web",), (1,)), interface("e0", 9, 3))
    assert page == {
        ("p", "", ("e0", "in")): [2],
        ("p", "", ("e1", "in")): [5],
        ("p", "", ("web",)): [1],
        (OVERFLOW.pod, "", ("", "in")): [9],
    }
    pods.store.discover([ELSEWHERE])
    assert not pods.store.has(ELSEWHERE)


def test_other_is_there_without_memory_if_its_pod_has_series() -> None:
    pods = Pods(Limits(pod_series=1, room=lambda needed: Room.NONE))
    pods.read(interface("e0", 1))
    pods.store.look_for_room()
    assert pods.read(interface("e0", 1), interface("e1", 4))["p", "", (OTHER, "in")] == [4]


def test_labels_of_the_control_plane_are_of_no_pods_choice() -> None:
    pods = Pods(Limits(pod_series=1, pod_label_bytes=1))
    page = pods.read(interface("e", 1), Row(SOLE, 1, ("web",), (1,)))
    assert page == {("p", "", ("e", "in")): [1], ("p", "", ("web",)): [1]}
    assert pods.exceeded == []


def test_memory_is_that_of_series_labels_and_rows() -> None:
    asked: list[int] = []

    def room(needed: int) -> Room:
        asked.append(needed)
        return Room.ALL

    pods = Pods(Limits(room=room))
    pods.store.look_for_room()
    pods.read(interface("eth0", 1), device("sda", 1), mount("/a", 1))
    pods.store.look_for_room()
    pods.read()
    pods.read()
    pods.store.look_for_room()
    with_labels = LABEL_COPIES * (len("eth0") + 2 * len("sda") + len("/a"))
    assert asked == [0, 4 * SERIES_BYTES + with_labels + 2 * ROW_BYTES, 0]


def test_restarted_containers_leave_no_rows() -> None:
    asked: list[int] = []

    def room(needed: int) -> Room:
        asked.append(needed)
        return Room.ALL

    pods = Pods(Limits(room=room))
    for owner in (1, 2):
        pods.store.put(Row(DEVICES, owner, ("sda",), (1, 0)), ONE)
        pods.store.forget(TABLES, {owner}.__contains__, lambda pod: True)
    pods.store.look_for_room()
    assert asked == [2 * SERIES_BYTES + 2 * LABEL_COPIES * len("sda")]


Step = tuple[int, int]


@given(st.lists(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), max_size=8), max_size=10), st.integers(1, 6))
def test_no_growth_is_lost_while_nothing_ends(steps: Sequence[Sequence[Step]], limit: int) -> None:
    """All series of a pod together, `other` included, have what its sources grew by."""
    pods = Pods(Limits(pod_series=8, pod_label_bytes=2 * limit))
    totals = dict.fromkeys(range(8), 0)
    for step in steps:
        for name, growth in step:
            totals[name] += growth
        page = pods.read(*(interface(f"e{name}", total) for name, total in totals.items()))
        assert sum(values[0] or 0 for values in page.values()) == sum(totals.values())  # type: ignore[misc]
        assert len(page) == min(8, limit) + 1
