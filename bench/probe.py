"""Runs the agent cycle by cycle in its own process, and measures it from inside; prints JSON.

`python -m bench.probe cycle` - CPU time of a cycle;
`python -m bench.inside inside` - CPU time of a cycle inside the calls that read files;
`python -m bench.probe opens` - files and directories opened, by an audit hook, which cannot be removed;
`python -m bench.probe render` - a page written by us and by prometheus_client, in turn;
`python -m bench.probe serve PAGE [PORT]` - the families of a page served by prometheus_client.
"""

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import prometheus_client
from isal import isal_zlib
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from kpod_metrics import agent as agents
from kpod_metrics import settings
from kpod_metrics.collectors import registered
from kpod_metrics.exposition.page import Page, Renderer
from kpod_metrics.exposition.pages import GZIP
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import TEXT
from kpod_metrics.otlp.encode import Encoder
from kpod_metrics.store import Store

WARM_UP = 5
PAUSE = 0.1
"""Seconds between two cycles, long enough for every pod to be active."""

Measure = Callable[[agents.Agent, int], dict[str, Any]]
"""A measurement of an agent over some cycles."""


def main(measures: Mapping[str, Measure]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=(*measures, "serve"))
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--cycles", type=int, default=30)
    parser.add_argument("--series-limit-total", default=None)
    options = parser.parse_args()
    if options.what == "serve":
        _serve(options.page, options.port)
        return
    more = {} if options.series_limit_total is None else {"series_limit_total": options.series_limit_total}
    with _agent({"profile": options.profile} | more) as agent:
        for _ in range(WARM_UP):
            run_cycle(agent)
        print(json.dumps(measures[options.what](agent, options.cycles)))


@contextmanager
def _agent(chosen: dict[str, str]) -> Iterator[agents.Agent]:
    switch = {name: value for name, value in os.environ.items() if name == "KPOD_KERNEL_FEATURES_OFF"}
    loaded, _ = settings.load(chosen | {"node_name": "bench"}, switch, None, list(registered()))
    agents.tune_process()
    agent = agents.build(loaded)
    agent.open()
    try:
        yield agent
    finally:
        agent.close()


def run_cycle(agent: agents.Agent) -> None:
    """Run one cycle as in production: with a scrape since the last one, so the page is written and compressed."""
    time.sleep(PAUSE)
    agent.cycle()
    agent.published.get(TEXT, True)


def _cycle(agent: agents.Agent, cycles: int) -> dict[str, Any]:
    cpu, wall = [], []
    user = system = 0.0
    for _ in range(cycles):
        time.sleep(PAUSE)
        times, started, began = os.times(), time.process_time(), time.perf_counter()
        agent.cycle()
        cpu.append((time.process_time() - started) * 1e3)
        wall.append((time.perf_counter() - began) * 1e3)
        now = os.times()
        user += now.user - times.user
        system += now.system - times.system
        agent.published.get(TEXT, True)
    page = agent.published.get(TEXT, False)
    return {
        "cpu_ms": cpu,
        "wall_ms": wall,
        "system_share": system / (user + system) if user + system else 0.0,
        "series": sum(1 for line in page.splitlines() if line[:1] != b"#"),
        "collectors": [state.collector.name for state in agent.states if state.opened and not state.problem],
    }


def _opens(agent: agents.Agent, cycles: int) -> dict[str, Any]:
    counted = {"open": 0, "os.scandir": 0, "os.listdir": 0}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in counted:
            counted[event] += 1

    sys.addaudithook(hook)
    opens = []
    for _ in range(cycles):
        before = sum(counted.values())
        run_cycle(agent)
        opens.append(sum(counted.values()) - before)
    return {"opens": opens}


class _Families(Collector):
    """Returns prepared families, so that only the writing of prometheus_client is measured."""

    def __init__(self, page: str) -> None:
        self._families = list(text_string_to_metric_families(page))

    def collect(self) -> Iterable[prometheus_client.Metric]:
        return self._families


def _registry(page: bytes) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Families(page.decode()))
    return registry


class _Timed:
    """A renderer that writes the page of each cycle in every format, and measures the CPU time."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer, self._encoder = renderer, Encoder(time.time_ns())
        self.took: dict[str, list[float]] = {"text": [], "protobuf": [], "otlp": [], "gzip": []}

    def render(self, store: Store) -> Page:
        start = time.thread_time()
        page = self._renderer.render(store)
        rendered = time.thread_time() - start
        texts: list[bytes] = []
        for name, before, write in (
            ("text", rendered, lambda: texts.append(b"".join(page.pieces(TEXT)))),
            ("protobuf", rendered, lambda: b"".join(page.pieces(PROTOBUF))),
            ("otlp", rendered, lambda: list(self._encoder.requests(page))),
            ("gzip", 0.0, lambda: isal_zlib.compress(texts[0], 1, wbits=GZIP)),
        ):
            start = time.thread_time()
            write()
            self.took[name].append((before + time.thread_time() - start) * 1e3)
        return page


def _render(agent: agents.Agent, rounds: int) -> dict[str, Any]:
    page = agent.published.get(TEXT, False)
    registry = _registry(page)
    timed = _Timed(agent._renderer)
    agent._renderer = timed  # type: ignore[assignment]
    peer = []
    peer_page = b""
    # Neither side should pay for the garbage of the other.
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        run_cycle(agent)
        start = time.thread_time()
        peer_page = prometheus_client.generate_latest(registry)
        peer.append((time.thread_time() - start) * 1e3)
    return {
        "ours_ms": timed.took["text"],
        "peer_ms": peer,
        "gzip_ms": timed.took["gzip"],
        "protobuf_ms": timed.took["protobuf"],
        "otlp_ms": timed.took["otlp"],
        "series": sum(1 for line in page.splitlines() if line[:1] != b"#"),
        "peer_series": sum(1 for line in peer_page.splitlines() if line[:1] != b"#"),
        "bytes": len(page),
        "gzip_bytes": len(isal_zlib.compress(page, 1, wbits=GZIP)),
    }


def _serve(page: Path, port: int) -> None:
    server, _ = prometheus_client.start_http_server(port, "127.0.0.1", registry=_registry(page.read_bytes()))
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main({"cycle": _cycle, "opens": _opens, "render": _render})
