import os
from pathlib import Path

from kpod_metrics.collectors.disk import Disk
from tests.unit.collectors.cycles import Cycles, Tree, write

LINE = "{} rbytes={} wbytes={} rios={} wios={} dbytes=0 dios=0\n"


def device(tree: Tree, number: str, target: str) -> None:
    links = tree.sys / "dev/block"
    links.mkdir(parents=True, exist_ok=True)
    (links / number).unlink(missing_ok=True)
    os.symlink(f"../../devices/{target}", links / number)


def test_two_cycles(tree: Tree) -> None:
    device(tree, "254:0", "pci0000:00/0000:00:02.0/virtio1/block/vda")
    group, cycles = tree.group("a", 7), Cycles(Disk(tree.environment))
    write(Path(group.path), io__stat=LINE.format("254:0", 4096, 8192, 1, 2))
    assert cycles.run(group).exported() == {
        "disk_read_bytes_total vda": 4096,
        "disk_written_bytes_total vda": 8192,
        "disk_reads_total vda": 1,
        "disk_writes_total vda": 2,
    }
    write(Path(group.path), io__stat=LINE.format("254:0", 4096 + 100, 8192 + 20, 1 + 3, 2 + 4))
    assert cycles.run(group).exported() == {
        "disk_read_bytes_total vda": 4196,
        "disk_written_bytes_total vda": 8212,
        "disk_reads_total vda": 4,
        "disk_writes_total vda": 6,
    }


def test_cgroup_that_is_replaced_by_one_with_smaller_totals(tree: Tree) -> None:
    """The same id cannot come back, but the same device of another cgroup of the container can."""
    group, cycles = tree.group("a", 7), Cycles(Disk(tree.environment))
    write(Path(group.path), io__stat=LINE.format("8:0", 1000, 1000, 10, 10))
    cycles.run(group)
    new = tree.group("b", 8)
    write(Path(new.path), io__stat=LINE.format("8:0", 30, 40, 1, 2))
    assert cycles.run(new).exported() == {
        "disk_read_bytes_total 8:0": 1030,
        "disk_written_bytes_total 8:0": 1040,
        "disk_reads_total 8:0": 11,
        "disk_writes_total 8:0": 12,
    }


def test_devices_without_statistics_do_not_appear(tree: Tree) -> None:
    group = tree.group("a", 7)
    stat = "7:0 \n7:1\n1:0 rbytes=0 wbytes=0 rios=0 wios=0 dbytes=0 dios=0\n8:0 rbytes=5\n" + LINE.format(
        "8:1", 0, 1, 0, 1
    )
    write(Path(group.path), io__stat=stat)
    assert {row.labels for row in Disk(tree.environment).collect([group])} == {("8:1",)}


def test_rows_of_one_name_are_no_devices(tree: Tree) -> None:
    """Paths of native NVMe multipath are all called so; one that goes and comes back is not counted again."""
    group, cycles = tree.group("a", 7), Cycles(Disk(tree.environment))
    disk, paths = LINE.format("259:0", 50, 60, 5, 6), [LINE.format("(unknown)", size, size, 1, 1) for size in (900, 10)]
    for listed in ([disk, *paths], [disk, paths[1]], [disk, paths[0]], [disk, *paths], [disk]):
        write(Path(group.path), io__stat="".join(listed))
        assert cycles.run(group).exported() == {
            "disk_read_bytes_total 259:0": 50,
            "disk_written_bytes_total 259:0": 60,
            "disk_reads_total 259:0": 5,
            "disk_writes_total 259:0": 6,
        }


def test_device_that_goes_and_comes_back_is_not_counted_again(tree: Tree) -> None:
    group, cycles = tree.group("a", 7), Cycles(Disk(tree.environment))
    other = LINE.format("8:16", 1, 1, 1, 1)
    seen = []
    for read in (100, None, None, 100, None, 130):
        listed = other if read is None else other + LINE.format("8:0", read, 0, 1, 0)
        write(Path(group.path), io__stat=listed)
        seen.append(cycles.run(group).exported()["disk_read_bytes_total 8:0"])
    assert seen == [100, 100, 100, 100, 100, 130]


def test_names(tree: Tree) -> None:
    device(tree, "254:0", "virtual/block/dm-0")
    device(tree, "104:0", "pci0000:00/block/cciss!c0d0")
    group = tree.group("a", 7)
    write(Path(group.path), io__stat="".join(LINE.format(number, 1, 1, 1, 1) for number in ("254:0", "104:0", "8:0")))
    assert [row.labels for row in Disk(tree.environment).collect([group])] == [("dm-0",), ("cciss/c0d0",), ("8:0",)]


def test_number_that_is_given_to_another_device(tree: Tree) -> None:
    device(tree, "8:0", "block/sda")
    group, cycles = tree.group("a", 7), Cycles(Disk(tree.environment))
    write(Path(group.path), io__stat=LINE.format("8:0", 100, 0, 1, 0))
    cycles.run(group)
    device(tree, "8:0", "block/sdb")
    write(Path(group.path), io__stat=LINE.format("8:0", 7, 0, 1, 0))
    exported = cycles.run(group).exported()
    assert exported["disk_read_bytes_total sda"] == 100
    assert exported["disk_read_bytes_total sdb"] == 7


def test_without_the_controller_there_are_no_rows(tree: Tree) -> None:
    assert list(Disk(tree.environment).collect([tree.group("a", 7)])) == []
