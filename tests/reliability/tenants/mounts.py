"""Attacks by mounts: where they are, what they are called, how many there are, and that they never answer."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from stat import S_IFCHR
from typing import TYPE_CHECKING

from kpod_metrics.bounds import LABEL_BYTES
from kpod_metrics.collectors.filesystem import MAX_FILE_SYSTEMS
from kpod_metrics.collectors.parts.mount_tables import CYCLE_BYTES, TABLE_BYTES
from kpod_metrics.collectors.parts.statvfs import MAX_STUCK
from tests.reliability.tenants.declared import Attack
from tests.reliability.tenants.fuse import Daemon
from tests.reliability.tenants.inside import MS_BIND, mount

if TYPE_CHECKING:
    from tests.reliability.tenants.inside import Tenant
    from tests.reliability.tenants.node import Fight

CAPACITY = "kpod_fs_capacity_bytes"
PAGE = 4096
LONG = "x" * 255
FORGED = "\n2026-01-01T00:00:00Z ERROR forged\x1b[31m"
LINE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")
"""How each line of the log begins."""


class Links(Attack):
    name = "links above mounts"
    does = (
        "A pod replaces the folders above its mounts by symbolic links: to a private folder of the host, through "
        "`/proc` to the mounts of another pod, and in a circle"
    )
    bound = "no path below `/proc/PID/root` is opened by its name alone, and no link in it is followed"
    at_bound = "the mount is skipped until its real path is read in the next cycle"
    metric = 'kpod_filesystem_mounts_skipped_total{reason="symlink"}'
    quick = True
    sizes = (3, 30, 300)

    def before(self, fight: Fight) -> None:
        """A file system in a private folder of the host."""
        secret = fight.folder / "secret"
        (secret / "x").mkdir(parents=True)
        secret.chmod(0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", secret / "x"], check=True)
        fight.stack.callback(subprocess.check_call, ["umount", secret / "x"])

    def line(self, fight: Fight) -> str:
        """Where the links lead to."""
        return f"{fight.folder / 'secret'} /proc/{fight.steady.pid}/root{fight.steady.pod.home.parent}"

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Each mount has a size that no other one has."""
        for at in range(size):
            os.makedirs(f"{at}/x")
            mount("none", f"{at}/x", "tmpfs", 0, f"size={(1000 + at) * PAGE}")
        yield
        targets = [*tenant.line.split(), "loop"]
        os.symlink("loop", "loop")
        for at in range(size):
            os.rename(str(at), f"was-{at}")
            os.symlink(targets[at % len(targets)], str(at))
        yield
        yield

    def check(self, fight: Fight) -> None:
        """What is exported at its mounts has the size that it gave them."""
        found = fight.node.page().find(CAPACITY, pod=fight.pod.name)
        own = {dict(labels)["mountpoint"]: value for labels, value in found.items()}
        own = {point: value for point, value in own.items() if point.startswith(f"{fight.pod.home}/")}
        sizes = {f"{fight.pod.home}/was-{at}/x": (1000 + at) * PAGE for at in range(fight.size)}
        assert own == {point: size for point, size in sizes.items() if point in own}
        assert fight.size > 30 or own == sizes


class LongMounts(Attack):
    name = "mounts with long names"
    does = "A pod mounts hundreds of file systems, at paths of hundreds of bytes"
    bound = (
        f"{MAX_FILE_SYSTEMS} file systems of a pod; `pod_series_limit` and `pod_label_bytes_limit`; "
        f"{LABEL_BYTES} bytes of a label's value"
    )
    at_bound = (
        "further ones have no series, or are added up in the pod's series `other`; longer values are cut and marked "
        "with a hash"
    )
    limit = "file_systems"
    sizes = (300, 600, 2_000)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """All in one folder."""
        os.mkdir(LONG)
        yield
        for at in range(size):
            os.mkdir(f"{LONG}/{at}")
            mount("none", f"{LONG}/{at}", "tmpfs", 0, "size=1m")
        yield
        for at in range(size):
            tenant.unmount(f"{LONG}/{at}")
        yield

    def check(self, fight: Fight) -> None:
        """No value is longer than the bound, but for its mark."""
        points = [dict(labels)["mountpoint"] for labels in fight.node.page().find(CAPACITY)]
        assert len(points) > 200
        assert max(map(len, points)) <= LABEL_BYTES + 20


class MountTable(Attack):
    name = "a mount table of megabytes"
    does = "A pod mounts one file system thousands of times, at paths of almost 4 KB"
    bound = f"{TABLE_BYTES >> 10} KiB of the pod's mount tables, and {CYCLE_BYTES >> 10} KiB for each cycle on average"
    at_bound = "the mounts beyond are not read; a change is seen some cycles later"
    limit = "mountinfo"
    sizes = (1_100, 1_850, 7_400)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """All in one folder; each line of the table has about 4 KB."""
        deep = "/".join([tenant.home, *[LONG] * 15])
        os.makedirs(f"{deep}/from")
        mount("none", f"{deep}/from", "tmpfs", 0, "size=1m")
        yield
        for at in range(size):
            os.mkdir(f"{deep}/{at}")
            mount(f"{deep}/from", f"{deep}/{at}", "none", MS_BIND)
        yield
        yield


class HungMounts(Attack):
    name = "mounts that never answer"
    does = "A pod mounts file systems in an overlay above a FUSE daemon of its own, which never answers a lookup"
    bound = f"one thread for a pod, four calls of a pod that hang, {MAX_STUCK} of all pods that hung before"
    at_bound = "the pod's mounts are read after those of all other pods, or not at all; those that hang have no series"
    limit = "hung_mounts"
    device = "/dev/fuse"
    quick = True
    sizes = (10, 40, 150)

    def before(self, fight: Fight) -> None:
        """A device as every user may open it on most machines."""
        node = fight.pod.home / "fuse"
        os.mknod(node, S_IFCHR | 0o666, Path(HungMounts.device).stat().st_rdev)
        node.chmod(0o666)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """All in one overlay."""
        daemon = overlay([str(at) for at in range(size)])
        yield
        daemon.answer = -1
        yield
        daemon.answer = 0
        yield


class ForgedLog(Attack):
    name = "mounts that forge lines of the log"
    does = "A pod has mounts and cgroups that cannot be read, with line feeds and escape sequences in their names"
    bound = "control characters of every message are escaped"
    at_bound = "nothing is lost"
    device = "/dev/fuse"
    sizes = (1, 10, 40)
    before = HungMounts.before

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Every lookup fails."""
        os.mkdir(FORGED)
        os.chdir(FORGED)
        daemon = overlay([str(at) for at in range(size)], "../fuse")
        yield
        daemon.answer = errno.EIO
        for at in range(size):
            os.mkdir(f"{tenant.cgroup}/{at}\x1b[31m")
            os.chmod(f"{tenant.cgroup}/{at}\x1b[31m", 0)
        yield
        for at in range(size):
            os.rmdir(f"{tenant.cgroup}/{at}\x1b[31m")
        yield

    def check(self, fight: Fight) -> None:
        """Each line is one of the agent's own."""
        fight.node.whole_cycles(2)
        said = fight.node.log.read_bytes()
        assert b"forged" in said, said
        assert b"\x1b" not in said
        assert all(LINE.match(line) for line in said.decode().splitlines())


def overlay(names: list[str], device: str = "fuse") -> Daemon:
    """Mount a file system at each name in an overlay above a daemon."""
    for name in ("above", "daemon", "below", *(f"below/{name}" for name in names)):
        os.mkdir(name)
    daemon = Daemon(device)
    mount("daemon", "daemon", "fuse", 0, daemon.options)
    mount("overlay", "above", "overlay", 0, "lowerdir=daemon:below")
    for name in names:
        mount("none", f"above/{name}", "tmpfs", 0, "size=1m")
    return daemon


ATTACKS = (Links, LongMounts, MountTable, HungMounts, ForgedLog)
