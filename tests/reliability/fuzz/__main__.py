"""The long run: `python -m tests.reliability.fuzz --inputs 10000000 --minutes 30 --guided PYTHON`.

Rounds of spoiled inputs for every target until there were so many, or the time is over; before, each target has its
part of half of the time under libFuzzer's guidance, where an interpreter with atheris is named: that tries ten times as
many inputs in it. Exit 1 where one failed: its input is in the corpus then.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.reliability.conftest import SEED
from tests.reliability.fuzz.drive import Guided, run, shares
from tests.reliability.fuzz.targets import TARGETS
from tests.report import Outcome, add

ROUND = 100_000


def objects(until: float, folder: Path) -> int:
    """Damaged objects, in child processes; return their number."""
    tried = 0
    for seed in range(SEED, SEED + 20):
        if time.monotonic() > until:
            break
        command = [sys.executable, "-m", "tests.reliability.fuzz.corrupt", str(seed), "1000", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        tried += sum(json.loads(done.stdout.splitlines()[-1]).values())
    return tried


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--guided", default="", metavar="PYTHON")
    options = parser.parse_args()
    began = time.monotonic()
    end = began + 60 * options.minutes
    failed = []
    guided: Counter[str] = Counter()
    spoiled: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        if options.guided:
            seconds = max(1, round(30 * options.minutes / len(TARGETS)))
            driver = Guided(options.guided, seconds, SEED % 2**31, Path(folder))
            for target in TARGETS:
                guided[target.name], said = driver.run(target)
                if said:
                    failed.append(f"{target.name}: {said}")
        damaged = objects(end, Path(folder))
    turn = 0
    while sum(spoiled.values()) < options.inputs and time.monotonic() < end:
        turn += 1
        for target, count in shares(min(ROUND, options.inputs)):
            ran, files = run(target, count, SEED + turn, end)
            spoiled[target.name] += ran
            failed += map(str, files)
    happened = "only the declared error"
    outcomes = []
    for target in TARGETS:
        said = f"{spoiled[target.name]:,}" + (f" and {guided[target.name]:,} guided" if guided[target.name] else "")
        after = "; four other readers read back the original" if target.name == "label values" else ""
        outcomes.append(Outcome("Bad input", target.name, said, happened + after, "nothing"))
    refused = "the checksum refused all, before libbpf read them"
    outcomes.append(Outcome("Bad input", "compiled BPF objects (ELF, BTF)", f"{damaged:,}", refused, "nothing"))
    whole = sum(spoiled.values()) + sum(guided.values()) + damaged
    took = (time.monotonic() - began) / 60
    outcomes.append(
        Outcome("Bad input", "all parsers together", f"{whole:,} in {took:.0f} minutes", happened, "nothing")
    )
    print("\n".join(f"{one.fault}: {one.tried}" for one in outcomes), *failed, sep="\n")
    if failed:
        return 1
    add(outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
