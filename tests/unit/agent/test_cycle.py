"""The cycle, with collectors of the test's own and no kernel: what is late, failing, pending, gone, or too much."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from kpod_metrics.errors import RefusedError, UnavailableError
from kpod_metrics.exposition.text import TEXT
from kpod_metrics.metrics import Label, Row, Scope, Table, counter
from kpod_metrics.pods.model import FILTERED, HOST, PENDING, UNRESOLVED, Group, Identity
from tests.unit.agent.hub import EVENTS, OTHERS, Counting, Hub

A, B = Identity("n", "a", "c"), Identity("n", "b", "c")
OUTSIDE = 1
"""An id that no cgroup of the test's has: their ids are inodes of a folder on a disk."""
COUNT, OTHER = "kpod_events_total", "kpod_others_total"


def opened(hub: Hub) -> Hub:
    hub.agent.open()
    return hub


def errors(page: dict[tuple[str, str], float], collector: str) -> float:
    return page["kpod_collector_errors_total", collector]


def up(page: dict[tuple[str, str], float], collector: str) -> float:
    return page["kpod_collector_up", collector]


def test_each_event_is_counted_once_and_charged_to_its_pod(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one))
    a, b = hub.cgroup("a", A), hub.cgroup("b", B)
    one.reads = [{a: 3}, {a: 4, b: 5}, {}]
    pages = [hub.cycle() for _ in range(3)]
    assert [(page[COUNT, "a"], page[COUNT, "b"]) for page in pages] == [(3, 0), (7, 5), (7, 5)]


def test_failed_read_takes_nothing_else_down(tmp_path: Path) -> None:
    failing, fine = Counting("failing", EVENTS), Counting("fine", OTHERS)
    hub = opened(Hub(tmp_path, failing, fine))
    a = hub.cgroup("a", A)
    failing.reads = [{a: 1}, OSError(5, "planted"), {a: 2}]
    fine.reads = [{a: 10}, {a: 20}, {a: 30}]
    pages = [hub.cycle() for _ in range(3)]
    assert [(page[COUNT, "a"], page[OTHER, "a"]) for page in pages] == [(1, 10), (1, 30), (3, 60)]
    assert [(up(page, "failing"), errors(page, "failing")) for page in pages] == [(1, 0), (0, 1), (1, 1)]
    assert [up(page, "fine") for page in pages] == [1, 1, 1]


def test_what_is_no_row_is_the_collectors_failure(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one))
    a = hub.cgroup("a", A)
    one.reads = [lambda groups: [Row(EVENTS, a, (), (1,)), "row"]]  # type: ignore[list-item]
    page = hub.cycle()
    assert (page[COUNT, "a"], errors(page, "one")) == (0, 1)
    assert hub.agent.problems() == ["collector one is failing: TypeError: a collector gave 'row' for a row"]


def test_row_that_is_not_of_its_table_does_not_lose_the_others(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one))
    a, b = hub.cgroup("a", A), hub.cgroup("b", B)
    one.reads = [lambda groups: [Row(EVENTS, a, (), (1,)), Row(EVENTS, b, (), (-1,)), Row(EVENTS, b, (), (2,))]]
    page = hub.cycle()
    assert (page[COUNT, "a"], page[COUNT, "b"], errors(page, "one")) == (1, 2, 1)


class Late:
    """A read that ends when the test says so."""

    def __init__(self, rows: dict[int, int]) -> None:
        self.rows = rows
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, groups: Sequence[Group]) -> dict[int, int]:
        self.begun.set()
        assert self.go_on.wait(30)
        return self.rows


def test_late_read_holds_up_no_other_and_loses_nothing(tmp_path: Path) -> None:
    slow, fine = Counting("slow", EVENTS), Counting("fine", OTHERS)
    hub = opened(Hub(tmp_path, slow, fine, collector_deadline="2s"))
    a = hub.cgroup("a", A)
    late = Late({a: 7})
    slow.reads = [late, {a: 2}]
    fine.reads = [{a: number} for number in (1, 10, 100, 1000)]
    first, second = hub.cycle(), hub.cycle()
    assert [(page[COUNT, "a"], page[OTHER, "a"]) for page in (first, second)] == [(0, 1), (0, 11)]
    # It is late once, however long it takes.
    assert [(up(page, "slow"), errors(page, "slow")) for page in (first, second)] == [(0, 1), (0, 1)]
    assert hub.agent.problems() == ["collector slow is failing: late: no answer within its 2 s deadline"]
    late.go_on.set()
    for _ in range(200):
        page = hub.cycle()
        if page[COUNT, "a"]:
            break
        time.sleep(0.01)
    assert page[COUNT, "a"] == 7
    assert (up(page, "slow"), errors(page, "slow")) == (1, 1)
    assert hub.cycle()[COUNT, "a"] == 9


def test_page_is_whole_while_a_cycle_goes_on(tmp_path: Path) -> None:
    slow = Counting("slow", EVENTS)
    hub = opened(Hub(tmp_path, slow))
    a = hub.cgroup("a", A)
    late = Late({a: 5})
    slow.reads = [{a: 1}, late]
    hub.cycle()
    before = hub.agent.published.get(TEXT, zipped=False)
    cycle = threading.Thread(target=hub.agent.cycle)
    cycle.start()
    try:
        assert late.begun.wait(30)
        assert hub.agent.published.get(TEXT, zipped=False) == before
    finally:
        late.go_on.set()
        cycle.join()
    assert hub.page()[COUNT, "a"] == 6


def test_collector_that_hangs_does_not_keep_the_agent_from_ending(tmp_path: Path) -> None:
    hanging, fine = Counting("hanging", EVENTS), Counting("fine", OTHERS)
    hub = opened(Hub(tmp_path, hanging, fine, collector_deadline="2s"))
    late = Late({})
    hanging.reads = [late]
    hub.cycle()
    hub.agent.stop()
    assert [(state.name, state.opened) for state in hub.agent.states] == [("hanging", True), ("fine", False)]
    late.go_on.set()


def test_events_are_held_until_their_pod_is_known(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one))
    a = hub.cgroup("a")
    one.reads = [{a: 3}, {a: 4}, {a: 5}]
    held = [hub.cycle()["kpod_pending_events", "one"] for _ in range(2)]
    hub.names.owners["a"] = A
    page = hub.cycle()
    assert [*held, page["kpod_pending_events", "one"]] == [3, 7, 0]
    assert page[COUNT, "a"] == 12


def test_events_that_stay_without_a_pod_are_counted_by_the_reason(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one))
    host, filtered, pending = hub.cgroup("host", HOST), hub.cgroup("filtered", FILTERED), hub.cgroup("pending")
    one.reads = [{host: 1, filtered: 10, pending: 100, OUTSIDE: 1000}] * 2
    hub.cycle()
    hub.names.owners["pending"] = UNRESOLVED
    page = hub.cycle()
    counted = {
        reason: page["kpod_unattributed_events_total", f"one,{reason}"] for reason in (HOST, FILTERED, UNRESOLVED)
    }
    # Where the root is a part of the tree, an id that was never seen below it is the host's.
    assert counted == {HOST: 2 + 2 * 1000, FILTERED: 20, UNRESOLVED: 200}
    assert page["kpod_pending_events", "one"] == 0


def test_while_nothing_is_seen_events_wait_and_the_last_pods_stay(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one))
    a = hub.cgroup("a", A)
    one.reads = [{a: 1}, {a: 2, OUTSIDE: 5}, {a: 4}]
    hub.cycle()
    hub.names.error = OSError(5, "planted")
    page = hub.cycle()
    assert (page[COUNT, "a"], page["kpod_pending_events", "one"]) == (3, 5)
    assert page["kpod_discovery_errors_total", ""] == 2  # it looked again for the unknown one
    assert hub.agent.problems() == [f"source of pods (test): {tmp_path}: planted"]
    hub.names.error = None
    page = hub.cycle()
    assert (page[COUNT, "a"], page["kpod_pending_events", "one"]) == (7, 0)
    assert hub.agent.problems() == []


def test_series_end_with_their_pod_after_a_page_with_the_last_values(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one))
    a, b = hub.cgroup("a", A), hub.cgroup("b", B)
    one.reads = [{a: 1, b: 1}, {a: 2}, {}]
    hub.cycle()
    hub.remove("a")
    page = hub.cycle()
    assert (page[COUNT, "a"], page[COUNT, "b"]) == (3, 1)
    page = hub.cycle()
    assert (COUNT, "a") not in page
    assert page[COUNT, "b"] == 1
    # The map had its totals once more before they were deleted there: they are in the pod's series already.
    assert {page["kpod_unattributed_events_total", f"one,{reason}"] for reason in (HOST, FILTERED, UNRESOLVED)} == {0}
    assert set(one.totals) == {b}


def test_interface_that_is_gone_ends_after_a_page_but_not_by_a_late_or_failed_read(tmp_path: Path) -> None:
    sent = Table((counter("kpod_sent_total", "Sent.", "test"),), (Label("interface", per="interface"),), Scope.POD)
    one = Counting("one", sent)
    hub = opened(Hub(tmp_path, one, collector_deadline="2s"))
    a, b = hub.cgroup("a", A), hub.cgroup("b", B)
    for name in ("a", "b"):
        (tmp_path / name / "cgroup.procs").write_text("1\n")

    def rows(*owners: int) -> Sequence[Row]:
        return [Row(sent, owner, ("eth0",), (owner,), owner) for owner in owners]

    def pods(page: dict[tuple[str, str], float]) -> set[str]:
        return {pod for name, pod in page if name == "kpod_sent_total"}

    late = threading.Event()

    def hang(groups: Sequence[Group]) -> Sequence[Row]:
        assert late.wait(30)
        return rows(a, b)

    one.reads = [lambda groups: rows(a, b), OSError(5, "planted"), OSError(5, "planted"), OSError(5, "planted"), hang]
    for _ in range(6):
        assert pods(hub.cycle()) == {"a", "b"}
    one.reads = [lambda groups: rows(b)] * 3
    late.set()
    for _ in range(200):
        assert pods(hub.cycle()) == {"a", "b"}
        if len(one.reads) < 3:
            break
        time.sleep(0.01)
    assert pods(hub.cycle()) == {"b"}
    one.reads = [lambda groups: []] * 3
    one.unread = {b}
    assert [pods(hub.cycle()) for _ in range(3)] == [{"b"}] * 3


def test_full_store_folds_new_pods_and_counts_that(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one, series_limit="1"))
    a = hub.cgroup("a", A)
    one.reads = [{a: 1}]
    hub.cycle()
    b = hub.cgroup("b", B)
    one.reads = [{a: 2, b: 5}, {b: 6}]
    pages = [hub.cycle() for _ in range(2)]
    assert [(page[COUNT, "a"], page[COUNT, "kpod-overflow"]) for page in pages] == [(3, 5), (3, 11)]
    assert (COUNT, "b") not in pages[1]
    assert pages[1]["kpod_series_overflow_total", COUNT] == 2


def test_new_pod_is_on_the_page_before_the_next_cycle(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one))
    a, b = hub.cgroup("a", A), hub.cgroup("b")
    one.reads = [{a: 1, b: 9}]
    hub.cycle()
    hub.cgroup("c", Identity("n", "c", "c"))
    hub.names.owners["b"] = B
    hub.agent._publish_new()
    page = hub.page()
    assert (page[COUNT, "a"], page[COUNT, "b"], page[COUNT, "c"]) == (1, 9, 0)


def test_collector_that_does_not_open_is_off_and_the_others_work(tmp_path: Path) -> None:
    off, fine = Counting("off", EVENTS), Counting("fine", OTHERS)
    off.refused = UnavailableError("EPERM: planted")
    hub = opened(Hub(tmp_path, off, fine))
    a = hub.cgroup("a", A)
    fine.reads = [{a: 1}]
    page = hub.cycle()
    assert (up(page, "off"), up(page, "fine"), page[OTHER, "a"]) == (0, 1, 1)
    assert (COUNT, "a") not in page  # no 0 for what is not counted
    assert hub.agent.problems() == ["collector off is off: EPERM: planted"]


def test_what_a_machine_does_not_have_is_no_failure_and_not_0(tmp_path: Path) -> None:
    lacking, fine = Counting("lacking", EVENTS), Counting("fine", OTHERS)
    lacking.absent = "there is no io controller"
    hub = opened(Hub(tmp_path, lacking, fine))
    hub.cgroup("a", A)
    page = hub.cycle()
    assert (up(page, "lacking"), page[OTHER, "a"]) == (1, 0)
    assert (COUNT, "a") not in page
    assert hub.agent.problems() == []


def test_agent_without_a_collector_that_opens_is_refused(tmp_path: Path) -> None:
    off = Counting("off", EVENTS)
    off.refused = UnavailableError("EPERM: planted")
    with pytest.raises(RefusedError, match=r"^nothing can be collected here: EPERM: planted$"):
        Hub(tmp_path, off).agent.open()


def test_cycle_that_fails_is_counted_and_the_next_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one, poll_interval="100ms"))
    a = hub.cgroup("a", A)
    one.reads = [{a: 1}, {a: 2}, {a: 4}]
    real, calls = hub.agent.recent.note, []

    def note(page: object) -> None:
        calls.append(page)
        if len(calls) == 1:
            raise OSError(5, "planted")
        real(page)  # type: ignore[arg-type]

    monkeypatch.setattr(hub.agent.recent, "note", note)
    hub.agent.start()
    try:
        deadline = time.monotonic() + 30
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        hub.agent.stop(5)
    page = hub.page()
    assert page[COUNT, "a"] >= 7
    assert page["kpod_collection_cycle_errors_total", ""] == 1
    assert PENDING not in {key for _, key in page}


def test_events_between_a_read_and_the_end_of_a_cgroup_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Counting("one", EVENTS)
    hub = opened(Hub(tmp_path, one))
    a = hub.cgroup("a", A)
    one.reads = [{a: 5}]
    assert hub.cycle()[COUNT, "a"] == 5
    late = [[Row(EVENTS, a, (), (7,))]]
    monkeypatch.setattr(one, "late_rows", lambda: late.pop() if late else [])
    assert hub.cycle()[COUNT, "a"] == 7
    one.totals = {}
    assert hub.cycle()[COUNT, "a"] == 7
