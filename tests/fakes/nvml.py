"""Builds the stand-in for NVIDIA's library (nvml.c): there is no GPU here."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


def build(folder: Path) -> Path:
    """Compile it and return its path; a loader that has it open finds it under the real one's name."""
    target = folder / "libnvidia-ml.so.1"
    command = ["clang", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{target.name}"]
    subprocess.run([*command, "-o", str(target), str(SOURCE)], check=True)
    return target
