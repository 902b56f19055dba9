"""Tables of mounts that are long, many, or changed in every cycle."""

from collections import Counter
from pathlib import Path

import pytest

from kpod_metrics.collectors.parts.mount_tables import CYCLE_BYTES, TABLE_BYTES, MountTables, Root
from kpod_metrics.pods.model import Group, Identity

ONE = Group(1, "", (), Identity("test", "one", "a"))
TWO = Group(2, "", (), Identity("test", "two", "a"))
ROOT = "0 0 8:0 / / rw - ext4 none rw\n"


def table(size: int, first: int = 1) -> str:
    """A table of about this size; its devices are 8:0 and 8:FIRST, 8:FIRST + 1, ..."""
    line = "{0} 0 8:{0} / /folder/{0} rw - ext4 none rw,padding-of-a-real-line-padding-of-a-real-line\n"
    return ROOT + "".join(line.format(first + at) for at in range(1 + size // len(line.format(10_000))))


class Tables:
    """Tables of one machine; each process is in its own namespace, of the same number."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.exceeded: Counter[tuple[int, str]] = Counter()
        self.namespaces: dict[int, int] = {}
        self.tables = MountTables(str(proc), self._exceed, lambda thread: self.namespaces.get(thread, thread))

    def _exceed(self, owner: int, limit: str) -> None:
        self.exceeded[owner, limit] += 1

    def write(self, thread: int, content: str) -> None:
        (self.proc / str(thread)).mkdir(exist_ok=True)
        (self.proc / str(thread) / "mountinfo").write_text(content)

    def read(self, thread: int, changes: int | None, group: Group = ONE) -> list[str] | None:
        systems = self.tables.systems(Root(thread, "/"), thread, changes, group)
        return None if systems is None else [system.device for system in systems]

    def cycle(self, thread: int, changes: int | None, group: Group = ONE) -> list[str] | None:
        self.tables.begin()
        return self.read(thread, changes, group)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def test_a_change_is_read_at_once(tables: Tables) -> None:
    for changes in range(10):
        tables.write(10, table(CYCLE_BYTES // 2, changes + 1))
        assert (tables.cycle(10, changes) or [])[:2] == ["8:0", f"8:{changes + 1}"]
    tables.write(10, ROOT)
    assert (tables.cycle(10, 9) or [])[:2] == ["8:0", "8:10"], "the kernel reports no change"
    assert tables.cycle(10, None) == ["8:0"]
    assert not tables.exceeded


@pytest.mark.parametrize("changing", [True, False], ids=["the kernel reports changes", "it does not"])
def test_a_pod_with_a_long_table_is_read_less_often(tables: Tables, *, changing: bool) -> None:
    read = []
    for cycle in range(1, 12):
        tables.write(10, table(4 * CYCLE_BYTES, cycle))
        read.append((tables.cycle(10, cycle if changing else None) or [])[1])
        tables.write(20, table(0, cycle))
        assert tables.read(20, cycle, TWO) == ["8:0", f"8:{cycle}"]
    assert read == ["8:1"] * 4 + ["8:5"] * 4 + ["8:9"] * 3
    assert tables.exceeded == ({(1, "mountinfo"): 8} if changing else {})


def test_containers_of_a_pod_are_all_read_in_one_cycle(tables: Tables) -> None:
    for thread in range(10, 14):
        tables.write(thread, table(CYCLE_BYTES))
    tables.tables.begin()
    assert all(tables.read(thread, 1) for thread in range(10, 14))
    tables.tables.begin()
    assert all(tables.read(thread, 1) for thread in range(10, 14))
    assert not tables.exceeded


def test_what_is_over_the_limit_is_not_read(tables: Tables) -> None:
    tables.write(10, table(4 * TABLE_BYTES))
    found = tables.cycle(10, 1)
    assert found is not None
    size = sum(len(line) for line in table(4 * TABLE_BYTES).splitlines(keepends=True)[: len(found)])
    assert TABLE_BYTES - 110 < size <= TABLE_BYTES
    assert found[:3] == ["8:0", "8:1", "8:2"]
    assert tables.exceeded == {(1, "mountinfo"): 1}
    assert tables.cycle(10, 1) == found
    assert tables.exceeded == {(1, "mountinfo"): 1}


def test_tables_of_one_pod_have_the_limit_together(tables: Tables) -> None:
    """One that is in use already cannot add to a new one either."""
    for thread in (10, 11, 12):
        tables.write(thread, table(TABLE_BYTES * 2 // 3))
    tables.tables.begin()
    whole, part, rest = tables.read(10, 1), tables.read(11, 1), tables.read(12, 1)
    assert whole is not None
    assert part is not None
    assert rest == ["8:0"]
    assert 0.4 * len(whole) < len(part) < 0.6 * len(whole)
    assert tables.exceeded == {(1, "mountinfo"): 2}
    tables.tables.begin()
    assert tables.read(11, 1) == part
    assert tables.read(12, 1) == rest
    assert tables.cycle(20, 1, TWO) == []
    for _ in range(20):
        tables.tables.begin()
    assert tables.read(11, 2) == whole
    assert tables.read(10, 2) == part
    tables.tables.begin()
    assert tables.read(10, 2) == part
    assert tables.read(11, 2) == whole
    for _ in range(20):
        assert tables.cycle(11, 2) == whole
    tables.tables.begin()
    assert tables.read(12, 1) == whole
    assert tables.read(11, 2) == part


def test_process_that_ended_and_whose_number_another_has(tables: Tables) -> None:
    tables.write(10, ROOT)
    tables.namespaces[10] = 999
    with pytest.raises(ProcessLookupError, match="another one has its number"):
        tables.cycle(10, 1)
    del tables.namespaces[10]
    assert tables.cycle(10, 1) == ["8:0"]
