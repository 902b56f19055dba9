"""A store with every declared metric in it: values that depend on names only, labels that are hard to write."""

import os
from zlib import crc32

from kpod_metrics import bounds, health
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.histogram import BUCKETS, Histogram
from kpod_metrics.metrics import Kind, Metric, Scope, Table, Value
from kpod_metrics.pods import info
from kpod_metrics.pods.model import Identity
from kpod_metrics.series import Series
from kpod_metrics.store import Store
from tests.growth import grow

CONSTANT = {"node": "nöde-1"}
EXTRA = ["label_app"]

IDENTITIES = (
    Identity("shop", "web-7d9c5-x2v4q", "app", ('we"b',)),
    # A lone surrogate is what a path that is no UTF-8 becomes in Python.
    Identity("cgroup", 'a "quoted" \\ back\nline\\n/日本語\N{GRINNING FACE}/\udc80', ""),
)

FREE = ("plain", 'ï "\\\n')
"""Values of labels without a declared bound."""


def tables() -> list[Table]:
    """Every table, in an order that does not depend on what was imported first."""
    kinds = [kind for _, kind in sorted(registered().items())]
    environment = Environment(syscalls=("read", "epoll_wait"))
    return [
        *(table for kind in kinds for table in kind.declare(environment)),
        *info.TABLES,
        bounds.EXCEEDED,
        *health.TABLES,
    ]


def label_sets(table: Table) -> list[tuple[str, ...]]:
    """Two label combinations of a table at most; one where it has no labels."""
    choices = [label.values or FREE for label in table.labels]
    return list(dict.fromkeys(tuple(values[at % len(values)] for values in choices) for at in range(2)))


def value_of(metric: Metric, *key: object) -> Value:
    """A value that stays the same when other metrics come and go."""
    seed = crc32(repr((metric.name, *key)).encode("utf-8", "backslashreplace"))
    if metric.kind is Kind.HISTOGRAM:
        buckets = [(seed >> bucket % 29) % 7 for bucket in range(BUCKETS)]
        return Histogram(buckets, seed * 1_000_003)
    if "seconds" in metric.name or metric.name.endswith("_ratio"):
        return seed / 7
    return seed * 10**7 if seed % 2 else seed


def filled() -> Store:
    """Return the store."""
    every = tables()
    store = Store(every, frozenset(metric for table in every for metric in table.metrics))
    for table in every:
        for labels in label_sets(table):
            if table.scope is Scope.AGENT:
                store.set(table, labels, [value_of(metric, labels) for metric in table.metrics])
                continue
            for owner, identity in enumerate(IDENTITIES):
                values = [value_of(metric, identity, labels) for metric in table.metrics]
                grow(store, table, identity, labels, values, owner)
    return store


def labels_of(table: Table, series: Series) -> dict[str, str]:
    """The labels that a page must give a series."""
    labels = dict(zip((label.name for label in table.labels), series.labels, strict=True))
    if table.scope is not Scope.AGENT:
        *names, extra = series.identity
        labels |= {**dict(zip(("namespace", "pod", "container"), names, strict=True)), **CONSTANT}
        labels["label_app"] = extra[0] if extra else ""
    # A byte that is no UTF-8 is shown by its number.
    return {name: os.fsencode(value).decode("utf-8", "backslashreplace") for name, value in labels.items()}
