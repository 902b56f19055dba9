"""Debian's kernels, and their architectures."""

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """One kernel: a row of the table of test kernels (tests/kernels/table.py)."""

    name: str
    suite: str
    package: str
    """A pattern for the complete name of the package; the newest match is used."""
    architecture: str = "amd64"
    monitoring: bool = False
    """Whether it also runs Prometheus, for alerts and panels that need all cgroup controllers."""
    counted: bool = False
    """Whether it boots again with a clock that counts instructions, to count those of an event."""


@dataclass(frozen=True)
class Architecture:
    """The names of an architecture in Debian, the compiler, Python packages and the emulator."""

    triplet: str
    wheels: str
    emulator: tuple[str, ...]
    console: str
    threads: str
    """Threads of the emulator. With one thread per CPU, x86 emulation executed half of an instruction while the kernel
    patched it (a tracepoint, when a program attaches), and the kernel crashed. One machine per CPU runs at the same
    time, so more threads would not be faster."""


ARCHITECTURES = {
    # Five-level page tables make the emulator slower.
    "amd64": Architecture(
        "x86_64-linux-gnu",
        "manylinux2014_x86_64",
        ("qemu-system-x86_64", "-machine", "q35", "-cpu", "max,la57=off"),
        "ttyS0",
        "single",
    ),
    # Pointer authentication makes the emulator half as fast.
    "arm64": Architecture(
        "aarch64-linux-gnu",
        "manylinux2014_aarch64",
        ("qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth=off"),
        "ttyAMA0",
        "multi",
    ),
}

USERLAND = "bookworm"
"""The Debian release of Python, libbpf and tools in all rows."""

HOST = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
