"""Opens spoiled copies of the compiled objects, one after another: a child process, as C can take it down.

Arguments: seed, count, a folder. The last line of its output is JSON: how many were refused as declared, and how many
were taken: those that are as they were built. An input that does anything else stays in the folder.
"""

import json
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from kpod_metrics.errors import UnavailableError
from kpod_metrics.kernel.libbpf import Object
from kpod_metrics.kernel.programs import OBJECTS
from tests.reliability.fuzz.mutate import Mutator
from tests.reliability.fuzz.targets import assert_one_line


def main(seed: int, count: int, at: Path) -> None:
    found: Counter[str] = Counter()
    paths = sorted(Path(OBJECTS).glob("*.bpf.o"))
    for turn, path in enumerate(paths):
        good = path.read_bytes()
        mutator = Mutator([good], seed + turn)
        file = at / path.name
        for _ in range(count // len(paths)):
            data = mutator.next()
            file.write_bytes(data)
            try:
                with closing(Object(str(file))) as opened:
                    assert opened.maps
            except UnavailableError as error:
                assert_one_line(str(error))
                assert data != good
                found["refused"] += 1
            else:
                assert data == good
                found["taken"] += 1
        file.unlink()
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
