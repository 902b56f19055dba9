"""What live tests run in cgroups. For every collector with a BPF program there is a module here that has its name.

It says in `EVENTS` how to make the events that the collector counts. A test that asks the same of every collector makes
them: `python -m tests.live.workloads NAME TIMES FILE`.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """A kind of event."""

    do: Callable[[int, Path], None]
    """Makes so many of them; the file is on a disk, and some megabytes long."""
    times: int
    """How many of them are made to count what one costs (tests/kernels/executed.py)."""
    needs: tuple[str, ...] = ()
    """Kernel features without which they are not counted."""


def events_of(collector: str) -> Mapping[str, Event]:
    """The events of a collector with a BPF program, by what happens."""
    found: Mapping[str, Event] = importlib.import_module(f"{__name__}.{collector}").EVENTS
    return found
