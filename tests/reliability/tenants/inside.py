"""What the process of a tenant can do, with nothing but the standard library."""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

NOBODY = 65534
SIOCSIFNAME = 0x8923
PR_SET_DUMPABLE = 4
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
CLONE_NEW = {"user": 0x10000000, "mount": 0x20000, "network": 0x40000000}

RARE = {"x86_64": 146, "aarch64": 125}[os.uname().machine]
"""sched_get_priority_max, a syscall that no library makes by itself, and no other test."""
CALLS = "kpod_syscall_count_total"
"""The metric that counts them."""
FRAME = (b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5").ljust(100, b"\0")
"""To all, of an experimental protocol that nothing answers."""

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def syscall(*numbers: int) -> None:
    """Make a syscall, whatever it returns."""
    _libc.syscall(*numbers)


def end(pids: Iterable[int]) -> None:
    """Kill processes."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def send_frames(interface: str, number: int) -> None:
    """Send so many frames of 100 bytes."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        for _ in range(number):
            sender.send(FRAME)


def private_mounts() -> None:
    """Have mounts of this namespace for itself."""
    _checked(_libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "private mounts")


def enter_new(*namespaces: str) -> None:
    """unshare(2)."""
    _checked(_libc.unshare(sum(CLONE_NEW[name] for name in namespaces)), f"unshare {namespaces}")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    _checked(
        _libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()),
        f"mount {target!r}",
    )


def quiet_link(name: str) -> None:
    """Make a pair of interfaces that send only what the process sends, `name` and `peer`."""
    with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w", encoding="utf-8") as knob:
        knob.write("1")
    ip([f"link add {name} type veth peer name peer", f"link set {name} up", "link set peer up"])
    # A link that is not up yet drops what it gets.
    while subprocess.check_output(["ip", "-br", "link"]).count(b" UP ") < 2:
        pass


def ip(commands: Iterable[str]) -> None:
    """Commands of ip, all in one process."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True)


class Tenant:
    """What a tenant can do, and where."""

    def __init__(self, cgroup: str, home: str) -> None:
        self.cgroup = cgroup
        """Its own cgroup, as a path of the host; with a mount namespace it sees all of the host's."""
        self.home = home
        """A folder that it owns."""
        self.line = ""
        """What the test said last."""

    def unmount(self, target: str) -> None:
        """umount2(2), also while it is in use."""
        _checked(_libc.umount2(os.fsencode(target), 2), f"umount {target!r}")

    @staticmethod
    def enter(cgroup: str) -> None:
        """Move this process into a cgroup."""
        with open(f"{cgroup}/cgroup.procs", "w", encoding="utf-8") as procs:
            procs.write("0")

    @contextmanager
    def programs(self, commands: Iterable[list[str]]) -> Iterator[None]:
        """Run programs until the end; each says something when it is ready."""
        started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for command in commands]
        for one in started:
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
        yield
        for one in started:
            one.kill()
            one.communicate()

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
    enter_new("user")
    for file, line in (("setgroups", "deny"), ("uid_map", f"0 {NOBODY} 1"), ("gid_map", f"0 {NOBODY} 1")):
        with open(f"/proc/self/{file}", "w", encoding="utf-8") as written:
            written.write(line)
    enter_new(*namespaces)
    if "mount" in namespaces:
        private_mounts()
