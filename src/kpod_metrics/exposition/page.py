"""From the store to a page: the samples of one cycle, to be written in any format."""

import time
from collections.abc import Iterator, Sequence

from kpod_metrics.exposition import protobuf, text
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.samples import Family, Labels, Sample
from kpod_metrics.exposition.text import OPENMETRICS
from kpod_metrics.metrics import Table
from kpod_metrics.store import Store


class Renderer:
    """Makes pages from a store."""

    def __init__(self, constant: dict[str, str], extra: Sequence[str] = (), *, classic: bool = True) -> None:
        """`constant` and `extra` are as in `Labels`; `classic`: histograms in protobuf have classic buckets too."""
        self._labels = Labels(constant, extra)
        self._classic = classic
        self._families: dict[tuple[Table, int], Family] = {}
        """Families of the last page, by table and the metric's place in it."""

    def render(self, store: Store) -> "Page":
        """Make a page of all samples. A sample whose value has not changed is the one of the last page."""
        families = []
        changed = store.take_changed()
        for table, at, metric, children in store.families():
            known = self._families.get((table, at))
            if known is not None and not changed[table][at]:
                known.stays = True
                families.append(known)
                continue
            samples: list[Sample] = []
            add = samples.append
            for series in children:
                value = series.values[at]
                if value is None:
                    continue
                sample = series.written[at]
                if sample is None:
                    sample = series.written[at] = Sample(series, value)
                # A value that has not changed is usually the same object. It is written the same only if its type is.
                elif (before := sample.value) is not value and (before != value or type(before) is not type(value)):
                    sample = series.written[at] = Sample(series, value, sample.form)
                add(sample)
            if samples:
                family = self._families[table, at] = Family(table, metric, samples)
                families.append(family)
            else:
                self._families.pop((table, at), None)
        return Page(families, self._labels, self._classic)


class Page:
    """The samples of one cycle. It never changes, so that any thread can write it."""

    def __init__(self, families: Sequence[Family], labels: Labels, classic: bool = True) -> None:
        self.families = families
        self.labels = labels
        self.time_ns = time.time_ns()
        """Unix time of its creation."""
        self._classic = classic

    def pieces(self, content_type: str) -> Iterator[bytes]:
        """Write in the format of a content type, one family after the other."""
        if content_type == PROTOBUF:
            return protobuf.write(self.families, self.labels, classic=self._classic)
        return text.write(self.families, self.labels, openmetrics=content_type == OPENMETRICS)
