"""What the agent knows of one collector."""

import logging
from types import SimpleNamespace

import pytest

from kpod_metrics.agent import state as states
from kpod_metrics.agent.state import State, read_by_all
from kpod_metrics.collectors.kit import Signal
from kpod_metrics.errors import UnavailableError
from tests.unit.agent.hub import EVENTS, OTHERS, Counting

[EVENT], [OTHER] = EVENTS.metrics, OTHERS.metrics


def test_collector_that_opens_is_up_while_all_of_its_signals_are() -> None:
    state = State(Counting("one", EVENTS), 30)
    assert (state.name, state.is_up, state.opened) == ("one", False, False)
    state.open()
    assert (state.is_up, state.opened, state.errors, state.problems()) == (True, True, 0, [])
    state.signals = [Signal((EVENT,), "file"), Signal((EVENT, OTHER), "", "EPERM")]
    assert not state.is_up
    assert state.problems() == ["kpod_events_total, kpod_others_total: EPERM"]


@pytest.mark.parametrize(
    ("error", "said", "logged"),
    [
        (UnavailableError("EPERM: planted"), "EPERM: planted", False),
        (ValueError("planted"), "ValueError: planted", True),
    ],
)
def test_collector_that_does_not_open_is_closed_and_off(
    error: Exception, said: str, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    collector = Counting("one", EVENTS)
    collector.refused = error
    state = State(collector, 30)
    state.open()
    assert (state.opened, state.is_up, state.errors, collector.closed) == (False, False, 1, 1)
    assert state.problems() == [f"collector one is off: {said}"]
    # What is expected is logged once by the agent, with all other problems; a defect with its traceback.
    assert [record.message for record in caplog.records] == [f"collector one: {said}"] * logged
    assert all(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(("error", "traced"), [(OSError(5, "planted"), False), (KeyError("planted"), True)])
def test_failure_is_counted_and_logged(error: Exception, traced: bool, caplog: pytest.LogCaptureFixture) -> None:
    state = State(Counting("one", EVENTS), 30)
    state.open()
    state.failed(error)
    state.failed(error)
    said = f"{type(error).__name__}: {error}"
    assert (state.errors, state.is_up, state.problems()) == (2, False, [f"collector one is failing: {said}"])
    assert [record.message for record in caplog.records] == [f"collector one: {said}"] * 2
    assert all(bool(record.exc_info) is traced for record in caplog.records)
    assert all(record.levelno == logging.ERROR for record in caplog.records)


def test_late_read_is_late_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    state = State(Counting("one", EVENTS), 30)
    state.open()
    state.running = True
    assert not state.is_late
    state.late(2.5)
    assert (state.is_late, state.errors, state.is_up) == (True, 1, False)
    assert [record.message for record in caplog.records] == [
        "collector one is late: no answer within its 2.5 s deadline"
    ]
    state.running = False
    assert not state.is_late


def reading(*, read: float, interval: float = 30, opened: bool = True, uses_bpf: bool = True) -> State:
    collector = Counting("one", EVENTS)
    collector.uses_bpf = uses_bpf  # type: ignore[misc]
    return State(collector, interval, read=read, opened=opened)


def test_oldest_read_of_kernel_collectors_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    assert read_by_all([]) == 1000
    assert read_by_all([reading(read=990), reading(read=970), reading(read=980)]) == 970
    # Files hold nothing back that is not read yet, nor does what is off.
    assert read_by_all([reading(read=990), reading(read=1, uses_bpf=False), reading(read=2, opened=False)]) == 990
    # A read that hangs is waited for a minute beyond its interval.
    assert read_by_all([reading(read=911)]) == 911
    assert read_by_all([reading(read=909)]) == 910
    assert read_by_all([reading(read=0, interval=300)]) == 640
