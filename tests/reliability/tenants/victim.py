"""A pod beside an attack, all of whose events are known: `python -m tests.reliability.tenants.victim FOLDER`.

It has a network and mounts of its own. For each line with a number it makes so many calls of RARE, sleeps so
often, sends so many frames of 100 bytes on `v0` and so many TCP messages of 100 bytes, writes so many pages of 4 KiB
to a tmpfs at FOLDER, and prints "done".
"""

import os
import socket
import sys
import time

from tests.reliability.tenants.inside import (
    FRAME,
    RARE,
    enter_new,
    ip,
    mount,
    private_mounts,
    quiet_link,
    syscall,
)


def main(folder: str) -> None:
    """Get ready, and work until the end of the input."""
    enter_new("mount", "network")
    private_mounts()
    mount("victim", folder, "tmpfs", 0, "size=64m")
    ip(["link set lo up"])
    quiet_link("v0")
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind(("v0", 0))
    file = os.open(f"{folder}/file", os.O_WRONLY | os.O_CREAT)
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            syscall(RARE, 0)
            time.sleep(1e-5)
            sender.send(FRAME)
            client.sendall(b"x" * 100)
            assert len(peer.recv(100, socket.MSG_WAITALL)) == 100
            os.write(file, b"x" * 4096)
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
