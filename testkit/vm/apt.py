"""Fetches packages of any Debian release and architecture: with its own lists, checks and cache; installs nothing.

apt itself checks what it downloads against the release's signed lists. The mirror is the one that this machine's own
configuration names for its release. No root is needed.
"""

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LISTS_ARE_GOOD_FOR = 7 * 86400
"""Seconds after which lists are fetched again. Until then a run needs no network, and finds no newer kernel."""


@cache
def mirror() -> str:
    """Return the address of this machine's release in apt's configuration."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    command = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        of, _, address = line.partition(" ")
        if of == release:
            return address
    raise SystemExit(f"apt's configuration names no source for {release}")


class Suite:
    """One release of one architecture, in a folder of the cache."""

    def __init__(self, into: Path, name: str, architecture: str) -> None:
        self._name, self._folder = name, into / f"{name}-{architecture}"
        for folder in ("lists/partial", "archives/partial"):
            (self._folder / folder).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        self._options = [
            *("-o", f"Dir::State::Status={self._folder}/status"),
            *("-o", f"Dir::State::Lists={self._folder}/lists"),
            *("-o", f"Dir::Cache={self._folder}"),
            *("-o", f"Dir::Etc::SourceList={self._folder}/sources.list"),
            *("-o", "Dir::Etc::SourceParts=/dev/null"),
            *("-o", "Dir::Etc::Preferences=/dev/null"),
            *("-o", "Dir::Etc::PreferencesParts=/dev/null"),
            *("-o", f"APT::Architecture={architecture}"),
            *("-o", f"APT::Architectures={architecture}"),
            # As root, apt would download as a user without access to the folder.
            *("-o", f"APT::Sandbox::User={os.environ.get('USER', 'root') if os.geteuid() else 'root'}"),
        ]

    def _run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        command = [program, *self._options, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
        if done.returncode:
            raise SystemExit(f"{program} {' '.join(arguments)} ({self._name}): {done.stderr.strip()}")
        return done.stdout

    @cache  # noqa: B019 - as long as the process
    def _refresh(self) -> None:
        """Fetch the lists if they are old or missing."""
        stamp = self._folder / "fetched"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_ARE_GOOD_FOR:
            return
        (self._folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {self._name} main\n")
        self._run("apt-get", "-qq", "update")
        stamp.touch()

    def newest(self, pattern: str) -> tuple[str, str]:
        """Return name and version of the newest package whose complete name matches."""
        self._refresh()
        names = [name for name in self._run("apt-cache", "pkgnames").split() if re.fullmatch(pattern, name)]
        if not names:
            raise SystemExit(f"{self._name} has no package {pattern}")
        name = max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
        return name, self._field(name, "Version")

    def _field(self, package: str, field: str) -> str:
        text = self._run("apt-cache", "show", "--no-all-versions", package)
        found = re.search(rf"^{field}: (.*)$", text, re.MULTILINE)
        return found[1] if found else ""

    def depends(self, package: str, pattern: str) -> list[str]:
        """Return the direct dependencies whose complete name matches."""
        names = re.split(r"[,|]\s*", self._field(package, "Depends"))
        return [name for name in (entry.split()[0] for entry in names if entry) if re.fullmatch(pattern, name)]

    def download(self, packages: Sequence[str], into: Path) -> list[Path]:
        """Download packages without their dependencies."""
        self._refresh()
        into.mkdir(parents=True, exist_ok=True)
        self._run("apt-get", "-qq", "download", *packages, cwd=into)
        return sorted(into.glob("*.deb"))

    def download_with_dependencies(self, packages: Sequence[str], into: Path) -> list[Path]:
        """Download packages and their dependencies."""
        self._refresh()
        (into / "partial").mkdir(parents=True, exist_ok=True)
        how = ("-qq", "-y", "--download-only", "--no-install-recommends", "-o", f"Dir::Cache::Archives={into}")
        self._run("apt-get", *how, "install", *packages)
        return sorted(into.glob("*.deb"))


def unpack(packages: Sequence[Path], into: Path) -> None:
    """Unpack packages into a folder; an existing link to a folder (/lib) stays a link."""
    into.mkdir(parents=True, exist_ok=True)
    for package in packages:
        # Without root, owners are not kept; the images do not need them.
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as files:
            tar = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(into)]
            subprocess.run(tar, stdin=files.stdout, check=True)
        if files.returncode:
            raise SystemExit(f"{package} cannot be unpacked")


def fetch(suite: Suite, packages: Sequence[str], work: Path, into: Path, *, dependencies: bool = False) -> None:
    """Download packages and unpack them into a folder."""
    downloads = work / "packages"
    get = suite.download_with_dependencies if dependencies else suite.download
    unpack(get(packages, downloads), into)
    shutil.rmtree(downloads)
