"""Keeps the last two cycles of a source, from which the table is made."""

import threading
from dataclasses import dataclass, field, replace

from kpod_metrics.top.figures import Figures, Reading, figures, read
from kpod_metrics.top.sources import NoPageError, PageSource


@dataclass(frozen=True, eq=False)
class Latest:
    """The newest figures."""

    source: str = ""
    own: bool = False
    """Whether the source is an agent in this process: the first line must report it."""
    reading: Reading | None = None
    figures: list[Figures] = field(default_factory=list)
    rated: bool = False
    """Whether there are two cycles, which rates need."""
    problem: str = ""
    """Why the reading is not the newest."""


class Watch:
    """Fetches pages, on a thread if asked to; any thread can read `latest`."""

    def __init__(self, source: PageSource, interval: float) -> None:
        """`interval`: seconds between two fetches."""
        self._source, self._interval = source, interval
        self._before: Reading | None = None
        self._stop = threading.Event()
        self.latest = Latest(source.name, source.own)

    def take(self) -> Latest:
        """Fetch a page; a page of the same cycle only adds new pods. Raises NoPageError."""
        try:
            now = read(self._source.fetch())
        except ValueError as error:
            raise NoPageError(f"not an agent's page: {error}") from None
        last = self.latest.reading
        if last is not None and now.time < last.time:
            self._before = None  # another agent, or another clock
        elif last is not None and now.time > last.time:
            self._before = last
        found, rated = figures(self._before, now), self._before is not None
        self.latest = replace(self.latest, reading=now, figures=found, rated=rated, problem="")
        return self.latest

    def start(self) -> None:
        """Fetch pages until `stop`, after errors too."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Fetch no more pages."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.take()
            except Exception as error:  # the table must report that it is not updated
                problem = str(error) if isinstance(error, NoPageError) else f"{type(error).__name__}: {error}"
                if self.latest.problem != problem:
                    self.latest = replace(self.latest, problem=problem)
            self._stop.wait(self._interval)
