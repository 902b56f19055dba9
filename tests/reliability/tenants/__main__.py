"""`python -m tests.reliability.tenants --write|--check`: the table of attacks in docs/security.md, for the build."""

import sys
from pathlib import Path

from kpod_metrics.reference import with_parts
from tests.reliability.tenants.catalogue import ATTACKS
from tests.reliability.tenants.declared import as_markdown

PAGE = Path(__file__).parents[3] / "docs" / "security.md"


def main(choice: str) -> int:
    """Write the table, or compare it."""
    text = PAGE.read_text()
    wanted = with_parts(text, {"attacks": lambda: as_markdown(ATTACKS)})
    if choice == "--write":
        PAGE.write_text(wanted)
    elif text != wanted:
        print("docs/security.md does not match the declared attacks: run `make generate`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
