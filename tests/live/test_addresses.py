"""The agent on machines with one kind of addresses: each is a network namespace, with the client."""

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpod_metrics.kernel.syscalls import ARM64, X86_64
from tests.live.agents import COMMAND, eventually, process

QUICK = ("--profile", "minimal", "--poll-interval", "200ms")

ASKS = """
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
    print(answer.read().decode(), end="")
"""

WITHOUT_IPV6 = """
import ctypes, errno, os, socket, struct, sys

SOCKET = int(sys.argv[1])
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, FIRST_ARGUMENT = 0, 16
REFUSE, ALLOW = 0x00050000 | errno.EAFNOSUPPORT, 0x7FFF0000
rules = [
    (LOAD, 0, 0, NUMBER), (IF_EQUAL, 0, 3, SOCKET), (LOAD, 0, 0, FIRST_ARGUMENT),
    (IF_EQUAL, 0, 1, socket.AF_INET6), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
program = struct.pack("@HP", len(rules), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_SECCOMP, FILTER = 22, 2
if libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.c_char_p(program), 0, 0):
    raise OSError(ctypes.get_errno(), "prctl")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Runs a program to which the kernel says of IPv6 what it says to all where it was started with ipv6.disable=1."""
_SOCKET = {"x86_64": X86_64, "aarch64": ARM64}[platform.machine()]["socket"]

IPV6_ALONE = """
echo 0 > /proc/sys/net/ipv6/conf/lo/accept_dad
ip link set lo up
ip addr del 127.0.0.1/8 dev lo
ip addr add fd00::1/64 dev lo
ip addr add fe80::1/64 dev lo
"""
IPV6_OFF = """
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
ip link set lo up
ip addr add 10.9.0.1/24 dev lo
"""


class Network:
    """A network namespace with an agent in it."""

    def __init__(self, pid: int, log: Path) -> None:
        self._enter = ("nsenter", f"--net=/proc/{pid}/ns/net")
        self._log = log

    def run(self, *command: str | Path) -> str:
        """What a command prints that is run there."""
        done = subprocess.run([*self._enter, *command], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout

    def get(self, url: str) -> str:
        return self.run(sys.executable, "-c", ASKS, url)

    def ready(self, url: str) -> None:
        try:
            eventually(lambda: self.get(f"{url}/readyz").startswith("ready"))
        except AssertionError as error:
            raise AssertionError(self._log.read_text()) from error

    def serves(self) -> str:
        """The address that the agent says it serves."""
        served: list[str] = re.findall(r"serves http://(\S+)/metrics", self._log.read_text())
        return served[0]


@pytest.fixture
def inside(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Network]:
    """An agent in a new network: what makes it, and the command's beginning and end."""
    script, before, flags = request.param
    command = ["unshare", "-n", "sh", "-ec", f'{script}exec "$@"', "sh", *before, COMMAND, "run", *QUICK, *flags]
    log = tmp_path / "agent.log"
    with process(command, log) as agent:
        # The namespace is there once the agent is: until then its process is in this one.
        eventually(lambda: "serves" in log.read_text() or agent.poll() is not None)
        assert agent.poll() is None, log.read_text()
        yield Network(agent.pid, log)


@pytest.mark.parametrize("inside", [(IPV6_ALONE, (), ())], indirect=True)
def test_cluster_of_ipv6_alone(inside: Network) -> None:
    """As the kubelet's probes and Prometheus ask there, and `top` on the node."""
    inside.ready("http://[fd00::1]:9090")
    assert inside.serves() == "[::]:9090"
    assert "kpod_build_info" in inside.get("http://[::1]:9090/metrics")
    assert json.loads(inside.run(COMMAND, "top", "--json", "--url", "http://[fd00::1]:9090"))
    with pytest.raises(OSError, match="unreachable"):
        inside.get("http://127.0.0.1:9090/metrics")


@pytest.mark.parametrize("inside", [(IPV6_ALONE, (), ("--listen", ":9191", "--probe-listen", ":9192"))], indirect=True)
def test_port_alone_where_there_is_ipv6_alone(inside: Network) -> None:
    inside.ready("http://[fd00::1]:9192")
    assert inside.serves() == "[::]:9191"
    assert "kpod_build_info" in inside.get("http://[fd00::1]:9191/metrics")


@pytest.mark.parametrize("inside", [(IPV6_ALONE, (), ("--listen", "[fe80::1%lo]:9090"))], indirect=True)
def test_address_of_a_link(inside: Network) -> None:
    inside.ready("http://[fe80::1%lo]:9090")
    assert inside.serves() == "[fe80::1%lo]:9090"
    assert json.loads(inside.run(COMMAND, "top", "--json", "--listen", "[fe80::1%lo]:9090"))
    with pytest.raises(OSError, match="refused"):
        inside.get("http://[fd00::1]:9090/readyz")


@pytest.mark.parametrize("inside", [(IPV6_OFF, (), ())], indirect=True)
def test_ipv6_switched_off(inside: Network) -> None:
    inside.ready("http://10.9.0.1:9090")
    assert inside.serves() == "[::]:9090"
    assert "kpod_build_info" in inside.get("http://127.0.0.1:9090/metrics")


@pytest.mark.parametrize("listen", [(), ("--listen", ":9090"), ("--listen", "[::]:9090")])
def test_kernel_without_ipv6(listen: tuple[str, ...], tmp_path: Path) -> None:
    command = ["unshare", "-n", "sh", "-ec", f'{IPV6_OFF}exec "$@"', "sh"]
    without = [sys.executable, "-c", WITHOUT_IPV6, str(_SOCKET)]
    log = tmp_path / "agent.log"
    with process([*command, *without, COMMAND, "run", *QUICK, *listen], log) as agent:
        eventually(lambda: "serves" in log.read_text() or agent.poll() is not None)
        assert agent.poll() is None, log.read_text()
        inside = Network(agent.pid, log)
        inside.ready("http://10.9.0.1:9090")
        assert inside.serves() == "0.0.0.0:9090"
        refused: list[str | Path] = [
            sys.executable,
            "-c",
            WITHOUT_IPV6,
            str(_SOCKET),
            COMMAND,
            "run",
            "--listen",
            "[::1]:9090",
        ]
        with pytest.raises(OSError, match=r"cannot listen on \[::1\]:9090: Address family not supported by protocol"):
            inside.run(*refused)
