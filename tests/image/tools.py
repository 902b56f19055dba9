"""What these tests need on the machine; without it they fail."""

import subprocess
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@cache
def fetched(package: str) -> Path:
    """The folder that `scripts/tools` has unpacked a Debian package in."""
    done = subprocess.run([REPOSITORY / "scripts/tools", package], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return Path(done.stdout.strip())
