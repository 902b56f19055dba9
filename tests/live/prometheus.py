"""A real Prometheus as a child process."""

import json
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.live.agents import eventually, free_port, get, process

Result = list[tuple[dict[str, str], float]]


class Prometheus:
    """What a Prometheus answers."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    def wait(self) -> None:
        """Wait until it has scraped its target once."""
        try:
            eventually(lambda: [value for _, value in self.query('up{job="kpod"}')] == [1], 60)
        except AssertionError as error:
            raise AssertionError(self._log.read_text()) from error

    def _ask(self, what: str) -> Any:
        answer = json.loads(get(f"{self.url}/api/v1/{what}"))
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, expression: str) -> Result:
        """The result of an instant query: labels and value."""
        found = self._ask("query?" + urllib.parse.urlencode({"query": expression}))["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def has(self, expression: str) -> bool:
        """Whether an instant query has any result: numbers, or native histograms."""
        return bool(self._ask("query?" + urllib.parse.urlencode({"query": expression}))["result"])

    def firing(self) -> list[dict[str, str]]:
        """The labels of the alerts that fire, `alertname` among them."""
        return [alert["labels"] for alert in self._ask("alerts")["alerts"] if alert["state"] == "firing"]

    def by(self, label: str, expression: str) -> dict[str, float]:
        """The values of a query by a label that tells its series apart."""
        found = self.query(expression)
        values = {labels[label]: value for labels, value in found}
        assert len(values) == len(found)
        return values


@contextmanager
def starting_prometheus(
    program: Path,
    folder: Path,
    target: str,
    *arguments: str,
    every: str = "500ms",
    scrape: Sequence[str] = (),
    others: Mapping[str, str] | None = None,
    rules: Sequence[Path] = (),
) -> Iterator[Prometheus]:
    """A Prometheus that will scrape `target`: it takes 5 s to begin, in which others can start.

    `every` is how often it scrapes and evaluates, `scrape` are lines of its scrape configuration, `others` are more
    targets by their jobs' names.
    """
    folder.mkdir()
    port = free_port()
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    jobs = {"kpod": target} | dict(others or {})
    config.write_text(
        f"global: {{scrape_interval: {every}, scrape_timeout: {every}, evaluation_interval: {every}}}\n"
        f"rule_files: {json.dumps([str(rule) for rule in rules])}\n"
        "scrape_configs:\n"
        + "".join(
            f"- job_name: {job}\n  static_configs: [{{targets: ['{address}']}}]\n"
            + "".join(f"  {line}\n" for line in scrape)
            for job, address in jobs.items()
        )
    )
    command: list[str | Path] = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with process([*command, f"--web.listen-address=127.0.0.1:{port}", *arguments], log):
        yield Prometheus(port, log)


@contextmanager
def running_prometheus(
    program: Path, folder: Path, target: str, *arguments: str, **options: Any
) -> Iterator[Prometheus]:
    """The same, once it has scraped `target`."""
    with starting_prometheus(program, folder, target, *arguments, **options) as there:
        there.wait()
        yield there
