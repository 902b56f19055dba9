"""Agents as child processes that faults are done to, and what their pages must keep to."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.live.agents import Labels, Page, eventually, get, running_agent
from tests.live.harness import Cgroup

SWITCHES = "kpod_cpu_context_switches_total"
FAST = ("--poll-interval", "100ms", "--collector-deadline", "10s", "--grace-period", "500ms", "--discovery", "cgroup")

_COUNTERS = re.compile(r"^# TYPE (\S+) (?:counter|histogram)$", re.MULTILINE)


@contextmanager
def fast_agent(log: Path, *settings: str) -> "Iterator[tuple[subprocess.Popen[bytes], int]]":
    """An agent with ten cycles a second, past its first."""
    with running_agent(log, *FAST, *settings) as both:
        yield both


def scrape(port: int) -> Page:
    return Page(get(f"http://127.0.0.1:{port}/metrics"))


def cycles_later(port: int, number: int = 2, seconds: float = 20.0) -> Page:
    """A page made by a cycle that began after this call."""
    ends = {scrape(port).sum("kpod_last_cycle_timestamp_seconds")}

    def later() -> Page | None:
        page = scrape(port)
        ends.add(page.sum("kpod_last_cycle_timestamp_seconds"))
        return page if len(ends) > number else None

    found: Page = eventually(later, seconds)
    return found


def switches_of(page: Page, cgroup: Cgroup, root: str) -> float:
    """A cgroup's context switches, as exported."""
    return page.sum(SWITCHES, pod=str(cgroup.path.relative_to(root)))


class Monotonic:
    """Counters of one run of an agent: none may go down.

    Its own, those of the root cgroup, and of pods that begin with one of `pods`: others of this machine may end and
    begin again under the same name.
    """

    def __init__(self, *pods: str) -> None:
        self._pods = ("/", *pods)
        self._before: dict[tuple[str, Labels], float] = {}
        self.pages = 0

    def see(self, text: str) -> None:
        names = set(_COUNTERS.findall(text))
        names |= {f"{name}{end}" for name in names for end in ("_bucket", "_sum", "_count")}
        now = {
            (name, labels): value
            for (name, labels), value in Page(text).samples.items()
            if name in names and dict(labels).get("pod", "/").startswith(self._pods)
        }
        down = {key: (self._before[key], value) for key, value in now.items() if value < self._before.get(key, 0)}
        assert not down, list(down.items())[:5]
        assert now
        self._before = now
        self.pages += 1


def settled(read: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `read` gives once it gives the same twice."""
    last: list[Any] = [read()]

    def same() -> bool:
        last.append(read())
        return bool(last[-1] == last[-2])

    eventually(same, seconds)
    return last[-1]


def no_defects(log: Path) -> str:
    """What an agent said, without a traceback in it."""
    said = log.read_text(errors="replace")
    assert "Traceback" not in said, said[-3000:]
    return said
