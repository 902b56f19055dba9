"""The documentation as the agent serves it, below `/docs/`: files of the build, read when someone asks for them.

What was read is kept: all pages are 0.3 MB, and there is one copy of each, however many clients take it at once.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = (
    # Nothing from elsewhere, and no script. Styles are inline in pictures and in columns of tables.
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
    """What can be asked for, by its path below `/docs/`: the package's files and no other, whatever a request says."""
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
    """Read a file once; `path` is one of `pages()`, so that there is no more to keep than those."""
    return path.read_bytes()


def read(name: str) -> tuple[str, bytes] | None:
    """Return the media type and the content of a page; None if there is no such page."""
    path = pages().get(name)
    return (KINDS[path.suffix], _content(path)) if path is not None else None
