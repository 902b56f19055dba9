"""A page as OTLP requests: the same names and values, with pods as resources.

The messages are those of github.com/open-telemetry/opentelemetry-proto (ExportMetricsServiceRequest). The attributes
are those of OpenTelemetry's semantic conventions for Kubernetes and services. Without Kubernetes the k8s.* attributes
have the values of the labels.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from kpod_metrics import __version__
from kpod_metrics.exposition.page import Page
from kpod_metrics.exposition.samples import Family, Sample, shown
from kpod_metrics.exposition.text import unit
from kpod_metrics.exposition.wire import double, fields, fixed, message, signed_fixed, sint, string, uint, varint
from kpod_metrics.histogram import FIRST_INDEX, MIN_EXPONENT, SCHEMA, Histogram
from kpod_metrics.metrics import Kind, Metric, Scope
from kpod_metrics.pods import info
from kpod_metrics.pods.model import Identity

SERVICE = "kpod-metrics"
MAX_POINTS = 5000
"""Data points of a request, unless one pod has more: some hundred kilobytes, which all receivers accept."""

_CUMULATIVE = uint(2, 2)
"""Aggregation temporality: totals since the start time."""
_MONOTONIC = uint(3, 1)
_GAUGE, _SUM, _HISTOGRAM = 5, 7, 10
"""Fields of message Metric."""
_NUMBER_ATTRIBUTES, _HISTOGRAM_ATTRIBUTES = 7, 1
"""Fields of the attributes in a data point."""
_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1", "": ""}
"""Units in UCUM, as OpenTelemetry uses them."""
_OWNERS = {
    kind: f"k8s.{kind.lower()}.name"
    for kind in ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob")
}


class Request(NamedTuple):
    """An encoded request, and the number of its data points."""

    body: bytes
    points: int


class _Resource:
    """The metrics of one container, one pod, or the agent."""

    def __init__(self, attributes: bytes) -> None:
        self.attributes = attributes
        self.metrics: list[bytes] = []
        self.points = 0


class Encoder:
    """Encodes pages."""

    def __init__(self, started_ns: int, pod_labels: Sequence[str] = ()) -> None:
        """`started_ns` is when the agent's own counters started; `pod_labels` are the keys of `Identity.extra`."""
        self._started = fixed(2, started_ns)
        self._pod_labels = pod_labels

    def requests(self, page: Page) -> Iterator[Request]:
        """Encode a page, in requests of about MAX_POINTS at most; the points of a container are in one request."""
        owners = {
            sample.series.identity: (sample.series.labels[0], sample.series.labels[1])
            for family in page.families
            if family.table is info.INFO
            for sample in family.samples
        }
        resources: dict[Identity | None, _Resource] = {}
        for family in page.families:
            of_agent = family.table.scope is Scope.AGENT
            points: dict[Identity | None, list[bytes]] = {}
            for sample in family.samples:
                identity = None if of_agent else sample.series.identity
                points.setdefault(identity, []).append(self._point(family, sample, page.time_ns))
            for identity, mine in points.items():
                resource = resources.get(identity)
                if resource is None:
                    attributes = self._attributes(page, identity, owners)
                    resource = resources[identity] = _Resource(attributes)
                resource.metrics.append(_metric(family.metric, b"".join(mine)))
                resource.points += len(mine)
        bodies: list[bytes] = []
        count = 0
        for resource in resources.values():
            if bodies and count + resource.points > MAX_POINTS:
                yield Request(b"".join(bodies), count)
                bodies, count = [], 0
            bodies.append(message(1, message(1, resource.attributes) + message(2, _SCOPE + b"".join(resource.metrics))))
            count += resource.points
        if bodies:
            yield Request(b"".join(bodies), count)

    def _attributes(self, page: Page, identity: Identity | None, owners: dict[Identity, tuple[str, str]]) -> bytes:
        """Encode the attributes of a resource, without empty ones."""
        node, cluster = page.labels.constant.get("node", ""), page.labels.constant.get("cluster", "")
        where = {"k8s.node.name": node, "k8s.cluster.name": cluster}
        if identity is None:
            own = {"service.name": SERVICE, "service.version": __version__, "service.instance.id": node}
        else:
            # As OpenTelemetry derives them for workloads in Kubernetes
            # (opentelemetry.io/docs/specs/semconv/non-normative/k8s-attributes).
            kind, owner = owners.get(identity.of_pod, ("", ""))
            names = identity[:3]
            own = {
                "service.name": owner or identity.pod,
                "service.namespace": identity.namespace,
                "service.instance.id": ".".join(filter(None, names)),
                "k8s.namespace.name": identity.namespace,
                "k8s.pod.name": identity.pod,
                "k8s.container.name": identity.container,
            }
            if kind in _OWNERS:
                own[_OWNERS[kind]] = owner
            own |= {f"k8s.pod.label.{key}": value for key, value in zip(self._pod_labels, identity.extra, strict=False)}
        return b"".join(message(1, _attribute(key, value)) for key, value in (own | where).items() if value)

    def _point(self, family: Family, sample: Sample, time_ns: int) -> bytes:
        """Encode a data point as a field of its metric."""
        series, value = sample.series, sample.value
        field = _HISTOGRAM_ATTRIBUTES if isinstance(value, Histogram) else _NUMBER_ATTRIBUTES
        attributes = _labels(field, tuple(label.name for label in family.table.labels), series.labels)
        start = self._started if family.table.scope is Scope.AGENT else fixed(2, series.created_ns)
        if family.metric.kind is Kind.GAUGE:
            start = b""
        times = start + fixed(3, time_ns)
        if isinstance(value, Histogram):
            return message(1, attributes + times + _histogram(value))
        # All points of a metric have one type: seconds are floating point even if a total is still 0.
        whole = isinstance(value, int) and unit(family.metric) in {"bytes", ""} and -(2**63) <= value < 2**63
        return message(1, attributes + times + (signed_fixed(6, int(value)) if whole else double(4, value)))


def _attribute(key: str, value: str) -> bytes:
    return string(1, key) + message(2, string(1, shown(value)))


@lru_cache(maxsize=4096)
def _labels(field: int, names: tuple[str, ...], values: tuple[str, ...]) -> bytes:
    pairs = zip(names, values, strict=True)
    return b"".join(message(field, _attribute(name, value)) for name, value in pairs)


def _metric(metric: Metric, points: bytes) -> bytes:
    head = string(1, metric.name) + string(2, metric.help) + string(3, _UNITS[unit(metric)])
    if metric.kind is Kind.GAUGE:
        return message(2, head + message(_GAUGE, points))
    if metric.kind is Kind.COUNTER:
        return message(2, head + message(_SUM, points + _CUMULATIVE + _MONOTONIC))
    return message(2, head + message(_HISTOGRAM, points + _CUMULATIVE))


_SCOPE = message(1, string(1, SERVICE) + string(2, __version__))


def _histogram(total: Histogram) -> bytes:
    """Encode an exponential histogram of scale 2, with bucket 0 as its zero bucket, as in Prometheus' format."""
    parts = [fixed(4, total.count), double(5, total.sum_ns / 1e9), sint(6, SCHEMA), fixed(7, total.zeros)]
    filled = [bucket for bucket, count in enumerate(total.counts, total.first) if bucket and count]
    if filled:
        counts = total.counts[filled[0] - total.first : filled[-1] + 1 - total.first]
        # Here bucket 0 begins at 1, in Prometheus it ends there.
        buckets = message(2, b"".join(map(varint, counts)))
        parts.append(message(8, sint(1, filled[0] + FIRST_INDEX - 1) + buckets))
    parts.append(double(14, 2.0**MIN_EXPONENT))
    return b"".join(parts)


def rejected(body: bytes) -> tuple[int, str]:
    """Return the number of rejected points in an ExportMetricsServiceResponse, and its message.

    A body that is not such a message means that no point was rejected.
    """
    count, text = 0, ""
    try:
        for field, value in fields(body):
            if field == 1 and isinstance(value, bytes):
                for inner, content in fields(value):
                    if inner == 1 and isinstance(content, int) and content < 2**63:
                        count = content
                    elif inner == 2 and isinstance(content, bytes):
                        text = content.decode("utf-8", "replace")
    except ValueError:
        return 0, ""
    return count, text


def refusal(body: bytes) -> str:
    """Return the message of a google.rpc.Status, which an OTLP receiver sends with a refusal."""
    try:
        return next((v.decode() for field, v in fields(body) if field == 2 and isinstance(v, bytes)), "")
    except ValueError:
        return ""
