"""Print the part of requirements-dev.txt that the image needs: the agent's dependencies and theirs, with their hashes.

Run it in the development environment: the installed packages declare their dependencies.
"""

import re
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def needed(
    name: str, extras: frozenset[str] = frozenset(), found: set[tuple[str, frozenset[str]]] | None = None
) -> set[str]:
    """Return the names of a package's dependencies, and of theirs."""
    found = set() if found is None else found
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        wanted = [{"extra": extra} for extra in (*extras, "")]
        if requirement.marker is None or any(map(requirement.marker.evaluate, wanted)):
            key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if key not in found:
                found.add(key)
                needed(*key, found)
    return {name for name, _ in found}


def main() -> None:
    """Print them."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements-dev.txt").read_text().strip())
    names = needed("kpod-metrics", frozenset({"gpu"}))  # 60 KB; a user cannot add it to an image without pip
    chosen = [block for block in blocks if canonicalize_name(block.split("==")[0]) in names]
    print("\n".join(chosen))


if __name__ == "__main__":
    main()
