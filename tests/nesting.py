"""Directories nested deeper than a path can say: made and removed by descriptors of their parents."""

import os
from contextlib import suppress


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
