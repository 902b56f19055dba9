"""A pod beside an attack, all of whose events are known: `python -m tests.reliability.tenants.victim FOLDER`.

It has a network and mounts of its own. For each line with a number it makes so many calls of ioprio_get, sleeps so
often, sends so many frames of 100 bytes on `v0` and so many TCP messages of 100 bytes, writes so many pages of 4 KiB
to a tmpfs at FOLDER, and prints "done".
"""

import ctypes
import os
import platform
import socket
import subprocess
import sys
import time

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
IOPRIO_GET = {"x86_64": 252, "aarch64": 31}[platform.machine()]
LINKS = ("link set lo up", "link add v0 type veth peer name v1", "link set v0 up", "link set v1 up")
FRAME = (b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5").ljust(100, b"\0")

_libc = ctypes.CDLL(None, use_errno=True)


def main(folder: str) -> None:
    """Get ready, and work until the end of the input."""
    assert not _libc.unshare(CLONE_NEWNS | CLONE_NEWNET)
    assert not _libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    assert not _libc.mount(b"victim", folder.encode(), b"tmpfs", ctypes.c_ulong(0), b"size=64m")
    with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w", encoding="utf-8") as knob:
        knob.write("1")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(LINKS).encode(), check=True)
    # A link that is not up yet drops what it gets.
    while any(
        "UP" not in link.split()[1:2]
        for link in subprocess.check_output(["ip", "-br", "link"], text=True).splitlines()
        if link.startswith("v")
    ):
        pass
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind(("v0", 0))
    file = os.open(f"{folder}/file", os.O_WRONLY | os.O_CREAT)
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            _libc.syscall(IOPRIO_GET, -1, -1)
            time.sleep(1e-5)
            sender.send(FRAME)
            client.sendall(b"x" * 100)
            assert len(peer.recv(100, socket.MSG_WAITALL)) == 100
            os.write(file, b"x" * 4096)
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
