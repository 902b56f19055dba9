"""The check of words: what it finds, where it says it is, and that the pages pass."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

EVIDENCE = sorted(REPOSITORY.glob("docs/evidence-*.md"))


def check(*pages: Path) -> tuple[int, str]:
    command = [sys.executable, "scripts/words.py", *map(str, pages)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_pages_pass() -> None:
    assert check() == (0, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("It begins anew.\n", "1: anew: from scratch, again, from 0\n"),
        ("One.\n\nWhoever reads.\n", "3: whoever: every client that, the user who, the task that\n"),
        ("# Segments that are sent\n  again\n", "1: sent again: retransmitted, retransmits\n"),
        ("# It waits\n# for a CPU.\n", "1: waits for a cpu: waits in the run queue\n"),
        ("/*\n * sent\n * again */\n", "2: sent again: retransmitted, retransmits\n"),
        ("not seldom, and seldom\n", "1: not seldom: often\n{page}:1: seldom: rarely\n"),
        ("It is nobody's.\n", "1: nobody's: of no pod, of no process\n"),
    ],
)
def test_finds(tmp_path: Path, text: str, said: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert check(page) == (1, f"{page}:" + said.format(page=page))


@pytest.mark.parametrize(
    "text",
    [
        *("manewed", "Stubborn timeslots.", "It is CPU-bound.", "It waits for a CPU-bound task."),
        "@dataclass(slots=True)",
    ],
)
def test_matches_whole_words(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert check(page) == (0, "")


def test_every_page_is_read(tmp_path: Path) -> None:
    """A copy of the tree's pages with a wrong word in each; those that are generated from code are left out."""
    for name in ("words.py", "words.txt"):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        (tmp_path / "scripts" / name).write_text((REPOSITORY / "scripts" / name).read_text())
    pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "helm/kpod-metrics/README.md"]
    names = sorted(str(page.relative_to(REPOSITORY)) for page in pages)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("anew\n")
    done = subprocess.run(
        [sys.executable, tmp_path / "scripts" / "words.py"], capture_output=True, text=True, check=False
    )
    generated = {"docs/configuration.md", "docs/metrics.md", *(str(p.relative_to(REPOSITORY)) for p in EVIDENCE)}
    assert len(EVIDENCE) == 3
    assert generated <= set(names)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [n for n in names if n not in generated]
    assert (done.returncode, done.stderr) == (1, "")


def test_code_is_read(tmp_path: Path) -> None:
    """A wrong word in a comment, of each kind of file; what is compiled or is a list of packages is left out."""
    names = ["Makefile", "helm/kpod-metrics/templates/a.yaml", "src/kpod_metrics/pods/a.py", "testkit/vm/a.sh"]
    for name in ("scripts/words.py", "scripts/words.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    for name in (*names, "scripts/other.txt", "testkit/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# anew\n")
    done = subprocess.run(
        [sys.executable, tmp_path / "scripts" / "words.py"], capture_output=True, text=True, check=False
    )
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == names


@pytest.mark.parametrize("line", ["no colon", "anew: a second time"])
def test_refuses_a_wrong_list(tmp_path: Path, line: str) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("words.py", "words.txt"):
        (tmp_path / "scripts" / name).write_text((REPOSITORY / "scripts" / name).read_text())
    with (tmp_path / "scripts" / "words.txt").open("a") as file:
        file.write(f"{line}\n")
    done = subprocess.run(
        [sys.executable, tmp_path / "scripts" / "words.py"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"words.txt: {line!r} is not `phrase: better word`, or is there twice\n"
