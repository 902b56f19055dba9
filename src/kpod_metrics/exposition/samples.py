"""The parts of a page: values at the end of one cycle, and the labels of their series."""

import re
from collections.abc import Sequence
from itertools import zip_longest

from kpod_metrics.histogram import Histogram
from kpod_metrics.metrics import Metric, Scope, Table
from kpod_metrics.series import Series

_NO_UTF8 = re.compile("[\udc80-\udcff]")
_LOOKS_LIKE_A_BYTE = re.compile(r"\\(?=x(?:5c|[89a-f][0-9a-f]))")


def shown(value: str) -> str:
    r"""Return the value of a label in characters that every format has.

    A byte that is not UTF-8 (a surrogate, by os.fsdecode()) becomes `\xff`. If the path contains that text literally,
    its backslash becomes `\x5c`: different names stay different.
    """
    if "\\" in value:
        value = _LOOKS_LIKE_A_BYTE.sub(r"\\x5c", value)
    elif value.isascii():
        return value
    return _NO_UTF8.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", value)


def clean(text: str) -> str:
    r"""Return text with what is not printable escaped: ESC is `\x1b`, a bidirectional override `\u202e`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


class Sample:
    """One value, which never changes, and its text in each format, once that was requested.

    Any thread can write a format: two at the same time write the same bytes.
    """

    __slots__ = ("form", "protobuf", "series", "text", "value")

    def __init__(self, series: Series, value: int | float | Histogram, form: bytes = b"") -> None:
        self.series, self.value = series, value
        self.form = form
        """Its lines in the text format, with `%b` or `%d` for each number: the same for all values of its series."""
        self.text = b""
        self.protobuf = b""


class Family:
    """The samples of one metric. It never changes; if no sample does, the next page has the same family."""

    __slots__ = ("lines", "metric", "samples", "stays", "table")

    def __init__(self, table: Table, metric: Metric, samples: list[Sample]) -> None:
        self.table, self.metric, self.samples = table, metric, samples
        self.stays = False
        """Whether it is on more than one page: then its lines are kept."""
        self.lines: Sequence[bytes] = ()
        """Its samples in the text format, in pieces."""


class Labels:
    """Names and values of the labels of all series."""

    def __init__(self, constant: dict[str, str], extra: Sequence[str] = ()) -> None:
        """`constant` are the labels that have the same value for all pods (node, and cluster if configured).

        `extra` are the names of the labels whose values are in an identity.
        """
        self.constant = constant
        self.extra = extra

    def of(self, table: Table, series: Series) -> list[tuple[str, str]]:
        """Return the labels of a series, in order."""
        own = [(label.name, value) for label, value in zip(table.labels, series.labels, strict=True)]
        if table.scope is Scope.AGENT:
            return own
        pod = series.identity
        # A series of an unknown pod has them too, empty: all series of a metric have the same labels.
        chosen = zip_longest(self.extra, pod.extra, fillvalue="")
        where = [("namespace", pod.namespace), ("pod", pod.pod), ("container", pod.container)]
        return [*where, *self.constant.items(), *chosen, *own]
