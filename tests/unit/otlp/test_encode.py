"""Pages as OTLP: every value of a page, read back by OpenTelemetry's own messages."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from kpod_metrics import __version__
from kpod_metrics.exposition.page import Page, Renderer
from kpod_metrics.histogram import BUCKETS, Histogram
from kpod_metrics.metrics import Kind, Scope, Table, counter, latency
from kpod_metrics.otlp import encode
from kpod_metrics.otlp.encode import Encoder, rejected
from kpod_metrics.pods import info
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import Store
from tests.fakes.otlp import Point, points_of
from tests.growth import grow
from tests.unit.exposition.fixture import EXTRA, filled

CONSTANT = {"node": "nöde-1", "cluster": "c1"}
STARTED = 1_700_000_000_000_000_000
CUMULATIVE = 2


@pytest.fixture(scope="module")
def store() -> Store:
    return filled()


@pytest.fixture(scope="module")
def page(store: Store) -> Page:
    return Renderer(CONSTANT, EXTRA).render(store)


def points(page: Page, *keys: str) -> list[Point]:
    """All data points of a page's requests, which have what the requests say."""
    found = []
    for request in Encoder(STARTED, keys).requests(page):
        decoded = points_of(ExportMetricsServiceRequest.FromString(request.body))
        assert len(decoded) == request.points
        found += decoded
    return found


def buckets_of(point: Any) -> list[int]:
    """The counts by our buckets; OTLP's bucket -80 is (2**-20, 2**-19.75], bucket 1."""
    counts = [0] * BUCKETS
    counts[0] = point.zero_count
    for at, count in enumerate(point.positive.bucket_counts, point.positive.offset):
        counts[at + 81] = count
    assert not point.negative.bucket_counts
    return counts


def shown(value: str) -> str:
    return os.fsencode(value).decode("utf-8", "backslashreplace")


Key = tuple[str, str, tuple[tuple[str, str], ...]]


def test_values_are_the_stores(page: Page, store: Store) -> None:
    found: dict[Key, Point] = {}
    for point in points(page, "app"):
        names = ".".join(point.resource.get(f"k8s.{name}.name", "") for name in ("namespace", "pod", "container"))
        key = (point.metric.name, names, tuple(sorted(point.attributes.items())))
        assert key not in found
        found[key] = point
    for table, at, metric, children in store.families():
        for series in children:
            own = {label.name: shown(value) for label, value in zip(table.labels, series.labels, strict=True)}
            names = ".".join(map(shown, series.identity[:3]))
            _, described, _, point = found.pop((metric.name, names, tuple(sorted(own.items()))))
            value = series.values[at]
            assert described.description == metric.help
            assert point.time_unix_nano == page.time_ns
            start = STARTED if table.scope is Scope.AGENT else series.created_ns
            assert point.start_time_unix_nano == (0 if metric.kind is Kind.GAUGE else start)
            if isinstance(value, Histogram):
                assert described.exponential_histogram.aggregation_temporality == CUMULATIVE
                assert buckets_of(point) == list(value.buckets)
                assert (point.count, point.sum, point.scale) == (value.count, value.sum_ns / 1e9, 2)
                assert point.zero_threshold == 2.0**-20
                continue
            assert (point.as_int if point.WhichOneof("value") == "as_int" else point.as_double) == value
            if metric.kind is Kind.COUNTER:
                assert described.sum.is_monotonic
                assert described.sum.aggregation_temporality == CUMULATIVE
            else:
                assert described.WhichOneof("data") == "gauge"
    assert not found


def test_units(page: Page) -> None:
    units = {metric.name: metric.unit for _, metric, _, _ in points(page)}
    assert units["kpod_cpu_usage_seconds_total"] == units["kpod_net_tcp_rtt_seconds"] == "s"
    assert units["kpod_net_tcp_bytes_sent_total"] == ""
    assert units["kpod_disk_read_bytes_total"] == "By"
    assert units["kpod_cpu_context_switches_total"] == ""


THINGS = Table((counter("kpod_things_total", "Things.", "test"), counter("kpod_busy_seconds_total", "Time.", "test")))
WAIT = Table((latency("kpod_wait_seconds", "Wait.", "test"),))
WEB = Identity("shop", "web-7d9-x2v", "app", ("web",))


def of_one(identity: Identity, kind: str = "", owner: str = "") -> Page:
    store = Store([THINGS, info.INFO], frozenset((*THINGS.metrics, *info.INFO.metrics)))
    grow(store, THINGS, identity, (), (3, 0))
    if owner:
        grow(store, info.INFO, identity, (kind, owner, "Burstable"), (1,), 0)
    return Renderer(CONSTANT, ["label_app"]).render(store)


def test_resource_of_a_container() -> None:
    resources = {
        point.metric.name: point.resource
        for point in points(of_one(WEB, "Deployment", "web"), "app.kubernetes.io/name")
    }
    assert resources["kpod_things_total"] == {
        "service.name": "web",
        "service.namespace": "shop",
        "service.instance.id": "shop.web-7d9-x2v.app",
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "web-7d9-x2v",
        "k8s.container.name": "app",
        "k8s.deployment.name": "web",
        "k8s.pod.label.app.kubernetes.io/name": "web",
        "k8s.node.name": "nöde-1",
        "k8s.cluster.name": "c1",
    }
    of_pod = resources["kpod_pod_info"]
    assert "k8s.container.name" not in of_pod
    assert of_pod["service.instance.id"] == "shop.web-7d9-x2v"


@pytest.mark.parametrize(("kind", "owner", "service"), [("", "", "web-7d9-x2v"), ("Rollout", "web", "web")])
def test_service_without_a_known_owner(kind: str, owner: str, service: str) -> None:
    resource = points(of_one(WEB, kind, owner))[0].resource
    assert resource["service.name"] == service
    assert not {name for name in resource if name.startswith("k8s.rollout")}


def test_resource_of_the_agent(page: Page) -> None:
    [resource] = {
        tuple(sorted(point.resource.items())) for point in points(page) if point.metric.name == "kpod_build_info"
    }
    assert dict(resource) == {
        "service.name": "kpod-metrics",
        "service.version": __version__,
        "service.instance.id": "nöde-1",
        "k8s.node.name": "nöde-1",
        "k8s.cluster.name": "c1",
    }


def test_type_of_a_value_is_the_metrics() -> None:
    """A total of seconds that is still 0 is a 0 in the store and a fraction later: one type for both."""
    kinds = {p.metric.name: p.point.WhichOneof("value") for p in points(of_one(WEB))}
    assert kinds == {"kpod_things_total": "as_int", "kpod_busy_seconds_total": "as_double"}


def test_requests_are_bounded_and_pods_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "MAX_POINTS", 10)
    store = Store([THINGS], frozenset(THINGS.metrics))
    for pod in range(17):
        grow(store, THINGS, Identity("n", f"p{pod}", "c"), (), (1, 2), pod)
    requests = list(Encoder(STARTED).requests(Renderer({}).render(store)))
    assert [request.points for request in requests] == [10, 10, 10, 4]
    pods = [{p.resource["k8s.pod.name"] for p in points_of(_decoded(request.body))} for request in requests]
    assert sum(map(len, pods)) == len(set.union(*pods)) == 17


def _decoded(body: bytes) -> ExportMetricsServiceRequest:
    return ExportMetricsServiceRequest.FromString(body)


@given(st.lists(st.integers(0, 2**40) | st.just(0), min_size=BUCKETS, max_size=BUCKETS))
def test_any_histogram_comes_back(buckets: list[int]) -> None:
    store = Store([WAIT], frozenset(WAIT.metrics))
    grow(store, WAIT, WEB, (), (Histogram(buckets, 7),))
    [point] = points(Renderer({}).render(store))
    assert (buckets_of(point.point), point.point.count) == (buckets, sum(buckets))


def test_an_empty_page_is_no_request() -> None:
    assert list(Encoder(STARTED).requests(Renderer({}).render(Store((), frozenset())))) == []


def test_partial_success() -> None:
    response = ExportMetricsServiceResponse()
    assert rejected(response.SerializeToString()) == (0, "")
    response.partial_success.error_message = "only a warning"
    assert rejected(response.SerializeToString()) == (0, "only a warning")
    response.partial_success.rejected_data_points = 2**40
    assert rejected(response.SerializeToString()) == (2**40, "only a warning")
    response.partial_success.rejected_data_points = -1
    assert rejected(response.SerializeToString())[0] == 0


@given(st.binary(max_size=50))
def test_any_answer_can_be_read(body: bytes) -> None:
    count, _ = rejected(body)
    assert count >= 0
    assert isinstance(encode.refusal(body), str)
