"""The agent with a wall clock that is set now and then: the offset in seconds is in file argv[1], flags follow."""

import sys
import time
from pathlib import Path

OFFSET = Path(sys.argv[1])
_time, _time_ns = time.time, time.time_ns


def _offset() -> float:
    return float(OFFSET.read_text())


time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + int(_offset() * 1e9)

if __name__ == "__main__":
    from kpod_metrics.cli import main

    sys.exit(main(["run", *sys.argv[2:]]))
