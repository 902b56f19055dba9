"""Boots one row and brings back its result.

The result comes on a disk of its own, as an archive that the guest writes to it raw; the console is a file.
"""

import io
import json
import subprocess
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kernels.image import SIGNATURE, Booted
from tests.kernels.table import ARCHITECTURES

RESULT_MIB = 32
SCRATCH_MIB = 256
MEMORY_MIB = 1024
CPUS = 2
OOPS = "Kernel panic"
STARTED = "kpod: tests start"
"""What the guest prints first: before it, the kernel's start can be at fault only."""


@dataclass
class Outcome:
    """What became of one row."""

    booted: Booted
    console: Path
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Why there is no result."""
    restarts: int = 0


def _disks(booted: Booted, root: Path, tree: Path, work: Path, result: Path) -> list[str]:
    """One controller with a disk each: init.sh and inside.py know them by number."""
    arguments = ["-device", "nvme,id=nvme,serial=kpod"]
    scratch = work / "scratch.img"
    with scratch.open("wb") as file:
        file.truncate(SCRATCH_MIB << 20)
    disks = ((root, True), (booted.modules, True), (tree, True), (result, False), (scratch, False))
    for number, (path, snapshot) in enumerate(disks, 1):
        kept = "snapshot=on" if snapshot else "cache=unsafe"
        arguments += ["-drive", f"file={path},if=none,id=d{number},format=raw,{kept}"]
        arguments += ["-device", f"nvme-ns,drive=d{number},bus=nvme,nsid={number}"]
    return arguments


def _command(booted: Booted, append: str) -> list[str]:
    architecture = ARCHITECTURES[booted.kernel.architecture]
    threads = "single" if booted.kernel.one_thread else "multi"
    command = [*architecture.emulator, "-accel", f"tcg,thread={threads}", "-smp", str(CPUS), "-m", str(MEMORY_MIB)]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    parameters = f"root=PARTUUID={SIGNATURE}-01 rw rootwait init=/init console={architecture.console} panic=-1 psi=1 {append}"
    return [*command, "-kernel", str(booted.vmlinuz), "-append", parameters.strip()]


def boot(booted: Booted, root: Path, tree: Path, work: Path, budget: float, append: str = "") -> Outcome:
    """Run one machine to its end, or to the end of its budget; one that dies before the tests start gets another go."""
    work.mkdir(parents=True, exist_ok=True)
    outcome = Outcome(booted, work / "console.log")
    result = work / "result.img"
    began = time.monotonic()
    for attempt in range(3):
        outcome.restarts = attempt
        with result.open("wb") as file:
            file.truncate(RESULT_MIB << 20)
        command = [*_command(booted, append), *_disks(booted, root, tree, work, result)]
        command += ["-serial", f"file:{outcome.console}"]
        emulator = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            said, _ = emulator.communicate(timeout=max(1.0, budget - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            outcome.problem = f"not done within its budget of {budget:.0f} s"
        else:
            outcome.problem = f"the emulator failed: {said.decode().strip()}" if emulator.returncode else ""
        finally:
            emulator.kill()
            emulator.wait()
            if emulator.stdout:
                emulator.stdout.close()
        console = outcome.console.read_text(errors="replace")
        if STARTED in console or OOPS not in console:
            break
        outcome.console.rename(work / f"console-died-{attempt}.log")
        print(f"{booted.kernel.name}: the kernel died before the tests began; once more", flush=True)
    outcome.seconds = time.monotonic() - began
    if not outcome.problem:
        try:
            outcome.result = _read(result)
        except (tarfile.TarError, KeyError, ValueError) as error:
            outcome.problem = f"no result came back ({error})"
    return outcome


def _read(image: Path) -> dict[str, Any]:
    with tarfile.open(fileobj=io.BytesIO(image.read_bytes())) as archive:
        member = archive.extractfile("result.json")
        assert member is not None
        result: dict[str, Any] = json.load(member)
        return result
