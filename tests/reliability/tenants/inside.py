"""The process of a tenant: `python -m tests.reliability.tenants.inside NAME SIZE`, started by root in its cgroup.

It becomes user 65534 in a user namespace of its own before the attack begins. It prints "ready" after each step, and
begins the next one when it gets a line. Everything is imported before: a user without rights may not be able to read
this folder.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

NOBODY = 65534
SIOCSIFNAME = 0x8923
PR_SET_DUMPABLE = 4
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
CLONE_NEWUSER = 0x10000000
CLONE_NEW = {"mount": 0x20000, "network": 0x40000000}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


class Tenant:
    """What a tenant can do, and where."""

    def __init__(self, cgroup: str, home: str) -> None:
        self.cgroup = cgroup
        """Its own cgroup, as a path of the host; with a mount namespace it sees all of the host's."""
        self.home = home
        """A folder that it owns."""

    def mount(self, source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
        """mount(2)."""
        _checked(
            _libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()),
            f"mount {target!r}",
        )

    def unmount(self, target: str) -> None:
        """umount2(2), also while it is in use."""
        _checked(_libc.umount2(os.fsencode(target), 2), f"umount {target!r}")

    def unshare(self, *namespaces: str) -> None:
        """Enter new namespaces."""
        _checked(_libc.unshare(sum(CLONE_NEW[name] for name in namespaces)), f"unshare {namespaces}")

    def ip(self, commands: Iterable[str]) -> None:
        """Commands of ip, all in one process."""
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True)

    def rename_interface(self, old: str, new: str) -> None:
        """Rename an interface that is down."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:
            fcntl.ioctl(any_, SIOCSIFNAME, struct.pack("16s16s8x", old.encode(), new.encode()))

    @staticmethod
    def pause(seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    @contextmanager
    def again_and_again(self, what: Callable[[], object]) -> Iterator[None]:
        """Do something on a thread until the end, at least once more after a yield."""
        stop = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                while not stop.is_set():
                    what()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if failed:
            raise failed[0]

    def children(self, number: int, run: Callable[[int], object]) -> list[int]:
        """Fork so many processes that run something and then sleep; return when all of them sleep."""
        read, write = os.pipe()
        pids = []
        for at in range(number):
            if pid := os.fork():
                pids.append(pid)
                continue
            try:
                run(at)
                os.write(write, b".")
                while True:
                    threading.Event().wait()
            finally:
                os._exit(1)
        os.close(write)
        done = 0
        while done < number:
            some = len(os.read(read, number))
            assert some, "a child of the tenant ended"
            done += some
        os.close(read)
        return pids


def become(namespaces: Iterable[str]) -> None:
    """Give up all rights, and have them in a new user namespace only."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    # Its files in /proc belong to it again.
    _checked(_libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")
    _checked(_libc.unshare(CLONE_NEWUSER), "unshare user")
    for file, line in (("setgroups", "deny"), ("uid_map", f"0 {NOBODY} 1"), ("gid_map", f"0 {NOBODY} 1")):
        with open(f"/proc/self/{file}", "w", encoding="utf-8") as written:
            written.write(line)
    _checked(_libc.unshare(sum(CLONE_NEW[name] for name in namespaces)), "unshare")
    if "mount" in namespaces:
        _checked(_libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "private mounts")


def main(name: str, size: str, cgroup: str, home: str) -> None:
    """Run the inside of an attack."""
    from tests.reliability.tenants import ATTACKS

    attack = next(attack for attack in ATTACKS if attack.__name__ == name)
    become(attack.namespaces)
    os.chdir(home)
    for _ in attack().inside(Tenant(cgroup, home), int(size)):
        print("ready", flush=True)
        if not sys.stdin.readline():
            break
    os._exit(0)  # whatever threads it has


if __name__ == "__main__":
    main(*sys.argv[1:])
