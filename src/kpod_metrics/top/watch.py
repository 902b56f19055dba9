"""Keeps the last two cycles of a source: what a table is made from."""

import threading
from dataclasses import dataclass, field, replace

from kpod_metrics.top.rates import Reading, Row, read, rows
from kpod_metrics.top.sources import NoPageError, Source


@dataclass(frozen=True)
class View:
    """What is known now."""

    source: str = ""
    own: bool = False
    """Whether the source is top's own agent, which a reader must be told."""
    reading: Reading | None = None
    rows: list[Row] = field(default_factory=list)
    rated: bool = False
    """Whether there are two cycles, and so rates."""
    problem: str = ""
    """Why the reading is not the newest."""
    version: int = 0


class Watch:
    """Takes pages, now and then or on a thread of its own; any thread may ask for the view."""

    def __init__(self, source: Source, interval: float) -> None:
        """`interval`: seconds between two looks for a new page."""
        self._source, self._interval = source, interval
        self._before: Reading | None = None
        self._stop = threading.Event()
        self.view = View(source.name, source.own)

    def take(self) -> View:
        """Take a page; one of a cycle that was seen before only adds pods that are new on it. Raises NoPageError."""
        try:
            now = read(self._source.fetch())
        except ValueError as error:
            raise NoPageError(f"no agent's page: {error}") from None
        last = self.view.reading
        if last is not None and now.time < last.time:
            self._before = None  # another agent, or another clock
        elif last is not None and now.time > last.time:
            self._before = last
        self.view = replace(
            self.view,
            reading=now,
            rows=rows(self._before, now),
            rated=self._before is not None,
            problem="",
            version=self.view.version + 1,
        )
        return self.view

    def start(self) -> None:
        """Take pages until `stop`, whatever happens."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Take no more."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.take()
            except NoPageError as error:
                self._say(str(error))
            except Exception as error:  # the table must say that it stands still
                self._say(f"{type(error).__name__}: {error}")
            self._stop.wait(self._interval)

    def _say(self, problem: str) -> None:
        view = self.view
        if view.problem != problem:
            self.view = replace(view, problem=problem, version=view.version + 1)
