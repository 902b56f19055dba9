"""Series of interfaces, devices and mounts end when these are gone, after a page with their last values."""

from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.limits import Limits
from kpod_metrics.metrics import Label, Row, Scope, Table, counter, gauge
from kpod_metrics.pods.model import Group, Identity
from kpod_metrics.store import OVERFLOW, Store

SENT = counter("kpod_sent_total", "Sent.", "test")
READ = counter("kpod_read_total", "Read.", "test")
SIZE = gauge("kpod_size_bytes", "Size.", "test")

INTERFACES = Table((SENT,), (Label("interface", per="interface"),), Scope.POD)
DEVICES = Table((READ,), (Label("device", per="device"),), preexisting=True)
MOUNTS = Table((SIZE,), (Label("mount", per="mount"),))
TABLES = (INTERFACES, DEVICES, MOUNTS)

ONE, TWO, ELSEWHERE = Identity("n", "p", "one"), Identity("n", "p", "two"), Identity("n", "q", "one")
A, B, C = Group(1, "/a", (10,), ONE), Group(2, "/b", (20,), TWO), Group(3, "/c", (30,), ELSEWHERE)


class Reads:
    """Complete reads of all tables, and the pages after them."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self.store = Store(TABLES, frozenset({SENT, READ, SIZE}), Limits(limit))
        self.groups: Sequence[Group] = (A, B, C)

    def read(self, *rows: Row, unread: Iterable[int] = ()) -> dict[tuple[str, str, str], object]:
        """Take the rows of one read; return the page, by the names of the pod, the container and the row."""
        self.take(*rows)
        self.store.end_read(TABLES, self.groups, set(unread))
        return self.page()

    def take(self, *rows: Row) -> None:
        """Take rows, and do not end the read."""
        for table in TABLES:
            self.store.begin_cycle(table)
        for row in rows:
            self.store.put(row, {group.id: group.identity for group in (A, B, C)}[row.owner])

    def page(self) -> dict[tuple[str, str, str], object]:
        """The values that a page would have."""
        return {
            (series.identity.pod, series.identity.container, series.labels[0]): series.values[0]
            for _, _, _, children in self.store.families()
            for series in children
        }


def interface(name: str, total: int, owner: int = 1, namespace: int = 70) -> Row:
    return Row(INTERFACES, owner, (name,), (total,), namespace)


def device(name: str, total: int, owner: int = 1) -> Row:
    return Row(DEVICES, owner, (name,), (total,))


def mount(name: str, size: int, owner: int = 1) -> Row:
    return Row(MOUNTS, owner, (name,), (size,))


@pytest.mark.parametrize("made", [interface, device])
def test_counter_is_on_one_more_page_and_then_gone(made: Callable[[str, int], Row]) -> None:
    reads, container = Reads(), "" if made is interface else "one"
    stays = {("p", container, "stays"): 1}
    last = {("p", container, "goes"): 7}
    assert reads.read(made("stays", 1), made("goes", 5)) == stays | {("p", container, "goes"): 5}
    assert reads.read(made("stays", 1), made("goes", 7)) == stays | last
    assert reads.read(made("stays", 1)) == stays | last
    assert reads.page() == stays | last
    assert reads.read(made("stays", 1)) == stays


def test_counter_that_one_read_missed_goes_on() -> None:
    reads = Reads()
    reads.read(interface("eth0", 5))
    for total in (6, 9):
        reads.read()
        assert reads.read(interface("eth0", total)) == {("p", "", "eth0"): total}


def test_name_that_returns_starts_again_at_its_new_total() -> None:
    reads = Reads()
    reads.read(interface("veth0", 1000))
    [before] = [series for *_, children in reads.store.families() for series in children]
    reads.read()
    assert reads.read() == {}
    assert reads.read(interface("veth0", 3)) == {("p", "", "veth0"): 3}
    [after] = [series for *_, children in reads.store.families() for series in children]
    assert after is not before
    assert after.created_ns > before.created_ns


def test_series_of_two_namespaces_ends_with_the_second() -> None:
    reads = Reads()
    assert reads.read(interface("eth0", 5), interface("eth0", 100, 2, 71)) == {("p", "", "eth0"): 105}
    for _ in range(3):
        assert reads.read(interface("eth0", 6)) == {("p", "", "eth0"): 106}
    # The number of the namespace is given to another one.
    assert reads.read(interface("eth0", 6), interface("eth0", 50, 2, 71)) == {("p", "", "eth0"): 156}
    assert reads.read() == {("p", "", "eth0"): 156}
    assert reads.read() == {}


def test_series_of_two_cgroups_of_a_container_ends_with_the_second() -> None:
    reads = Reads()
    reads.groups = (A, Group(4, "/d", (40,), ONE))
    reads.read(device("sda", 5))
    reads.store.put(device("sda", 10, 4), ONE)
    for _ in range(3):
        assert reads.read(device("sda", 6)) == {("p", "one", "sda"): 16}
    assert reads.read() == {("p", "one", "sda"): 16}
    assert reads.read() == {}


def test_what_was_not_read_is_not_gone() -> None:
    reads = Reads()
    rows = [interface("eth0", 5), device("sda", 6), interface("eth0", 7, 3, 80), device("sda", 8, 3)]
    whole = reads.read(*rows)
    assert len(whole) == 4
    for _ in range(3):
        assert reads.read(*rows[2:], unread={1}) == whole
    reads.groups = (C,)
    for _ in range(3):
        assert reads.read(*rows[2:]) == whole
    reads.groups = (Group(1, "/a", (), ONE), C)
    for _ in range(3):
        assert reads.read(*rows[2:]) == whole
    reads.groups = (A, B, C)
    assert reads.read(*rows[2:]) == whole
    assert set(reads.read(*rows[2:])) == {("q", "", "eth0"), ("q", "one", "sda")}


def test_pod_is_read_if_all_its_containers_are() -> None:
    reads = Reads()
    whole = reads.read(interface("eth0", 5), interface("eth0", 1, 2, 71))
    for _ in range(3):
        assert reads.read(interface("eth0", 5), unread={2}) == whole


def test_read_that_does_not_end_ends_nothing() -> None:
    reads = Reads()
    reads.read(interface("eth0", 5), device("sda", 6))
    for _ in range(3):
        reads.take()
    assert reads.page() == {("p", "", "eth0"): 5, ("p", "one", "sda"): 6}


def test_restarted_container_keeps_the_series_of_its_devices() -> None:
    """Its new cgroup has not used the device yet."""
    reads = Reads()
    reads.read(device("sda", 1000))
    reads.groups = (Group(2, "/b", (20,), ONE),)
    reads.store.forget(TABLES, {1}.__contains__, lambda pod: True)
    for _ in range(3):
        assert reads.read() == {("p", "one", "sda"): 1000}


def test_namespace_that_ends_with_its_container_ends_with_its_series() -> None:
    reads = Reads()
    reads.read(interface("eth0", 5), interface("own", 100, 2, 71))
    reads.groups = (A, C)
    reads.store.forget(TABLES, {2}.__contains__, lambda pod: True)
    assert reads.read(interface("eth0", 5)) == {("p", "", "eth0"): 5}


def test_gauges_end_with_the_read_that_misses_them_and_leave_no_series() -> None:
    reads = Reads()
    assert reads.read(mount("/a", 1), mount("/b", 2)) == {("p", "one", "/a"): 1, ("p", "one", "/b"): 2}
    assert reads.read(mount("/b", 2)) == {("p", "one", "/b"): 2}
    assert reads.read() == {}


def test_gauges_of_an_unread_cgroup_stay_for_one_more_page() -> None:
    reads = Reads()
    whole = reads.read(mount("/a", 1), mount("/b", 2, 3))
    for _ in range(3):
        assert reads.read(mount("/b", 2, 3), unread={1}) == whole
        assert reads.read(mount("/a", 1), mount("/b", 2, 3)) == whole
    reads.read(mount("/b", 2, 3), unread={1})
    assert reads.read(mount("/b", 2, 3), unread={1}) == {("q", "one", "/b"): 2}


def test_ended_series_make_room() -> None:
    reads = Reads(limit=1)
    assert (OVERFLOW.pod, "", "") not in reads.read(interface("v0", 1), mount("/0", 1), device("d0", 1))
    for number in range(1, 4):
        rows = interface(f"v{number}", 1), mount(f"/{number}", 1), device(f"d{number}", 1)
        for _ in range(3):
            page = reads.read(*rows)
        assert {name for pod, _, name in page if pod == "p"} == {f"v{number}", f"/{number}", f"d{number}"}


def test_churn_leaves_nothing() -> None:
    """Interfaces and network namespaces that a pod creates and removes."""
    reads = Reads()
    for number in range(300):
        page = reads.read(interface("lo", 1, namespace=number), interface(f"veth{number}", 1, namespace=number))
        assert len(page) <= 3
    reads.read()
    assert reads.read() == {}
    assert reads.store._sources[INTERFACES]._sources == {}


Step = tuple[int, int, int]


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 9)), max_size=6), max_size=12))
def test_growth_is_in_the_series_while_they_live(steps: list[list[Step]]) -> None:
    """Whatever comes and goes: a series has all that its sources grew by since it began."""
    reads = Reads()
    totals: dict[tuple[int, int], int] = {}
    missed: dict[tuple[int, int], int] = {}
    expected: dict[int, int] = {}
    for step in steps:
        found = {(name, namespace): growth for name, namespace, growth in step}
        for source, growth in found.items():
            totals[source] = totals.get(source, 0) + growth
            expected[source[0]] = expected.get(source[0], 0) + growth
            missed[source] = 0
        page = reads.read(*(interface(f"v{name}", totals[name, ns], namespace=ns) for name, ns in found))
        for source in [source for source in totals if source not in found]:
            missed[source] += 1
            if missed[source] == 2:
                del totals[source], missed[source]
        for name in [name for name in expected if not any(source[0] == name for source in totals)]:
            del expected[name]
        assert page == {("p", "", f"v{name}"): total for name, total in expected.items()}
