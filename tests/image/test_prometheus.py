"""A real Prometheus scrapes the agent: with the labels that Kubernetes' discovery gives a target, ours win."""

import json
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.image.cluster import Cluster
from tests.image.conftest import POD
from tests.image.test_counts import HOGS
from tests.live.agents import eventually, free_port, get, process

SWITCHES = "kpod_cpu_context_switches_total"
TARGET = {"namespace": "kpod-metrics", "pod": "kpod-metrics-x1y2z", "container": "agent", "job": "kpod-metrics"}


@contextmanager
def scraping(prometheus: Path, folder: Path, honor_labels: bool) -> Iterator[str]:
    """A Prometheus with one target; its address."""
    folder.mkdir()
    job = {
        "job_name": "kpod-metrics",
        "scrape_interval": "1s",
        "honor_labels": honor_labels,
        "static_configs": [{"targets": [f"{POD}:9090"], "labels": TARGET}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    port = free_port()
    flags = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with process([prometheus, *flags, f"--web.listen-address=127.0.0.1:{port}"], folder / "log"):
        yield f"http://127.0.0.1:{port}"


def series(url: str, query: str) -> list[dict[str, str]]:
    answer = json.loads(get(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"))
    return [one["metric"] for one in answer["data"]["result"]]


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor"])
def test_labels_are_the_measured_pods(kind: str, cluster: Cluster, prometheus: Path, tmp_path: Path) -> None:
    rendered = cluster.render(f"monitor.kind={kind}")
    spec = rendered.one(kind)["spec"]
    [endpoint] = spec.get("endpoints") or spec["podMetricsEndpoints"]
    with (
        cluster.agent(rendered),
        cluster.three(*HOGS),
        scraping(prometheus, tmp_path / "as-rendered", endpoint["honorLabels"]) as right,
        scraping(prometheus, tmp_path / "without", False) as wrong,
    ):
        query = f'{SWITCHES}{{pod="left"}}'
        [labels] = eventually(lambda: series(right, query), 30)
        assert (labels["namespace"], labels["pod"], labels["container"]) == ("default", "left", "app")
        assert not [name for name in labels if name.startswith("exported_")]
        # Why it has to be so: by default the target's labels take the place of ours.
        eventually(lambda: series(wrong, f'{SWITCHES}{{exported_pod="left"}}'), 30)
        assert not series(wrong, query)
