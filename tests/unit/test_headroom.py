"""Memory limits: of a setting against this process' memory, and of a cgroup by files of a fixture tree."""

import os
from pathlib import Path

import pytest

from kpod_metrics.headroom import (
    CGROUP_BYTES,
    FIRST_BYTES,
    RESUME,
    RESUME_OPEN,
    STOP,
    STOP_OPEN,
    Headroom,
    own_cgroup,
)
from kpod_metrics.limits import Room

MIB = 1 << 20


def make(directory: Path, own: bool = False, **files: object) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "cgroup.procs").write_text(f"{os.getpid()}\n" if own else "")
    for name, content in files.items():
        (directory / name.replace("_", ".", 1)).write_text(f"{content}\n")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    make(tmp_path)
    make(tmp_path / "pod", memory_max=200 * MIB, memory_current=90 * MIB, memory_stat="inactive_file 0")
    make(tmp_path / "pod/agent", True, memory_max=100 * MIB, memory_current=50 * MIB, memory_stat="inactive_file 0")
    return tmp_path


def test_own_cgroup_is_found(tree: Path) -> None:
    assert own_cgroup(str(tree)) == "/pod/agent"
    (tree / "pod/agent/cgroup.procs").write_text("")
    assert own_cgroup(str(tree)) == ""
    assert own_cgroup(str(tree / "none")) == ""


def test_looking_for_the_own_cgroup_leaves_nothing_open(tree: Path) -> None:
    before = os.listdir("/proc/self/fd")
    own_cgroup(str(tree))
    assert os.listdir("/proc/self/fd") == before


def is_low(headroom: Headroom, needed: int = 0) -> bool:
    """Look, and return whether there is no memory for new owners."""
    return headroom.look(needed) is Room.NONE


def use(tree: Path, of: str, amount: int, cached: int = 0) -> None:
    (tree / of / "memory.current").write_text(f"{amount}\n")
    (tree / of / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")


def test_limit_of_the_own_cgroup(tree: Path) -> None:
    headroom = Headroom(0, str(tree))
    headroom.open()
    assert (headroom.limit, headroom.used, headroom.low) == (100 * MIB, 50 * MIB, False)
    use(tree, "pod/agent", round(STOP * 100) * MIB)
    assert not is_low(headroom)
    use(tree, "pod/agent", round(STOP * 100) * MIB + 1)
    assert is_low(headroom)
    # It holds until there is some room again.
    use(tree, "pod/agent", round(RESUME * 100) * MIB + 1)
    assert is_low(headroom)
    use(tree, "pod/agent", round(RESUME * 100) * MIB)
    assert not is_low(headroom)


def test_more_than_the_resuming_share_is_no_reason_to_begin_with(tree: Path) -> None:
    use(tree, "pod/agent", round(RESUME * 100) * MIB + 1)
    headroom = Headroom(0, str(tree))
    headroom.open()
    assert not headroom.low


def test_what_cannot_be_read_changes_nothing(tree: Path) -> None:
    """Out of descriptors, say: what was known holds, of each file."""
    headroom = Headroom(0, str(tree))
    headroom.open()
    use(tree, "pod/agent", 90 * MIB)
    assert is_low(headroom)
    current = tree / "pod/agent/memory.current"
    current.unlink()
    current.mkdir()
    assert is_low(headroom)
    current.rmdir()
    use(tree, "pod/agent", 0)
    (tree / "pod/agent/memory.max").unlink()
    (tree / "pod/agent/memory.max").mkdir()
    # That of the other cgroup is known still.
    assert not is_low(headroom)
    assert (headroom.limit, headroom.used) == (200 * MIB, 90 * MIB)


def test_cgroup_that_does_not_tell_what_it_uses(tree: Path) -> None:
    headroom = Headroom(0, str(tree))
    headroom.open()
    (tree / "pod/agent/memory.stat").write_text("anon 1\n")
    headroom.look(0)
    assert headroom.used == 50 * MIB
    (tree / "pod/agent/memory.current").unlink()
    headroom.look(0)
    assert headroom.used == 0


def test_page_cache_is_not_in_the_way(tree: Path) -> None:
    headroom = Headroom(0, str(tree))
    headroom.open()
    use(tree, "pod/agent", 100 * MIB, cached=40 * MIB)
    assert not is_low(headroom)
    assert headroom.used == 60 * MIB


def test_the_least_limit_above_holds_and_is_followed(tree: Path) -> None:
    headroom = Headroom(0, str(tree))
    headroom.open()
    (tree / "pod/memory.max").write_text(f"{95 * MIB}\n")
    assert is_low(headroom)
    assert (headroom.limit, headroom.used) == (95 * MIB, 90 * MIB)
    for of in ("pod", "pod/agent"):
        (tree / of / "memory.max").write_text("max\n")
    assert headroom.look(0) is Room.ALL
    assert (headroom.limit, headroom.low) == (0, False)


def test_series_that_were_not_written_yet_count(tree: Path) -> None:
    headroom = Headroom(0, str(tree))
    headroom.open()
    room = (round(STOP * 100) - 50) * MIB - FIRST_BYTES
    assert not is_low(headroom, room)
    assert is_low(headroom, room + 1)
    # To the byte: as much as there is room for is not too much.
    headroom = Headroom(0, str(tree))
    headroom.open()
    headroom.cgroups = 2
    assert not is_low(headroom, 35 * MIB - FIRST_BYTES - 2 * CGROUP_BYTES)
    headroom = Headroom(0, str(tree))
    headroom.open()
    headroom.cgroups = 1 + ((round(STOP * 100) - 50) * MIB - FIRST_BYTES) // CGROUP_BYTES
    assert is_low(headroom)


def test_limit_of_the_setting_is_held_against_resident_memory(tree: Path) -> None:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    headroom = Headroom(4 * resident, str(tree))
    headroom.open()
    assert not headroom.low
    assert headroom.used == pytest.approx(resident, rel=0.2)
    assert is_low(Headroom(resident // 2))


@pytest.mark.parametrize(("limit", "root"), [(MIB, "/somewhere"), (0, "")])
def test_tree_is_walked_only_for_its_limits(limit: int, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpod_metrics.headroom.own_cgroup", None)
    Headroom(limit, root).open()


def test_without_a_limit_there_is_room() -> None:
    headroom = Headroom()
    assert (headroom.limit, headroom.used) == (0, 0)
    headroom.open()
    assert not is_low(headroom, 1 << 40)


def test_memory_of_series_that_ended_is_used_again(tree: Path) -> None:
    """It stays resident: the C library cannot give back what lies between what is used."""
    headroom = Headroom(0, str(tree))
    headroom.open()
    use(tree, "pod/agent", 90 * MIB)
    assert is_low(headroom, 12_000_000)
    assert is_low(headroom, 11_400_000)
    assert not is_low(headroom, 10_200_000)


def test_what_pods_decide_is_stopped_first(tree: Path) -> None:
    headroom = Headroom(0, str(tree))
    headroom.open()
    for used, room in (
        (100 * STOP_OPEN, Room.ALL),
        (100 * STOP_OPEN + 1, Room.LITTLE),
        (100 * STOP, Room.LITTLE),
        (100 * STOP + 1, Room.NONE),
        (100 * RESUME + 1, Room.NONE),
        (100 * RESUME, Room.LITTLE),
        (100 * RESUME_OPEN + 1, Room.LITTLE),
        (100 * RESUME_OPEN, Room.ALL),
    ):
        use(tree, "pod/agent", round(used) * MIB)
        assert headroom.look(0) is room
        assert headroom.low == (room is Room.NONE)
