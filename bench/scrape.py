"""Cost of a scrape: size, writing and serving of the page, compared with prometheus_client."""

import http.client
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import quantiles

from bench.report import Row, Sample, Section
from bench.rig import Options, Pods, RunningAgent, probe, say

TEXT = """\
The page of {pods} pods. The peer is prometheus_client {version} with a custom collector that returns the same families,
made beforehand, so that only writing is compared. For kpod-metrics it is the CPU time of rendering from the store and
writing, after a cycle in which every pod changed: the agent writes only what changed, which the peer cannot. Over HTTP,
each request has its own connection over loopback, with gzip. The agent answers with the bytes made in the cycle.
"""
PEER = "prometheus_client"
SERVED_MS, LIMITED_AT = 2.0, 100
"""Limit of a scrape (median) for so many pods."""


def run(options: Options) -> Section:
    """Measure."""
    section = Section("a scrape", TEXT.format(pods=options.pods, version=version("prometheus_client")))
    section.raw.append(("profile", "series", "page", "gzip", "zipping"))
    with Pods(options, options.pods, own_namespaces=True):
        for profile in options.profiles:
            say(f"scrape {profile}")
            found = probe("render", "--profile", profile, "--cycles", "5" if options.quick else "50")
            if found["series"] != found["peer_series"]:
                raise AssertionError(f"the peer wrote {found['peer_series']} series, we {found['series']}")
            section.rows.append(
                Row(
                    f"{profile}: rendering the page ({found['series']} series)",
                    Sample(found["ours_ms"], "ms"),
                    Sample(found["peer_ms"], "ms"),
                    PEER,
                )
            )
            section.raw.append(
                (
                    profile,
                    str(found["series"]),
                    f"{found['bytes'] / 1e3:.1f} kB",
                    f"{found['gzip_bytes'] / 1e3:.1f} kB",
                    str(Sample(found["gzip_ms"], "ms")),
                )
            )
        section.rows += _serve(options)
    return section


def _serve(options: Options) -> list[Row]:
    say("scrape over HTTP")
    with RunningAgent("--profile", "standard", "--poll-interval", "1s") as agent:
        page = options.scratch / "page.txt"
        page.write_bytes(agent.get("/metrics"))
        ours, theirs = _in_turn(agent.port, page, 40 if options.quick else 200)
    rows = [
        Row(
            f"standard: scrape over HTTP, p{percent}",
            Sample([quantiles(ours, n=100)[percent - 1]], "ms"),
            Sample([quantiles(theirs, n=100)[percent - 1]], "ms"),
            PEER,
        )
        for percent in (50, 99)
    ]
    limit = SERVED_MS if options.pods == LIMITED_AT else None
    return [*rows, Row("standard: scrape over HTTP", Sample(ours, "ms"), limit=limit)]


def _in_turn(port: int, page: Path, requests: int) -> tuple[list[float], list[float]]:
    """Scrape the agent and the peer alternately; return the milliseconds of each request."""
    command = [sys.executable, "-m", "bench.probe", "serve", str(page)]
    peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert peer.stdout is not None
        assert peer.stdin is not None
        ports = {port: [], int(peer.stdout.readline()): []}  # type: dict[int, list[float]]
        for _ in range(requests):
            for each, times in ports.items():
                times.append(_scrape(each))
                time.sleep(0.005)
    finally:
        peer.kill()
        peer.communicate()
    ours, theirs = ports.values()
    return ours, theirs


def _scrape(port: int) -> float:
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics", headers={"Accept": "text/plain", "Accept-Encoding": "gzip"})
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == 200
    assert response.getheader("Content-Encoding") == "gzip"
    return (time.perf_counter() - start) * 1e3
