"""Cgroups and processes that go between any two calls of the readers: at the first, at the second, and so on."""

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kpod_metrics import agent as agents
from kpod_metrics.collectors import registered
from kpod_metrics.settings import load
from tests.live.agents import Page
from tests.live.harness import Cgroup
from tests.reliability.conftest import LONG, SEED

STRIDE = 1 if LONG else 4
CALLS = ("open", "read", "pread", "stat", "readlink", "scandir", "fstatvfs")


class Interrupter:
    """Does something before the n-th of the calls by which files are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._at = -1
        self._what: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._busy = threading.local()
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if not getattr(self._busy, "now", False):
                self._busy.now = True
                try:
                    with self._lock:
                        self.count += 1
                        if self.count == self._at:
                            self._what()
                finally:
                    self._busy.now = False
            return real(*arguments, **options)

        return call

    def begin(self, at: int, what: Callable[[], None]) -> None:
        with self._lock:
            self.count, self._at, self._what = 0, at, what


@contextmanager
def opened_agent(root: Path) -> Iterator[agents.Agent]:
    flags = {"cgroup_root": str(root), "grace_period": "0", "profile": "custom", "collector_deadline": "20s"}
    flags |= {f"collectors_{name}_enabled": "true" for name, kind in registered().items() if not kind.uses_bpf}
    settings, _ = load(flags, {}, None, list(registered()))
    agent = agents.build(settings)
    agent.source.events = None  # the kernel's word of new cgroups is tried elsewhere
    try:
        agent.open()
        yield agent
    finally:
        agent.stop()


def page_of(agent: agents.Agent) -> Page:
    agent.cycle()
    return Page(agent.published.get("text/plain; version=0.0.4; charset=utf-8", False).decode())


def destroy(victim: Cgroup, process: "subprocess.Popen[bytes]", way: str) -> None:
    process.kill()
    process.wait()
    if way == "process":
        return
    for _ in range(200):
        try:
            os.rmdir(victim.path)
            break
        except OSError:
            time.sleep(0.002)
    if way == "replaced":
        os.mkdir(victim.path)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", ["process", "cgroup", "replaced"])
def test_gone_between_any_two_reads(
    way: str,
    cgroup: Callable[[str], Cgroup],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    children: list[subprocess.Popen[bytes]],
    tell: Callable[..., None],
) -> None:
    stays = cgroup("stays")
    root = stays.path.parent
    children.append(stays.start("sleep", "1000"))
    caplog.set_level(logging.WARNING)
    interrupter = Interrupter(monkeypatch)
    tried = interrupted = 0
    at = 1 + SEED % STRIDE
    while True:
        victim = Cgroup(root / "victim") if (root / "victim").exists() else cgroup("victim")
        process = victim.start("sleep", "1000")
        children.append(process)
        with opened_agent(root) as agent:
            first = page_of(agent)
            assert first.find("kpod_pressure_cpu_waiting_seconds_total", pod="victim")
            interrupter.begin(at, lambda victim=victim, process=process: destroy(victim, process, way))  # type: ignore[misc]
            for cycle in range(3):
                page = page_of(agent)
                assert set(page.find("kpod_collector_up").values()) == {1}
                assert set(page.find("kpod_collector_errors_total").values()) == {0}
                for name in ("kpod_pressure_cpu_waiting_seconds_total", "kpod_fs_capacity_bytes"):
                    assert page.find(name, pod="stays"), (at, cycle, name)
                for (name, labels), value in first.samples.items():
                    if name.endswith("_total") and dict(labels).get("pod") == "stays":
                        assert page.samples[name, labels] >= value
            done = interrupter.count < at
            interrupter.begin(-1, lambda: None)
            if process.poll() is None:
                destroy(victim, process, way)
            agent.cycle()
            if way == "cgroup":
                assert not page_of(agent).find("kpod_pressure_cpu_waiting_seconds_total", pod="victim")
        assert not caplog.records, (at, [record.getMessage() for record in caplog.records])
        tried += 1
        if done:
            break
        interrupted += 1
        at += STRIDE
    assert interrupted > 60 // STRIDE
    what = {
        "process": "The only process of a cgroup ends",
        "cgroup": "A cgroup goes with its process",
        "replaced": "A cgroup is replaced by another of its name",
    }[way]
    tell(
        "Faults",
        f"{what} before the n-th call (open, read, stat, readlink, scandir, statvfs) of a cycle",
        f"{interrupted}: n = 1 to {at - STRIDE}" + (f", each {STRIDE}th" if STRIDE > 1 else ""),
        "no collector failed, nothing was logged, the cgroup beside it kept its series and totals",
        "events of the removed cgroup after its last read",
    )
