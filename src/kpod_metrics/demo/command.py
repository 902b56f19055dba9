"""The command `demo`: the agent beside the workloads, until a signal or the end of its duration."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from kpod_metrics import agent as agents
from kpod_metrics import server
from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.demo.catalogue import LOAD
from kpod_metrics.demo.groups import Workloads
from kpod_metrics.settings import Settings
from kpod_metrics.web.address import host_port, local_url

DEFAULTS = {"profile": "comprehensive", "poll_interval": "2s", "listen": "127.0.0.1:9090"}
"""Defaults that differ from those of `run`: for a user who watches on this machine."""

_PR_SET_PDEATHSIG = 1
_STOP_TIMEOUT = 5.0
"""Seconds in which the agent must end by itself."""


def run(settings: Settings, flags: Sequence[str], duration: float) -> int:
    """Run both for so many seconds (0: until a signal); return the exit status.

    `flags` are for the agent, which reads its environment and configuration file too. Raises RefusedError if the
    machine cannot run it.
    """
    # Check what can be refused before anything is started.
    agents.build(settings).close()
    server.bind(settings.listen).close()
    over = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: over.set())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        with Workloads(settings.cgroup_root or find_root(settings.proc_root)) as workloads:
            print(summary(workloads, settings), flush=True)
            return _beside(workloads, settings, flags, duration, over)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _beside(
    workloads: Workloads, settings: Settings, flags: Sequence[str], duration: float, over: threading.Event
) -> int:
    """Run the agent; return 0 if the time or a signal ended it, else its own status."""
    where = host_port(*settings.listen)
    chosen = ("--profile", settings.profile, "--poll-interval", f"{settings.poll_interval}s", "--listen", where)
    libc = ctypes.CDLL(None)
    agent = subprocess.Popen(
        [sys.executable, "-P", "-m", "kpod_metrics", "run", *flags, *chosen],
        stdin=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is for this process, which ends the agent
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - there are no threads yet
    )
    end = time.monotonic() + duration if duration else float("inf")
    ended: list[str] = []
    try:
        while not over.wait(0.2) and time.monotonic() < end:
            if agent.poll() is not None:
                return agent.returncode or 1
            for name in workloads.ended():
                if name not in ended:
                    ended.append(name)
                    print(f"kpod-metrics demo: {name} has ended", file=sys.stderr)
        return 0
    finally:
        agent.terminate()
        try:
            agent.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def summary(workloads: Workloads, settings: Settings) -> str:
    """Return what runs, and where to look."""
    url = local_url(settings.listen)
    found = url in {"http://localhost:9090", "http://127.0.0.1:9090"}
    top = "kpod-metrics top" + ("" if found else f" --url {url}")
    lines = [
        f"kpod-metrics demo: workloads in their own cgroups below {workloads.name}, which use {LOAD}.",
        f"See {url}/ and {url}/metrics, or in another terminal: {top} --filter {workloads.name}",
        "",
    ]
    for work in workloads.chosen:
        lines.append(f"{work.name:<10} {work.does}")
        for effect in work.effects:
            if not effect.controller or effect.controller in workloads.controllers:
                label = f" of {effect.label}" if effect.label else ""
                lines.append(f"{'':<10}   {effect.metric}{label}")
    lines += [
        f"{work.name:<10} not here: the cgroup v2 tree has no {work.needs} controller" for work in workloads.left_out
    ]
    return "\n".join([*lines, "", f"Ctrl-C ends it and removes everything. Process {os.getpid()}."])
