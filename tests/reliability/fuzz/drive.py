"""Drives the targets: seeded mutation, or libFuzzer's coverage (atheris), and the inputs that once failed."""

import hashlib
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.fuzz.mutate import Mutator
from tests.reliability.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
"""A folder for each target, with inputs that made it fail before it was mended."""


def kept(target: Target) -> list[bytes]:
    """The inputs that once failed."""
    return [path.read_bytes() for path in sorted((CORPUS / target.slug).glob("*"))]


def keep(target: Target, data: bytes) -> Path:
    """Keep an input that fails; return its file."""
    path = CORPUS / target.slug / hashlib.sha256(data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def smallest(target: Target, data: bytes) -> bytes:
    """Cut a failing input down as long as it fails."""

    def fails(some: bytes) -> bool:
        try:
            target.check(some)
        except Exception:
            return True
        return False

    size = len(data) // 2
    while size:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + size :]
            if fails(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def run(target: Target, count: int, seed: int, until: float = float("inf")) -> tuple[int, list[Path]]:
    """Give a target `count` inputs, or as many as there is time for; return their number and the failures' files."""
    mutator = Mutator([*target.seeds, *kept(target)], seed)
    failed: dict[str, Path] = {}
    for done in range(count):
        if not done % 64 and time.monotonic() > until:
            return done, list(failed.values())
        data = mutator.next()
        try:
            target.check(data)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {last.filename}:{last.lineno}"
            if place not in failed:
                failed[place] = keep(target, smallest(target, data))
                print(f"{target.name}: seed {seed}, input {done}: {place}: {error}", file=sys.stderr)
    return count, list(failed.values())


def shares(count: int) -> Iterator[tuple[Target, int]]:
    """Divide inputs among the targets."""
    whole = sum(target.share for target in TARGETS)
    for target in TARGETS:
        yield target, max(1, count * target.share // whole)


_DONE = re.compile(rb"(?:Done (\d+)|stat::number_of_executed_units:\s+(\d+))")


@dataclass(frozen=True)
class Guided:
    """libFuzzer drives by coverage, each target in its own process."""

    python: str
    """An interpreter that has atheris."""
    seconds: int
    seed: int
    folder: Path

    def run(self, target: Target) -> tuple[int, str]:
        """Run one target; return the number of inputs, and what was said where one failed."""
        corpus = self.folder / target.slug
        corpus.mkdir(parents=True)
        for at, data in enumerate([*target.seeds, *kept(target)]):
            (corpus / str(at)).write_bytes(data)
        failed = self.folder / f"{target.slug}.failed"
        failed.mkdir()
        command = [self.python, "-m", "tests.reliability.fuzz.guided", target.name, str(corpus)]
        command += [f"-seed={self.seed}", f"-max_total_time={self.seconds}", f"-artifact_prefix={failed}/"]
        done = subprocess.run([*command, "-max_len=65536", "-print_final_stats=1"], capture_output=True, check=False)
        ran = max((int(one or other) for one, other in _DONE.findall(done.stderr)), default=0)
        if done.returncode == 0:
            return ran, ""
        for path in failed.iterdir():
            keep(target, path.read_bytes())
        return ran, done.stderr[-3000:].decode(errors="replace")
