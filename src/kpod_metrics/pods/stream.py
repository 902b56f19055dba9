"""Reads a list of pods while it arrives: only one pod is in memory, however long the list and however large a pod.

A user who may create pods decides how many bytes they have, up to 3 MB each. So the size of a list is not a measure of
what is wrong, and a list that is too large must not cost the other pods their names.
"""

import re
from collections.abc import Iterable, Iterator

from kpod_metrics.errors import RequestError
from kpod_metrics.pods import api

MAX_LIST = 1 << 30
"""Decoded bytes of a list, with all its pages: 110 pods of MAX_OBJECT. To read so many takes some seconds."""
MAX_OBJECT = 12 << 20
"""Bytes of one pod. etcd stores 1.5 MiB of it, of which JSON can make six times as many (`<` becomes \\u003c)."""
MAX_ENVELOPE = 1 << 20
"""Bytes of a list without its pods."""
_DEPTH = 24
"""Objects within each other that a pod can have. The deepest of the API, in managedFields, has 13."""

_ITEMS = re.compile(rb'"items"\s*:\s*\[')
_BETWEEN = re.compile(rb"[\s,]*")


def _pattern(depth: int) -> bytes:
    """Return the pattern of a JSON object: strings, and objects up to a depth. It never tries a byte twice."""
    text, other, inner = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', rb'[^{}"]*+', rb"(?!)"
    for _ in range(depth):
        inner = rb"\{" + other + rb"(?:(?:" + text + rb"|" + inner + rb")" + other + rb")*+\}"
    return inner


_OBJECT = re.compile(_pattern(_DEPTH), re.DOTALL)


class Page:
    """One page of a list."""

    def __init__(self, where: str, size: int = 0) -> None:
        """`size` are the bytes of the pages before it."""
        self._where = where
        self._buffer = bytearray()
        self._envelope = bytearray()
        """What is around the pods, without them."""
        self._inside = False
        """Whether the next bytes are of the pods."""
        self.size = size
        self.version = self.more = ""
        """After the last pod: the list's version, and where the next page begins, if there is one."""

    def items(self, chunks: Iterable[bytes]) -> Iterator[api.Item]:
        """Yield the pods of a page that arrives in chunks; raises RequestError for what is not one."""
        wanted = 1
        for chunk in chunks:
            self.size += len(chunk)
            if self.size > MAX_LIST:
                raise RequestError(f"{self._where}: the list is larger than {MAX_LIST} bytes")
            self._buffer += chunk
            if len(self._buffer) >= wanted:
                yield from self._complete()
                kept = len(self._buffer) + (0 if self._inside else len(self._envelope))
                limit, what = (MAX_OBJECT, "a pod") if self._inside else (MAX_ENVELOPE, "the list without its pods")
                if kept > limit:
                    raise RequestError(f"{self._where}: {what} is larger than {limit} bytes")
                # Else a large pod would be scanned again with every chunk.
                wanted = min(2 * len(self._buffer), limit) + 1
        yield from self._complete()
        if self._inside:
            raise RequestError(f"{self._where}: the list ends in the middle of a pod")
        head = api.decoded(api.items_of, self._envelope + self._buffer).metadata
        self.version, self.more = head.resource_version, head.more

    def _complete(self) -> Iterator[api.Item]:
        """Yield the pods that have arrived completely, and remove them from the buffer."""
        buffer = self._buffer
        if not self._envelope and (start := _ITEMS.search(buffer)):
            end = start.end()
            del start
            self._envelope += buffer[:end]
            del buffer[:end]
            self._inside = True
        at = 0
        while self._inside:
            between = _BETWEEN.match(buffer, at)
            at = between.end() if between else at
            del between  # no bytearray with a match can be resized
            following = bytes(buffer[at : at + 1])
            found = _OBJECT.match(buffer, at)
            if found is None:
                if following not in (b"", b"{", b"]"):
                    raise RequestError(f"{self._where}: the server's response is not of Kubernetes: no list of pods")
                self._inside = following != b"]"
                break
            begin, at = at, found.end()
            del found
            yield api.decoded(api.item_of, bytes(memoryview(buffer)[begin:at]))
        del buffer[:at]
        if not self._inside and self._envelope:
            self._envelope += buffer
            buffer.clear()
