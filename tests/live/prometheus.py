"""A real Prometheus as a child process."""

import json
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.live.agents import eventually, free_port, get, process

Result = list[tuple[dict[str, str], float]]


class Prometheus:
    """What a Prometheus answers."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> Result:
        """The result of an instant query: labels and value."""
        answer = json.loads(get(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        assert answer["status"] == "success"
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def by(self, label: str, expression: str) -> dict[str, float]:
        """The values of a query by a label that tells its series apart."""
        found = self.query(expression)
        values = {labels[label]: value for labels, value in found}
        assert len(values) == len(found)
        return values


@contextmanager
def running_prometheus(
    program: Path, folder: Path, target: str, *arguments: str, scrape: Sequence[str] = ()
) -> Iterator[Prometheus]:
    """A Prometheus that has scraped `target` once; `scrape` are lines of its scrape configuration."""
    folder.mkdir()
    port = free_port()
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
        "scrape_configs:\n"
        f"- job_name: kpod\n  static_configs: [{{targets: ['{target}']}}]\n" + "".join(f"  {line}\n" for line in scrape)
    )
    command: list[str | Path] = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with process([*command, f"--web.listen-address=127.0.0.1:{port}", *arguments], log):
        there = Prometheus(port)
        try:
            eventually(lambda: [value for _, value in there.query('up{job="kpod"}')] == [1], 20)
        except AssertionError as error:
            raise AssertionError(log.read_text()) from error
        yield there
