"""Measures the calls that read files: wraps them in `os`, before other modules import them."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

CALLS = (
    *("open", "read", "readv", "pread", "preadv", "close", "stat", "lstat", "fstat"),
    *("statvfs", "fstatvfs", "listdir", "readlink"),
)
"""The wrapped calls, in addition to scandir."""


class Clock:
    """CPU time of the calling thread inside wrapped calls, over all threads."""

    def __init__(self) -> None:
        self._spent: list[float] = []
        self._own_cost = 0.0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call, timed."""
        now, spent = time.thread_time, self._spent.append  # append needs no lock

        def timed(*arguments: Any, **options: Any) -> Any:
            start = now()
            try:
                return call(*arguments, **options)
            finally:
                spent(now() - start)

        return timed

    def take(self) -> tuple[int, float]:
        """Return the calls since the last time and their seconds, without the time of the clock itself."""
        calls, seconds = len(self._spent), sum(self._spent)
        self._spent.clear()
        return calls, seconds - calls * self._own_cost

    def start(self) -> None:
        """Replace the calls in `os` by the wrapped ones."""
        nothing = self.wrap(lambda path: None)
        for _ in range(20_000):
            nothing("/")
        calls, seconds = self.take()
        self._own_cost = seconds / calls
        scandir = os.scandir

        def whole(path: Any = ".") -> list["os.DirEntry[str]"]:
            with scandir(path) as entries:
                return list(entries)

        timed = self.wrap(whole)
        for name in CALLS:
            setattr(os, name, self.wrap(getattr(os, name)))
        os.scandir = lambda path=".": Entries(timed(path))  # type: ignore[assignment]


class Entries:
    """A directory that was read completely while the clock ran."""

    def __init__(self, entries: list["os.DirEntry[str]"]) -> None:
        self._entries = iter(entries)

    def __enter__(self) -> "Entries":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __iter__(self) -> "Iterator[os.DirEntry[str]]":
        return self._entries

    def __next__(self) -> "os.DirEntry[str]":
        return next(self._entries)

    def close(self) -> None:
        """Do nothing: it is closed already."""
