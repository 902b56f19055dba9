"""An agent without a kernel: collectors, a tree of directories and a source of names of the test's own."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from prometheus_client.parser import text_string_to_metric_families

from kpod_metrics.agent import Agent
from kpod_metrics.cgroup.tree import Directory
from kpod_metrics.collectors.kit import Collector, Environment, Signal
from kpod_metrics.exposition.text import TEXT
from kpod_metrics.metrics import Row, Table, counter
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import PENDING, Group, Identity, Snapshot, Workload
from kpod_metrics.pods.source import Source
from kpod_metrics.settings import load

EVENTS = Table((counter("kpod_events_total", "Events.", "test", events=True),))
OTHERS = Table((counter("kpod_others_total", "Other events.", "test", events=True),))

Read = Callable[[Sequence[Group]], Iterable[Row] | dict[int, int]]


class Counting(Collector):
    """Counts what the test says: each read finds the next of `reads`, and gives the running totals, as a map does."""

    uses_bpf = True
    description = "of a test"

    def __init__(self, name: str, table: Table, *reads: Read | Exception | dict[int, int]) -> None:
        self.table = table
        self.reads = list(reads)
        self.totals: dict[int, int] = {}
        self.name = name  # type: ignore[misc] # not of the class: it is no collector of the agent's
        self.opened = threading.Event()
        self.refused: Exception | None = None
        self.absent = ""
        self.closed = 0
        super().__init__(Environment())

    def declare(self, environment: Environment) -> tuple[Table, ...]:  # type: ignore[override]
        """Its table."""
        return (self.table,)

    def open(self) -> list[Signal]:
        """Fail, or lack something, if the test says so."""
        if self.refused is not None:
            raise self.refused
        return [Signal(self.metrics, "test", absent=self.absent)]

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """A dict gives the events since the last read by cgroup id. What is called gives such a dict, or rows."""
        read = self.reads.pop(0) if self.reads else {}
        if isinstance(read, Exception):
            raise read
        found = read if isinstance(read, dict) else read(groups)
        if not isinstance(found, dict):
            return found
        for cgroup, events in found.items():
            self.totals[cgroup] = self.totals.get(cgroup, 0) + events
        return [Row(self.table, cgroup, (), (total,)) for cgroup, total in self.totals.items()]

    def close(self) -> None:
        """Count the call."""
        self.closed += 1

    def forget(self, gone: Callable[[int], bool]) -> None:
        """Forget cgroups."""
        self.totals = {cgroup: total for cgroup, total in self.totals.items() if not gone(cgroup)}


class Names:
    """Names cgroups by their path, as the test says: an Identity, or why there is none (PENDING if it says nothing)."""

    name = "test"
    connected = True
    relists = 0
    forgotten: Mapping[str, int] = {}
    refused_claims = 0

    def __init__(self) -> None:
        self.source = cast(Source, self)
        self.owners: dict[str, Identity | str] = {}
        self.error: Exception | None = None
        self.workloads: tuple[Workload, ...] = ()
        self.calls: list[str] = []

    def snapshot(
        self, root: str, directories: Sequence[Directory], passed: Mapping[int, str], active: frozenset[int]
    ) -> Snapshot:
        """What is there, with its names."""
        if self.error is not None:
            raise self.error
        told = {d.id: self.owners.get(d.path, PENDING) for d in directories}
        owners = {id_: owner for id_, owner in told.items() if isinstance(owner, Identity)}
        return Snapshot(
            identities=owners,
            reported=owners,
            groups=tuple(Group(d.id, f"{root}/{d.path}", d.pids, owners[d.id]) for d in directories if d.id in owners),
            present=frozenset(told),
            reasons={id_: owner for id_, owner in told.items() if isinstance(owner, str)},
            workloads=self.workloads,
        )

    def problem(self) -> str:
        """None."""
        return ""

    def start(self) -> None:
        """Keep the call."""
        self.calls.append("start")

    def close(self) -> None:
        """Keep the call."""
        self.calls.append("close")


class Hub:
    """The agent, and what its page says."""

    def __init__(self, root: Path, *collectors: Counting, **flags: str) -> None:
        self.root, self.names = root, Names()
        self.names.owners[""] = "host"
        flags = {"collector_deadline": "5s", "grace_period": "0s", "node_name": "node", **flags}
        settings, _ = load(flags, {}, None, [collector.name for collector in collectors])
        self.agent = Agent(settings, Finder(str(root), self.names), collectors)

    def cgroup(self, path: str, owner: Identity | str | None = None) -> int:
        """Make a cgroup; return its id. Without an owner its name is pending."""
        directory = self.root / path
        directory.mkdir(parents=True)
        (directory / "cgroup.procs").write_text("")
        if owner is not None:
            self.names.owners[path] = owner
        return directory.stat().st_ino

    def remove(self, path: str) -> None:
        """Remove a cgroup."""
        (self.root / path / "cgroup.procs").unlink()
        (self.root / path).rmdir()

    def page(self) -> dict[tuple[str, str], float]:
        """Of each sample its name and its first label, or pod; what is about pods, and what is about the agent."""
        text = self.agent.published.get(TEXT, zipped=False).decode()
        return {
            (
                sample.name,
                sample.labels.get("pod") or ",".join(v for k, v in sample.labels.items() if k != "node"),
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def cycle(self) -> dict[tuple[str, str], float]:
        """Run one and return the page."""
        self.agent.cycle()
        return self.page()
