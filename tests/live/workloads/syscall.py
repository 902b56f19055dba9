"""Calls that are tracked, and others."""

from testkit.vm.events import getppid, read
from tests.live.workloads import Event

EVENTS = {
    "a tracked syscall": Event(lambda times, _: read(times), 20_000),
    "another syscall": Event(lambda times, _: getppid(times), 20_000),
}
