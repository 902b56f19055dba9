"""The values of one owner with the same labels, as the store keeps them and pages show them."""

import time
from collections.abc import Sequence
from typing import Any

from kpod_metrics.histogram import EMPTY, Histogram
from kpod_metrics.metrics import Kind, Metric
from kpod_metrics.pods.model import Identity


class Series:
    """The values of one table's metrics with the same labels."""

    __slots__ = ("created_ns", "cycle", "identity", "labels", "protobuf", "values", "written")

    def __init__(self, identity: Identity, labels: tuple[str, ...], metrics: Sequence[Metric]) -> None:
        self.identity, self.labels = identity, labels
        self.values: list[int | float | Histogram | None] = [
            EMPTY if metric.kind is Kind.HISTOGRAM else None for metric in metrics
        ]
        self.written: list[Any] = [None] * len(metrics)
        """The last sample of each value, for the exposition."""
        self.protobuf = b""
        """Its labels in protobuf, for the exposition."""
        self.created_ns = time.time_ns()
        """Start of its counting, in Unix time."""
        self.cycle = 0
        """For gauges: the cycle of their last row."""
