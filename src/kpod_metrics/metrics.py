"""How a metric is declared: once, beside the code that fills it.

From a declaration come its HELP and TYPE lines, its place in a profile, `docs/metrics.md`, and the number of series
that a pod costs. Metrics that share labels and are filled together form a `Table`; a collector yields rows of one.
"""

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kpod_metrics import histogram
from kpod_metrics.histogram import Histogram

PREFIX = "kpod_"


class Profile(enum.IntEnum):
    """How much is collected; each profile has all that the ones below it have."""

    MINIMAL = 1
    STANDARD = 2
    COMPREHENSIVE = 3


class Kind(enum.Enum):
    """Prometheus metric types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@enum.unique
class Scope(enum.Enum):
    """The subject of a series."""

    CONTAINER = "container"
    POD = "pod"
    """The whole pod: the label `container` is empty."""
    AGENT = "agent"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that identify the subject."""
        return () if self is Scope.AGENT else ("namespace", "pod", "container", "node")


@dataclass(frozen=True)
class Label:
    """A label of a metric's own, with the bound of its values: cardinality is part of a declaration.

    `values` are all there can be (they are exported at 0 before the first event). `per` says in a word what makes one
    more ("block device"), where a machine or a setting decides how many there are.
    """

    name: str
    values: tuple[str, ...] = ()
    per: str = ""


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric.

    `name` is whole, as exported. `source` says where the number comes from, in the kernel's own names.
    `events` marks the counter whose increments are counted in kpod_unattributed_events_total when they belong to no
    pod. `exponents` are the classic buckets: upper bounds of `2**e` seconds.
    """

    name: str
    help: str
    kind: Kind
    source: str
    profile: Profile = Profile.STANDARD
    events: bool = False
    optional: str = ""
    """When the series exists, if most containers lack it ("with a CPU limit")."""
    advice: str = ""
    """What to do about it, or with it; names of alerts are exact."""
    exponents: tuple[int, ...] = ()
    wraps: bool = False
    """Whether its running total is a sum of 32-bit numbers: it grows modulo 2**32 between two reads."""

    def series(self, *, native: bool = False) -> int:
        """Time series of one child: a classic histogram has its buckets, +Inf, sum and count."""
        if self.kind is Kind.HISTOGRAM and not native:
            return len(self.exponents) + 3
        return 1


@dataclass(frozen=True, eq=False)
class Table:
    """Metrics that share their labels and are filled by the same rows.

    `preexisting`: the kernel counts from the creation of the cgroup, with or without the agent (the cgroup's files).
    Such counters are exported from their first read on, all others at 0 from the discovery of a container on.
    `sparse`: most pods never have the event. A series appears when it first rises: at 0 on one page, and with its value
    from the next one on, so that increase() sees the first event.
    `sole`: an owner has one series at a time, whatever the values of its labels are.
    The gauges of pods have their own tables.
    """

    metrics: tuple[Metric, ...]
    labels: tuple[Label, ...] = ()
    scope: Scope = Scope.CONTAINER
    preexisting: bool = False
    sparse: bool = False
    sole: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for metrics that cannot share a table."""
        kinds = {metric.kind for metric in self.metrics}
        if self.scope is not Scope.AGENT and Kind.GAUGE in kinds and len(kinds) > 1:
            raise ValueError(f"{self.metrics[0].name}: a pod's gauges have their own table")
        if self.scope is not Scope.CONTAINER and any(metric.events for metric in self.metrics):
            raise ValueError(f"{self.metrics[0].name}: events are counted by container")

    @cached_property
    def of_gauges(self) -> bool:
        """Whether its metrics are gauges of pods."""
        return self.scope is not Scope.AGENT and all(metric.kind is Kind.GAUGE for metric in self.metrics)

    @cached_property
    def is_open(self) -> bool:
        """Whether a pod decides how many series it has, by its interfaces, devices or mounts."""
        return self.scope is not Scope.AGENT and not self.sole and any(not label.values for label in self.labels)

    @cached_property
    def has_histograms(self) -> bool:
        """Whether one of its metrics is a histogram."""
        return any(metric.kind is Kind.HISTOGRAM for metric in self.metrics)

    @cached_property
    def whole(self) -> list[type]:
        """The types of the values of a row that has only integers and histograms."""
        return [Histogram if metric.kind is Kind.HISTOGRAM else int for metric in self.metrics]

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The places of the metrics that are not histograms."""
        return tuple(at for at, metric in enumerate(self.metrics) if metric.kind is not Kind.HISTOGRAM)

    def children(self) -> int:
        """Return the number of label combinations of one container; a label without declared values counts as one."""
        product = 1
        for label in self.labels:
            product *= len(label.values) or 1
        return product


Value = int | float | Histogram | None


class Row(NamedTuple):
    """What a collector read of one cgroup: values in the order of the table's metrics.

    A counter or histogram is its running total, a gauge its present value, and None is what the kernel does not have.
    `owner` is the cgroup id that the row is charged to. `epoch` tells one life of a counter from the next: a counter
    begins at 0 in each. It is 0 where the cgroup id says that already. In a table of pods, which several cgroups may
    share, it names the counter itself (a network namespace).
    """

    table: Table
    owner: int
    labels: tuple[str, ...]
    values: Sequence[Value]
    epoch: int = 0


LATENCY_EXPONENTS = tuple(range(histogram.MIN_EXPONENT, histogram.MAX_EXPONENT + 1, 2))
"""Classic buckets of a latency: every second octave from 0.95 us to 64 s, fourteen of them."""


def label_of(key: str) -> str:
    """Return the metric label of a pod's label: `label_app_kubernetes_io_name`, as kube-state-metrics has it."""
    return "label_" + re.sub(r"[^a-zA-Z0-9_]", "_", key)


def counter(
    name: str,
    help: str,  # noqa: A002 - Prometheus calls it that
    source: str,
    *,
    profile: Profile = Profile.STANDARD,
    events: bool = False,
    optional: str = "",
    advice: str = "",
    wraps: bool = False,
) -> Metric:
    """Declare a counter; its name ends in _total."""
    return Metric(name, help, Kind.COUNTER, source, profile, events, optional, advice, wraps=wraps)


def gauge(
    name: str,
    help: str,  # noqa: A002
    source: str,
    *,
    profile: Profile = Profile.STANDARD,
    optional: str = "",
    advice: str = "",
) -> Metric:
    """Declare a gauge."""
    return Metric(name, help, Kind.GAUGE, source, profile, optional=optional, advice=advice)


def latency(
    name: str,
    help: str,  # noqa: A002
    source: str,
    *,
    profile: Profile = Profile.STANDARD,
    exponents: tuple[int, ...] = LATENCY_EXPONENTS,
    advice: str = "",
) -> Metric:
    """Declare a histogram in seconds."""
    return Metric(name, help, Kind.HISTOGRAM, source, profile, advice=advice, exponents=exponents)


def series_per_container(
    tables: Iterable[Table], wanted: "frozenset[Metric]", *, native: bool = False, optional: bool = False
) -> int:
    """Series that a pod of one container, with one device, interface and mount, has.

    `native` counts a histogram as one series; `optional` adds those that not every container has. Sparse series are
    not counted: most containers never have them.
    """
    return sum(
        metric.series(native=native) * table.children()
        for table in tables
        if table.scope is not Scope.AGENT and not table.sparse
        for metric in table.metrics
        if metric in wanted and (optional or not metric.optional)
    )
