"""What a page is made of: values as they were at the end of one cycle, and the labels of their series."""

import re
from collections.abc import Sequence
from itertools import zip_longest

from kpod_metrics.histogram import Histogram
from kpod_metrics.metrics import Metric, Scope, Table
from kpod_metrics.store import Series

_NO_UTF8 = re.compile("[\udc80-\udcff]")
_LOOKS_LIKE_A_BYTE = re.compile(r"\\(?=x(?:5c|[89a-f][0-9a-f]))")


def shown(value: str) -> str:
    r"""Return a label's value in characters that every format has.

    A byte of a path that is no UTF-8 (os.fsdecode() made a surrogate of it) is shown as `\xff`, and the backslash of a
    path in which that stands literally as `\x5c`: two names are never shown as one.
    """
    if "\\" in value:
        value = _LOOKS_LIKE_A_BYTE.sub(r"\\x5c", value)
    elif value.isascii():
        return value
    return _NO_UTF8.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", value)


def printable(value: str) -> str:
    r"""Return it as `shown`, with what cannot be seen written out too: a line's end is `\n`, ESC is `\x1b`."""
    whole = shown(value)
    if whole.isprintable():
        return whole
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in whole)


class Sample:
    """One value, which never changes, and what it is in each format from when that is first asked for.

    Any thread may write it in a format: two at once write the same.
    """

    __slots__ = ("form", "protobuf", "series", "text", "value")

    def __init__(self, series: Series, value: int | float | Histogram, form: bytes = b"") -> None:
        self.series, self.value = series, value
        self.form = form
        """Its lines in the text format, `%b` or `%d` for each number: the same for all values of its series."""
        self.text = b""
        self.protobuf = b""


class Family:
    """The samples of one metric, which never change; that of a metric of which nothing has is in the next page too."""

    __slots__ = ("lines", "metric", "samples", "stays", "table")

    def __init__(self, table: Table, metric: Metric, samples: list[Sample]) -> None:
        self.table, self.metric, self.samples = table, metric, samples
        self.stays = False
        """Whether it is in more than one page: then it is worth to keep what is written of it."""
        self.lines: Sequence[bytes] = ()
        """Its samples in the text format, in pieces."""


class Labels:
    """Names and values of the labels of any series."""

    def __init__(self, constant: dict[str, str], extra: Sequence[str] = ()) -> None:
        """`constant` are labels that every pod's series has with one value (node, and cluster where set).

        `extra` are the names of those whose values an identity has.
        """
        self.constant = constant
        self.extra = extra

    def of(self, table: Table, series: Series) -> list[tuple[str, str]]:
        """Return a series' labels in their order."""
        own = [(label.name, value) for label, value in zip(table.labels, series.labels, strict=True)]
        if table.scope is Scope.AGENT:
            return own
        pod = series.identity
        # One whose pod is not known has them too, empty: every series of a name has the same labels.
        chosen = zip_longest(self.extra, pod.extra, fillvalue="")
        where = [("namespace", pod.namespace), ("pod", pod.pod), ("container", pod.container)]
        return [*where, *self.constant.items(), *chosen, *own]
