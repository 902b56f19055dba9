"""The file collectors against what this kernel tells of the same processes elsewhere.

Its cgroup v2 tree may lack the io, cpu and memory controllers; what needs those is tried on other kernels.
"""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from kpod_metrics.cgroup.keyed import lines_if_there, read_if_there
from kpod_metrics.cgroup.tree import Tree
from kpod_metrics.collectors.cpu import Cpu
from kpod_metrics.collectors.filesystem import Filesystem
from kpod_metrics.collectors.kit import Collector, Environment
from kpod_metrics.collectors.net_iface import TABLE as INTERFACES
from kpod_metrics.collectors.net_iface import NetIface
from kpod_metrics.collectors.parts import mount_tables
from kpod_metrics.collectors.parts.drm import Drm, _Share
from kpod_metrics.collectors.parts.mount_tables import CYCLE_BYTES, TABLE_BYTES
from kpod_metrics.collectors.parts.per_process import MAX_NAMESPACES
from kpod_metrics.collectors.parts.statvfs import STUCK_OF_A_POD
from kpod_metrics.collectors.pressure import TABLE as PRESSURE
from kpod_metrics.collectors.pressure import Pressure
from kpod_metrics.exposition.samples import shown
from kpod_metrics.features import TASK_ITERATOR
from kpod_metrics.headroom import own_cgroup
from kpod_metrics.kernel.openat2 import fstatvfs_below
from kpod_metrics.kernel.tasks import Tasks
from kpod_metrics.pods.model import Group, Identity
from kpod_metrics.store import Store
from tests.forced import needs
from tests.live.agents import eventually
from tests.live.harness import WORKLOADS, Cgroup, Totals, opened, proves
from tests.live.piped import NETWORK, Children, answer, piped

MakeCgroup = Callable[[str], Cgroup]


@pytest.fixture(params=["all processes at once", "each in /proc"])
def environment(request: pytest.FixtureRequest) -> Environment:
    """For collectors that look at processes: in both ways."""
    at_once = request.param == "all processes at once"
    return Environment(forced_off=frozenset() if at_once else frozenset({TASK_ITERATOR}))


SPIN = ("sh", "-c", "while :; do :; done")


def group(cgroup: Cgroup) -> Group:
    return Group(
        cgroup.id,
        str(cgroup.path),
        cgroup.pids,
        Identity("test", cgroup.path.name, ""),
    )


@proves("kpod_cpu_usage_seconds_total", within="2 ms")
def test_cpu_time_equals_schedstat(cgroup: MakeCgroup, children: Children) -> None:
    busy, idle = cgroup("busy"), cgroup("idle")
    children += [busy.start(*SPIN), idle.start("sleep", "1000")]

    def run_time() -> float:
        return int(Path(f"/proc/{children[0].pid}/schedstat").read_text().split()[0]) / 1e9

    with opened(Cpu(Environment())) as collector:
        totals = Totals(collector)
        before: tuple[float, ...] = ()
        for _ in range(3):
            enough = (before[0] if before else 0.0) + 0.3
            time.sleep(0.5)  # the other has started by then
            while run_time() < enough:
                time.sleep(0.05)
            children[0].send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            ran = run_time()
            totals.read([group(busy), group(idle)])
            used = totals.number(busy, "kpod_cpu_usage_seconds_total")
            # Its start, up to its move into the cgroup, is charged elsewhere: the same in both cycles.
            assert 0 <= ran - used < 0.2
            slept = totals.number(idle, "kpod_cpu_usage_seconds_total")
            if before:
                assert used - before[1] == pytest.approx(ran - before[0], abs=0.002)
                assert slept == before[2]
            before = ran, used, slept
            children[0].send_signal(signal.SIGCONT)


@proves(*(metric.name for metric in PRESSURE.metrics))
def test_pressure_equals_the_files(cgroup: MakeCgroup, children: Children) -> None:
    crowded = cgroup("crowded")
    cpu = str(min(os.sched_getaffinity(0)))
    children += [crowded.start("taskset", "-c", cpu, *SPIN) for _ in range(3)]
    time.sleep(1)
    # Stopped, they wait for nothing, and the totals stand still.
    for process in children:
        process.send_signal(signal.SIGSTOP)
    time.sleep(0.05)
    with opened(Pressure(Environment())) as collector:
        totals = Totals(collector).read([group(crowded)])
    for resource in ("cpu", "memory", "io"):
        for line in (crowded.path / f"{resource}.pressure").read_text().splitlines():
            what = {"some": "waiting", "full": "stalled"}[line.split()[0]]
            exported = totals.number(crowded, f"kpod_pressure_{resource}_{what}_seconds_total")
            assert exported == int(line.rpartition("total=")[2]) / 1e6
    assert totals.number(crowded, "kpod_pressure_cpu_waiting_seconds_total") > 0.5


@proves(*(metric.name for metric in INTERFACES.metrics))
def test_interfaces_of_a_network_namespace(cgroup: MakeCgroup, children: Children, environment: Environment) -> None:
    pod, host = cgroup("pod"), cgroup("host")
    links = ("link set lo up", "link add v0 type veth peer name v1", "link set v0 up", "link set v1 mtu 500 up")
    process = piped(pod, children, "unshare", "-n", sys.executable, "-c", NETWORK, *links)
    children.append(host.start("sleep", "1000"))
    assert answer(process) == "ready"

    def number(name: str, interface: str) -> float:
        return totals.number(pod, f"kpod_net_iface_{name}_total", interface)

    with opened(NetIface(environment)) as collector:
        totals = Totals(collector).read([group(pod), group(host)])
        assert {labels for _, _, labels in totals.numbers} == {("v0",), ("v1",)}  # lo is silent
        for count, all_ in ((23, 23), (100, 123)):
            assert answer(process, f"v0 {count} 200") == "sent"
            totals.read([group(pod), group(host)])
            assert number("tx_packets", "v0") == number("rx_packets", "v1") == all_
            assert number("tx_bytes", "v0") == number("rx_bytes", "v1") == all_ * 200
            assert number("rx_packets", "v0") == number("tx_packets", "v1") == 0
        assert answer(process, "v0 11 1000") == "sent"  # more than v1 takes
        assert answer(process, "lo 7 100") == "sent"
        totals.read([group(pod), group(host)])
        assert number("rx_drops", "v1") == 123 + 11  # nobody wanted the others either
        # Netlink tells of the same, each interface having been made before the first read.
        told = json.loads(subprocess.check_output(["nsenter", "-t", str(process.pid), "-n", "ip", "-j", "-s", "link"]))
        for interface in told:
            for direction, statistics in interface["stats64"].items():
                for what, key in (("bytes",) * 2, ("packets",) * 2, ("errors",) * 2, ("drops", "dropped")):
                    assert number(f"{direction}_{what}", interface["ifname"]) == statistics[key]
        assert number("tx_packets", "lo") == number("rx_packets", "lo") == 7
        assert {owner for owner, _, _ in totals.numbers} == {pod.id}


def test_namespace_of_which_each_container_has_a_process(
    cgroup: MakeCgroup, children: Children, environment: Environment
) -> None:
    """As the containers of a pod have: once for the pod, and still right when the first container is gone."""
    first, second = cgroup("first"), cgroup("second")
    process = piped(first, children, "unshare", "-n", sys.executable, "-c", NETWORK, "link set lo up")
    assert answer(process) == "ready"
    other = piped(second, children, "nsenter", "-t", str(process.pid), "-n", sys.executable, "-c", NETWORK)
    assert answer(other) == "ready"
    pod = Identity("test", "pod", "")
    with opened(NetIface(environment)) as collector:
        store = Store(collector.tables, collector.wanted)

        def read(*cgroups: Cgroup) -> object:
            for row in collector.collect([Group(c.id, str(c.path), c.pids, pod) for c in cgroups]):
                store.put(row, pod)
            [(_, at, _, children)] = [family for family in store.families() if "rx_packets" in family[2].name]
            return [series.values[at] for series in children]

        answer(process, "lo 10 100")
        assert read(first, second) == [10]
        process.kill()
        process.wait()
        answer(other, "lo 5 100")
        assert read(first, second) == [15]
        assert read(second) == [15]


def start_with_number(number: int, *command: str) -> subprocess.Popen[bytes]:
    """Start a process that gets a number which is free; others may take it first."""
    for _ in range(2_000):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
        process = subprocess.Popen(command)
        if process.pid == number:
            return process
        process.kill()
        process.wait()
    raise AssertionError(f"no process got the number {number}")


@needs(TASK_ITERATOR)
@pytest.mark.parametrize("read_before", [False, True], ids=["new", "read before"])
def test_interfaces_of_a_process_that_took_a_number(
    cgroup: MakeCgroup, children: Children, monkeypatch: pytest.MonkeyPatch, read_before: bool
) -> None:
    """A pod's process ends after the namespaces were listed, and one of another pod has its number."""
    if not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK):
        pytest.skip("/proc/sys/kernel/ns_last_pid: numbers of processes cannot be chosen here")
    victim = cgroup("victim")
    process = victim.start("unshare", "-n", "sh", "-c", "ip link add v0 type veth peer name v1; exec sleep 1000")
    children.append(process)
    eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
    collector = NetIface(Environment())
    with opened(collector):
        members = group(victim)
        if read_before:
            assert {row.labels for row in collector.collect([members])} == {("v0",), ("v1",)}
        snapshot = collector.snapshot()
        process.kill()
        process.wait()
        script = "ip link add t0 type veth peer name t1; exec sleep 1000"
        children.append(start_with_number(process.pid, "unshare", "-n", "sh", "-c", script))
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        with monkeypatch.context() as patch:
            patch.setattr(collector, "snapshot", lambda: snapshot)
            assert list(collector.collect([members])) == []
        assert collector.unread == {victim.id}
        assert list(collector.collect([members])) == []
        assert collector.unread == set()


@pytest.mark.usefixtures("mount_namespaces")
@pytest.mark.parametrize("threaded", [False, True], ids=["one cgroup", "threaded"])
def test_process_whose_main_thread_has_ended(
    cgroup: MakeCgroup,
    children: Children,
    environment: Environment,
    workload: Callable[[str], str],
    tmp_path: Path,
    *,
    threaded: bool,
) -> None:
    """Its interfaces and file systems are those of the thread that goes on; so are they in a cgroup of threads."""
    pod, host = cgroup("pod"), cgroup("host")
    children.append(host.start("sleep", "1000"))
    prepare = (
        f"mount -t tmpfs -o size=8m none {tmp_path} && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && "
        "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up && "
        """until case "$(ip -o link)" in *"state UP"*"state UP"*) ;; *) false ;; esac; do :; done"""
    )
    process = piped(pod, children, "unshare", "-mn", "--propagation", "private", workload("headless"), prepare)
    assert answer(process) == "ready"
    eventually(lambda: "\nState:\tZ" in Path(f"/proc/{process.pid}/status").read_text())
    owner = pod
    if threaded:
        below = pod.path / "threads"
        below.mkdir()
        (below / "cgroup.type").write_text("threaded")
        thread = answer(process, f"move {below}/cgroup.threads")
        owner = Cgroup(below)
        assert owner.pids == (int(thread),)
    try:
        with opened(NetIface(environment)) as interfaces, opened(Filesystem(environment)) as systems:
            traffic, space = Totals(interfaces), Totals(systems)
            sent = 0
            for count in (0, 23, 100):
                assert answer(process, f"v0 {count} 200") == "sent"
                sent += count
                traffic.read([group(owner), group(host)])
                space.read([group(owner), group(host)])
                assert {labels for _, _, labels in traffic.numbers} == {("v0",), ("v1",)}
                assert traffic.number(owner, "kpod_net_iface_tx_packets_total", "v0") == sent
                assert traffic.number(owner, "kpod_net_iface_rx_bytes_total", "v1") == sent * 200
                assert space.number(owner, "kpod_fs_capacity_bytes", str(tmp_path)) == 8 << 20
                assert (host.id, "kpod_fs_capacity_bytes", (str(tmp_path),)) not in space.numbers
    finally:
        if threaded:
            process.kill()
            process.wait()
            eventually(lambda: "populated 0" in (owner.path / "cgroup.events").read_text())
            owner.path.rmdir()


def test_descriptors_of_a_process_whose_main_thread_has_ended(
    cgroup: MakeCgroup,
    children: Children,
    workload: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GPUs are found by the descriptors of the thread that goes on. No file here is a DRM node."""
    node = tmp_path / "dri/renderD128"
    node.parent.mkdir()
    node.write_text("")
    start = ("sh", "-c", 'exec "$0" 9< "$1"', workload("headless"), str(node))
    process = piped(cgroup("there"), children, *start)
    assert answer(process) == "ready"
    [thread] = {int(name) for name in os.listdir(f"/proc/{process.pid}/task")} - {process.pid}
    reads = []

    def read(path: str) -> bytes:
        reads.append(path)
        return read_if_there(path)

    monkeypatch.setattr("kpod_metrics.collectors.parts.drm.read_if_there", read)
    drm = Drm(Environment())
    there = Group(7, "", (process.pid,), Identity("test", "there", ""))
    assert drm._with_nodes([there]) == ({7} if Path("/dev/dri").is_dir() else set())
    drm.close()
    assert drm._of_process(process.pid, _Share()) == []
    assert reads == [f"/proc/{thread}/fdinfo/9"]


TMPFS = """
mount -t tmpfs -o size=8m,nr_inodes=100 none "$0" && echo mounted
while read count; do
    head -c "$count" /dev/zero >> "$0/file"
    stat -f -c '%b %f %a %S' "$0"
done
"""


@pytest.mark.usefixtures("mount_namespaces")
@proves(*(f"kpod_fs_{name}_bytes" for name in ("capacity", "usage", "available")))
def test_file_system_of_a_mount_namespace(
    cgroup: MakeCgroup, children: Children, environment: Environment, tmp_path: Path
) -> None:
    inside, outside = cgroup("inside"), cgroup("outside")
    point = tmp_path / "a disk"
    point.mkdir()
    process = piped(inside, children, "unshare", "-m", "sh", "-c", TMPFS, str(point))
    children.append(outside.start("sleep", "1000"))
    assert answer(process) == "mounted"
    with opened(Filesystem(environment)) as collector:
        written = 0
        for count in (0, 1 << 20, 2 << 20):
            blocks, free, available, unit = map(int, answer(process, str(count)).split())
            written += count
            totals = Totals(collector).read([group(inside), group(outside)])

            def number(name: str) -> float:
                return totals.number(inside, f"kpod_fs_{name}_bytes", str(point))  # noqa: B023

            assert number("capacity") == blocks * unit == 8 << 20
            assert number("usage") == (blocks - free) * unit == written
            assert number("available") == available * unit
            assert (outside.id, "kpod_fs_usage_bytes", (str(point),)) not in totals.numbers
        root = os.statvfs("/")
        assert totals.number(outside, "kpod_fs_capacity_bytes", "/") == root.f_blocks * root.f_frsize
        assert totals.number(inside, "kpod_fs_capacity_bytes", "/") == root.f_blocks * root.f_frsize


MOUNTS = """
mkdir "$0/own" "$0/later" "$0/root"
mount -t tmpfs -o size=4m none "$0/root"
echo ready
while read line; do eval "$line"; echo done; done
"""


@pytest.mark.usefixtures("mount_namespaces")
def test_mounts_that_come_and_go(
    cgroup: MakeCgroup, children: Children, environment: Environment, tmp_path: Path
) -> None:
    """Seen in the next cycle; while nothing is mounted the table of mounts is read again only where it must be."""
    inside = cgroup("inside")
    process = piped(inside, children, "unshare", "-m", "--propagation", "private", "sh", "-c", MOUNTS, str(tmp_path))
    assert answer(process) == "ready"
    reads = []

    def counted(path: str, limit: int) -> tuple[bytes, bool]:
        reads.append(path)
        return lines_if_there(path, limit)

    with opened(Filesystem(environment)) as collector, pytest.MonkeyPatch.context() as patch:
        patch.setattr(mount_tables, "lines_if_there", counted)

        def points() -> set[str]:
            rows = list(collector.collect([group(inside)]))
            return {point for row in rows for point in row.labels if point.startswith(str(tmp_path))}

        at_first = {f"{tmp_path}/root"}
        assert points() == at_first
        assert answer(process, f"mount -t tmpfs -o size=4m none {tmp_path}/later") == "done"
        assert points() == at_first | {f"{tmp_path}/later"}
        before = len(reads)
        for _ in range(3):
            assert points() == at_first | {f"{tmp_path}/later"}
        assert len(reads) - before == (0 if TASK_ITERATOR not in environment.forced_off else 3)
        assert answer(process, f"umount {tmp_path}/later") == "done"
        assert points() == at_first
        # Another root directory is another view of the same mounts.
        process.stdin.close()  # type: ignore[union-attr]
        process.wait()
        other = cgroup("other")
        chrooted = piped(other, children, "unshare", "-m", sys.executable, "-c", CHROOT, str(tmp_path))
        assert answer(chrooted) == "ready"
        assert answer(chrooted, "go") == "gone"
        rows = list(collector.collect([group(other)]))
        assert {row.labels for row in rows} == {("/",)}
        assert [row.values[0] for row in rows] == [6 << 20]


CHROOT = """
import os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", sys.argv[1]], check=True)
print("ready", flush=True)
sys.stdin.readline()
os.chroot(sys.argv[1])
os.chdir("/")
print("gone", flush=True)
sys.stdin.readline()
"""


TENANT = """
cd "$0"
mount --make-rprivate /
while read folder size; do
    mkdir -p $folder
    mount -t tmpfs -o size=$size none $folder
done <<-END
	a/x 4m
	stays 5m
	b/x 6m
	c/x 7m
END
echo ready
while read line; do
    case $line in
        swap) mv a was-a; mv b was-b; mv c was-c; ln -s "$1" a; ln -s "../host" b; ln -s "/proc/self/root$1" c;;
        back) rm a b c; mv was-a a; mv was-b b; mv was-c c;;
    esac
    echo done
done
"""
"""Mounts of a user without rights, in its own namespaces; it replaces the folders above them by links, and back."""


@pytest.mark.usefixtures("mount_namespaces")
def test_links_in_place_of_folders_above_mounts_lead_nowhere(
    cgroup: MakeCgroup, children: Children, environment: Environment
) -> None:
    """Whatever a tenant puts in the place of such a folder, no file system is exported but its own."""
    inside = cgroup("inside")
    with TemporaryDirectory() as folder:
        home, host = Path(folder) / "home", Path(folder) / "host"
        for path in (Path(folder), home, host):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        os.chown(home, 65534, 65534)
        # The host's: the same names below, on a file system that no process of the tenant has by that path.
        (host / "x").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", host / "x"], check=True)
        try:
            user = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
            own = ("unshare", "--user", "--map-root-user", "--mount")
            tenant = piped(inside, children, *user, *own, "sh", "-ec", TENANT, str(home), str(host))
            assert answer(tenant) == "ready"
            with opened(Filesystem(environment)) as collector:

                def sizes() -> dict[str, object]:
                    rows = list(collector.collect([group(inside)]))
                    return {row.labels[0]: row.values[0] for row in rows if row.labels[0].startswith(f"{home}/")}

                def skipped() -> dict[str, int]:
                    return {reason: number for reason, number in collector.skipped_mounts().items() if number}

                mine = {f"{home}/{name}": size << 20 for name, size in SIZES.items()}
                assert sizes() == mine
                assert not skipped()
                assert answer(tenant, "swap") == "done"
                moved = {re.sub(r"/([abc])/x$", r"/was-\1/x", point): size for point, size in mine.items()}
                if not environment.tasks.is_open(collector):
                    assert sizes() == moved
                    assert not skipped()
                else:
                    # The kernel tells of mounts that come and go, not of folders that are renamed.
                    assert sizes() == {f"{home}/stays": 5 << 20}
                    assert skipped() == {"symlink": 3}
                    assert sizes() == moved
                    assert skipped() == {"symlink": 3}
                assert answer(tenant, "back") == "done"
                for _ in range(2):
                    found = sizes()
                assert found == mine
        finally:
            subprocess.run(["umount", host / "x"], check=True)


HOSTS_ROOT = """
cd "$0"
mkdir host own
mount --bind / host
mount -t tmpfs -o size=4m none own
while read folder size; do
    mkdir -p $folder
    mount -t tmpfs -o size=$size none $folder
done <<-END
	host$0/pods/a/volumes/b/c 5m
	host$0/var/lib/docker/overlay2/a 6m
	host$0/backup/a 7m
	own/var/lib/docker/a/b 8m
END
echo ready
exec sleep 1000
"""
"""Mounts in what a process has of the host, and in what it has of its own."""


@pytest.mark.usefixtures("mount_namespaces")
def test_mounts_of_other_containers_are_not_a_process_that_has_the_hosts_root(
    cgroup: MakeCgroup, children: Children, environment: Environment, tmp_path: Path
) -> None:
    inside = cgroup("inside")
    process = piped(
        inside, children, "unshare", "-m", "--propagation", "private", "sh", "-ec", HOSTS_ROOT, str(tmp_path)
    )
    assert answer(process) == "ready"
    with opened(Filesystem(environment)) as collector:
        for _ in range(2):
            rows = [row for row in collector.collect([group(inside)]) if row.labels[0].startswith(str(tmp_path))]
            sizes = {row.labels[0].removeprefix(f"{tmp_path}/"): row.values[0] for row in rows}
            assert sizes == {"own": 4 << 20, f"host{tmp_path}/backup/a": 7 << 20, "own/var/lib/docker/a/b": 8 << 20}


NAMES = """
cd "$0"
for name in $(printf 'l\\377 l\\376') 'l\\xff'; do
    mkdir "$name"
    mount -t tmpfs -o size=$((size += 1))m none "$name"
    ip link add "$name" type veth peer name "peer$size"
done
echo ready
exec sleep 1000
"""
"""Mounts and interfaces whose names are no UTF-8, and one that looks as they are shown."""


@pytest.mark.usefixtures("mount_namespaces")
def test_names_that_are_no_utf8_stay_apart(
    cgroup: MakeCgroup, children: Children, environment: Environment, tmp_path: Path
) -> None:
    inside = cgroup("inside")
    process = piped(inside, children, "unshare", "-mn", "--propagation", "private", "sh", "-c", NAMES, str(tmp_path))
    assert answer(process) == "ready"
    names = [r"l\xff", r"l\xfe", r"l\x5cxff"]
    with opened(Filesystem(environment)) as collector:
        rows = [row for row in collector.collect([group(inside)]) if row.labels[0].startswith(str(tmp_path))]
        sizes = {shown(row.labels[0]).removeprefix(f"{tmp_path}/"): row.values[0] for row in rows}
        assert sizes == {name: at + 1 << 20 for at, name in enumerate(names)}
    with opened(NetIface(environment)) as collector:
        found = [shown(row.labels[0]) for row in collector.collect([group(inside)])]
        assert sorted(name for name in found if not name.startswith("peer")) == sorted(names)


SIZES = {"a/x": 4, "stays": 5, "b/x": 6, "c/x": 7}


@pytest.mark.usefixtures("mount_namespaces")
@needs(TASK_ITERATOR)
def test_every_process_is_in_the_namespaces_that_proc_says(
    cgroup: MakeCgroup, cgroup_root: str, children: Children
) -> None:
    there = cgroup("there")
    for flags in ("-m", "-n", "-mn"):
        children.append(there.start("unshare", flags, "sleep", "1000"))
    eventually(lambda: all(Path(f"/proc/{c.pid}/comm").read_text() == "sleep\n" for c in children))
    tasks = Tasks()
    tasks.open()
    try:
        snapshot = tasks.read()
    finally:
        tasks.close()
    views = {task.pid: task for task in snapshot.by_cgroup[there.id]}
    assert views.keys() == {child.pid for child in children}
    for child in children:
        links = [os.readlink(f"/proc/{child.pid}/ns/{kind}") for kind in ("mnt", "net")]
        view = views[child.pid]
        assert links == [f"mnt:[{view.mount_namespace}]", f"net:[{view.network_namespace}]"]
        assert view.cgroup == there.id
    alone, shared, alone_too = (views[child.pid].root for child in children)
    assert len({alone, shared, alone_too}) == 3
    own_network = int(os.readlink("/proc/self/ns/net")[len("net:[") : -1])
    assert snapshot.host_network == own_network
    of_own = snapshot.by_cgroup[os.stat(cgroup_root + own_cgroup(cgroup_root)).st_ino]
    assert shared in {task.root for task in of_own}
    assert own_network in {task.network_namespace for task in of_own}


@needs(TASK_ITERATOR)
def test_one_snapshot_of_all_processes_serves_each_collector_once(cgroup: MakeCgroup, children: Children) -> None:
    environment = Environment()
    there, later = cgroup("there"), cgroup("later")
    children.append(there.start("sleep", "1000"))

    def names(collector: Collector) -> tuple[list[str], list[str]]:
        return [map_.name for map_ in collector.maps()], [program.name for program in collector.programs()]

    interfaces, systems = NetIface(environment), Filesystem(environment)
    nobody: tuple[list[str], list[str]] = ([], [])
    with opened(systems):
        with opened(interfaces):
            one, same = systems.snapshot(), interfaces.snapshot()
            assert one is same
            assert one is not None
            assert children[0].pid in {task.pid for task in one.by_cgroup[there.id]}
            children.append(later.start("sleep", "1000"))
            after = interfaces.snapshot()
            assert after is not None
            assert children[1].pid in {task.pid for task in after.by_cgroup[later.id]}, (
                "no user gets the same snapshot twice"
            )
            assert systems.snapshot() is after
            old = systems.snapshot()
            time.sleep(0.2)
            assert interfaces.snapshot() is not old, "an old snapshot serves no user"
            # Its state is reported once, by the remaining user.
            assert names(systems) == (["task_namespaces_record"], ["read_task"])
            assert names(interfaces) == nobody
            systems.close()
            assert names(systems) == nobody
            assert names(interfaces) == (["task_namespaces_record"], ["read_task"])
            assert interfaces.snapshot() is not None
        assert names(interfaces) == nobody
        systems.open()
        assert systems.snapshot() is not None


DECOYS = """
for _ in $(seq $0); do sleep 1000 & done
echo started
read line
exec unshare -n sh -c 'ip link add v0 type veth peer name v1; echo ready; exec sleep 1000'
"""


@needs(TASK_ITERATOR)
@pytest.mark.parametrize("number", [1, *(pytest.param(number, marks=pytest.mark.one_kernel) for number in (40, 400))])
def test_processes_before_it_do_not_hide_a_namespace(cgroup: MakeCgroup, children: Children, number: int) -> None:
    """They cost nothing either: threads with nothing new have no record."""
    pod, victim = cgroup("pod"), cgroup("victim")
    process = piped(pod, children, "sh", "-c", DECOYS, str(number))
    assert answer(process) == "started"
    assert answer(process, "") == "ready"
    children.append(
        victim.start("unshare", "-n", "sh", "-c", "ip link add own type veth peer name end; exec sleep 1000")
    )
    environment = Environment()
    collector = NetIface(environment)
    with opened(collector):
        eventually(lambda: {row.labels for row in collector.collect([group(victim)])} == {("own",), ("end",)})
        rows = list(collector.collect([group(pod), group(victim)]))
        links = [(pod.id, "v0"), (pod.id, "v1"), (victim.id, "own"), (victim.id, "end")]
        assert {(row.owner, *row.labels) for row in rows} == {*links}
        snapshot = collector.snapshot()
        assert snapshot is not None
        # The shell and its children are one, but where a process of another cgroup was started between two of them.
        assert len(snapshot.by_cgroup[pod.id]) < 20 + number // 4
    assert not list(environment.exceeded.rows())


def test_processes_in_cgroups_below_that_of_a_container(
    cgroup: MakeCgroup, children: Children, environment: Environment
) -> None:
    """As of a container that runs systemd or containers: the walk of the tree counts them as the container's."""
    pod, inner = cgroup("pod"), cgroup("pod/inner")
    process = piped(
        inner, children, "unshare", "-n", "sh", "-c", "ip link add own type veth peer name end; echo; read l"
    )
    answer(process)
    with opened(NetIface(environment)) as collector:
        walker = Tree(str(pod.path.parent))
        directories = [there for there in walker.walk() if there.path.startswith(pod.path.name)]
        assert [there.id for there in directories] == [pod.id, inner.id]
        walker.close()
        whole = Group.of(directories[0], str(pod.path.parent), directories, Identity("test", "pod", ""))
        assert {(row.owner, *row.labels) for row in collector.collect([whole])} == {(pod.id, "own"), (pod.id, "end")}


NAMESPACES = """
ip link add first type veth peer name end
echo ready
read number
for at in $(seq $number); do unshare -n sleep 1000 & done
while [ $(for child in $(pgrep -P $$ sleep); do readlink /proc/$child/ns/net; done | sort -u | wc -l) -lt $number ]; do
    sleep 0.1
done
echo many
read line
"""


@needs(TASK_ITERATOR)
@pytest.mark.parametrize("number", [1, *(pytest.param(number, marks=pytest.mark.one_kernel) for number in (63, 100))])
def test_namespaces_that_are_created_later_do_not_displace_the_first(
    cgroup: MakeCgroup, children: Children, number: int
) -> None:
    pod = cgroup("pod")
    process = piped(pod, children, "unshare", "-n", "sh", "-c", NAMESPACES)
    assert answer(process) == "ready"
    assert answer(process, str(number)) == "many"
    environment = Environment()
    with opened(NetIface(environment)) as collector:
        for cycle in (1, 2):
            assert [row.labels for row in collector.collect([group(pod)])] == [("end",), ("first",)]
            over = max(0, number + 1 - MAX_NAMESPACES)
            assert [(row.owner, row.labels, row.values) for row in environment.exceeded.rows()] == (
                [(pod.id, ("network_namespaces",), (over * cycle,))] if over else []
            )


@needs(TASK_ITERATOR)
@pytest.mark.usefixtures("mount_namespaces")
def test_thread_in_namespaces_of_its_own(cgroup: MakeCgroup, children: Children, tmp_path: Path) -> None:
    """Its main thread is in others: both are read."""
    pod = cgroup("pod")
    point = tmp_path / "of_thread"
    point.mkdir()
    process = piped(pod, children, "unshare", "-mn", sys.executable, "-c", THREAD, str(point))
    assert answer(process) == "ready"
    environment = Environment()
    with opened(NetIface(environment)) as interfaces, opened(Filesystem(environment)) as systems:
        assert {row.labels for row in interfaces.collect([group(pod)])} == {("of_main",), ("of_thread",), ("end",)}
        sizes = {row.labels[0]: row.values[0] for row in systems.collect([group(pod)])}
        assert sizes[str(point)] == 6 << 20


THREAD = """
import ctypes, subprocess, sys, threading
libc = ctypes.CDLL(None)
subprocess.run("ip link add of_main type veth peer name end", shell=True, check=True)
ready = threading.Event()
def work():
    assert libc.unshare(0x40020000) == 0
    # A child is in the namespaces of the thread that starts it.
    mount = "mount --make-rprivate / && mount -t tmpfs -o size=6m none " + sys.argv[1]
    subprocess.run("ip link add of_thread type veth peer name end && " + mount, shell=True, check=True)
    ready.set()
    threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
ready.wait()
print("ready", flush=True)
sys.stdin.readline()
"""


def helpers() -> int:
    return sum(thread.name == "statvfs" for thread in threading.enumerate())


TIMEOUT = 0.5


needs_fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")


@needs_fuse
@pytest.mark.usefixtures("mount_namespaces")
@pytest.mark.parametrize("end", ["answers", "is aborted"])
def test_file_system_that_never_answers(cgroup: MakeCgroup, children: Children, tmp_path: Path, end: str) -> None:
    inside, outside = cgroup("inside"), cgroup("outside")
    process = start_silent_daemon(inside, children, tmp_path)
    children.append(outside.start("sleep", "1000"))
    silent = (inside.id, "kpod_fs_capacity_bytes", (str(tmp_path),))

    asked = []

    def statvfs(root: str, point: str, mount: int, reached: Callable[[str], object]) -> os.statvfs_result:
        asked.append(point)
        return fstatvfs_below(root, point, mount, reached)

    def read(collector: Collector) -> dict[tuple[int, str, tuple[str, ...]], float]:
        return Totals(collector).read([group(inside), group(outside)]).numbers

    with opened(Filesystem(Environment(), timeout=TIMEOUT, statvfs=statvfs)) as collector:
        for _ in range(4):
            numbers = read(collector)
            assert asked.count(str(tmp_path)) == 1  # it is waited for once
            for there in (inside, outside):
                assert (there.id, "kpod_fs_capacity_bytes", ("/",)) in numbers
            assert silent not in numbers
            assert helpers() <= 2
        if end == "answers":
            answer_later = process.stdin
            assert answer_later is not None
            answer_later.write(b"\n")
            answer_later.flush()
        else:
            process.kill()
            process.wait()
        deadline = time.monotonic() + 5
        while helpers() > 1:
            assert time.monotonic() < deadline, "the thread of the stuck call is still there"
            time.sleep(0.01)
        if end == "answers":
            assert read(collector)[silent] == 1000 * 4096
    deadline = time.monotonic() + 5
    while helpers():
        assert time.monotonic() < deadline, "a thread is left"
        time.sleep(0.01)


HANGING_AGENT = """
import sys
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.filesystem import Filesystem
from kpod_metrics.pods.model import Group, Identity
rows = Filesystem(Environment(), timeout=0.2).collect([Group(1, "", (int(sys.argv[1]),), Identity("", "", ""))])
print([row.labels for row in rows])
"""


def start_silent_daemon(cgroup: Cgroup, children: Children, point: Path) -> "subprocess.Popen[bytes]":
    daemon = piped(cgroup, children, "unshare", "-m", sys.executable, str(WORKLOADS / "silent_fuse.py"), str(point))
    assert answer(daemon) == "mounted"
    return daemon


@needs_fuse
@pytest.mark.usefixtures("mount_namespaces")
def test_agent_can_end_while_a_file_system_hangs(cgroup: MakeCgroup, children: Children, tmp_path: Path) -> None:
    """The daemon takes no request: one that it had taken could not be interrupted."""
    daemon = start_silent_daemon(cgroup("inside"), children, tmp_path)
    daemon.send_signal(signal.SIGSTOP)
    agent = [sys.executable, "-c", HANGING_AGENT, str(daemon.pid)]
    ended = subprocess.run(agent, check=True, timeout=10, capture_output=True, text=True)
    assert "('/',)" in ended.stdout
    assert str(tmp_path) not in ended.stdout
    assert f"{tmp_path} does not answer" in ended.stderr


@needs_fuse
@pytest.mark.usefixtures("mount_namespaces")
@pytest.mark.parametrize("number", [1, *(pytest.param(number, marks=pytest.mark.one_kernel) for number in (3, 10))])
def test_mounts_of_tenants_that_hang_cost_their_pods_only(
    cgroup: MakeCgroup, children: Children, tmp_path: Path, number: int
) -> None:
    """Each tenant has ten, some of a device that all have; a pod beside them keeps the exact sizes in every cycle."""
    tenants, victim = [cgroup(f"tenant{at}") for at in range(number)], cgroup("victim")
    point = tmp_path / "mine"
    point.mkdir()
    process = piped(victim, children, "unshare", "-m", "sh", "-c", TMPFS, str(point))
    assert answer(process) == "mounted"
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        node = f"{folder}/node"
        os.mknod(node, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
        os.chmod(node, 0o666)
        for below in ("fuse", "lower", "disk", *(f"overlay/{at}" for at in range(10))):
            os.makedirs(f"{folder}/{below}")
        command = (sys.executable, str(WORKLOADS / "hanging_overlays.py"), node, folder, "10")
        daemons = [piped(tenant, children, *command) for tenant in tenants]
        answers = [answer(daemon) for daemon in daemons]
        if "refused" in answers:
            pytest.skip("this kernel refuses overlays to users without rights")
        assert answers == ["mounted"] * number
        environment = Environment()
        # On a busy machine a thread waits for a while before its first call.
        with opened(Filesystem(environment, timeout=4 * TIMEOUT)) as collector:
            for cycle in range(6):
                if cycle == 1:
                    assert [answer(daemon, "") for daemon in daemons] == ["silent"] * number
                blocks, free, available, unit = map(int, answer(process, str(cycle << 16)).split())
                totals = Totals(collector).read([group(there) for there in (*tenants, victim)])
                mine = [totals.number(victim, f"kpod_fs_{name}_bytes", str(point)) for name in WHAT]
                assert mine == [blocks * unit, (blocks - free) * unit, available * unit]
                root = os.statvfs("/")
                assert totals.number(victim, "kpod_fs_capacity_bytes", "/") == root.f_blocks * root.f_frsize
                theirs = [
                    labels for owner, _, labels in totals.numbers if owner == tenants[0].id and "/sub" in labels[0]
                ]
                assert bool(theirs) == (cycle == 0)
                assert victim.id not in collector.unread
            assert 0 < helpers() <= 1 + number * STUCK_OF_A_POD
            named = {(row.owner, *row.labels): int(row.values[0]) for row in environment.exceeded.rows()}  # type: ignore[arg-type]
            assert named.keys() == {(tenant.id, "hung_mounts") for tenant in tenants}
            assert min(named.values()) >= 5 * 5  # in each cycle the five with a device of their own
            for daemon in daemons:
                daemon.kill()
                daemon.wait()
            eventually(lambda: helpers() <= 1)


MANY_MOUNTS = """
mount --make-rprivate / && mount -t tmpfs -o size=4m none /tmp && mkdir /tmp/here && mount -t tmpfs none /tmp/here
mkdir /tmp/here/a /tmp/last
for doubled in $(seq $0); do mount --rbind /tmp/here /tmp/here/a && mount --make-rprivate /tmp/here; done
mount -t tmpfs -o size=7m none /tmp/last
echo ready
while read line; do mount -t tmpfs -o size=1m none /tmp/last && umount /tmp/last; echo done; done
"""
"""The loop doubles the mounts. Then the table changes with each line."""


@pytest.mark.usefixtures("mount_namespaces")
@pytest.mark.parametrize(
    "doubled",
    [
        pytest.param(2, id="4 mounts"),
        pytest.param(10, id="1,000 mounts", marks=pytest.mark.one_kernel),
        pytest.param(14, id="16,000 mounts", marks=pytest.mark.one_kernel),
    ],
)
def test_table_of_mounts_of_a_tenant_costs_others_nothing(
    cgroup: MakeCgroup, children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doubled: int
) -> None:
    """It changes in every cycle. A pod beside it has its sizes, and new mounts at once."""
    tenant, victim = cgroup("tenant"), cgroup("victim")
    process = piped(victim, children, "unshare", "-m", "--propagation", "private", "sh", "-c", MOUNTS, str(tmp_path))
    assert answer(process) == "ready"
    user = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    own = ("unshare", "--user", "--map-root-user", "--mount")
    hostile = piped(tenant, children, *user, *own, "sh", "-c", MANY_MOUNTS, str(doubled))
    assert answer(hostile) == "ready"
    length = len(Path(f"/proc/{hostile.pid}/mountinfo").read_bytes())
    read: list[tuple[str, int]] = []

    def counted(path: str, limit: int) -> tuple[bytes, bool]:
        found = lines_if_there(path, limit)
        read.append((path.split("/")[2], len(found[0])))
        return found

    monkeypatch.setattr(mount_tables, "lines_if_there", counted)
    environment = Environment()
    filesystem = Filesystem(environment)
    with opened(filesystem) as collector:
        knows_changes = environment.tasks.is_open(filesystem)
        for cycle in range(8):
            assert answer(hostile, "") == "done"
            place = f"{tmp_path}/later"
            assert answer(process, f"mount -t tmpfs -o size={cycle + 1}m none {place}") == "done"
            totals = Totals(collector).read([group(tenant), group(victim)])
            assert totals.number(victim, "kpod_fs_capacity_bytes", place) == cycle + 1 << 20
            assert totals.number(victim, "kpod_fs_capacity_bytes", f"{tmp_path}/root") == 4 << 20
            assert totals.number(tenant, "kpod_fs_capacity_bytes", "/tmp/here") > 0
            assert answer(process, f"umount {place}") == "done"
    theirs = [size for pid, size in read if pid == str(hostile.pid)]
    named = {(row.owner, *row.labels) for row in environment.exceeded.rows()}
    if length <= CYCLE_BYTES:
        assert len(theirs) == 8
        assert not named
    else:
        assert sum(theirs) <= TABLE_BYTES
        assert len(theirs) == 1 + 7 // (1 + theirs[0] // CYCLE_BYTES)
        # Without the kernel's counter of changes nothing says that a later read would have been different.
        assert named == ({(tenant.id, "mountinfo")} if knows_changes or length > TABLE_BYTES else set())


WHAT = ("capacity", "usage", "available")


def test_processes_that_end_are_no_failure(cgroup: MakeCgroup, children: Children, environment: Environment) -> None:
    """A zombie has no namespaces, and its mountinfo cannot be read."""
    there = cgroup("there")
    children.append(there.start("true"))
    os.waitid(os.P_PID, children[0].pid, os.WEXITED | os.WNOWAIT)
    groups = [Group(there.id, str(there.path), (children[0].pid, 2**22 + 1), Identity("test", "there", ""))]
    for collector in (NetIface(environment), Filesystem(Environment())):
        with opened(collector):
            assert list(collector.collect(groups)) == []


def test_cgroup_that_is_removed_is_no_failure(cgroup: MakeCgroup) -> None:
    there = cgroup("there")
    groups = [group(there)]
    there.path.rmdir()
    for collector in (Cpu(Environment()), Pressure(Environment())):
        with opened(collector):
            assert list(collector.collect(groups)) == []


def test_tree_of_real_cgroups_between_walks(cgroup: Callable[[str], Cgroup]) -> None:
    """A cgroup that is replaced by another, with as many beside it as before, under its own name and another."""
    first = cgroup("one")
    walker = Tree(str(first.path.parent), 100)
    try:
        assert {directory.path: directory.id for directory in walker.walk() if directory.path} == {"one": first.id}
        first.destroy()
        second = cgroup("two")
        assert {directory.path: directory.id for directory in walker.walk() if directory.path} == {"two": second.id}
        second.destroy()
        third = cgroup("two")
        assert {directory.path: directory.id for directory in walker.walk() if directory.path} == {"two": third.id}
        third.destroy()
        assert [directory.path for directory in walker.walk()] == [""]
    finally:
        walker.close()
