"""No events: a kill takes a memory limit, which not every machine has. tests/live/test_oom.py makes them."""

from tests.live.workloads import Event

EVENTS: dict[str, Event] = {}
