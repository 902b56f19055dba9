"""ebpf_exporter (by cloudflare), a peer in the part "tools": built here, with its examples or our configurations."""

import hashlib
import json
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.rig import BENCH, Options, SkippedError, free_port, made_once, output_of, unpacked

MODULE = "github.com/cloudflare/ebpf_exporter/v2"
PINNED = BENCH / "peers" / "ebpf_exporter"
"""Its version and those of its dependencies, with Go's checksums, and our configurations for programs in `bpf`."""
LIBBPF, KERNEL_HEADERS = "trixie/libbpf-dev", "trixie/linux-libc-dev"
"""A Debian release with libbpf 1.5, which the exporter's Makefile.libbpf requires."""
SYMBOLS = {"strtoull": "strtoull", "sscanf": "__isoc99_sscanf", "fscanf": "__isoc99_fscanf"}
"""What glibc before 2.38 has in place of `__isoc23_NAME`, which differs in numbers that are written in binary."""
MACHINES = {"x86_64": "x86", "aarch64": "arm64"}
"""Its folders of kernel types, by the machine's name; libbpf's names too."""


@dataclass(frozen=True)
class Exporter:
    """The built program, and the files of its source."""

    program: Path
    module: Path
    """Its source: examples, and the headers that they and our configurations include."""
    version: str

    def command(self, options: Options, name: str) -> list[str]:
        """Compile the program of a config, of its examples or of ours, as its examples' Makefile does; what runs it."""
        ours = (PINNED / f"{name}.yaml").exists()
        source = (BENCH / "bpf" if ours else self.module / "examples") / f"{name}.bpf.c"
        machine = _machine()
        folder = options.scratch / self.program.name
        folder.mkdir(exist_ok=True)
        shutil.copyfile((PINNED if ours else source.parent) / f"{name}.yaml", folder / f"{name}.yaml")
        headers = (self.module / "examples", self.module / "include" / machine, unpacked(LIBBPF) / "usr/include")
        target = folder / f"{name}.bpf.o"
        output_of(
            [
                *("clang", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror", f"-D__TARGET_ARCH_{machine}"),
                *(f"-I{path}" for path in headers),
                *("-target", "bpf", "-c", str(source), "-o", str(target)),
            ],
            f"{source.name} cannot be compiled",
        )
        return [
            # Else it tries to send traces to port 4318 every 5 s, although no configuration here makes any.
            *("env", "OTEL_TRACES_EXPORTER=none", str(self.program)),
            *(f"--config.dir={folder}", f"--config.names={name}", f"--web.listen-address=127.0.0.1:{free_port()}"),
        ]


def built() -> Exporter:
    """Return the exporter, downloaded and built once; raises SkippedError if that fails."""
    _machine()
    for tool in ("go", "clang", "llvm-objcopy"):
        if shutil.which(tool) is None:
            raise SkippedError(f"{tool} is not installed")
    # Go verifies it, and later every dependency, with go.sum.
    output_of(["go", "mod", "download", MODULE], f"{MODULE} cannot be fetched", cwd=PINNED)
    found = json.loads(output_of(["go", "list", "-m", "-json", MODULE], f"{MODULE} is not there", cwd=PINNED))
    pins = b"".join((PINNED / name).read_bytes() for name in ("go.mod", "go.sum"))
    folder = made_once(f"bench-{PINNED.name}-{hashlib.sha256(pins).hexdigest()[:12]}", _build)
    return Exporter(folder / PINNED.name, Path(found["Dir"]), found["Version"])


def _build(into: Path) -> None:
    into.mkdir()
    libbpf = unpacked(LIBBPF)
    # A release's static library asks for its own C library's names: in a copy, for those that older ones have too.
    copy = into / "libbpf.a"
    renamed = [f"--redefine-sym=__isoc23_{name}={other}" for name, other in SYMBOLS.items()]
    [library] = libbpf.glob("usr/lib/*/libbpf.a")
    output_of(["llvm-objcopy", *renamed, str(library), str(copy)], "libbpf's names cannot be changed")
    headers = (libbpf / "usr/include", unpacked(KERNEL_HEADERS) / "usr/include")
    output_of(
        ["go", "build", "-trimpath", "-buildvcs=false", "-o", str(into / PINNED.name), f"{MODULE}/cmd/{PINNED.name}"],
        f"{PINNED.name} cannot be built",
        cwd=PINNED,
        environment=os.environ
        | {
            "CC": "clang",
            "CGO_ENABLED": "1",
            "CGO_CFLAGS": " ".join(f"-I{path}" for path in headers),
            "CGO_LDFLAGS": str(copy),
        },
    )
    copy.unlink()


def _machine() -> str:
    name = platform.machine()
    if name not in MACHINES:
        raise SkippedError(f"ebpf_exporter has no kernel types for {name}")
    return MACHINES[name]
