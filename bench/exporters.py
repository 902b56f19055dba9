"""Cost of other exporters for the same pods, and of libraries for the same series."""

import contextlib
import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles

from bench.plot import bars
from bench.report import Row, Sample, Section
from bench.rig import (
    BENCH,
    Options,
    Pods,
    Running,
    RunningAgent,
    SkippedError,
    environment_of,
    free_port,
    probe,
    say,
    unpacked,
)
from kpod_metrics.cgroup.tree import find_root

STEADY, STEADY_PERCENT, LIMITED_AT = "CPU time in steady state, of one CPU", 0.1, 100
"""Limits, and the number of pods for which they hold."""
SCRAPES = 10
"""Scrapes in the measured steady state, one per interval."""
INTERVAL = 30.0
"""Seconds between two scrapes, and two cycles, in the calculated steady state."""
OURS = "ours"
OTEL = BENCH / "peers" / "otel.py"
CADVISOR, NODE_EXPORTER = "cAdvisor", "node_exporter"
PACKAGES = {NODE_EXPORTER: "prometheus-node-exporter", CADVISOR: "bullseye/cadvisor"}
"""The last Debian release with cAdvisor."""
ACCEPT = {
    "plain": {"Accept": "text/plain"},
    "gzip": {"Accept": "text/plain", "Accept-Encoding": "gzip"},
    "protobuf": {
        "Accept": "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
        "Accept-Encoding": "gzip",
    },
}

TEXT = """\
{pods} pods as in the part "cycle"; kpod-metrics runs at profile standard. {node} (Debian's prometheus-node-exporter)
measures the whole machine, not pods. {cadvisor} (Debian 11's, with the same interval) measures each cgroup. Their
series differ from those of kpod-metrics: the second table has the numbers, and some rows are per series.
prometheus_client and the OpenTelemetry SDK (with its Prometheus exporter) serve the series of one page of kpod-metrics:
they collect nothing. All run at the same time and are scraped alternately, each request on its own connection over
loopback, with gzip.

CPU time of a scrape is the process' own, over {rounds} scrapes one second apart, minus the CPU time without scrapes;
kpod-metrics runs one cycle per scrape. The steady state is calculated: the CPU time without scrapes, measured over
{idle} s, plus one scrape every {interval:.0f} s. Only the row with the limit is measured: kpod-metrics alone, with its
default settings, scraped every {interval:.0f} s for {waited:.0f} minutes. Memory is read at the end. Start is from exec
to the first page; before that, {cadvisor} looks for a cloud provider.
"""


NOTE = """\
Where a ratio is above 1: {node} has no series of pods, a twelfth of the series in all, and is written in Go, so no
interpreter has to start and to stay in memory. The libraries keep the series of one page and collect nothing: they have
no kernel programs, no files and no totals. prometheus_client, which also serves the page of the OpenTelemetry SDK,
compresses at gzip level 9 and kpod-metrics at level 1: fewer bytes for many times the CPU time. The difference in
resident memory to cAdvisor is within that of two runs; a third of kpod-metrics' memory is of files that other processes
share.

A scrape takes longer here than in the part "scrape", which has the limit: the other exporters run at the same time, and
each scrape of kpod-metrics finds a page that is new since the last one.
"""


def run(options: Options) -> Section:
    """Measure."""
    rounds, idle = (3, 2) if options.quick else (30, 30)
    text = TEXT.format(
        pods=options.pods,
        rounds=rounds,
        idle=idle,
        interval=INTERVAL,
        waited=SCRAPES * INTERVAL / 60,
        node=NODE_EXPORTER,
        cadvisor=CADVISOR,
    )
    section = Section("what else exports", text)
    with Pods(options, options.pods, own_namespaces=True), contextlib.ExitStack() as stack:
        # One agent without a cycle during the measurement, and one with a cycle per scrape.
        resting = stack.enter_context(RunningAgent("--poll-interval", "600s"))
        running: dict[str, Running] = {OURS: stack.enter_context(RunningAgent("--poll-interval", "1s"))}
        page = options.scratch / "page.txt"
        page.write_bytes(running[OURS].get("/metrics"))
        for name, start in _peers(page).items():
            say(f"exporters {name}")
            try:
                running[name] = stack.enter_context(start())
            except (SkippedError, RuntimeError) as reason:
                section.notes.append(f"Not measured here: {name}: {reason}.")
        say("exporters idle")
        watched = running | {OURS: resting}
        before = {name: exporter.cpu_seconds() for name, exporter in watched.items()}
        time.sleep(idle)
        resting_share = {name: (exporter.cpu_seconds() - before[name]) / idle for name, exporter in watched.items()}
        say("exporters scrape")
        spent: dict[str, list[float]] = {name: [] for name in running}
        took: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(rounds):
            at = {name: (time.monotonic(), exporter.cpu_seconds()) for name, exporter in running.items()}
            for name, exporter in running.items():
                began = time.perf_counter()
                exporter.ask(ACCEPT["gzip"])
                took[name].append((time.perf_counter() - began) * 1e3)
            time.sleep(max(0.0, 1 - (time.monotonic() - min(since for since, _ in at.values()))))
            for name, exporter in running.items():
                since, cpu = at[name]
                used = exporter.cpu_seconds() - cpu - resting_share[name] * (time.monotonic() - since)
                spent[name].append(used * 1e3)
        _tell(section, running, resting_share, spent, took)
        section.rows += _libraries(options, page, section)
    with Pods(options, options.pods, own_namespaces=True):
        say("exporters steady state")
        steady = Row(STEADY, _waited_for(*(1, 1.0) if options.quick else (SCRAPES, INTERVAL)), limit=STEADY_PERCENT)
    if options.pods == LIMITED_AT:
        section.rows.insert(next(at for at, row in enumerate(section.rows) if row.what == STEADY), steady)
    section.notes.append(NOTE.format(node=NODE_EXPORTER).strip())
    return section


def _waited_for(scrapes: int, interval: float) -> Sample:
    """Return the share of a CPU that the agent uses if it is scraped once per interval."""
    shares = []
    with RunningAgent("--poll-interval", f"{interval:g}s") as agent:
        time.sleep(interval)
        for _ in range(scrapes):
            before, began = agent.cpu_seconds(), time.monotonic()
            agent.ask(ACCEPT["gzip"])
            time.sleep(interval - (time.monotonic() - began))
            shares.append((agent.cpu_seconds() - before) / (time.monotonic() - began) * 100)
    return Sample(shares, "%")


def _peers(page: Path) -> dict[str, Callable[[], Running]]:
    """Return the command of each exporter."""
    served = str(page)

    def node_exporter() -> Running:
        program = unpacked(PACKAGES[NODE_EXPORTER]) / "usr/bin/prometheus-node-exporter"
        port = free_port()
        return Running([str(program), f"--web.listen-address=127.0.0.1:{port}"], port)

    def cadvisor() -> Running:
        program, port, root = unpacked(PACKAGES[CADVISOR]) / "usr/bin/cadvisor", free_port(), find_root()
        settings = [f"-housekeeping_interval={INTERVAL:.0f}s", "-allow_dynamic_housekeeping=false"]
        command = [str(program), "-port", str(port), "-listen_ip", "127.0.0.1", *settings]
        if root != "/sys/fs/cgroup":
            # It reads cgroups at one fixed path: mount them there, in its own mount namespace.
            moved = f'mount --bind {root} /sys/fs/cgroup && exec "$0" "$@"'
            command = ["unshare", "-m", "sh", "-c", moved, *command]
        return Running(command, port)

    def client() -> Running:
        port = free_port()
        return Running([sys.executable, "-m", "bench.probe", "serve", served, str(port)], port)

    def opentelemetry() -> Running:
        python, port = environment_of(OTEL.with_suffix(".txt")), free_port()
        return Running([str(python), str(OTEL), "serve", served, str(port)], port)

    return {
        NODE_EXPORTER: node_exporter,
        CADVISOR: cadvisor,
        "prometheus_client": client,
        "OpenTelemetry SDK": opentelemetry,
    }


def _tell(
    section: Section,
    running: dict[str, Running],
    resting: dict[str, float],
    spent: dict[str, list[float]],
    took: dict[str, list[float]],
) -> None:
    section.raw.append(
        ("exporter", "series", "plain", "gzip", "protobuf, gzip", "CPU time idle", "CPU time a scrape", "start")
    )
    figures: dict[str, dict[str, Sample]] = {}
    for name, exporter in running.items():
        plain = exporter.ask(ACCEPT["plain"]).body
        zipped = exporter.ask(ACCEPT["gzip"])
        protobuf = exporter.ask(ACCEPT["protobuf"])
        squeezed = zipped.body if zipped.zipped else gzip.compress(zipped.body, 1)
        scrape = Sample(spent[name], "ms")
        steady = resting[name] * 100 + scrape.median / 1e3 / INTERVAL * 100
        cuts = quantiles(took[name], n=100)
        figures[name] = {
            "CPU time of a scrape, with the cycle for it": scrape,
            STEADY: Sample([steady], "%"),
            "scrape over HTTP, p50": Sample([cuts[49]], "ms"),
            "scrape over HTTP, p99": Sample([cuts[98]], "ms"),
            "page, gzip": Sample([len(squeezed) / 1e3], "kB"),
            "RSS": Sample([exporter.memory_mb()[0]], "MB"),
            "private memory": Sample([exporter.private_mb()], "MB"),
        }
        series = sum(1 for line in plain.splitlines() if line[:1] != b"#")
        if name in {OURS, *PACKAGES}:
            figures[name] |= {
                "start to first page": Sample([exporter.ready_after], "s"),
                "CPU time of a scrape, a series": Sample([value * 1e3 / series for value in spent[name]], "us"),
                "page, gzip, a series": Sample([len(squeezed) / series], "B"),
                "private memory, a series": Sample([exporter.private_mb() * 1e3 / series], "kB"),
            }
        section.raw.append(
            (
                name,
                str(series),
                f"{len(plain) / 1e3:.1f} kB",
                f"{len(squeezed) / 1e3:.1f} kB{'' if zipped.zipped else ' (sent plain)'}",
                f"{len(protobuf.body) / 1e3:.1f} kB" if "protobuf" in protobuf.content_type else "none",
                f"{resting[name]:.3%}",
                str(scrape),
                f"{exporter.ready_after:.2f} s",
            )
        )
    for what, ours in figures[OURS].items():
        for name, theirs in figures.items():
            if name != OURS and what in theirs:
                section.rows.append(Row(what, ours, theirs[what], name))
    for what, unit in ((STEADY, "steady"), ("private memory", "memory")):
        shown = [(name, one[what].median) for name, one in figures.items()]
        section.plots[f"exporters-{unit}"] = bars(f"{what}, {figures[OURS][what].unit}", shown, OURS)


def _libraries(options: Options, page: Path, section: Section) -> list[Row]:
    """Compare writing the same series: from the store, and by libraries from prepared objects."""
    say("exporters libraries")
    rounds = 3 if options.quick else 20
    found = probe("render", "--profile", "standard", "--cycles", str(rounds))
    what = "writing the series of a page ({} of them), CPU time"
    ours = Sample(found["ours_ms"], "ms")
    rows = [
        Row(what.format(found["series"]), ours, Sample(found["peer_ms"], "ms"), "prometheus_client, text"),
        Row(what.format(found["series"]) + " to protobuf", Sample(found["protobuf_ms"], "ms")),
    ]
    otlp = Sample(found["otlp_ms"], "ms")
    try:
        python = environment_of(OTEL.with_suffix(".txt"))
    except SkippedError:
        return rows
    command = [str(python), str(OTEL), "render", str(page), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        section.notes.append(f"Not measured here: writing by the OpenTelemetry SDK: {done.stderr.strip()[-200:]}.")
        return rows
    theirs = json.loads(done.stdout)
    for name, own, how in (("prometheus", ours, ""), ("otlp", otlp, " to OTLP")):
        peer = Sample(theirs[f"{name}_ms"], "ms")
        rows.insert(-1, Row(what.format(theirs["series"]) + how, own, peer, f"OpenTelemetry SDK, {name}"))
    return rows
