"""What /proc says of a descriptor's mount: the other way to tell it than statx()."""

import os
import re
from pathlib import Path


def mount_of(path: Path) -> int:
    """Return the number of the mount that a path is on."""
    fd = os.open(path, os.O_PATH)
    try:
        found = re.search(r"^mnt_id:\s+(\d+)$", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE)
        assert found
        return int(found[1])
    finally:
        os.close(fd)
