"""Boots one row and reads its result.

The guest writes the result as an archive directly to its own disk. The console is a file.
"""

import io
import json
import os
import subprocess
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testkit.vm.image import SIGNATURE, Booted
from testkit.vm.kernels import ARCHITECTURES

RESULT_MIB = 32
SCRATCH_MIB = 256
MEMORY_MIB = 1024
CPUS = 2
OOPS = "Kernel panic"
COUNTS, MAIN = "MACHINE_COUNTS", "MACHINE_MAIN"
"""Kernel parameters that become environment variables of the guest's first process: whether the clock counts
instructions, and the module to run."""
STARTED = "kpod: tests start"
"""The guest prints this first. Before it, only the start of the kernel can have failed."""


@dataclass(frozen=True)
class Machine:
    """The disks of a row, and a folder for those that it writes."""

    booted: Booted
    root: Path
    tree: Path
    work: Path
    main: str
    """The module to run."""
    counts: bool = False
    """Whether it has one CPU with a clock that counts instructions: one per nanosecond."""


@dataclass
class Outcome:
    """The result of one row."""

    booted: Booted
    console: Path
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Why there is no result."""


def _disks(machine: Machine) -> list[str]:
    """Return the options of the disks. init.sh identifies them by number."""
    for name, size in (("result", RESULT_MIB), ("scratch", SCRATCH_MIB)):
        with (machine.work / name).open("wb") as file:
            file.truncate(size << 20)
    kept = [(machine.work / name, "cache=unsafe") for name in ("result", "scratch")]
    thrown_away = [(path, "snapshot=on") for path in (machine.root, machine.booted.modules, machine.tree)]
    arguments = ["-device", "nvme,id=nvme,serial=kpod"]
    for number, (path, how) in enumerate([*thrown_away, *kept], 1):
        arguments += ["-drive", f"file={path},if=none,id=d{number},format=raw,{how}"]
        arguments += ["-device", f"nvme-ns,drive=d{number},bus=nvme,nsid={number}"]
    return arguments


def _command(machine: Machine, console: Path) -> list[str]:
    architecture = ARCHITECTURES[machine.booted.kernel.architecture]
    threads = "single" if machine.counts else architecture.threads
    cpus = 1 if machine.counts else CPUS
    command = [*architecture.emulator, "-accel", f"tcg,thread={threads}", "-smp", str(cpus), "-m", str(MEMORY_MIB)]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{console}"]
    parameters = f"root=PARTUUID={SIGNATURE}-01 rw rootwait init=/init console={architecture.console} panic=-1 psi=1"
    # On a busy machine the kernel would stop trusting its clock and patch its own code, which can crash the emulator.
    parameters += f" tsc=reliable {MAIN}={machine.main}"
    if machine.counts:
        command += ["-icount", "shift=0,sleep=off"]
        parameters += f" {COUNTS}=1"
    return [*command, "-kernel", str(machine.booted.vmlinuz), "-append", parameters, *_disks(machine)]


def boot(machine: Machine, console: Path, budget: float) -> Outcome:
    """Run one machine until it ends, or until the end of its budget.

    If the kernel crashes before the tests start (the emulator does this about once in 30 boots), it is booted again, at
    most twice. Each crash is printed, and the console's log is kept.
    """
    machine.work.mkdir(parents=True, exist_ok=True)
    outcome = Outcome(machine.booted, console)
    began = time.monotonic()
    for attempt in range(1, 4):
        left = max(1.0, budget - (time.monotonic() - began))
        outcome.problem = _run(_command(machine, console), left) or ""
        said = console.read_text(errors="replace") if console.exists() else ""
        if STARTED in said or OOPS not in said or attempt == 3:
            break
        console.rename(console.with_suffix(f".died-{attempt}.log"))
        print(f"{machine.booted.kernel.name}: the kernel crashed before the tests began; booting again", flush=True)
    outcome.seconds = time.monotonic() - began
    if not outcome.problem:
        try:
            outcome.result = _read(machine.work / "result")
        except (tarfile.TarError, KeyError, ValueError) as error:
            outcome.problem = f"no result came back ({error})"
    return outcome


def _run(command: list[str], budget: float) -> str | None:
    """Run an emulator; return its error, None if there is none."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as emulator:
        try:
            said, _ = emulator.communicate(timeout=budget)
        except subprocess.TimeoutExpired:
            return f"not done within its budget, {budget:.0f} s"
        finally:
            emulator.kill()
    return f"the emulator failed: {said.strip()}" if emulator.returncode else None


def _read(image: Path) -> dict[str, Any]:
    with tarfile.open(fileobj=io.BytesIO(image.read_bytes())) as archive:
        member = archive.extractfile("result.json")
        assert member is not None
        result: dict[str, Any] = json.load(member)
        return result


def write_result(result: dict[str, Any]) -> None:
    """Write the result that `boot` reads; called in the machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        text = json.dumps(result).encode()
        entry = tarfile.TarInfo("result.json")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    with open(os.environ["RESULT_DISK"], "wb") as disk:
        disk.write(buffer.getvalue())
        os.fsync(disk.fileno())
