from pathlib import Path

import pytest

from kpod_metrics.collectors.memory import Memory
from tests.unit.collectors.cycles import Cycles, Tree, write

STAT = "anon 100\nfile {}\nkernel 5\ninactive_file 77\nfile_mapped 9\npgmajfault 3\n"
NO_SWAP = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
SWAP = NO_SWAP + "/dev/zram0                              partition\t1048572\t\t0\t\t100\n"


def whole(usage: int, peak: int, cache: int, swap: int) -> dict[str, str]:
    return {
        "memory__current": f"{usage}\n",
        "memory__peak": f"{peak}\n",
        "memory__stat": STAT.format(cache),
        "memory__swap__current": f"{swap}\n",
    }


def test_gauges_are_the_files_in_every_cycle(tree: Tree) -> None:
    (tree.proc / "swaps").write_text(SWAP)
    group, cycles = tree.group("a", 7), Cycles(Memory(tree.environment))
    for usage in (4096, 8192, 2048):
        write(Path(group.path), **whole(usage, 9000, 512, 64))
        assert cycles.run(group).exported() == {
            "mem_cgroup_usage_bytes": usage,
            "mem_cgroup_peak_bytes": 9000,
            "mem_cgroup_cache_bytes": 512,
            "mem_cgroup_swap_bytes": 64,
        }


@pytest.mark.parametrize("swaps", [NO_SWAP, "", None])
def test_swap_needs_a_device(tree: Tree, swaps: str | None) -> None:
    if swaps is not None:
        (tree.proc / "swaps").write_text(swaps)
    group, cycles = tree.group("a", 7), Cycles(Memory(tree.environment))
    write(Path(group.path), **whole(1, 2, 3, 4))
    assert "mem_cgroup_swap_bytes" not in cycles.run(group).exported()


@pytest.mark.parametrize(("content", "limit"), [("max\n", None), ("", None), ("67108864\n", 67108864), ("0\n", 0)])
def test_limit_where_there_is_one(tree: Tree, content: str, limit: int | None) -> None:
    group, cycles = tree.group("a", 7), Cycles(Memory(tree.environment))
    write(Path(group.path), **whole(1, 2, 3, 4), memory__max=content)
    assert cycles.run(group).exported().get("mem_cgroup_limit_bytes") == limit


def test_limit_follows_a_resize(tree: Tree) -> None:
    group, cycles = tree.group("a", 7), Cycles(Memory(tree.environment))
    for content, limit in (("4096\n", 4096), ("8192\n", 8192), ("max\n", None)):
        write(Path(group.path), **whole(1, 2, 3, 4), memory__max=content)
        assert cycles.run(group).exported().get("mem_cgroup_limit_bytes") == limit


def test_older_kernel(tree: Tree) -> None:
    """5.10: no memory.peak."""
    group, cycles = tree.group("a", 7), Cycles(Memory(tree.environment))
    write(Path(group.path), memory__current="4096\n", memory__stat="anon 1\nfile 512\n")
    cycles.run(group)
    assert cycles.exported() == {"mem_cgroup_usage_bytes": 4096, "mem_cgroup_cache_bytes": 512}


def test_odd_content(tree: Tree) -> None:
    group, cycles = tree.group("a", 7), Cycles(Memory(tree.environment))
    write(Path(group.path), memory__current="1\n", memory__peak="", memory__stat="file")
    assert cycles.run(group).exported() == {"mem_cgroup_usage_bytes": 1}


def test_without_the_controller_there_are_no_rows(tree: Tree) -> None:
    assert list(Memory(tree.environment).collect([tree.group("a", 7)])) == []
