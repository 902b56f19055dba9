"""Find phrases of scripts/words.txt: prints one line for each, with the better word; status 1 if there are any.

`python scripts/words.py [FILE ...]`, by default the pages written by hand, and the comments and messages in code.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PHRASES = ROOT / "scripts" / "words.txt"
BETWEEN = r"\s+(?:(?:#|//|[*>])\s+)?"
"""Between two words of a phrase: also the end of a line, in a comment or a quotation too."""
PATHS = (
    *("*.md", "docs/*.md", "helm/*/README.md", "helm/*/templates/**/*.*", "helm/*/values.yaml", "helm/schema.yaml"),
    *("Makefile", "deploy/*", "deploy/apparmor/*", "scripts/*", "hatch_build.py", "testkit/**/*.*", "bench/*.py"),
    *("src/**/*.py", "bpf/*.[ch]", "monitoring/*.py", "tests/**/*.py", "tests/monitoring/*.yaml"),
)
"""Patterns of the files that are read by default."""
EXCLUDED = {
    "tests/unit/test_words.py",
    "docs/configuration.md",
    "docs/metrics.md",
    *(f"docs/{path.name}" for path in ROOT.glob("docs/evidence-*.md")),
}
"""The check's own test, and pages that are generated from sentences in code."""
SKIPPED = {".pyc", ".txt"}
"""Suffixes of files without sentences: compiled ones, lock files, and the list of phrases itself."""


def phrases() -> dict[str, str]:
    """Return the better word by phrase."""
    lines = (line for line in PHRASES.read_text().splitlines() if line and not line.startswith("#"))
    found: dict[str, str] = {}
    for line in lines:
        phrase, colon, better = line.partition(": ")
        if not colon or phrase.lower() in found:
            raise SystemExit(f"{PHRASES.name}: {line!r} is not `phrase: better word`, or is there twice")
        found[phrase.lower()] = better
    return found


def pages() -> list[Path]:
    """Return the files that are read by default."""
    found = sorted({path for pattern in PATHS for path in ROOT.glob(pattern) if path.suffix not in SKIPPED})
    return [path for path in found if path.is_file() and str(path.relative_to(ROOT)) not in EXCLUDED]


def hits(text: str, better: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Yield the line and the phrase of each hit; where two phrases begin at one place, only the longer one."""
    longest_first = sorted(better, key=len, reverse=True)
    words = "|".join(BETWEEN.join(map(re.escape, phrase.split())) for phrase in longest_first)
    for match in re.finditer(rf"(?<![\w-])(?:{words})(?![\w=-])", text, re.IGNORECASE):
        yield text.count("\n", 0, match.start()) + 1, re.sub(BETWEEN, " ", match[0].lower())


def main() -> int:
    """Print the hits."""
    better = phrases()
    status = 0
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else pages():
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        for line, phrase in hits(path.read_text(), better):
            print(f"{name}:{line}: {phrase}: {better[phrase]}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
