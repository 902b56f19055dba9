"""The commands in fenced blocks of README and docs: each is run, or named here with the reason why not."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

NOT_HERE = {
    r"(kubectl|kind|k3s|ctr|docker|podman|buildah|skopeo)\b": "needs a cluster, a registry or an image builder",
    r"helm (upgrade|install) \.\.\.|--set\b": "is a part of a command",
    r"make (test|test-\w+|image|check|bench)\b": "is a separate run",
    r"(\.venv/bin/)?kpod-metrics top$": "needs a terminal: tests/live/test_top.py has it",
    r"curl .*ssh\.service": "is of a machine that runs sshd as a unit",
}
"""Commands that are not run, by what they begin with, and why."""
SERVES = (r"make run\b", r"sudo \.venv/bin/kpod-metrics demo\b")
"""Commands that go on until they are ended: started, asked for their page, ended."""
BESIDE = (r"sudo sh -c 'echo \$\$ >",)
"""Commands that the page's next ones look at while they run."""


class Block(NamedTuple):
    """A fenced block."""

    page: Path
    line: int
    language: str
    text: str


def blocks() -> Iterator[Block]:
    """All fenced blocks of all pages."""
    for page in PAGES:
        text = page.read_text()
        for match in FENCED.finditer(text):
            yield Block(page, text.count("\n", 0, match.start()) + 2, match[1], match[2])


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:  # a quotation that goes on
        return False
    return not command.endswith("\\")


def commands(block: Block) -> list[str]:
    """Return the commands of a block without a language; of one with prompts, what is typed at them."""
    lines = block.text.splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    found: list[str] = []
    for line in lines:
        if found and not _is_whole(found[-1]):
            found[-1] += f"\n{line}"
        elif line.strip():
            found.append(line)
    return [re.sub(r"  +#.*", "", command) for command in found]


def of_page(page: Path) -> list[str]:
    """Return the commands of a page, in their order."""
    return [command for block in blocks() if block.page == page and not block.language for command in commands(block)]


def in_sentences() -> Iterator[tuple[Path, str]]:
    """All pieces of code in sentences and tables."""
    for page in PAGES:
        yield from ((page, said) for said in re.findall(r"`([^`\n]+)`", FENCED.sub("", page.read_text())))


def why_not(command: str) -> str:
    """Return why a command is not run; empty if it is."""
    return next((why for pattern, why in NOT_HERE.items() if re.match(pattern, command)), "")


def begins(command: str, patterns: tuple[str, ...]) -> bool:
    """Whether a command begins as one of these."""
    return any(re.match(pattern, command) for pattern in patterns)
