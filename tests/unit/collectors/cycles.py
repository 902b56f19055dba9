"""Cycles of one file collector over a fixture tree, with its rows in a real store as the agent puts them there."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kpod_metrics.collectors.kit import Collector, Environment
from kpod_metrics.histogram import Histogram
from kpod_metrics.pods.model import Group, Identity
from kpod_metrics.store import Store

POD = Identity("shop", "cart-0", "app")


def write(directory: Path, **files: str) -> None:
    """Write files of a fixture; `cpu__stat` is cpu.stat."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name.replace("__", ".")).write_text(content)


class Tree:
    """A fixture of a machine: its cgroups, /proc and /sys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc, self.sys = root / "proc", root / "sys"
        self.proc.mkdir()
        self.environment = Environment(cgroup_root=str(root), proc_root=str(self.proc), sys_root=str(self.sys))

    def group(self, name: str, id_: int, identity: Identity = POD, pids: Sequence[int] = ()) -> Group:
        """Make a cgroup."""
        (self.root / name).mkdir(exist_ok=True)
        return Group(id_, str(self.root / name), tuple(pids), identity)

    def process(self, pid: int) -> Path:
        """Make the directory of a process."""
        path = self.proc / str(pid)
        (path / "ns").mkdir(parents=True)
        (path / "net").mkdir()
        return path


class Cycles:
    """Runs cycles of a collector and tells what is exported after each."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.store = Store(collector.tables, collector.wanted)

    def run(self, *groups: Group) -> "Cycles":
        """Run one cycle over these groups."""
        rows = list(self.collector.collect(groups))
        for table in self.collector.tables:
            self.store.begin_cycle(table)
        identities = {group.id: group.identity for group in groups}
        for row in rows:
            self.store.put(row, identities[row.owner])
        self.store.end_read(self.collector.tables, groups, self.collector.unread)
        return self

    def forget(self, gone: Callable[[int], bool], stays: Callable[[Identity], bool] = lambda pod: False) -> None:
        """Forget cgroups as the agent does, in the collector and in the store."""
        self.collector.forget(gone)
        self.store.forget(self.collector.tables, gone, stays)

    def exported(self, identity: Identity = POD) -> dict[str, int | float]:
        """All samples of an identity, by metric name without its prefix and label values."""
        found = {}
        for _, at, metric, children in self.store.families():
            for series in children:
                value = series.values[at]
                if series.identity == identity and value is not None:
                    assert not isinstance(value, Histogram)
                    found[" ".join((metric.name.removeprefix("kpod_"), *series.labels))] = value
        return found


def refuse(monkeypatch: pytest.MonkeyPatch, part: str, error: type[OSError] = PermissionError) -> None:
    """Have the kernel refuse to open files whose path has this part."""
    real = os.open
    number = {PermissionError: errno.EACCES, FileNotFoundError: errno.ENOENT}[error]

    def opens(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        if part in path:
            raise OSError(number, os.strerror(number), path)
        return real(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr("kpod_metrics.files.os.open", opens)
