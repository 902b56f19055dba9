"""What a whole run of the tests left on the machine: `python -m tests.live.left FILE` before it, and again after it.

The first call writes the file, the second compares. Workers of pytest-xdist cannot: each sees what the others have at
the moment.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from kpod_metrics.cgroup.tree import find_root
from tests.live.harness import machine_state

COMES_AND_GOES = {"BPF programs", "BPF maps", "BPF links", "cgroups"}


def left_behind(before: dict[str, Any], cgroup_root: str) -> dict[str, Any]:
    """Return what is there and was not. Waits 5 s at most: the kernel frees programs and maps after their last user."""
    for _ in range(50):
        left = {}
        for name, now in machine_state(cgroup_root).items():
            was = before[name]
            # What went meanwhile was not of these tests.
            if differs := {*now} - {*was} if name in COMES_AND_GOES else now != was and (was, now):
                left[name] = differs
        if not left:
            break
        time.sleep(0.1)
    return left


def main(path: str) -> None:
    """Write the file, or compare with it."""
    file, root = Path(path), find_root()
    if not file.exists():
        file.write_text(json.dumps(machine_state(root)))
    elif left := left_behind(json.loads(file.read_text()), root):
        sys.exit(f"the tests left on this machine: {left}")


if __name__ == "__main__":
    main(sys.argv[1])
