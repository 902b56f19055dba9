import errno
from pathlib import Path

import pytest

from kpod_metrics.cgroup.processes import MAX_PROBED, alive, distinct, others_are_hidden

NO_PROC = "/nothing is here"


def test_first_process_of_each() -> None:
    assert distinct((5, 6, 7, 8), {5: "a", 6: "b", 7: "a", 8: "c"}.__getitem__, NO_PROC) == {"a": 5, "b": 6, "c": 8}


def test_only_the_first_few_are_looked_at() -> None:
    looked_at: list[int] = []
    distinct(range(10_000), looked_at.append, NO_PROC)
    assert looked_at == list(range(MAX_PROBED))


def _fails(failures: dict[int, int]) -> dict[str, int]:
    def of(pid: int) -> str:
        if pid in failures:
            raise OSError(failures[pid], "")
        return "a"

    return distinct((1, 2), of, NO_PROC)


def test_processes_that_are_gone_are_left_out() -> None:
    assert _fails({1: errno.ENOENT}) == {"a": 2}
    assert _fails({1: errno.ENOENT, 2: errno.ESRCH}) == {}


def test_refusal_is_raised_if_nothing_is_known() -> None:
    assert _fails({1: errno.EACCES}) == {"a": 2}
    with pytest.raises(PermissionError):
        _fails({1: errno.EACCES, 2: errno.ENOENT})


@pytest.mark.parametrize("ended", [{5}, {5, 6}, {5, 6, 7}])
def test_another_thread_stands_in_for_a_main_thread_that_ended(tmp_path: Path, ended: set[int]) -> None:
    """As with pthread_exit() in main: its folder stays, and what is below it is the ended thread's."""
    for thread in (5, 6, 7):
        (tmp_path / "5/task" / str(thread)).mkdir(parents=True)
        if thread not in ended:
            (tmp_path / str(thread)).mkdir(exist_ok=True)
            (tmp_path / str(thread) / "root").symlink_to("/")

    def of(thread: int) -> str:
        if thread in ended:
            raise OSError(errno.ENOENT, "")
        return "a"

    first = next(iter(sorted({6, 7} - ended)), None)
    assert distinct((5,), of, str(tmp_path)) == ({} if first is None else {"a": first})
    if first is not None:
        assert alive(str(tmp_path), 5) == first
    else:
        with pytest.raises(FileNotFoundError):
            alive(str(tmp_path), 5)


@pytest.mark.parametrize(
    ("members", "hidden"),
    [
        ({"": "0\n0\n", "a": "0\n", "a/own": "7\n9\n"}, True),
        ({"": "1\n2\n", "a": "", "a/own": "7\n"}, False),
        ({"": "0\n", "a": "8\n", "a/own": "7\n"}, False),
        ({"": "", "a": "", "a/own": "7\n"}, False),
    ],
    ids=["container", "host", "sees some", "alone"],
)
def test_processes_in_another_namespace(tmp_path: Path, members: dict[str, str], hidden: bool) -> None:
    for path, pids in members.items():
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "cgroup.procs").write_text(pids)
    (tmp_path / "a" / "threaded").mkdir()
    assert others_are_hidden(str(tmp_path), own=7) is hidden
