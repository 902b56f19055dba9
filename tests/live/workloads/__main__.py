"""Make a collector's events in this process: NAME TIMES FILE."""

import sys
from pathlib import Path

from tests.live.workloads import events_of

collector, times, file = sys.argv[1:]
for event in events_of(collector).values():
    event.do(int(times), Path(file))
