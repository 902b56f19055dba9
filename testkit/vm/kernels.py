"""What names a kernel of Debian's, and the architectures that one can be of."""

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """One kernel; the live tests have a row for each of theirs (tests/kernels/table.py)."""

    name: str
    suite: str
    package: str
    """A pattern of the package's whole name: the newest version that matches is taken."""
    architecture: str = "amd64"
    monitoring: bool = False
    """Has Prometheus too, for alerts and panels that need a cgroup tree with all controllers."""
    counted: bool = False
    """Is booted once more with a clock that counts instructions, for what an event executes."""


@dataclass(frozen=True)
class Architecture:
    """How Debian, the compiler, Python's packages and the emulator name one architecture."""

    triplet: str
    wheels: str
    emulator: tuple[str, ...]
    console: str
    threads: str
    """Of the emulator. With one for each CPU that of x86 was seen to execute half of an instruction that the kernel
    was patching (a tracepoint, as a program is attached): its kernel died. As many machines as there are CPUs run at
    once, so that more threads are no faster."""


ARCHITECTURES = {
    # Five-level page tables would only cost the emulator time.
    "amd64": Architecture(
        "x86_64-linux-gnu",
        "manylinux2014_x86_64",
        ("qemu-system-x86_64", "-machine", "q35", "-cpu", "max,la57=off"),
        "ttyS0",
        "single",
    ),
    # Pointer authentication costs the emulator half of its speed.
    "arm64": Architecture(
        "aarch64-linux-gnu",
        "manylinux2014_aarch64",
        ("qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth=off"),
        "ttyAMA0",
        "multi",
    ),
}

USERLAND = "bookworm"
"""The Debian release whose Python, libbpf and tools all rows have."""

HOST = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
