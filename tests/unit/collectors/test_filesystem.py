import errno
import os
import threading
from collections.abc import Callable

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kpod_metrics.cgroup.processes import MAX_PROBED
from kpod_metrics.collectors.filesystem import MAX_FILE_SYSTEMS, Filesystem
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.errors import UnavailableError
from kpod_metrics.exposition.page import Renderer
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import OPENMETRICS, TEXT
from kpod_metrics.kernel import openat2
from tests import client_model
from tests.unit.collectors.cycles import POD, Cycles, Tree, refuse
from tests.unit.kernel.mounts import mount_of

OTHER = POD._replace(pod="cart-1")
ROOT = "500 400 0:50 / / rw,relatime - overlay overlay rw\n"
HOSTS = "501 500 254:1 /pods/x/hosts /etc/hosts rw - ext4 /dev/vda1 rw\n"
NAMES = "502 500 254:1 /pods/x/hostname /etc/name rw - ext4 /dev/vda1 rw\n"
DATA = "503 500 254:1 /pods/x/data /var/lib/data rw - ext4 /dev/vda1 rw\n"
SHARE = "504 500 0:45 / /share rw - nfs4 server:/share rw\n"


def size(blocks: int, free: int, available: int, unit: int = 1024) -> os.statvfs_result:
    return os.statvfs_result((4096, unit, blocks, free, available, 0, 0, 0, 0, 255))


class Disks:
    """Answers by mount point, and keeps what was asked."""

    def __init__(self, answers: dict[str, os.statvfs_result | OSError]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def statvfs(self, root: str, point: str, mount: int, reached: Callable[[str], object]) -> os.statvfs_result:
        self.asked.append(root + point)
        answer = self.answers[point]
        if isinstance(answer, OSError):
            raise answer
        return answer

    def took(self) -> list[str]:
        """Return the paths asked since the last time, as /proc/PID/root has them."""
        asked, self.asked = self.asked, []
        return [path.split("/proc/", 1)[1] for path in asked]


def seen_by(pid: int, path: str) -> str:
    """A path of a process' root directory, below /proc (proc_pid_root(5))."""
    return f"{pid}/root{path}"


def process(tree: Tree, pid: int, mountinfo: str, namespace: int = 4026532385, root: str = "/") -> None:
    path = tree.process(pid)
    os.symlink(f"mnt:[{namespace}]", path / "ns/mnt")
    os.symlink(root, path / "root")
    (path / "mountinfo").write_bytes(mountinfo.encode(errors="surrogateescape"))


Opened = Callable[[Environment, Disks], Filesystem]


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Opened:
    def make(environment: Environment, disks: Disks) -> Filesystem:
        collector = Filesystem(environment, statvfs=disks.statvfs)
        request.addfinalizer(collector.close)
        return collector

    return make


def test_sizes_in_every_cycle(tree: Tree, opened: Opened) -> None:
    process(tree, 10, ROOT + DATA)
    disks = Disks({"/": size(1000, 400, 300), "/var/lib/data": size(10, 10, 9, unit=4096)})
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(opened(tree.environment, disks))
    for free in (400, 350):
        disks.answers["/"] = size(1000, free, 300)
        assert cycles.run(group).exported() == {
            "fs_capacity_bytes /": 1000 * 1024,
            "fs_usage_bytes /": (1000 - free) * 1024,
            "fs_available_bytes /": 300 * 1024,
            "fs_capacity_bytes /var/lib/data": 10 * 4096,
            "fs_usage_bytes /var/lib/data": 0,
            "fs_available_bytes /var/lib/data": 9 * 4096,
        }
        assert sorted(disks.took()) == [seen_by(10, "/"), seen_by(10, "/var/lib/data")]


def test_single_files_are_left_out_and_asked_about_once(tree: Tree, opened: Opened) -> None:
    process(tree, 10, ROOT + HOSTS + NAMES + DATA)
    file = NotADirectoryError(20, "Not a directory")
    disks = Disks(
        {"/": size(1, 0, 0), "/etc/hosts": file, "/etc/name": file, "/var/lib/data": size(10, 5, 5)},
    )
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(opened(tree.environment, disks))
    for asked in (4, 2, 2):
        exported = cycles.run(group).exported()
        assert {name for name in exported if "capacity" in name} == {
            "fs_capacity_bytes /",
            "fs_capacity_bytes /var/lib/data",
        }
        assert len(disks.took()) == asked


def test_device_of_which_only_files_are_mounted(tree: Tree, opened: Opened) -> None:
    process(tree, 10, ROOT + HOSTS + NAMES)
    file = NotADirectoryError(20, "Not a directory")
    disks = Disks({"/": size(1, 0, 0), "/etc/hosts": file, "/etc/name": file})
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(opened(tree.environment, disks))
    for asked in (3, 1):
        assert len(cycles.run(group).exported()) == 3
        assert len(disks.took()) == asked


def test_pod_with_the_hosts_root_has_no_file_systems_of_other_pods(tree: Tree, opened: Opened) -> None:
    volume = "/var/lib/kubelet/pods/b/volumes/kubernetes.io~csi/data/mount"
    host = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    process(tree, 1, f"{host}21 20 9:1 / {volume} rw - ext4 /dev/rbd1 rw\n", namespace=4026531841)
    process(
        tree,
        10,
        f"{ROOT}502 500 8:1 / /host rw - ext4 /dev/sda1 rw\n503 502 9:1 / /host{volume} rw - ext4 /dev/rbd1 rw\n",
    )
    disks = Disks({"/": size(1000, 400, 300), "/host": size(1, 1, 1), f"/host{volume}": size(2, 1, 1)})
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(opened(tree.environment, disks))
    for _ in range(2):
        exported = cycles.run(group).exported()
        assert {name for name in exported if "capacity" in name} == {"fs_capacity_bytes /", "fs_capacity_bytes /host"}


def test_processes_that_are_skipped_are_counted(tree: Tree, opened: Opened) -> None:
    pids = list(range(10, 10 + MAX_PROBED + 3))
    for pid in pids:
        process(tree, pid, ROOT)
    collector = opened(tree.environment, Disks({"/": size(1, 0, 0)}))
    group, cycles = tree.group("a", 7, pids=pids), Cycles(collector)
    for cycle in (1, 2):
        cycles.run(group)
        assert collector.skipped_processes == 3 * cycle


def test_new_mount_is_seen(tree: Tree, opened: Opened) -> None:
    process(tree, 10, ROOT)
    disks = Disks({"/": size(1, 0, 0), "/share": size(8, 4, 4)})
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(opened(tree.environment, disks))
    assert "fs_usage_bytes /share" not in cycles.run(group).exported()
    (tree.proc / "10/mountinfo").write_text(ROOT + SHARE)
    assert cycles.run(group).exported()["fs_usage_bytes /share"] == 4096
    (tree.proc / "10/mountinfo").write_text(ROOT)
    assert "fs_usage_bytes /share" not in cycles.run(group).exported()


def test_groups_that_share_a_namespace_are_read_and_asked_once(
    tree: Tree, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid in (10, 11, 20):
        process(tree, pid, ROOT)
    refuse(monkeypatch, "/11/mountinfo")
    refuse(monkeypatch, "/20/mountinfo")
    disks = Disks({"/": size(10, 5, 5)})
    cycles = Cycles(opened(tree.environment, disks))
    cycles.run(tree.group("a", 7, pids=[10, 11]), tree.group("b", 8, OTHER, pids=[20]))
    assert cycles.exported(POD) == cycles.exported(OTHER) != {}
    assert len(disks.took()) == 1


def test_cgroups_of_one_container_do_not_add_up_a_file_system(tree: Tree, opened: Opened) -> None:
    for pid in (10, 20):
        process(tree, pid, ROOT)
    cycles = Cycles(opened(tree.environment, Disks({"/": size(10, 5, 5)})))
    cycles.run(tree.group("a", 7, pids=[10]), tree.group("b", 8, pids=[20]))
    assert cycles.exported()["fs_capacity_bytes /"] == 10 * 1024


def test_mount_namespaces_of_one_container(tree: Tree, opened: Opened) -> None:
    """What is mounted in either is there; a device of both is there once, as the first has it."""
    process(tree, 10, ROOT, namespace=1)
    process(tree, 11, ROOT.replace(" / / ", " / /elsewhere ") + SHARE.replace(" 500 ", " 400 "), namespace=2)
    disks = Disks({"/": size(1, 0, 0), "/elsewhere": size(1, 0, 0), "/share": size(8, 4, 4)})
    exported = Cycles(opened(tree.environment, disks)).run(tree.group("a", 7, pids=[10, 11])).exported()
    assert {name for name in exported if "capacity" in name} == {"fs_capacity_bytes /", "fs_capacity_bytes /share"}


def test_roots_of_one_namespace(tree: Tree, opened: Opened) -> None:
    """Two pods whose processes have other root directories see other paths."""
    process(tree, 10, ROOT)
    process(tree, 20, SHARE.replace("/share", "/"), root="/share")
    disks = Disks({"/": size(1, 0, 0)})
    cycles = Cycles(opened(tree.environment, disks))
    cycles.run(tree.group("a", 7, pids=[10]), tree.group("b", 8, OTHER, pids=[20]))
    assert len(disks.took()) == 2


def test_what_has_no_size_or_fails_is_left_out(tree: Tree, opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    process(tree, 10, ROOT + DATA + SHARE)
    stale = OSError(116, "Stale file handle")
    disks = Disks({"/": size(10, 5, 5), "/var/lib/data": size(0, 0, 0), "/share": stale})
    group, cycles = tree.group("a", 7, pids=[10]), Cycles(opened(tree.environment, disks))
    for _ in range(3):
        assert len(cycles.run(group).exported()) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"file system 0:45 at {tree.proc}/{seen_by(10, '/share')} is skipped: [Errno 116] Stale file handle"
    ]
    disks.answers["/share"] = size(8, 4, 4)
    assert cycles.run(group).exported()["fs_usage_bytes /share"] == 4096


def test_names_that_are_no_utf8_stay_apart(tree: Tree, opened: Opened) -> None:
    names = ["/l\udcff", "/l\udcfe", "/l\\134xff"]
    lines = [f"{600 + at} 500 8:{at} / {name} rw - ext4 /dev/sd rw\n" for at, name in enumerate(names)]
    process(tree, 10, ROOT + "".join(lines))
    sizes = {name.replace("\\134", "\\"): size(at + 1, 0, 0) for at, name in enumerate(names)}
    disks = Disks({"/": size(10, 5, 5), **sizes})
    cycles = Cycles(opened(tree.environment, disks))
    cycles.run(tree.group("a", 7, pids=[10]))
    page = Renderer({}).render(cycles.store)
    expected = {"/": 10.0, r"/l\xff": 1.0, r"/l\xfe": 2.0, r"/l\x5cxff": 3.0}
    from_text, from_openmetrics = b"".join(page.pieces(TEXT)).decode(), b"".join(page.pieces(OPENMETRICS)).decode()
    for families in (parse_text(from_text), parse_openmetrics(from_openmetrics)):  # type: ignore[no-untyped-call]
        samples = [one for family in families for one in family.samples if one.name == "kpod_fs_capacity_bytes"]
        assert {one.labels["mountpoint"]: one.value / 1024 for one in samples} == expected
    [family] = [f for f in client_model.decode(b"".join(page.pieces(PROTOBUF))) if f.name == "kpod_fs_capacity_bytes"]
    labels = [{pair.name: pair.value for pair in metric.label} for metric in family.metric]
    assert {one["mountpoint"] for one in labels} == expected.keys()


def real(tree: Tree, pid: int, *mounts: str) -> None:
    """A process whose root directory is that of the fixture, where each mount is the one that the fixture is on."""
    number = str(mount_of(tree.root))
    lines = "".join(mounts).replace("500 400 ", f"{number} 400 ").replace(" 500 ", f" {number} ")
    process(tree, pid, lines, root=str(tree.root))


def skipped(collector: Filesystem) -> dict[str, int]:
    """What is counted, but for 0."""
    return {reason: number for reason, number in collector.skipped_mounts().items() if number}


def test_paths_that_cannot_be_one(tree: Tree) -> None:
    real(tree, 10, ROOT, SHARE.replace("/share", "/\\000"))
    collector = Filesystem(tree.environment)
    try:
        assert [row.labels for row in collector.collect([tree.group("a", 7, pids=[10])])] == [("/",)]
        assert skipped(collector) == {"refused": 1}
    finally:
        collector.close()


def test_mount_point_whose_path_leads_elsewhere(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    """Each is skipped and counted, and the table of mounts is read again: the path of a mount may have changed."""
    for name, target in {"link": "/", "up": "../../..", "magic": "/proc/self/root"}.items():
        (tree.root / name).symlink_to(target)
        (tree.root / f"{name}s").symlink_to(target)
    (tree.root / "other/x").mkdir(parents=True)
    points = ["/link", "/up", "/magic", "/links/proc", "/ups/proc", "/magics/proc"]
    points += ["/other/x", "/none/x", "/a/hosts/x"]
    (tree.root / "a").mkdir()
    (tree.root / "a/hosts").touch()
    lines = [f"{600 + at} 500 8:{at} / {point} rw - ext4 /dev/sd rw\n" for at, point in enumerate(points)]
    real(tree, 10, ROOT, *lines)
    collector = Filesystem(tree.environment)
    try:
        assert [row.labels for row in collector.collect([tree.group("a", 7, pids=[10])])] == [("/",)]
        assert skipped(collector) == {"symlink": 6, "replaced": 3}
        (tree.proc / "10/mountinfo").write_text("")
        assert not collector.collect([tree.group("a", 7, pids=[10])])
        assert skipped(collector) == {"symlink": 6, "replaced": 3}
    finally:
        collector.close()
    assert not caplog.records


def test_mount_that_hangs_is_counted(tree: Tree) -> None:
    """Behind it another waits, once: its series stay."""
    process(tree, 10, ROOT + SHARE + DATA)
    there = Disks({"/": size(10, 5, 5), "/share": size(1, 1, 1), "/var/lib/data": size(3, 2, 1)})
    goes_on = threading.Event()

    def hang(root: str, point: str, mount: int, reached: Callable[[str], object]) -> os.statvfs_result:
        if point == "/share":
            goes_on.wait()
        return there.statvfs(root, point, mount, reached)

    collector = Filesystem(tree.environment, statvfs=hang, timeout=0.2)
    group = tree.group("a", 7, pids=[10])
    try:
        assert [row.labels for row in collector.collect([group])] == [("/",)]
        assert skipped(collector) == {"hung": 2}
        assert collector.unread == {7}
        for cycle in (1, 2):
            assert [row.labels for row in collector.collect([group])] == [("/",), ("/var/lib/data",)]
            assert skipped(collector) == {"hung": 2 + cycle}
            assert collector.unread == set()
    finally:
        goes_on.set()
        collector.close()
    [row] = tree.environment.exceeded.rows()
    assert (row.owner, row.labels, row.values) == (7, ("hung_mounts",), (4,))


def test_only_so_many_file_systems_of_a_pod(tree: Tree, opened: Opened) -> None:
    """Over all of its containers; another pod has all of its own."""
    lines = [f"{600 + at} 500 8:{at} / /{at} rw - ext4 /dev/sd rw\n" for at in range(MAX_FILE_SYSTEMS)]
    process(tree, 10, ROOT + "".join(lines[:100]), namespace=1)
    process(tree, 11, ROOT + "".join(lines), namespace=2)
    process(tree, 12, ROOT + "".join(lines[:5]), namespace=3)
    disks = Disks({"/": size(1, 0, 0), **{f"/{at}": size(1, 0, 0) for at in range(MAX_FILE_SYSTEMS)}})
    collector = opened(tree.environment, disks)
    sidecar = POD._replace(container="sidecar")
    groups = [tree.group("a", 7, pids=[10]), tree.group("b", 8, sidecar, pids=[11])]
    groups.append(tree.group("c", 9, OTHER, pids=[12]))
    rows = list(collector.collect(groups))
    assert [sum(row.owner == group.id for row in rows) for group in groups] == [101, MAX_FILE_SYSTEMS - 101, 6]
    [row] = tree.environment.exceeded.rows()
    assert (row.owner, row.labels, row.values) == (8, ("file_systems",), (1,))


def test_off_where_paths_cannot_be_looked_up_safely(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(root: int, path: str) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(openat2, "open_below", refused)
    with pytest.raises(UnavailableError, match=r"^EPERM: openat2\(\) is refused, by a seccomp profile"):
        Filesystem(tree.environment).open()


def test_processes_that_are_gone(tree: Tree, opened: Opened) -> None:
    process(tree, 10, "")
    collector = opened(tree.environment, Disks({}))
    assert collector.collect([tree.group("a", 7, pids=[99]), tree.group("b", 8, pids=[10]), tree.group("c", 9)]) == []


def test_collector_fails_if_it_may_look_at_nobody(tree: Tree, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    process(tree, 10, ROOT)
    refuse(monkeypatch, "mountinfo")
    with pytest.raises(PermissionError, match="10/mountinfo"):
        opened(tree.environment, Disks({})).collect([tree.group("a", 7, pids=[10]), tree.group("c", 9)])
