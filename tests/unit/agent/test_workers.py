"""The threads that run reads: one for all that answer, one more for each that does not."""

import threading
import time
from collections.abc import Iterable

import pytest

from kpod_metrics.agent.workers import Result, Workers
from kpod_metrics.metrics import Row
from tests.unit.agent.hub import EVENTS

ROW = Row(EVENTS, 1, (), (1,))


def gathered(workers: Workers[str], *names: str, seconds: float = 30) -> list[Result[str]]:
    """Wait for these results, or so long."""
    return workers.gather(seconds, names)


def test_prompt_reads_are_done_in_turn_by_one_thread() -> None:
    workers: Workers[str] = Workers()
    threads: list[threading.Thread] = []

    def read() -> Iterable[Row]:
        threads.append(threading.current_thread())
        return [ROW]

    for _ in range(2):
        for name in ("a", "b", "c"):
            workers.add(name, read)
        results = gathered(workers, "a", "b", "c")
        assert [(result.whose, result.rows, result.error) for result in results] == [
            (name, [ROW], None) for name in ("a", "b", "c")
        ]
        assert all(0 <= result.seconds < 30 for result in results)
    assert len(threads) == 6
    [thread] = set(threads)
    assert (thread.name, thread.daemon) == ("collect", True)


def test_read_that_waits_for_another_one_gets_a_thread_of_its_own() -> None:
    workers: Workers[str] = Workers()
    done = threading.Event()

    def slow() -> Iterable[Row]:
        assert done.wait(30)
        return [ROW]

    def fast() -> Iterable[Row]:
        done.set()
        return []

    for name in ("first", "second"):  # on one thread, which is there for the others
        workers.add(name, list)
        assert [result.whose for result in gathered(workers, name)] == [name]
    workers.add("slow", slow)
    workers.add("fast", fast)
    assert sorted(result.whose for result in gathered(workers, "slow", "fast")) == ["fast", "slow"]


def test_gathering_ends_with_its_time_and_the_result_comes_with_the_next() -> None:
    workers: Workers[str] = Workers()
    go_on = threading.Event()

    def slow() -> Iterable[Row]:
        assert go_on.wait(30)
        return [ROW]

    workers.add("slow", slow)
    assert gathered(workers, "slow", seconds=0.01) == []
    go_on.set()
    [result] = gathered(workers, "slow")
    assert (result.whose, result.rows) == ("slow", [ROW])


def test_time_of_a_read_is_told() -> None:
    workers: Workers[str] = Workers()

    def read() -> Iterable[Row]:
        time.sleep(0.02)
        return []

    workers.add("a", read)
    [result] = gathered(workers, "a")
    assert 0.02 <= result.seconds < 30


def test_failing_read_is_a_result_and_the_thread_goes_on() -> None:
    workers: Workers[str] = Workers()
    refused = OSError(5, "planted")

    def fail() -> Iterable[Row]:
        raise refused

    workers.add("failing", fail)
    workers.add("fine", lambda: iter([ROW]))
    failing, fine = gathered(workers, "failing", "fine")
    assert (failing.whose, failing.rows, failing.error) == ("failing", [], refused)
    assert (fine.whose, fine.rows, fine.error) == ("fine", [ROW], None)


@pytest.mark.parametrize("wrong", ["row", Row(EVENTS, "1", (), (1,)), (EVENTS, 1, (), (1,))])  # type: ignore[arg-type]
def test_what_is_no_row_fails_the_read(wrong: object) -> None:
    workers: Workers[str] = Workers()
    workers.add("a", lambda: [ROW, wrong, ROW])
    [result] = gathered(workers, "a")
    assert result.rows == []
    assert isinstance(result.error, TypeError)
    assert str(result.error) == f"a collector gave {wrong!r} for a row"


def test_no_thread_is_started_for_nothing() -> None:
    before = threading.active_count()
    assert gathered(Workers()) == []
    assert gathered(Workers(), "a", seconds=0.01) == []
    assert threading.active_count() == before
