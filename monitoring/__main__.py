"""`python -m monitoring --write|--check`: for the build; `--runbook-url URL` for another runbook."""

import argparse
import os
import sys

from monitoring.alerts import RUNBOOK
from monitoring.files import every, stale


def main() -> int:
    """Write the files, or print those that differ."""
    parser = argparse.ArgumentParser(prog="python -m monitoring")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", action="store_true")
    choice.add_argument("--check", action="store_true")
    parser.add_argument("--runbook-url", metavar="URL", default=RUNBOOK, help="page of the runbook; #ALERT is added")
    options = parser.parse_args()
    wanted = every(runbook=options.runbook_url)
    wrong = stale(wanted)
    if options.check:
        for path in wrong:
            print(f"{os.path.relpath(path)} is not as written by `make generate`", file=sys.stderr)
        return int(bool(wrong))
    for path in wrong:
        if path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
