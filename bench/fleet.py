"""Cost in Prometheus of 1,000 nodes with 100,000 pods, from as many nodes' pages as this machine can hold."""

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.report import Row, Sample, Section
from bench.rig import BENCH, Options, Running, free_port, say, unpacked
from bench.simulate import Node, squeezed
from kpod_metrics.exposition.protobuf import PROTOBUF

NODES, PODS, INTERVAL = 1_000, 100, 30.0
"""The fleet: nodes, pods of each, seconds between two scrapes."""
ARTICLE = 3_900_000
"""Series of this fleet with the article's design."""
REQUESTS = (6, 12)
"""Requests of one agent to the API server per hour: docs/kubernetes.md."""
PROMETHEUS = "forky/prometheus"
RULES = BENCH.parent / "monitoring" / "rules"
FORMATS = {"classic": (), "native": ("--enable-feature=native-histograms",)}
"""Kinds of histograms, and Prometheus' flags for them."""

TEXT = """\
Pages of {few} and then {many} nodes with {pods} pods each, at profile standard, made by the agent's own store and
renderer from simulated pods (`bench/simulate.py`; every pod changes between two scrapes). Prometheus {version} on this
machine scrapes them every {interval} s, once with classic and once with native histograms. "Memory a series" is the
growth of the process' resident memory from few to many nodes, divided by the growth in series, after {scrapes} scrapes
each. A head block that is hours old needs some hundred bytes more per series for its samples. "CPU time a sample" is
Prometheus' own over two intervals, without queries and rules.
"""

NOTES = (
    """\
The second table has what to provision for {nodes} nodes with {pods} pods and a scrape every {interval:.0f} s,
calculated from these measurements. Memory is that of a young head block: allow half as much again (a rule of thumb, not
measured) for the samples of two hours, for queries, and for churn (the series of a replaced pod stay until the head's
next block). No Prometheus of that size was run. Bytes and CPU time per series are those of profile standard, also for
the article's series.""",
    """\
Where a ratio is above 1: a native series holds a whole histogram and so needs more memory and time than a number. But
there are far fewer of them, and a page with them costs less.""",
    """\
The recording rules in `monitoring/rules` do not reduce what is scraped: they add {share:.0%} of series ({recorded}
here). One evaluation of all rules took {classic:.2f} s with the classic histograms of {many} nodes and {native:.2f} s
with native ones. Use them to reduce what is stored for a long time or sent elsewhere: `write_relabel_configs` that keep
`__name__=~"container.*:kpod_.*"` keep that part. To reduce what is scraped, `--profile minimal` has the largest effect,
then native histograms.
""",
    """\
Requests to the API server: {least} to {most} per agent and hour in steady state, which `pytest
tests/unit/pods/test_reflector.py -k an_hour` counts at a server with shortened hours; {least_all} to {most_all} per
hour for {nodes} agents, {least_rate:.1f} to {most_rate:.1f} per second.""",
)


@dataclass
class Load:
    """Numbers of nodes, seconds between two scrapes, and scrapes before memory is read."""

    few: int
    many: int
    interval: int
    scrapes: int


@dataclass
class Measured:
    """One Prometheus."""

    series: int
    memory_mb: float
    bytes_a_series: float
    seconds_a_sample: float
    seconds_a_scrape: float
    recorded: int
    """Number of series of the recording rules."""
    seconds_of_rules: float


def run(options: Options) -> Section:
    """Measure."""
    load = Load(2, 8, 2, 3) if options.quick else Load(18, 300, 15, 3)
    program = unpacked(PROMETHEUS) / "usr/bin/prometheus"
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    text = TEXT.format(**vars(load), pods=PODS, version=version)
    section = Section("the fleet", text)
    found = {}
    for name, flags in FORMATS.items():
        say(f"fleet {name}")
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            found[name] = _measure(program, flags, Path(folder), load)
    classic, native = found["classic"], found["native"]
    for what, unit, get in (
        (f"series of {load.many} nodes", "", lambda one: float(one.series)),
        ("Prometheus: resident memory", "MB", lambda one: one.memory_mb),
        ("Prometheus: memory a series", "B", lambda one: one.bytes_a_series),
        ("Prometheus: CPU time a sample", "us", lambda one: one.seconds_a_sample * 1e6),
        ("Prometheus: CPU time a node's page", "ms", lambda one: one.seconds_a_scrape * 1e3),
    ):
        rows = Sample([get(native)], unit), Sample([get(classic)], unit)
        section.rows.append(Row(f"native: {what}", *rows, "classic"))
    _provision(section, found)
    section.notes += [
        note.strip().format(
            nodes=f"{NODES:,}",
            pods=f"{NODES * PODS:,}",
            interval=INTERVAL,
            share=classic.recorded / classic.series,
            recorded=classic.recorded,
            many=load.many,
            classic=classic.seconds_of_rules,
            native=native.seconds_of_rules,
            least=REQUESTS[0],
            most=REQUESTS[1],
            least_all=f"{REQUESTS[0] * NODES:,}",
            most_all=f"{REQUESTS[1] * NODES:,}",
            least_rate=REQUESTS[0] * NODES / 3600,
            most_rate=REQUESTS[1] * NODES / 3600,
        )
        for note in NOTES
    ]
    return section


def _provision(section: Section, found: dict[str, Measured]) -> None:
    section.raw.append(
        ("profile, histograms", "series a pod", "series", "samples a second", "memory", "CPUs", "scraped, zipped")
    )
    for profile in ("minimal", "standard", "comprehensive"):
        node = Node(profile, PODS)
        node.cycle()
        page = node.renderer.render(node.store)
        for name, measured in found.items():
            count = sum(1 for line in b"".join(page.pieces(TEXT)).splitlines() if line[:1] != b"#")
            if name == "native":
                count = sum(len(family.samples) for family in page.families)
            body = squeezed(b"".join(page.pieces(TEXT)) if name == "classic" else b"".join(page.pieces(PROTOBUF)))
            series, traffic = count * NODES, f"{len(body) * NODES / INTERVAL / 1e6:.1f} MB/s"
            section.raw.append((f"{profile}, {name}", f"{count / PODS:.0f}", *_needs(measured, series), traffic))
    for name, measured in found.items():
        # The article's figure is for classic histograms; the measured ratio gives that for native ones.
        series = round(ARTICLE * measured.series / found["classic"].series)
        a_pod = f"{series / NODES / PODS:.0f}"
        section.raw.append((f"the article's, {name}", a_pod, *_needs(measured, series), ""))


def _needs(measured: Measured, series: int) -> tuple[str, ...]:
    samples = series / INTERVAL
    return (
        f"{series / 1e6:.1f} million",
        f"{samples / 1e3:.0f} thousand",
        f"{series * measured.bytes_a_series / 1e9:.0f} GB",
        f"{samples * measured.seconds_a_sample:.1f}",
    )


class _Prometheus:
    def __init__(self, process: Running, config: Path, targets: Path, pages: int) -> None:
        self._process, self._config, self._targets, self._pages = process, config, targets, pages

    def number(self, expression: str) -> float:
        """Return the value of an instant query; 0 if there is none."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self._process.port}/api/v1/query?{query}", timeout=60
            ) as answer:
                found = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            return 0.0  # Prometheus is not ready yet
        return float(found[0]["value"][1]) if found else 0.0

    def own(self, name: str) -> float:
        """Return the sum of one of Prometheus' own metrics."""
        lines = self._process.get("/metrics").decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].split()[0] == name)

    def scrape_nodes(self, nodes: int) -> None:
        """Let it scrape that many nodes."""
        groups = [
            {
                "targets": [f"127.0.0.1:{self._pages}"],
                "labels": {"__metrics_path__": f"/{number}", "instance": f"node-{number:05}"},
            }
            for number in range(nodes)
        ]
        part = self._targets.with_suffix(".part")
        part.write_text(json.dumps(groups))
        part.rename(self._targets)

    def wait_for(self, nodes: int, scrapes: int, interval: float) -> None:
        """Wait until that many nodes were scraped that often."""
        end = time.monotonic() + 60 + scrapes * interval * 3
        while self.number("count(up == 1)") < nodes:
            if time.monotonic() > end:
                raise RuntimeError(f"Prometheus scrapes {self.number('count(up == 1)'):.0f} of {nodes} nodes")
            time.sleep(1)
        time.sleep(scrapes * interval)

    def evaluate_rules(self) -> tuple[int, float]:
        """Let it evaluate the recording rules; return the number of their series, and the seconds."""
        with self._config.open("a") as config:
            config.write(f"rule_files: ['{RULES / 'recording.yaml'}']\n")
        self._process.reload()
        end = time.monotonic() + 120
        while self.own("prometheus_rule_group_iterations_total") < 3:
            if time.monotonic() > end:
                raise RuntimeError("the recording rules are not evaluated")
            time.sleep(1)
        recorded = self.number('count({__name__=~"container.*:kpod_.*"})')
        return int(recorded), self.own("prometheus_rule_group_last_duration_seconds")


@contextmanager
def _prometheus(program: Path, flags: tuple[str, ...], folder: Path, interval: float) -> Iterator[_Prometheus]:
    pages, port = free_port(), free_port()
    config, targets = folder / "prometheus.yml", folder / "targets.json"
    targets.write_text("[]")
    config.write_text(
        f"global: {{scrape_interval: {interval}s, scrape_timeout: {interval}s, evaluation_interval: 5s}}\n"
        "scrape_configs:\n"
        "- job_name: kpod\n"
        f"  file_sd_configs: [{{files: ['{targets}'], refresh_interval: 1s}}]\n"
    )
    command = [str(program), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", *flags]
    generator = subprocess.Popen([sys.executable, "-m", "bench.simulate", str(pages), "standard"])
    try:
        with Running([*command, f"--web.listen-address=127.0.0.1:{port}"], port) as running:
            yield _Prometheus(running, config, targets, pages)
    finally:
        generator.kill()
        generator.wait()


def _measure(program: Path, flags: tuple[str, ...], folder: Path, load: Load) -> Measured:
    with _prometheus(program, flags, folder, load.interval) as there:
        figures = []
        for nodes in (load.few, load.many):
            there.scrape_nodes(nodes)
            there.wait_for(nodes, load.scrapes, load.interval)
            figures.append((there.own("prometheus_tsdb_head_series"), there.own("process_resident_memory_bytes")))
        names = ("process_cpu_seconds_total", "prometheus_tsdb_head_samples_appended_total")
        before = [there.own(name) for name in names]
        time.sleep(2 * load.interval)
        cpu, samples = (there.own(name) - was for name, was in zip(names, before, strict=True))
        recorded, ruling = there.evaluate_rules()
    (series_few, memory_few), (series, memory) = figures
    return Measured(
        series=int(series),
        memory_mb=memory / 1e6,
        bytes_a_series=(memory - memory_few) / (series - series_few),
        seconds_a_sample=cpu / samples,
        seconds_a_scrape=cpu / (2 * load.many),
        recorded=recorded,
        seconds_of_rules=ruling,
    )
