"""Serves the documentation below `/docs/`: files from the build, read when a client requests them.

Pages stay in memory: all together have 0.3 MB, and any number of clients shares one copy.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path

KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
HEADERS = (
    # No scripts, and nothing from other hosts. Pictures and table columns have inline styles.
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


@cache
def pages() -> dict[str, Path]:
    """Return the served files by path below `/docs/`: only files of the package, so no request can name another."""
    folder = Path(str(files("kpod_metrics"))) / "site"
    found = {}
    for path in folder.rglob("*"):
        if path.suffix in KINDS:
            found[str(path.relative_to(folder)).removesuffix(".html")] = path
    if index := found.pop("index", None):
        found[""] = index
    return found


@cache
def _content(path: Path) -> bytes:
    """Read a file once; `path` must be one of `pages()`, which limits the memory."""
    return path.read_bytes()


def read(name: str) -> tuple[str, bytes] | None:
    """Return the media type and the content of a page; None if there is no such page."""
    path = pages().get(name)
    return (KINDS[path.suffix], _content(path)) if path is not None else None
