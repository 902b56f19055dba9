"""The work of one workload, in its own process: `python -m kpod_metrics.demo.work NAME CGROUP PARENT DIRECTORY`.

It moves itself into the cgroup, and ends with its parent. Its files and its network namespace have no name, so that
they end with it too.
"""

import contextlib
import ctypes
import fcntl
import itertools
import mmap
import os
import random
import resource
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_SO_ATTACH_FILTER = 26
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Do the work until the parent ends."""
    name, cgroup, parent, directory = arguments
    die_with(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    with open(f"{cgroup}/cgroup.procs", "w", encoding="ascii") as procs:
        procs.write(str(os.getpid()))
    WORK[name](directory)


def die_with(parent: int) -> None:
    """Make the kernel kill this process when its parent ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent has ended already
        os._exit(0)


def _beside(work: Callable[[], None]) -> int:
    """Start a second process, which ends with this one."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        die_with(parent)
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    return child


def _hog(_: str) -> None:
    os.nice(10)
    _on_last_cpu()
    _beside(_spin_half)
    _spin_half()


def _on_last_cpu() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _spin_half() -> None:
    """Use 25 ms of CPU time from the start of each tenth of a second on: both tasks need the CPU at the same time."""
    while True:
        time.sleep(0.1 - time.monotonic() % 0.1)
        enough = time.thread_time() + 0.025
        while time.thread_time() < enough:
            pass


def _sleeper(_: str) -> None:
    _on_last_cpu()
    while True:
        time.sleep(1)


def _lossy(_: str) -> None:
    """Send to a socket whose filter drops segments before TCP sees them, like a bad link; all kernels support it."""
    with contextlib.suppress(OSError):  # also without it, only this connection has losses
        _own_network()
    listener = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    # Classic BPF (Documentation/networking/filter.rst): drop if a random number is in the lowest tenth.
    load, jump_if_above, give = 0x20, 0x25, 0x06
    random_number = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
    program = (
        (load, 0, 0, random_number),
        (jump_if_above, 1, 0, 2**32 // 10),
        (give, 0, 0, 0),
        (give, 0, 0, 0xFFFFFFFF),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    receiver.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive() -> None:
        while receiver.recv(1 << 16):
            pass

    _beside(receive)
    while True:
        sender.sendall(bytes(8192))
        time.sleep(0.02)


def _own_network() -> None:
    """Enter a new network namespace, and set its loopback interface up."""
    if _LIBC.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket() as control:
        request = struct.pack("16sH14x", b"lo", 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _refused(_: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # the port is taken, but no process listens on it
        while True:
            with socket.socket() as sock, contextlib.suppress(ConnectionRefusedError):
                sock.connect(held.getsockname())
            time.sleep(0.2)


_FILE_BYTES = 4 << 20


def _faults(directory: str) -> None:
    """Read pages that were dropped from the page cache, 40 a second."""
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(_FILE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        pages = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
        pages.madvise(mmap.MADV_RANDOM)  # otherwise a fault reads neighbouring pages too
        before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        for turn in itertools.count():
            pages.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for page in random.sample(range(_FILE_BYTES // mmap.PAGESIZE), 20):
                pages[page * mmap.PAGESIZE]
            if not turn and resource.getrusage(resource.RUSAGE_SELF).ru_majflt == before:
                print(f"kpod-metrics demo: {directory} is not on a disk: no page faults", file=sys.stderr)
            time.sleep(0.5)


def _syscalls(directory: str) -> None:
    missing = os.path.join(directory, "kpod-demo-is-not-there")
    while True:
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(missing, os.O_RDONLY))
        time.sleep(0.02)


def _writer(directory: str) -> None:
    with tempfile.TemporaryFile(dir=directory) as file:
        while True:
            file.seek(0)
            file.write(os.urandom(1 << 16))
            file.flush()
            os.fsync(file.fileno())
            time.sleep(0.2)


def _throttled(_: str) -> None:
    os.nice(10)
    while True:
        pass


def _memory(_: str) -> None:
    """Start a process that allocates memory until it is killed; rarely, as the kernel logs each kill."""
    while True:
        os.waitpid(_beside(_eat), 0)
        time.sleep(6)


def _eat() -> None:
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as own:
        own.write("1000")  # kill this process, not its parent
    taken = []
    while True:
        taken.append(b"\x01" * (1 << 20))
        time.sleep(0.01)


WORK: dict[str, Callable[[str], None]] = {
    "hog": _hog,
    "sleeper": _sleeper,
    "lossy": _lossy,
    "refused": _refused,
    "faults": _faults,
    "syscalls": _syscalls,
    "writer": _writer,
    "throttled": _throttled,
    "memory": _memory,
}

if __name__ == "__main__":
    main(sys.argv[1:])
