"""The agent's life: it opens, runs cycles at a fixed rate, sees to news in between, and ends."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kpod_metrics.agent import cycle
from kpod_metrics.collectors.kit import Signal
from kpod_metrics.diagnosis.rates import RATED
from kpod_metrics.errors import RefusedError, UnavailableError
from kpod_metrics.exposition.text import TEXT
from kpod_metrics.kernel import rights
from kpod_metrics.kernel.containers import Containers
from kpod_metrics.limits import Room
from kpod_metrics.metrics import Table, counter
from kpod_metrics.pods.model import Identity, Workload
from tests.unit.agent.hub import EVENTS, OTHERS, Counting, Hub

A, B = Identity("n", "a", "c"), Identity("n", "b", "c")
COUNT, OTHER = "kpod_events_total", "kpod_others_total"


def eventually(what: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.002)


class Clock:
    """The time of the module `cycle`, which stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """The time."""
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(cycle, "time", made)
    return made


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Hub], Hub]]:
    """Start an agent that looks for news all the time, and has one cycle per hour."""
    monkeypatch.setattr(cycle, "_LOOK_INTERVAL", 0.002)
    started: list[Hub] = []

    def start(hub: Hub) -> Hub:
        started.append(hub)
        hub.agent.open()
        hub.agent.start()
        eventually(lambda: hub.agent.last_cycle)
        return hub

    yield start
    for hub in started:
        hub.agent.stop(30)


def test_cycles_come_at_a_fixed_rate_and_skip_what_they_missed(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Hub(tmp_path, Counting("one", EVENTS), poll_interval="30s").agent
    takes = iter([1, 50, 1, 2])
    collected: list[int] = []
    waits: list[float] = []

    def one_cycle() -> None:
        clock.now += next(takes)

    def wait(until: float, connected: bool) -> bool:
        waits.append(until)
        if len(waits) == 4:
            agent._stop.set()
        news = len(waits) == 3
        clock.now = until - 10 if news else until
        return news

    monkeypatch.setattr(agent, "cycle", one_cycle)
    monkeypatch.setattr(agent, "_wait", wait)
    monkeypatch.setattr(cycle, "_CYCLES_TO_FULL_COLLECTION", 3)
    monkeypatch.setattr(cycle, "gc", SimpleNamespace(collect=collected.append))
    agent._run()
    # After news the rate begins with the cycle that they called for.
    assert waits == [1030, 1080, 1110, 1130]
    assert collected == [1, 1, 2, 1]


def test_time_that_is_over_calls_for_no_other_time(tmp_path: Path) -> None:
    hub = Hub(tmp_path, Counting("one", EVENTS))
    assert hub.agent._wait(time.monotonic() - 1, True) is False
    assert hub.agent._wait(time.monotonic() + 0.01, True) is False
    hub.agent._stop.set()
    assert hub.agent._wait(time.monotonic() + 3600, True) is False


def test_look_for_news_comes_once_a_second_and_the_cycle_in_time(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Hub(tmp_path, Counting("one", EVENTS)).agent
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        clock.now += seconds
        return False

    monkeypatch.setattr(agent, "_stop", SimpleNamespace(wait=wait))
    assert agent._wait(1002.5, True) is False
    assert agent._wait(1000, True) is False
    assert waits == [1, 1, 0.5, 0]


def test_memory_limit_is_found_before_the_first_cycle(tmp_path: Path) -> None:
    agent = Hub(tmp_path, Counting("one", EVENTS), memory_limit="64Mi").agent
    agent.open()
    assert agent.headroom.limit == 64 << 20


def test_full_collection_is_rare() -> None:
    assert cycle._CYCLES_TO_FULL_COLLECTION == 100


def test_cycles_are_missed_after_three_intervals(tmp_path: Path, clock: Clock) -> None:
    agent = Hub(tmp_path, Counting("one", EVENTS), poll_interval="30s").agent
    assert not agent.missed_cycles()
    agent._started = 1000
    missed = []
    for now in (1090, 1090.5):
        clock.now = now
        missed.append(agent.missed_cycles())
    agent.last_cycle = 1050
    for now in (1140, 1140.5):
        clock.now = now
        missed.append(agent.missed_cycles())
    assert missed == [False, True, False, True]


def test_fast_cycles_have_a_second(tmp_path: Path, clock: Clock) -> None:
    agent = Hub(tmp_path, Counting("one", EVENTS), poll_interval="100ms").agent
    agent._started = 1000
    missed = []
    for now in (1001, 1001.5):
        clock.now = now
        missed.append(agent.missed_cycles())
    assert missed == [False, True]


def test_collector_with_an_interval_of_its_own_reads_less_often(tmp_path: Path, clock: Clock) -> None:
    one, often = Counting("one", EVENTS), Counting("often", OTHERS)
    hub = Hub(tmp_path, one, often, poll_interval="30s", collectors_one_interval="60s")
    hub.agent.open()
    a = hub.cgroup("a", A)
    one.reads, often.reads = [{a: 1}, {a: 1}, {a: 1}], [{a: 1}] * 10
    seen = []
    for now in (1000, 1030, 1044.5, 1045, 1089.5, 1090):
        clock.now = now
        page = hub.cycle()
        seen.append((page[COUNT, "a"], page[OTHER, "a"]))
    # The cycle nearest to the time is it.
    assert seen == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (3, 6)]
    assert hub.agent.last_cycle == 1090


def test_cycle_comes_at_once_when_names_come(tmp_path: Path, running: Callable[[Hub], Hub]) -> None:
    one = Counting("one", EVENTS)
    hub = Hub(tmp_path, one, poll_interval="1h")
    hub.names.connected = False
    a = hub.cgroup("a")
    one.reads = [{a: 1}]
    running(hub)
    assert hub.page()["kpod_pending_events", "one"] == 1
    hub.names.owners["a"] = A
    hub.names.connected = True
    eventually(lambda: hub.page()["kpod_pod_source_connected", "test"] == 1)
    assert hub.page()[COUNT, "a"] == 1


def test_name_that_comes_is_on_the_page_at_once(tmp_path: Path, running: Callable[[Hub], Hub]) -> None:
    one = Counting("one", EVENTS)
    hub = Hub(tmp_path, one, poll_interval="1h")
    a = hub.cgroup("a")
    one.reads = [{a: 1}]
    running(hub)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "cycle"]
    assert thread.daemon
    before = hub.agent.last_cycle
    hub.names.owners["a"] = A
    eventually(lambda: hub.page().get((COUNT, "a")) == 1)
    assert hub.agent.last_cycle == before


class Reports:
    """The kernel's reports of new cgroups."""

    containers = Containers()

    def __init__(self) -> None:
        self.new: dict[int, str] = {}
        self.calls: list[str] = []

    def open(self) -> None:
        """Keep the call."""
        self.calls.append("open")

    def close(self) -> None:
        """Keep the call."""
        self.calls.append("close")

    def maps(self) -> list[object]:
        """None."""
        return []

    programs = maps

    def take(self) -> dict[int, str]:
        """What is new."""
        taken, self.new = self.new, {}
        return taken


def test_new_cgroup_is_on_the_page_at_once(tmp_path: Path, running: Callable[[Hub], Hub]) -> None:
    hub = Hub(tmp_path, Counting("one", EVENTS), poll_interval="1h")
    reports = Reports()
    hub.agent.source.events = reports  # type: ignore[assignment]
    running(hub)
    before = hub.agent.published.get(TEXT, zipped=False)
    a = hub.cgroup("a", A)
    time.sleep(0.05)
    assert hub.agent.published.get(TEXT, zipped=False) == before
    reports.new = {a: "a"}
    eventually(lambda: hub.page().get((COUNT, "a")) == 0)
    hub.agent.stop(30)
    assert reports.calls == ["open", "close"]


def test_fault_between_two_cycles_is_logged_and_the_next_news_are_taken(
    tmp_path: Path, running: Callable[[Hub], Hub], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(tmp_path, Counting("one", EVENTS), poll_interval="1h")
    hub.cgroup("a")
    hub.cgroup("nameless")  # so that it looks again and again
    running(hub)
    real, errors = hub.agent._renderer.render, [OSError(5, "planted"), ValueError("planted")]

    def render(store: object) -> object:
        if errors:
            raise errors.pop(0)
        return real(store)  # type: ignore[arg-type]

    monkeypatch.setattr(hub.agent._renderer, "render", render)
    hub.names.owners["a"] = A
    eventually(lambda: len(errors) == 1)
    hub.cgroup("b", B)
    eventually(lambda: not errors)
    hub.cgroup("c", Identity("n", "c", "c"))
    eventually(lambda: hub.page().get((COUNT, "c")) == 0)
    said = [(record.message, bool(record.exc_info)) for record in caplog.records if record.name == cycle.log.name]
    assert said == [
        ("news could not be taken: [Errno 5] planted", False),
        ("news could not be taken: planted", True),
    ]


def test_failed_cycle_is_a_problem_until_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Hub(tmp_path, Counting("one", EVENTS)).agent
    agent.open()
    errors: list[Exception] = [ValueError("planted"), OSError(5, "planted")]
    problems = []

    def one_cycle() -> None:
        if errors:
            raise errors.pop(0)

    def wait(until: float, connected: bool) -> bool:
        problems.append(agent.problems())
        if len(problems) == 3:
            agent._stop.set()
        return False

    monkeypatch.setattr(agent, "cycle", one_cycle)
    monkeypatch.setattr(agent, "_wait", wait)
    agent._run()
    said = "the last cycle failed, its page was not published: "
    assert problems == [[f"{said}ValueError: planted"], [f"{said}[Errno 5] planted"], []]
    assert agent._report.cycle_errors == 2
    assert [(record.message, bool(record.exc_info)) for record in caplog.records] == [("cycle failed", True)] * 2


class Pushes:
    """Stands for the exporter by OTLP."""

    sent, dropped, queued_bytes = 11, 22, 33
    endpoint, problem = "https://otlp", "503"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        """Keep the call."""
        self.calls.append("start")

    def stop(self) -> None:
        """Keep the call."""
        self.calls.append("stop")


def test_exporter_lives_as_long_as_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushes = Pushes()
    monkeypatch.setattr(cycle, "exporter_of", lambda settings, published: pushes)
    hub = Hub(tmp_path, Counting("one", EVENTS))
    hub.agent.open()
    page = hub.cycle()
    names = ("kpod_otlp_sent_points_total", "kpod_otlp_dropped_points_total", "kpod_otlp_queue_bytes")
    assert [page[name, ""] for name in names] == [11, 22, 33]
    assert hub.agent.problems() == ["OTLP to https://otlp: 503"]
    pushes.problem = ""
    assert hub.agent.problems() == []
    hub.agent.start()
    assert pushes.calls == ["start"]
    hub.agent.stop(30)
    assert pushes.calls == ["start", "stop"]


def test_end_closes_every_collector_once_and_the_source(tmp_path: Path) -> None:
    one, off = Counting("one", EVENTS), Counting("off", OTHERS)
    off.refused = UnavailableError("EPERM")
    hub = Hub(tmp_path, one, off)
    hub.agent.open()
    assert hub.names.calls == ["start"]
    assert (one.closed, off.closed) == (0, 1)
    hub.agent.stop()
    hub.agent.stop()
    assert (one.closed, off.closed) == (1, 1)
    assert hub.names.calls == ["start", "close", "close"]


def test_end_does_not_wait_for_a_cycle_that_hangs(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    hub = Hub(tmp_path, one, collector_deadline="1h")
    begun, go_on = threading.Event(), threading.Event()

    def hang(groups: object) -> dict[int, int]:
        begun.set()
        assert go_on.wait(30)
        return {}

    one.reads = [hang]
    hub.agent.open()
    hub.agent.start()
    assert begun.wait(30)
    hub.agent.stop(0.01)
    assert one.closed == 0
    go_on.set()


def test_what_does_not_open_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    off, fine = Counting("off", EVENTS), Counting("fine", OTHERS)
    off.refused = UnavailableError("EPERM: planted")
    Hub(tmp_path, off, fine).agent.open()
    assert [(record.message, record.levelno) for record in caplog.records] == [
        ("collector off is off: EPERM: planted", logging.ERROR)
    ]


def test_agent_without_collectors_is_refused_and_closed(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    with pytest.raises(RefusedError, match=r"^nothing can be collected here: every collector is off$"):
        hub.agent.open()
    assert hub.names.calls == ["close"]
    one, two, three = (Counting(name, table) for name, table in (("one", EVENTS), ("two", OTHERS), ("three", EVENTS)))
    one.refused = two.refused = UnavailableError("EPERM")
    three.refused = UnavailableError("ENOENT")
    with pytest.raises(RefusedError, match=r"^nothing can be collected here: EPERM \| ENOENT$"):
        Hub(tmp_path, one, two, three).agent.open()


def test_metric_without_a_hook_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Counting("one", EVENTS)
    monkeypatch.setattr(one, "open", lambda: [Signal(EVENTS.metrics, "", "no hook")])
    hub = Hub(tmp_path, one)
    hub.agent.open()
    hub.cgroup("a", A)
    page = hub.cycle()
    assert (COUNT, "a") not in page
    assert ("kpod_series_overflow_total", COUNT) not in page
    assert page["kpod_collector_up", "one"] == 0


def test_every_metric_of_pods_has_an_overflow_of_0(tmp_path: Path) -> None:
    hub = Hub(tmp_path, Counting("one", EVENTS), Counting("two", OTHERS))
    hub.agent.open()
    page = hub.cycle()
    assert {key: value for key, value in page.items() if key[0] == "kpod_series_overflow_total"} == {
        ("kpod_series_overflow_total", COUNT): 0,
        ("kpod_series_overflow_total", OTHER): 0,
        ("kpod_series_overflow_total", "kpod_pod_limit_exceeded_total"): 0,
    }


def test_rights_are_given_up_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    hub = Hub(tmp_path, Counting("one", EVENTS))

    def give_up(mask: int) -> str:
        given.append(mask)
        assert hub.names.calls == []  # nothing has a thread yet
        return "rights are kept"

    monkeypatch.setattr(cycle, "give_up_rights", give_up)
    monkeypatch.setattr(cycle, "needed", lambda states, settings: rights.mask(rights.CAP_BPF))
    hub.agent.open()
    assert (given, hub.agent.problems()) == ([], [])
    hub = Hub(tmp_path, Counting("one", EVENTS))
    hub.agent.open(give_up=True)
    assert (given, hub.agent.problems()) == ([1 << 39], ["rights are kept"])


def test_workloads_of_kubernetes_are_on_the_page(tmp_path: Path) -> None:
    workload = Workload(A.of_pod, "Deployment", "web", "Burstable", ((A, 3),))
    for discovery, there in (("kubernetes", True), ("cgroup", False)):
        hub = Hub(tmp_path, Counting("one", EVENTS), discovery=discovery)
        hub.agent.open()
        hub.cgroup(discovery, A)
        hub.names.workloads = (workload,) if there else ()
        page = hub.cycle()
        assert (page.get(("kpod_pod_info", "a")), page.get(("kpod_container_restarts", "a"))) == (
            (1, 3) if there else (None, None)
        )
        # Gauges of a pod that is no longer reported end.
        hub.names.workloads = ()
        assert ("kpod_pod_info", "a") not in hub.cycle()


def test_constant_labels_are_the_node_and_the_cluster(tmp_path: Path) -> None:
    for flags, labels in (({}, 'node="node"'), ({"cluster": "east"}, 'node="node",cluster="east"')):
        hub = Hub(tmp_path, Counting("one", EVENTS), pod_labels="app.kubernetes.io/name", **flags)
        hub.agent.open()
        hub.cgroup(f"a{len(flags)}", A._replace(extra=("web",)))
        hub.cycle()
        text = hub.agent.published.get(TEXT, zipped=False).decode()
        [line] = [line for line in text.splitlines() if line.startswith(f"{COUNT}{{")]
        assert all(label in line for label in labels.split(","))
        assert line.count("cluster=") == len(flags)
        assert 'label_app_kubernetes_io_name="web"' in line


def test_rates_of_the_page_are_of_the_slowest_collector(tmp_path: Path) -> None:
    rated = Table((counter(min(RATED), "Rated.", "test"),))
    slow, other = Counting("slow", rated), Counting("other", EVENTS)
    intervals = {"collectors_slow_interval": "2m", "collectors_other_interval": "5m"}
    assert Hub(tmp_path, slow, other, poll_interval="30s", **intervals).agent.recent.window == 120
    assert Hub(tmp_path, slow, other, poll_interval="30s").agent.recent.window == 30
    hub = Hub(tmp_path, slow)
    hub.agent.open()
    hub.cycle()
    assert hub.agent.recent.newest is not None


def test_without_memory_nobody_new_has_series_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Counting("one", EVENTS)
    hub = Hub(tmp_path, one)
    headroom = hub.agent.headroom
    headroom.limit, headroom.used = 100 << 20, 90 << 20
    low = False

    def look(needed: int) -> Room:
        headroom.room = Room.NONE if low else Room.ALL
        return headroom.room

    monkeypatch.setattr(headroom, "look", look)
    hub.agent.open()
    groups: list[list[str]] = []

    def read(found: object) -> dict[int, int]:
        groups.append(sorted(group.identity.pod for group in found))  # type: ignore[attr-defined]
        return {b: 1} if len(groups) > 1 else {}

    one.reads = [read] * 4
    hub.cgroup("a", A)
    hub.cycle()
    assert headroom.cgroups == 2
    low = True
    b = hub.cgroup("b", B)
    page = hub.cycle()
    assert page[COUNT, "kpod-overflow"] == 1
    assert (COUNT, "b") not in page
    said = (
        "memory: 90 of 100 MiB are used, the rest is for what is there: no new series are admitted, what they would "
        "count is in the overflow series"
    )
    assert hub.agent.problems() == [said]
    hub.cycle()
    assert [record.message for record in caplog.records] == [said]
    low = False
    page = hub.cycle()
    # The same cgroups as before: now there is room for who had none.
    assert page[COUNT, "b"] == 1
    assert (groups, headroom.cgroups) == ([["a"], ["a"], ["a"], ["a", "b"]], 3)
    assert hub.agent.problems() == []
    low = True
    hub.cycle()
    assert [record.message for record in caplog.records] == [said] * 2


def test_collector_that_cannot_forget_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, fine = Counting("one", EVENTS), Counting("fine", OTHERS)

    def forget(gone: object) -> None:
        raise OSError(5, "planted")

    monkeypatch.setattr(one, "forget", forget)
    hub = Hub(tmp_path, one, fine)
    hub.agent.open()
    page = hub.cycle()
    assert (page["kpod_collector_up", "one"], page["kpod_collector_errors_total", "one"]) == (0, 1)
    assert page["kpod_collector_up", "fine"] == 1


def test_collector_is_not_asked_to_forget_while_it_reads_or_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, off, fine = Counting("reads", EVENTS), Counting("off", EVENTS), Counting("fine", OTHERS)
    off.refused = UnavailableError("EPERM")
    asked: list[str] = []
    for collector in (reads, off, fine):
        monkeypatch.setattr(collector, "forget", lambda gone, name=collector.name: asked.append(name))
    go_on = threading.Event()

    def hang(groups: object) -> dict[int, int]:
        assert go_on.wait(30)
        return {}

    reads.reads = [hang]
    hub = Hub(tmp_path, reads, off, fine, collector_deadline="1s")
    hub.agent.open()
    hub.cycle()
    assert asked == ["fine"]
    go_on.set()
    eventually(lambda: hub.cycle() and "reads" in asked)


def test_events_of_files_are_not_looked_for(tmp_path: Path) -> None:
    """Only what the kernel's programs count may be of a cgroup that the cycle's look has not seen."""
    one = Counting("one", EVENTS)
    hub = Hub(tmp_path, one)
    hub.agent.open()
    one.uses_bpf = False  # type: ignore[misc]
    late: list[int] = []

    def read(groups: object) -> dict[int, int]:
        late.append(hub.cgroup(f"late{len(late)}", Identity("n", f"late{len(late)}", "c")))
        return {late[-1]: 1}

    one.reads = [read, read]
    assert (COUNT, "late0") not in hub.cycle()
    one.uses_bpf = True  # type: ignore[misc]
    assert hub.cycle()[COUNT, "late1"] == 1
