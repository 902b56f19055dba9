"""The agent at work for any length of time: `python -m tests.reliability.soak --minutes 60`, as root.

Runs a cycle every 200 ms while cgroups with one process each start and end, two workers switch and make calls, and
scrapes continue. It fails if resident memory, descriptors, map entries, series or the reads of a cycle grow, if there
are more additional threads than collectors, or if a total is wrong at the end. The duration of cycles is reported, but
not a criterion: it depends on the machine too.
"""

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kpod_metrics.cgroup.tree import find_root
from tests.live.agents import Page, eventually, get, running_agent
from tests.live.harness import Cgroup, compile_workload, go, stop_point, switches
from tests.reliability.agents import SWITCHES, Monotonic, cycles_later, no_defects, switches_of
from tests.reliability.conftest import SEED
from tests.report import Outcome, add

INTERVAL = 0.2
AT_ONCE = 12
"""Cgroups that are there beside the workers."""
SHORT = 600
"""Seconds: a run of no more than that has half of it to warm up, a longer one a fifth."""
LIFE = (0.3, 3.0)
"""Seconds that one lives."""


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope of the line through points, and half the width of its 95 % confidence interval.

    Samples that follow each other are not independent, which would make the interval too narrow: they are averaged in
    ten parts first, and the line is that of the parts (Student's t of 8 degrees of freedom).
    """
    size = len(points) // 10
    parts = [points[at * size : (at + 1) * size] for at in range(10)]
    xs = [sum(x for x, _ in part) / size for part in parts]
    ys = [sum(y for _, y in part) / size for part in parts]
    middle, level = sum(xs) / 10, sum(ys) / 10
    spread = sum((x - middle) ** 2 for x in xs)
    rate = sum((x - middle) * (y - level) for x, y in zip(xs, ys, strict=True)) / spread
    rest = sum((y - level - rate * (x - middle)) ** 2 for x, y in zip(xs, ys, strict=True))
    return rate, 2.306 * math.sqrt(rest / 8 / spread)


@dataclass
class Churn:
    """Cgroups with a process each that come and go."""

    root: Path
    chance: random.Random
    alive: list[tuple[Cgroup, "subprocess.Popen[bytes]", float]] = field(default_factory=list)
    made: int = 0

    def turn(self) -> None:
        """End what has lived long enough, and make others in its place."""
        now = time.monotonic()
        for one in [one for one in self.alive if one[2] < now]:
            self._end(one)
        while len(self.alive) < AT_ONCE:
            path = self.root / f"pod{self.made}"
            path.mkdir()
            group = Cgroup(path)
            self.alive.append((group, group.start("sleep", "1000"), now + self.chance.uniform(*LIFE)))
            self.made += 1

    def _end(self, one: tuple[Cgroup, "subprocess.Popen[bytes]", float]) -> None:
        self.alive.remove(one)
        one[1].kill()
        one[1].wait()
        one[0].destroy()

    def close(self) -> None:
        """End all."""
        for one in list(self.alive):
            self._end(one)


@dataclass
class Measured:
    """What a soak found."""

    seconds: float
    cgroups: int
    scrapes: int
    switches: int
    error: float
    slopes: dict[str, tuple[float, float, float]]
    """By what it is: growth per hour, half of its interval's width, and the mean."""
    threads: tuple[int, int]
    """The most that there were, and the most that there may be: one more for each collector, as one may be held up."""

    def problems(self) -> list[str]:
        """What is not as it should be."""
        found = [] if not self.error else [f"{self.error:+} switches of {self.switches}"]
        most, allowed = self.threads
        if most > allowed:
            found.append(f"{most} threads, of at most {allowed}")
        for what, (rate, width, mean) in self.slopes.items():
            if what in {DURATION, THREADS}:
                continue
            # It grows if the interval is above zero, by more than a hundredth of its size in the length of the run. In
            # the first minutes up to a fifth: the heap's holes are of every size only then.
            grown = (rate - width) * self.seconds / 3600
            if grown > (0.01 if self.seconds > SHORT else 0.2) * mean:
                found.append(f"{what} grows by {rate:.3g} ± {width:.3g} an hour, mean {mean:.4g}")
        return found


DURATION = "cycles (s)"
THREADS = "threads"
READS = "reads (a second)"
SAMPLED = {
    DURATION: "kpod_collection_cycle_seconds",
    "resident memory (bytes)": "process_resident_memory_bytes",
    "descriptors": "process_open_fds",
    "map entries": "kpod_bpf_map_entries",
}


def reads_of(pid: int) -> int:
    """How often a process has called read() and its like: files and iterators, not sockets.

    Source: Documentation/filesystems/proc.rst, syscr of /proc/PID/io.
    """
    found = re.search(r"^syscr: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def soak(seconds: float, folder: Path) -> Measured:
    """Run it."""
    # The agent sees this tree only: what else comes and goes on the machine is not of the soak.
    root = Path(find_root(), f"kpod-soak-{os.getpid()}")
    root.mkdir()
    samples: dict[str, list[tuple[float, float]]] = {what: [] for what in (*SAMPLED, THREADS, "own series", READS)}
    log = folder / "agent.log"
    settings = ("--poll-interval", f"{INTERVAL}s", "--collector-deadline", "5s", "--grace-period", "1s")
    more = ("--discovery", "cgroup", "--profile", "comprehensive", "--cgroup-root", str(root))
    hog = compile_workload("hog", folder)
    churn = Churn(root, random.Random(SEED))
    (root / "worker").mkdir()
    group = Cgroup(root / "worker")
    workers = [group.start(hog, "0", pause) for pause in ("500", "2000")]
    counters = Monotonic("pod", "worker")
    try:
        with running_agent(log, *settings, *more) as (agent, port):
            for worker in workers:
                stop_point(worker)
            error = switches_of(cycles_later(port), group, str(root)) - sum(switches(one.pid) for one in workers)
            for worker in workers:
                go(worker)
            began = time.monotonic()
            ended, reads = 0.0, 0
            while (now := time.monotonic()) < began + seconds:
                churn.turn()
                text = get(f"http://127.0.0.1:{port}/metrics")
                counters.see(text)
                page = Page(text)
                for what, name in SAMPLED.items():
                    samples[what].append((now - began, page.sum(name)))
                samples[THREADS].append((now - began, len(os.listdir(f"/proc/{agent.pid}/task"))))
                samples["own series"].append((now - began, len(page.samples)))
                stamp = page.sum("kpod_last_cycle_timestamp_seconds")
                if stamp > ended:
                    before, reads = reads, reads_of(agent.pid)
                    if ended:
                        samples[READS].append((now - began, (reads - before) / (stamp - ended)))
                    ended = stamp
                time.sleep(INTERVAL / 2)
            for worker in workers:
                worker.send_signal(19)
                stop_point(worker)
            page = cycles_later(port)
            true = sum(switches(one.pid) for one in workers)
            error = switches_of(page, group, str(root)) - true - error
            up = page.find("kpod_collector_up")
            assert set(up.values()) == {1}
            assert page.sum("kpod_bpf_map_evictions_total") == 0
            assert page.sum("kpod_bpf_map_update_errors_total") == 0
            churn.close()
            eventually(
                lambda: (
                    not any(
                        dict(labels)["pod"].startswith("pod")
                        for labels in Page(get(f"http://127.0.0.1:{port}/metrics")).find(SWITCHES)
                    )
                )
            )
        no_defects(log)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        churn.close()
        for directory in (group.path, root):
            Cgroup(directory).destroy()
    if dump := os.environ.get("SOAK_SAMPLES"):
        Path(dump).write_text(json.dumps(samples))
    slopes = {}
    for what, points in samples.items():
        kept = points[len(points) // (5 if seconds > SHORT else 2) :]
        rate, width = slope(kept)
        slopes[what] = (3600 * rate, 3600 * width, sum(value for _, value in kept) / len(kept))
    threads = [int(count) for _, count in samples[THREADS]]
    return Measured(seconds, churn.made, counters.pages, true, error, slopes, (max(threads), threads[0] + len(up)))


def tell(measured: Measured) -> list[Outcome]:
    """What a soak that passed is in the report."""
    run = f"{measured.seconds / 60:.0f} min, {measured.cgroups:,} cgroups, {measured.scrapes:,} scrapes"
    flat = [
        Outcome("Soak", what, run, f"mean {mean:,.4g}, slope {rate:+,.3g} ± {width:,.3g} an hour", "-")
        for what, (rate, width, mean) in measured.slopes.items()
    ]
    exact = Outcome(
        "Soak", "switches of the workers", run, f"{measured.switches:,}, exact; no counter went down", "nothing"
    )
    return [*flat, exact]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = soak(60 * options.minutes, Path(folder))
    outcomes = tell(measured)
    print("\n".join(f"{one.fault}: {one.tried}: {one.happened}" for one in outcomes))
    if problems := measured.problems():
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    add(outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
