"""Native histograms in two generations of real Prometheus: quantiles of known workloads, the same counts everywhere."""

import json
import os
import random
import re
import subprocess
import sys
import urllib.request
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from kpod_metrics.agent import Agent
from kpod_metrics.exposition.page import Renderer
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import OPENMETRICS, TEXT
from kpod_metrics.histogram import Histogram
from kpod_metrics.metrics import Metric, Table, latency
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import Identity
from kpod_metrics.pods.standalone import StandaloneNamer
from kpod_metrics.reference import declared
from kpod_metrics.server import Application, bind
from kpod_metrics.settings import Settings
from kpod_metrics.store import Store
from kpod_metrics.web.endpoint import Endpoint
from kpod_metrics.web.limits import Limits
from tests.client_model import decode, labels_of
from tests.fakes.otlp import Fault, Receiver, points_of
from tests.growth import grow
from tests.live.agents import Page, eventually, running_agent
from tests.live.harness import Cgroup
from tests.live.prometheus import Prometheus, running_prometheus, starting_prometheus
from tests.served import served
from tests.unit.test_histogram import FACTOR, SHAPES, bucketed, exact

pytestmark = pytest.mark.alone

Children = list[subprocess.Popen[bytes]]


class Asking(NamedTuple):
    """How a Prometheus is made to ask for native histograms."""

    arguments: tuple[str, ...] = ()
    scrape: tuple[str, ...] = ()


def native(program: Path) -> Asking:
    """From 3.8 on by its configuration, before that by a flag: as docs/native-histograms.md has it."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"version (\d+)\.(\d+)", said.stdout + said.stderr)
    assert version is not None
    if (int(version[1]), int(version[2])) >= (3, 8):
        return Asking(scrape=("scrape_native_histograms: true",))
    return Asking(("--enable-feature=native-histograms",))


OWN = os.environ.get("PROMETHEUS", "")
"""A Prometheus to try as well: no suite of Debian has one of 3.8 or later."""
QUANTILES = (0.5, 0.9, 0.99)

TABLE = Table((latency("kpod_wait_seconds", "Wait.", "test"),))


[LATENCY] = [metric for _, _, metric in declared() if metric.name == "kpod_syscall_latency_seconds"]


def in_bucket_of(true: float, found: float, metric: Metric) -> bool:
    """Whether a quantile is in the classic bucket that the true one is in."""
    bounds = [0.0, *(2.0**exponent for exponent in metric.exponents)]
    at = bisect_left(bounds, true)
    return bounds[at - 1] <= found <= bounds[at]


@pytest.fixture(
    scope="module",
    params=[pytest.param("prometheus", marks=pytest.mark.slow, id="2.42"), "forky/prometheus", OWN],
    ids=["2.42", "3.5", "own"],
)
def program(request: pytest.FixtureRequest, tool: Callable[[str, str], Path]) -> Path:
    if not request.param:
        pytest.skip("PROMETHEUS names no program of its own")
    return Path(request.param) if request.param == OWN else tool(request.param, "prometheus")


def distribution(seed: int) -> list[int]:
    """Three thousand observations in nanoseconds, in order."""
    generator = random.Random(seed)
    scale = 10 ** generator.uniform(-4, 0)
    shape = SHAPES[seed % len(SHAPES)]
    return sorted(int(min(max(shape(generator, scale), 20e-6), 10.0) * 1e9) for _ in range(3000))


@pytest.fixture(scope="module")
def known() -> dict[str, list[int]]:
    """Observations by pod."""
    return {f"pod-{seed}": distribution(seed) for seed in range(200)}


@pytest.fixture(scope="module")
def target(known: dict[str, list[int]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An agent's endpoint, with a page of known histograms."""
    store = Store([TABLE], frozenset(TABLE.metrics))
    for owner, (pod, observed) in enumerate(known.items()):
        delta = Histogram(bucketed(observed), sum(observed))
        grow(store, TABLE, Identity("n", pod, "c"), (), (delta,), owner)
    grow(store, TABLE, Identity("n", "idle", "c"), (), (Histogram((), 0),), -1)
    extremes = [1, 2, 500, 10**12, 10**13]
    grow(store, TABLE, Identity("n", "extremes", "c"), (), (Histogram(bucketed(extremes), sum(extremes)),), -2)
    agent = Agent(Settings(), Finder(str(tmp_path_factory.mktemp("cgroup")), StandaloneNamer()), [])
    agent.published.publish(Renderer({"node": "x"}).render(store))
    with bind(("127.0.0.1", 0)) as listener, served(Endpoint(listener, Application(agent), agent.http, Limits())):
        yield f"127.0.0.1:{listener.getsockname()[1]}"


class Both(NamedTuple):
    """One Prometheus with native histograms, one without."""

    native: Prometheus
    classic: Prometheus


@pytest.fixture(scope="module")
def both(program: Path, target: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder, asking = tmp_path_factory.mktemp("prometheus"), native(program)
    with (
        starting_prometheus(program, folder / "native", target, *asking.arguments, scrape=asking.scrape) as there,
        running_prometheus(program, folder / "classic", target) as classic,
    ):
        there.wait()
        yield Both(there, classic)


def test_quantiles_of_many_distributions(both: Both, known: dict[str, list[int]]) -> None:
    errors: list[float] = []
    for q in QUANTILES:
        native = both.native.by("pod", f"histogram_quantile({q}, kpod_wait_seconds)")
        classic = both.classic.by("pod", f"histogram_quantile({q}, kpod_wait_seconds_bucket)")
        for pod, observed in known.items():
            true = exact(observed, q)
            assert true / FACTOR <= native[pod] <= true * FACTOR
            assert in_bucket_of(true, classic[pod], TABLE.metrics[0])
            errors.append(abs(native[pod] / true - 1))
    assert len(errors) == 600
    mean = sum(errors) / len(errors)
    print(f"mean error {mean:.2%}, most {max(errors):.2%}")
    assert mean <= 0.015


def test_counts_and_sums_are_the_same(both: Both, known: dict[str, list[int]]) -> None:
    counts = both.native.by("pod", "histogram_count(kpod_wait_seconds)")
    sums = both.native.by("pod", "histogram_sum(kpod_wait_seconds)")
    assert counts == both.classic.by("pod", "kpod_wait_seconds_count")
    assert sums == both.classic.by("pod", "kpod_wait_seconds_sum")
    assert counts == {pod: len(observed) for pod, observed in known.items()} | {"idle": 0, "extremes": 5}


def test_one_series_each(both: Both, known: dict[str, list[int]]) -> None:
    """Also of a histogram that nothing was observed in yet."""
    [(_, series)] = both.native.query('count({__name__=~"kpod_wait_seconds.*"})')
    assert series == len(known) + 2
    [(_, classic)] = both.classic.query('count({__name__=~"kpod_wait_seconds.*"})')
    assert classic == series * TABLE.metrics[0].series()


def test_quantiles_beyond_the_bounds(both: Both) -> None:
    """At most 0.95 us is somewhere between it and nothing; above 64 s is above 64 s."""
    low, high = (
        both.native.by("pod", f'histogram_quantile({q}, kpod_wait_seconds{{pod="extremes"}})')["extremes"]
        for q in (0.3, 0.9)
    )
    assert 0 < low < 2**-20
    assert 64 < high <= 64 * FACTOR


def test_native_and_classic_of_one_scrape(target: str, tool: Callable[[str, str], Path], tmp_path: Path) -> None:
    program = Path(OWN) if OWN else tool("forky/prometheus", "prometheus")
    asking = native(program)
    lines = [*asking.scrape, "always_scrape_classic_histograms: true"]
    with running_prometheus(program, tmp_path / "p", target, *asking.arguments, scrape=lines) as prometheus:
        counts = prometheus.by("pod", "histogram_count(kpod_wait_seconds)")
        assert counts == prometheus.by("pod", "kpod_wait_seconds_count")
        assert counts == prometheus.by("pod", 'kpod_wait_seconds_bucket{le="+Inf"}')


def scraped(url: str, accept: str) -> bytes:
    """A page in a format."""
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=5) as answer:
        assert answer.headers["Content-Type"] == accept
        body: bytes = answer.read()
        return body


SLEEPS = """
import json, random, sys, time
generator = random.Random(1)
taken = []
for _ in range(400):
    wanted = min(max(generator.lognormvariate(-6.5, 1.0), 0.0002), 0.05)
    before = time.perf_counter_ns()
    time.sleep(wanted)
    taken.append(time.perf_counter_ns() - before)
print(json.dumps(taken), flush=True)
sys.stdin.read()
"""


def test_real_workload(program: Path, tmp_path: Path, cgroup: Callable[[str], Cgroup], children: Children) -> None:
    """Sleeps that a process times itself, counted by the kernel programs, asked of Prometheus."""
    settings = ["--profile", "comprehensive", "--syscalls", "clock_nanosleep", "--poll-interval", "200ms"]
    settings += ["--collector-deadline", "5s"]
    asking, folder = native(program), tmp_path / "native"
    with (
        running_agent(tmp_path / "agent.log", *settings) as (_, port),
        starting_prometheus(program, folder, f"127.0.0.1:{port}", *asking.arguments, scrape=asking.scrape) as of_native,
        running_prometheus(program, tmp_path / "classic", f"127.0.0.1:{port}") as classic,
    ):
        group = cgroup("sleeper")
        sleeper = group.start(sys.executable, "-c", SLEEPS, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        children.append(sleeper)
        assert sleeper.stdout is not None
        taken = sorted(json.loads(sleeper.stdout.readline()))
        chosen = f'{{pod=~".*/{re.escape(group.path.name)}"}}'
        name = f"kpod_syscall_latency_seconds{chosen}"
        eventually(lambda: [value for _, value in of_native.query(f"histogram_count({name})")] == [len(taken)])
        bucket, count = (name.replace("seconds{", f"seconds_{suffix}{{") for suffix in ("bucket", "count"))
        eventually(lambda: [value for _, value in classic.query(count)] == [len(taken)])
        for q in QUANTILES:
            true = exact(taken, q)
            [(_, found)] = of_native.query(f"histogram_quantile({q}, {name})")
            assert true / FACTOR <= found <= true * FACTOR
            [(_, found)] = classic.query(f"histogram_quantile({q}, {bucket})")
            assert in_bucket_of(true, found, LATENCY)


def test_counts_are_the_same_in_every_format(
    tmp_path: Path, cgroup: Callable[[str], Cgroup], children: Children
) -> None:
    """Text, OpenMetrics, protobuf and OTLP of an agent whose pod has come to rest."""
    group = cgroup("sleeper")
    name = "kpod_syscall_latency_seconds"
    with Receiver() as receiver:
        settings = ["--profile", "comprehensive", "--syscalls", "clock_nanosleep", "--poll-interval", "200ms"]
        settings += ["--collector-deadline", "5s", "--otlp-endpoint", receiver.url, "--otlp-interval", "200ms"]
        with running_agent(tmp_path / "agent.log", *settings) as (_, port):
            sleeper = group.start(sys.executable, "-c", SLEEPS, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
            children.append(sleeper)
            assert sleeper.stdout is not None
            taken = json.loads(sleeper.stdout.readline())
            url = f"http://127.0.0.1:{port}/metrics"

            def text(accept: str) -> float:
                found = Page(scraped(url, accept).decode()).find(f"{name}_count", syscall="clock_nanosleep")
                return sum(value for labels, value in found.items() if dict(labels)["pod"].endswith(group.path.name))

            def protobuf() -> int:
                return sum(
                    one.histogram.sample_count
                    for family in decode(scraped(url, PROTOBUF))
                    for one in family.metric
                    if family.name == name and labels_of(one)["pod"].endswith(group.path.name)
                )

            def otlp() -> int:
                with receiver.lock:
                    newest = receiver.pushes[-1].request
                return sum(
                    point.point.count
                    for point in points_of(newest)
                    if point.metric.name == name and point.resource["k8s.pod.name"].endswith(group.path.name)
                )

            def same(count: Callable[[], float], expected: int) -> bool:
                return count() == expected

            every = {"text": lambda: text(TEXT), "om": lambda: text(OPENMETRICS), "protobuf": protobuf, "otlp": otlp}
            for count in every.values():
                eventually(partial(same, count, len(taken)))


def test_agent_ends_promptly_while_its_receiver_hangs(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.always = Fault(delay=60.0)
        settings = ["--poll-interval", "200ms", "--collector-deadline", "5s"]
        settings += ["--otlp-endpoint", receiver.url, "--otlp-interval", "200ms"]
        with running_agent(tmp_path / "agent.log", *settings) as (agent, port):
            eventually(lambda: receiver.requests)
            url = f"http://127.0.0.1:{port}/metrics"
            stamp = "kpod_last_cycle_timestamp_seconds"
            first = Page(scraped(url, TEXT).decode()).sum(stamp)
            # The receiver has had its request all the while, and cycles go on.
            eventually(lambda: Page(scraped(url, TEXT).decode()).sum(stamp) > first + 1)
            assert Page(scraped(url, TEXT).decode()).sum("kpod_otlp_queue_bytes") > 0
            assert receiver.requests == 1
            agent.terminate()
            assert agent.wait(10) == 0
            assert not receiver.pushes  # it ended before its answer came
