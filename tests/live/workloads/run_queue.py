"""Tasks that wait for each other."""

from testkit.vm.events import switch
from tests.live.workloads import Event

EVENTS = {"a message there and back": Event(lambda times, _: switch(times), 5_000)}
