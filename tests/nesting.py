"""Directories nested deeper than a path can say: made and removed by descriptors of their parents."""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path


def nest(top: str, names: list[str]) -> None:
    """Make directories of these names in one another below `top`."""
    at = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in names:
            os.mkdir(name, dir_fd=at)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
    finally:
        os.close(at)


def unnest(top: str, name: str) -> None:
    """Remove a chain of directories, each with at most one below it, that begins with `name` below `top`."""
    at = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = [name]
        while names:
            below = os.open(names[-1], os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
            with os.scandir(at) as entries:
                found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            if not found:
                break
            names += found[:1]
        while names:
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = above
            os.rmdir(names.pop(), dir_fd=at)
    finally:
        with suppress(OSError):
            os.close(at)


def clear(top: Path) -> None:
    """Kill all processes in a cgroup and below it, and remove it, however deep and wide it is."""
    if not top.exists():
        return
    (top / "cgroup.kill").write_text("1")
    names, at = [[top.name]], os.open(top.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while names:
            if names[-1]:
                below = os.open(names[-1][-1], os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
                os.close(at)
                at = below
                with os.scandir(at) as entries:
                    names.append([entry.name for entry in entries if entry.is_dir(follow_symlinks=False)])
                continue
            names.pop()
            if names:
                above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
                os.close(at)
                at = above
                _remove(names[-1].pop(), at)
    finally:
        os.close(at)


def _remove(cgroup: str, above: int) -> None:
    """Remove a cgroup, whose last processes may be about to end."""
    for _ in range(500):
        try:
            os.rmdir(cgroup, dir_fd=above)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(0.01)
        else:
            return
    raise AssertionError(f"cgroup {cgroup} cannot be removed")
