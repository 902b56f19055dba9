"""The installed command as a child process, and its pages."""

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.forced import variables

COMMAND = Path(sys.executable).parent / "kpod-metrics"

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Labels = tuple[tuple[str, str], ...]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Try until it gives something true, and return that."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = what()
        except OSError:
            found = None
        if found or time.monotonic() > end:
            assert found, f"not within {seconds} s: {what}"
            return found
        time.sleep(0.05)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        body: bytes = answer.read()
        return body.decode()


@contextmanager
def process(command: list[str | Path], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that is gone at the end, whatever happens."""
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, env=variables()) as started:
        try:
            yield started
        finally:
            started.kill()


@contextmanager
def running_agent(log: Path, *settings: str) -> "Iterator[tuple[subprocess.Popen[bytes], int]]":
    """A running agent past its first cycle, and its port."""
    port = free_port()
    with process([COMMAND, "run", "--listen", f"127.0.0.1:{port}", *settings], log) as started:
        try:
            eventually(lambda: get(f"http://127.0.0.1:{port}/readyz").startswith("ready"))
        except AssertionError as error:
            raise AssertionError(log.read_text()) from error
        yield started, port


def whole_cycle(page: "Callable[[], Page]") -> None:
    """Wait until a cycle that began after this call has ended; one may be under way."""
    for _ in range(2):
        before = page().sum("kpod_last_cycle_timestamp_seconds")
        eventually(lambda: page().sum("kpod_last_cycle_timestamp_seconds") > before)  # noqa: B023


class Page:
    """The samples of a scraped page: of names and labels without escapes, which is all that these tests have."""

    def __init__(self, text: str) -> None:
        self.samples: dict[tuple[str, Labels], float] = {}
        for line in text.splitlines():
            if match := _SAMPLE.match(line):
                self.samples[match[1], tuple(_LABEL.findall(match[2] or ""))] = float(match[3])

    def find(self, name: str, **labels: str) -> dict[Labels, float]:
        """The samples of a name that have these labels."""
        return {
            own: value
            for (found, own), value in self.samples.items()
            if found == name and labels.items() <= dict(own).items()
        }

    def sum(self, name: str, **labels: str) -> float:
        """The sum of these."""
        return sum(self.find(name, **labels).values())
