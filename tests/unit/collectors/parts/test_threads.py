import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpod_metrics.collectors.parts.threads import ThreadFolders
from kpod_metrics.kernel.tasks import TaskNamespaces


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as child:
        yield child
        child.kill()


def task(pid: int, later: int = 0) -> TaskNamespaces:
    """A thread as the kernel reports it: the time of its start, in ticks of 10 ms here, has more digits there."""
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]) + later
    return TaskNamespaces(pid, 4, 5, 1, 7, started * 10_000_000 + 9_999_999, 0, 6, 7)


@pytest.mark.parametrize(("limit", "kept"), [(0, 0), (10, 1)])
def test_files_of_a_thread_until_it_ends(process: subprocess.Popen[bytes], limit: int, kept: int) -> None:
    folders, before, sleeps = ThreadFolders("/proc", limit), descriptors(), task(process.pid)
    for _ in range(3):
        folders.begin()
        for _ in range(2):
            assert folders.read_short_lines(sleeps, "comm", 100) == (b"sleep\n", True)
        assert descriptors() - before == kept
    process.kill()
    process.wait()
    folders.begin()
    with pytest.raises((ProcessLookupError, FileNotFoundError)):
        folders.read_short_lines(sleeps, "comm", 100)
    folders.close()
    assert descriptors() == before


@pytest.mark.parametrize("later", [-1, 1])
def test_thread_that_started_at_another_time_is_another_one(process: subprocess.Popen[bytes], later: int) -> None:
    folders, before = ThreadFolders("/proc", 10), descriptors()
    with pytest.raises(ProcessLookupError, match="another thread has its number"):
        folders.read_short_lines(task(process.pid, later), "comm", 100)
    assert descriptors() == before


def test_folders_that_are_not_used_are_closed(process: subprocess.Popen[bytes]) -> None:
    folders, before = ThreadFolders("/proc", 10), descriptors()
    folders.read_short_lines(task(process.pid), "comm", 100)
    folders.begin()
    assert descriptors() - before == 1
    folders.begin()
    assert descriptors() == before


def test_process_with_an_odd_name(tmp_path: Path) -> None:
    """A process chooses its name: `) R 1 ...` does not end the field."""
    stat = tmp_path / "10/task/10/stat"
    stat.parent.mkdir(parents=True)
    stat.write_text("10 (a) R 1 1) S " + " ".join(str(field) for field in range(4, 53)) + "\n")
    (tmp_path / "10/comm").write_text("a\n")
    folders = ThreadFolders(str(tmp_path), 0)
    assert folders.read_short_lines(TaskNamespaces(10, 4, 5, 1, 7, 22 * 10_000_000, 0, 6, 7), "comm", 9) == (
        b"a\n",
        True,
    )
