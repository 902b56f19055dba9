"""Build hook: compiles `bpf/*.bpf.c` into the package, so that the wheel carries the objects."""

import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
OBJECTS = ROOT / "src" / "kpod_metrics" / "bpf"

# -g carries the BTF that CO-RE and the agent's layouts need. The instruction
# set is v3: 32-bit ALU and jumps, in every kernel since 5.1. No target macro:
# no program reads pt_regs by architecture, one object serves all of them.
FLAGS = [
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-Wno-unused-function",
    "-target",
    "bpf",
    "-mcpu=v3",
]


def compile_objects(sources: list[Path], into: Path) -> list[Path]:
    """Compile each source to `into`/NAME.o, debug information other than BTF stripped, its checksum at the end.

    No reader of ELF looks there; the agent does, as libbpf does not survive every damaged file.
    Raises SystemExit with the command that failed, or with what to install.
    """
    for tool in ("clang", "llvm-strip"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} not found, the BPF programs need it (Debian: apt-get install clang llvm)")
    into.mkdir(exist_ok=True)
    # clang's bpf target does not search the multiarch folder, where Debian keeps <asm/types.h>.
    headers = [f"-I{path.parent}" for path in Path("/usr/include").glob("*/asm") if path.is_dir()]
    made = []
    for source in sources:
        target = into / source.name.replace(".bpf.c", ".bpf.o")
        # Relative paths: the objects are the same bytes wherever they are built.
        command = [
            "clang",
            *FLAGS,
            f"-I{ROOT / 'bpf'}",
            *headers,
            f"-ffile-prefix-map={ROOT}=.",
            "-c",
            str(source),
        ]
        for step in ([*command, "-o", str(target)], ["llvm-strip", "-g", str(target)]):
            if subprocess.run(step, check=False, cwd=source.parent).returncode:
                sys.exit(f"failed: {' '.join(step)}")
        content = target.read_bytes()
        target.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))
        made.append(target)
    return made


class BpfBuildHook(BuildHookInterface[Any]):
    """Runs before hatchling packs (or links, in an editable install) the package."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile every program of the agent."""
        compile_objects(sorted((ROOT / "bpf").glob("*.bpf.c")), OBJECTS)


if __name__ == "__main__":
    compile_objects(sorted((ROOT / "bpf").glob("*.bpf.c")), OBJECTS)
