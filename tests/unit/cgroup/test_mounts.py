from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.cgroup.mounts import MAX_POINTS, FileSystem, Host, Point, file_systems

ROOT = b"27 1 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c\n"


def points(mountinfo: bytes) -> dict[str, list[str]]:
    return {system.device: [point.path for point in system.points] for system in file_systems(mountinfo)}


def test_a_container() -> None:
    mountinfo = (
        b"500 400 0:50 / / rw,relatime master:12 - overlay overlay rw,lowerdir=/a\n"
        b"501 500 0:51 / /proc rw,nosuid - proc proc rw\n"
        b"502 500 0:52 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755\n"
        b"503 502 0:53 / /dev/pts rw - devpts devpts rw\n"
        b"504 502 0:49 / /dev/mqueue rw - mqueue mqueue rw\n"
        b"505 500 0:54 / /sys ro,nosuid - sysfs sysfs ro\n"
        b"506 505 0:28 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
        b"507 500 254:1 /pods/x/etc-hosts /etc/hosts rw,relatime - ext4 /dev/vda1 rw\n"
        b"508 502 254:1 /pods/x/log /dev/termination-log rw,relatime - ext4 /dev/vda1 rw\n"
        b"509 500 254:1 /pods/x/volumes/data /var/lib/data rw,relatime - ext4 /dev/vda1 rw\n"
        b"510 502 0:48 / /dev/shm rw - tmpfs shm rw,size=65536k\n"
        b"511 500 0:47 / /run/secrets/token ro,relatime - tmpfs tmpfs rw,size=100k\n"
        b"512 500 0:46 / /run rw - tmpfs tmpfs rw,size=100k\n"
        b"513 500 0:45 / /share rw,relatime - nfs4 server:/share rw,vers=4.2\n"
        b"514 500 0:44 / /fuse rw - fuse.sshfs sshfs rw\n"
    )
    assert file_systems(mountinfo) == [
        FileSystem("0:50", points=[Point("/", 500)]),
        FileSystem("254:1", points=[Point("/etc/hosts", 507), Point("/var/lib/data", 509)]),
        FileSystem("0:46", points=[Point("/run", 512)]),
        FileSystem("0:45", points=[Point("/share", 513)]),
        FileSystem("0:44", points=[Point("/fuse", 514)]),
    ]


HOST = (
    b"20 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
    b"21 20 0:20 / /run rw - tmpfs tmpfs rw\n"
    b"22 20 8:2 / /var rw - ext4 /dev/sda2 rw\n"
    b"23 21 0:50 / /run/containerd/io.containerd.runtime.v2.task/k8s.io/a/rootfs rw - overlay overlay rw\n"
    b"24 22 9:1 / /var/lib/kubelet/pods/a/volumes/kubernetes.io~csi/a/mount rw - ext4 /dev/rbd1 rw\n"
    b"25 22 8:3 / /var/lib/docker rw - ext4 /dev/sda3 rw\n"
)


def kept(mountinfo: bytes, host: bytes = HOST) -> set[str]:
    return {point.path for system in file_systems(mountinfo, lambda: Host(host)) for point in system.points}


def test_of_the_hosts_directories_only_what_is_no_other_containers() -> None:
    mountinfo = (
        b"500 400 0:60 / / rw - overlay overlay rw\n"
        b"501 500 8:1 / /host rw - ext4 /dev/sda1 rw\n"
        b"502 501 0:20 / /host/run rw - tmpfs tmpfs rw\n"
        b"503 502 0:50 / /host/run/containerd/io.containerd.runtime.v2.task/k8s.io/a/rootfs rw - overlay overlay rw\n"
        b"504 502 0:71 / /host/run/containerd/io.containerd.grpc.v1.cri/sandboxes/a/shm rw - tmpfs shm rw\n"
        b"505 501 8:2 / /host/var rw - ext4 /dev/sda2 rw\n"
        b"506 505 9:1 / /host/var/lib/kubelet/pods/a/volumes/kubernetes.io~csi/a/mount rw - ext4 /dev/rbd1 rw\n"
        b"507 505 9:2 / /host/var/lib/kubelet/plugins/kubernetes.io/csi/b/globalmount rw - ext4 /dev/rbd2 rw\n"
        b"508 505 8:3 / /host/var/lib/docker rw - ext4 /dev/sda3 rw\n"
        b"509 508 0:72 / /host/var/lib/docker/overlay2/a/merged rw - overlay overlay rw\n"
        b"510 505 9:3 / /host/var/data/kubelet/pods/a/volume-subpaths/b/c/0 rw - ext4 /dev/rbd3 rw\n"
        b"511 501 8:4 / /host/boot rw - ext4 /dev/sda4 rw\n"
        b"512 500 8:2 /lib/kubelet /kubelet rw - ext4 /dev/sda2 rw\n"
        b"513 512 9:4 / /kubelet/pods/d/volumes/kubernetes.io~csi/d/mount rw - ext4 /dev/rbd4 rw\n"
        b"514 500 0:20 /containerd /sockets rw - tmpfs tmpfs rw\n"
        b"515 514 0:50 / /sockets/io.containerd.runtime.v2.task/k8s.io/a/rootfs rw - overlay overlay rw\n"
    )
    hosts = {"/", "/host", "/host/run", "/host/var", "/host/var/lib/docker", "/host/boot", "/kubelet", "/sockets"}
    assert kept(mountinfo) == hosts
    # Seen by a process of the host itself.
    assert kept(HOST) == {"/", "/run", "/var", "/var/lib/docker"}
    # The host's mounts are not known: all are kept.
    assert len(kept(mountinfo, b"")) == 16


def test_what_is_mounted_in_a_containers_own_directories_is_its_own() -> None:
    """Docker in a pod; a volume in a volume; a root directory that is no file system of its own (vfs)."""
    volume = b"/lib/kubelet/pods/a/volumes/kubernetes.io~empty-dir/a"
    mountinfo = (
        b"500 400 0:50 / / rw - overlay overlay rw\n"
        b"501 500 8:2 " + volume + b" /var/lib/docker rw - ext4 /dev/sda2 rw\n"
        b"502 501 0:73 / /var/lib/docker/overlay2/b/merged rw - overlay overlay rw\n"
        b"503 500 9:1 / /data rw - ext4 /dev/rbd1 rw\n"
        b"504 503 9:5 / /data/more rw - ext4 /dev/rbd5 rw\n"
    )
    points = {"/", "/var/lib/docker", "/var/lib/docker/overlay2/b/merged", "/data", "/data/more"}
    assert kept(mountinfo) == points
    by_vfs = b"500 400 8:3 /vfs/dir/a / rw - ext4 /dev/sda3 rw\n501 500 9:1 / /var/lib/docker/a/b rw - ext4 a rw\n"
    assert kept(by_vfs) == {"/", "/var/lib/docker/a/b"}


def test_read_only_tmpfs_by_mount_or_by_super_block() -> None:
    mountinfo = ROOT + (
        b"30 27 0:60 / /a ro,relatime - tmpfs tmpfs rw\n"
        b"31 27 0:61 / /b rw,relatime - tmpfs tmpfs ro,size=4k\n"
        b"32 27 8:1 / /c ro,relatime - ext4 /dev/sda1 ro,errors=remount-ro\n"
        b"33 27 0:63 / /d rw,errors=ro - tmpfs tmpfs rw,ro_looks_like=it\n"
    )
    assert points(mountinfo) == {"0:50": ["/"], "8:1": ["/c"], "0:63": ["/d"]}


def test_names_that_only_begin_like_proc_are_a_containers() -> None:
    mountinfo = ROOT + b"30 27 8:1 / /process rw - ext4 /dev/sda1 rw\n31 27 8:2 / /sysroot rw - ext4 /dev/sda2 rw\n"
    assert points(mountinfo) == {"0:50": ["/"], "8:1": ["/process"], "8:2": ["/sysroot"]}


def test_shortest_mount_point_of_a_device_is_first() -> None:
    mountinfo = ROOT + (
        b"30 27 8:1 /x /var/lib/data rw - ext4 /dev/sda1 rw\n"
        b"31 27 8:1 /y /data rw - ext4 /dev/sda1 rw\n"
        b"32 27 8:1 /z /logs rw - ext4 /dev/sda1 rw\n"
    )
    assert points(mountinfo)["8:1"] == ["/data", "/logs", "/var/lib/data"]


def test_escapes() -> None:
    mountinfo = ROOT + rb"30 27 8:1 / /my\040disk\134\011\012 rw - ext4 /dev/sda1 rw" + b"\n"
    assert points(mountinfo)["8:1"] == ["/my disk\\\t\n"]
    assert points(ROOT + b"30 27 8:1 / /\xff rw - ext4 /dev/sda1 rw\n")["8:1"] == ["/\udcff"]


def test_last_mount_at_a_point_hides_the_others() -> None:
    mountinfo = ROOT + (
        b"30 27 8:1 / /mnt rw - ext4 /dev/sda1 rw\n"
        b"31 30 8:2 / /mnt rw - ext4 /dev/sda2 rw\n"
        b"32 31 8:3 / /mnt rw - ext4 /dev/sda3 rw\n"
    )
    assert points(mountinfo) == {"0:50": ["/"], "8:3": ["/mnt"]}


def test_root_that_is_mounted_over() -> None:
    """A lookup begins in the root directory: it reaches nothing that is mounted over it or below that."""
    mountinfo = (
        b"1 1 0:2 / / rw - rootfs rootfs rw\n"
        b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        b"21 20 8:2 / /mnt rw - ext4 /dev/sda2 rw\n"
        b"22 1 8:3 / /lost rw - ext4 /dev/sda3 rw\n"
    )
    assert points(mountinfo) == {"8:3": ["/lost"]}
    assert points(mountinfo.replace(b"1 1 0:2 / / rw - rootfs rootfs", b"1 1 0:2 / / rw - ext4 /dev/sda")) == {
        "0:2": ["/"],
        "8:3": ["/lost"],
    }


def test_mount_over_a_directory_hides_what_is_mounted_below_it() -> None:
    mountinfo = ROOT + (
        b"30 27 8:1 / /a/b rw - ext4 /dev/sda1 rw\n"
        b"31 27 8:2 / /a rw - ext4 /dev/sda2 rw\n"
        b"32 31 8:3 / /a/c rw - ext4 /dev/sda3 rw\n"
        b"33 27 8:4 / /ab rw - ext4 /dev/sda4 rw\n"
    )
    assert points(mountinfo) == {"0:50": ["/"], "8:2": ["/a"], "8:3": ["/a/c"], "8:4": ["/ab"]}


def test_data_hidden_below_a_file_system_without_data() -> None:
    mountinfo = ROOT + b"30 27 8:1 / /mnt rw - ext4 /dev/sda1 rw\n31 30 0:61 / /mnt rw - autofs systemd-1 rw\n"
    assert points(mountinfo) == {"0:50": ["/"]}


def test_changed_root_whose_own_mount_is_not_seen() -> None:
    """After chroot() to a directory that nothing is mounted on, there is no line for "/"."""
    mountinfo = b"40 27 8:1 / /data rw - ext4 /dev/sda1 rw\n41 40 8:2 / /data/more rw - ext4 /dev/sda2 rw\n"
    assert points(mountinfo) == {"8:1": ["/data"], "8:2": ["/data/more"]}


def test_optional_fields() -> None:
    mountinfo = b"30 27 8:1 / / rw shared:1 master:2 propagate_from:3 unbindable - ext4 /dev/sda1 rw\n"
    assert points(mountinfo) == {"8:1": ["/"]}


def test_malformed_lines_are_left_out() -> None:
    whole = ROOT + b"30 27 8:1 / /mnt rw - ext4 /dev/sda1 rw\n"
    assert points(b"") == {}
    assert points(b"\n\n30 27\n - \n30 27 8:1 / /mnt rw ext4\n30 27 8:1 / /mnt rw - ext4\n" + ROOT) == {"0:50": ["/"]}
    assert points(whole[:-5]) == {"0:50": ["/"]}


def test_identities_that_make_a_circle() -> None:
    circle = b"5 1 8:1 / / rw - ext4 a rw\n6 5 8:2 / / rw - ext4 b rw\n5 6 8:3 / / rw - ext4 c rw\n"
    assert points(circle) == {"8:1": ["/"]}
    assert points(b"5 6 8:1 / / rw - ext4 a rw\n6 5 8:2 / / rw - ext4 b rw\n") == {}


@given(
    st.lists(st.sampled_from([b"1", b"2", b"8:1", b"/", b"/a", b"/a/b", b"rw", b" ", b" - ", b"ext4", b"\n", b"\\9"]))
)
def test_any_content_is_read(parts: list[bytes]) -> None:
    file_systems(b"".join(parts))


def by_lookup(mounts: list[tuple[int, int, str]]) -> set[int]:
    """The mounts that a lookup of their mount points ends in, one lookup after the other."""
    ids = {id_ for id_, _, _ in mounts}
    below = {(parent if parent in ids and parent != id_ else None, point): id_ for id_, parent, point in mounts}
    found = set()
    for id_, _, point in mounts:
        seen = below.get((None, "/"))
        for prefix in [point[:at] for at in range(1, len(point)) if point[at] == "/"] + [point] if point != "/" else []:
            while (over := below.get((seen, prefix))) is not None:
                seen = over
        if seen == id_:
            found.add(id_)
    return found


FOLDERS = st.sampled_from(["/a", "/a/a", "/a-", "/a/b", "/a/b/a", "/b", "/a/b-/c", "/a/b-"])


@given(
    st.lists(st.tuples(st.integers(1, 9), FOLDERS), max_size=9), st.sampled_from([[(1, 1, "/")], [(1, 99, "/")], []])
)
def test_reachable_as_one_lookup_after_the_other_finds(
    mounts: list[tuple[int, str]], root: list[tuple[int, int, str]]
) -> None:
    """Each mount's parent is an earlier one, as in the kernel, or one that is not to be seen."""
    tree = root + [(at, min(parent, at - 1) or 99, point) for at, (parent, point) in enumerate(mounts, 2)]
    lines = "".join(f"{id_} {parent} 8:{id_} / {point} rw - ext4 none rw\n" for id_, parent, point in tree)
    assert {system.points[0].mount for system in file_systems(lines.encode())} == by_lookup(tree)


def test_shortest_points_of_a_device_are_kept() -> None:
    lines = b"".join(b"%d 27 8:1 /x /f%d rw - ext4 none rw\n" % (100 + at, at) for at in reversed(range(1000)))
    [_, system] = file_systems(ROOT + lines)
    assert len(system.points) == MAX_POINTS
    assert {point.path for point in system.points} > {f"/f{at}" for at in range(10)}
