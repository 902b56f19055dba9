"""Makes the disks of a virtual machine: kernel, modules, root file system, and the tree with objects and workloads.

The first three stay in a cache until their sources change. The tree is packed for every run.
"""

import fcntl
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from testkit.vm import apt
from testkit.vm.kernels import ARCHITECTURES, HOST, USERLAND, Kernel

REPOSITORY = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kpod-metrics" / "kernels"

PACKAGES = ("python3", "libbpf1", "dash", "coreutils", "util-linux", "mount", "iproute2", "kmod", "procps", "findutils")
"""Packages of the root file system, in addition to their dependencies."""

WHEELS = (
    *("msgspec", "pyyaml", "h11", "isal", "typing-extensions"),  # what the agent needs
    *("pytest", "pytest-timeout", "iniconfig", "packaging", "pluggy", "pygments", "hypothesis", "sortedcontainers"),
    *("hatchling", "pathspec", "trove-classifiers"),  # hatch_build.py, which tests import
)
"""The locked Python packages that it has. The others are linters, or for tests that do not depend on the kernel."""

COMPILER_PACKAGES = ("libc6-dev", "linux-libc-dev", "libc6", "libgcc-12-dev")

INIT = """#!/bin/sh
# Process 1; the tree has the rest. Disks appear one after another, and are identified by number.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
disk() { for at in /sys/block/nvme*; do [ "$(cat $at/nsid)" != $1 ] || echo "/dev/${at##*/}"; done; }
for wait in 1 2 3 4 5 6 7 8 9; do [ -b "$(disk 5)" ] || sleep 0.5; done
mount -t ext4 "$(disk 3)" /kpod
. /kpod/testkit/vm/init.sh
"""

SIGNATURE = "6b706f64"
"""Signature of the root disk: the kernel finds the first partition by it, in whatever order disks appear."""


@dataclass(frozen=True)
class Booted:
    """The kernel and modules of one row."""

    kernel: Kernel
    package: str
    version: str
    vmlinuz: Path
    modules: Path


@contextmanager
def _locked() -> Iterator[None]:
    """Lock the cache, so that one run builds what the others use."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kept(name: str, make: Callable[[Path, Path], None]) -> Path:
    """Return a folder of the cache. If it does not exist, `make(folder, scratch)` fills it, and it is then renamed."""
    target = CACHE / name
    with _locked():
        if not target.exists():
            print(f"making {name}", flush=True)
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                made = Path(scratch) / "made"
                made.mkdir()
                make(made, Path(scratch))
                target.parent.mkdir(parents=True, exist_ok=True)
                made.rename(target)
    return target


def _suite(name: str, architecture: str) -> apt.Suite:
    return apt.Suite(CACHE / "apt", name, architecture)


def _ext4(image: Path, content: Path, spare: int, at: int = 0) -> int:
    """Pack a folder into an image at offset `at` MiB, with `spare` MiB free as holes; return the size in MiB."""
    used = sum(path.lstat().st_size + 4096 for path in content.rglob("*"))
    size = used // (1 << 20) * 11 // 10 + 8 + spare
    with image.open("wb") as file:
        file.truncate((size + at) << 20)
    where = f"root_owner=0:0,offset={at << 20}"
    command = ["mkfs.ext4", "-q", "-F", "-d", str(content), "-E", where, "-O", "^has_journal"]
    environment = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    subprocess.run([*command, str(image), f"{size}M"], check=True, env=environment)
    return size


def _partitioned(image: Path, content: Path, spare: int) -> None:
    """Pack a folder into the only partition of a disk with SIGNATURE (an MBR partition table)."""
    size = _ext4(image, content, spare, at=1)
    sectors = 2048
    entry = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", sectors, size * sectors)
    with image.open("r+b") as file:
        file.seek(440)
        file.write(int(SIGNATURE, 16).to_bytes(4, "little") + bytes(2) + entry + bytes(48) + b"\x55\xaa")


def kernel(row: Kernel) -> Booted:
    """Fetch the newest kernel that matches the row."""
    suite = _suite(row.suite, row.architecture)
    with _locked():
        package, version = suite.newest(row.package)

    def make(folder: Path, scratch: Path) -> None:
        # Since 7.2 the image and its modules are in dependencies of this package.
        parts = suite.depends(package, r"linux-(binary|modules)-.*")
        apt.fetch(suite, [package, *parts], scratch, scratch / "files")
        release = package.removeprefix("linux-image-")
        modules = next(path for path in (scratch / "files").glob("**/modules") if path.is_dir())
        images = [*(scratch / "files").glob(f"boot/vmlinuz-{release}"), *modules.glob(f"{release}/vmlinuz")]
        shutil.move(images[0], folder / "vmlinuz")
        tree = scratch / "tree/lib/modules"
        tree.parent.mkdir(parents=True)
        shutil.move(modules, tree)
        shutil.rmtree(scratch / "files")
        environment = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        subprocess.run(["depmod", "-b", scratch / "tree", release], check=True, env=environment)
        _ext4(folder / "modules.ext4", tree, 1)

    folder = _kept(f"boot/{row.architecture}/{package}_{version.replace(':', '%')}", make)
    return Booted(row, package, version, folder / "vmlinuz", folder / "modules.ext4")


def _requirements() -> str:
    """Return the lines of the lock file, with hashes, of the packages in WHEELS."""
    entries = (REPOSITORY / "requirements-dev.txt").read_text().replace("\\\n", " ").splitlines()
    chosen = {entry.split("==")[0]: entry for entry in entries if entry.split("==")[0] in WHEELS}
    if missing := set(WHEELS) - chosen.keys():
        raise SystemExit(f"requirements-dev.txt has not: {', '.join(sorted(missing))}")
    return "\n".join(chosen.values()) + "\n"


def _key(*parts: str) -> str:
    source = Path(__file__).read_text()
    return hashlib.sha256("\0".join((source, *parts)).encode()).hexdigest()[:12]


def newest(suite: str, architecture: str, packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package."""
    with _locked():
        return dict(_suite(suite, architecture).newest(re.escape(package)) for package in packages)


def headers(booted: Booted) -> dict[str, str]:
    """Packages with a kernel's headers, for what compiles programs as it starts, and their version."""
    package = booted.package.replace("-image-", "-headers-")
    common = _suite(booted.kernel.suite, booted.kernel.architecture).depends(package, r"linux-headers-.*-common")
    return dict.fromkeys([package, *common], booted.version)


def root(
    architecture: str,
    suite: str = USERLAND,
    also: Mapping[str, str] = MappingProxyType({}),
    alone: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Python, libbpf, the tools and the locked packages that the live tests need: an ext4 image.

    With the packages of `also` and what they need, and those of `alone`, by their versions.
    """
    requirements = _requirements()

    def make(folder: Path, scratch: Path) -> None:
        tree = scratch / "root"
        for name in ("bin", "sbin", "lib", "lib64"):
            (tree / "usr" / name).mkdir(parents=True)
            (tree / name).symlink_to(f"usr/{name}")
        for name in ("dev", "proc", "sys", "run", "tmp", "root", "kpod", "etc", "var/tmp", "usr/lib/modules"):
            (tree / name).mkdir(parents=True)
        apt.fetch(_suite(suite, architecture), [*PACKAGES, *also], scratch, tree, dependencies=True)
        if alone:
            apt.fetch(_suite(suite, architecture), list(alone), scratch, tree)
        for useless in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/i18n"):
            shutil.rmtree(tree / useless, ignore_errors=True)
        (scratch / "requirements.txt").write_text(requirements)
        wheels = ARCHITECTURES[architecture].wheels.removeprefix("manylinux2014_")
        python = next((tree / "usr/lib").glob("python3.*")).name.removeprefix("python")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--no-compile", "--python-version", python]
        for tag in ("manylinux2014", "manylinux_2_17", "manylinux_2_28"):
            command += ["--platform", f"{tag}_{wheels}"]
        command += ["--target", str(tree / "usr/local/lib" / f"python{python}" / "dist-packages")]
        subprocess.run([*command, "-r", str(scratch / "requirements.txt")], check=True)
        # A script of Debian's python3 package creates these links.
        for name, text in (("etc/passwd", "root:x:0:0::/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")):
            (tree / name).write_text(text)
        command_file = tree / "usr/bin/kpod-metrics"
        command_file.write_text('#!/bin/sh\nexec python3 -m kpod_metrics "$@"\n')
        (tree / "init").write_text(INIT)
        for file in (command_file, tree / "init"):
            file.chmod(0o755)
        _compile_python(tree)
        _partitioned(folder / "root.img", tree, 256)

    packages = (f"{name} {version}" for name, version in {**also, **alone}.items())
    return _kept(f"root/{architecture}-{_key(requirements, architecture, suite, *packages)}", make) / "root.img"


def _compile_python(tree: Path) -> None:
    """Compile all modules if this Python has the same version: the emulator would take half a minute."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if (tree / "usr/bin" / version).exists():
        how = ["-m", "compileall", "-q", "-j0", "-s", str(tree), "--invalidation-mode", "unchecked-hash"]
        folders = [tree / "usr/lib" / version, tree / "usr/local/lib" / version]
        subprocess.run([sys.executable, *how, *folders], check=False, stdout=subprocess.DEVNULL)


def _compiler_root(architecture: str) -> Path:
    """The C library to link workloads with."""

    def make(folder: Path, scratch: Path) -> None:
        for name in ("bin", "sbin", "lib", "lib64"):
            (folder / "usr" / name).mkdir(parents=True)
            (folder / name).symlink_to(f"usr/{name}")
        apt.fetch(_suite(USERLAND, architecture), COMPILER_PACKAGES, scratch, folder)

    return _kept(f"compiler/{architecture}-{_key(architecture)}", make)


def _compile_workloads(architecture: str, into: Path) -> None:
    """Compile static workloads, which do not depend on the root file system."""
    sources = REPOSITORY / "tests/live/workloads"
    triplet = ARCHITECTURES[architecture].triplet
    system = _compiler_root(architecture)
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-static", "-fuse-ld=lld", f"--target={triplet}"]
    into.mkdir(parents=True)
    for source in sorted(sources.glob("*.c")):
        command = ["clang", *flags, f"--sysroot={system}"]
        if source.stem.endswith("_i386"):
            if architecture != "amd64":
                continue
            command = ["clang", "-m32", "-O1", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector"]
        subprocess.run([*command, "-o", into / source.stem, source], check=True)


def _prometheus(architecture: str) -> Path:
    """The program, of the release that the root file system is of."""

    def make(folder: Path, scratch: Path) -> None:
        apt.fetch(_suite(USERLAND, architecture), ["prometheus"], scratch, scratch / "files")
        shutil.move(scratch / "files/usr/bin/prometheus", folder)

    return _kept(f"prometheus/{architecture}-{_key(architecture)}", make) / "prometheus"


def tree(architecture: str, monitoring: bool, into: Path, arguments: str = "") -> Path:
    """Pack this tree, its objects as they are, and the workloads, for one architecture; `arguments` are for what runs.

    With Prometheus where there is `monitoring`: beside the workloads, on the machine's PATH.
    """
    content = into / f"tree-{architecture}{'-monitoring' * monitoring}"
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    # Tests call scripts/tools for programs. It finds none there, and the tests then use PATH.
    for name in ("src", "testkit", "tests", "bench", "bpf", "monitoring", "scripts"):
        shutil.copytree(REPOSITORY / name, content / name, ignore=ignore)
    for name in ("hatch_build.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, content / name)
    (content / "arguments").write_text(arguments)
    _compile_workloads(architecture, content / "workloads")
    if monitoring:
        shutil.copy(_prometheus(architecture), content / "workloads")
    image = content.with_suffix(".ext4")
    _ext4(image, content, 16)
    return image


def objects() -> dict[str, str]:
    """Return the checksums of the compiled objects, which every row must load."""
    found = sorted((REPOSITORY / "src/kpod_metrics/bpf").glob("*.bpf.o"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def architectures(rows: Sequence[Kernel]) -> list[str]:
    """Those that the rows need."""
    return sorted({row.architecture for row in rows}, key=lambda name: (name != HOST, name))
