"""Workloads that read commands as lines, and answer each with a line."""

import subprocess

from tests.live.harness import Cgroup

Children = list["subprocess.Popen[bytes]"]

NETWORK = """
import socket, subprocess, sys
open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w").write("1")
for command in sys.argv[1:]:
    subprocess.run(["ip", *command.split()], check=True)
# A link that is not up yet drops what it is given.
while any("veth" in link and "state UP" not in link for link in
          subprocess.run(["ip", "-d", "-o", "link"], capture_output=True, text=True).stdout.splitlines()):
    pass
print("ready", flush=True)
for line in sys.stdin:
    interface, count, size = line.split()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        for _ in range(int(count)):
            # To everybody, of an experimental protocol that nothing answers.
            try:
                sender.send((b"\\xff" * 6 + b"\\x02" * 6 + b"\\x88\\xb5").ljust(int(size), b"\\0"))
            except OSError as error:
                assert error.errno == 105, error  # ENOBUFS: it was dropped
    print("sent", flush=True)
"""
"""Frames of an interface: "lo 10 100" sends ten of 100 bytes; its arguments are commands of ip, run before."""


def piped(cgroup: Cgroup, children: Children, *command: str) -> "subprocess.Popen[bytes]":
    """Start one in a cgroup; `children` are ended by the test."""
    process = cgroup.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    children.append(process)
    return process


def answer(process: "subprocess.Popen[bytes]", line: str | None = None) -> str:
    """Send a workload a line, and return its next one."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line is not None:
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
    return process.stdout.readline().decode().strip()
