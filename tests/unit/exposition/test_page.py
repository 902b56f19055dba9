"""A page that reuses the last one equals a page made from scratch, after any change of the store."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from kpod_metrics.exposition.page import Renderer
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import TEXT
from kpod_metrics.histogram import BUCKETS, Histogram
from kpod_metrics.limits import Limits
from kpod_metrics.metrics import Label, Row, Scope, Table, counter, gauge, latency
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import Store

WAIT, EVENTS = latency("kpod_wait_seconds", "Wait.", "test"), counter("kpod_events_total", "Events.", "test")
DELTAS = Table((EVENTS, WAIT))
TOTALS = Table(
    tuple(counter(f"kpod_{what}_bytes_total", "Bytes.", "test") for what in ("read", "written")), preexisting=True
)
GAUGES = Table(tuple(gauge(f"kpod_{what}_bytes", "Bytes.", "test") for what in ("used", "free")))
POD = Table((counter("kpod_kills_total", "Kills.", "test"),), (Label("why", ("a", "b")),), Scope.POD)
OWN = Table(
    (gauge("kpod_up", "Up.", "test"), counter("kpod_errors_total", "Errors.", "test")),
    (Label("collector", per="collector"),),
    Scope.AGENT,
)
TABLES = (DELTAS, TOTALS, GAUGES, POD, OWN)

WHO = [Identity("n", pod, container) for pod in ("p", "q") for container in ("one", "two")]
identities = st.sampled_from(WHO)
numbers = st.none() | st.integers(0, 3)
pairs = st.tuples(numbers, numbers)
waits = st.none() | st.builds(lambda at, n: Histogram((n,), n, at), st.integers(0, BUCKETS - 1), st.integers(0, 3))
STEPS = st.one_of(
    st.tuples(st.just("put"), st.just(DELTAS), identities, st.just(()), st.tuples(numbers, waits)),
    st.tuples(st.just("put"), st.just(TOTALS), identities, st.just(()), pairs),
    st.tuples(st.just("put"), st.just(GAUGES), identities, st.just(()), pairs),
    st.tuples(st.just("put"), st.just(POD), identities, st.sampled_from([("a",), ("b",)]), st.tuples(numbers)),
    st.tuples(st.just("set"), st.just(OWN), st.sampled_from([("x",), ("y",)]), pairs),
    st.tuples(st.just("begin_cycle"), st.sampled_from(TABLES)),
    st.tuples(st.just("discover"), st.lists(identities, max_size=2)),
    st.tuples(st.just("retain"), st.lists(identities)),
)


def do(store: Store, step: tuple[Any, ...], owner: int) -> None:
    """Take a step; rows come from one of two cgroups."""
    what, *arguments = step
    if what == "put":
        table, identity, labels, values = arguments
        store.put(Row(table, owner, labels, values), identity)
    else:
        getattr(store, what)(*arguments)


# The overflow series has no number yet, and gets one by a container that is only discovered.
@example([[(("put", DELTAS, who, (), (None, None)), 1) for who in WHO[:3]], [(("discover", WHO[3:]), 1)]], 2)
@given(st.lists(st.lists(st.tuples(STEPS, st.integers(1, 2)), max_size=4), max_size=8), st.sampled_from([2, 1000]))
def test_page_after_any_steps(cycles: list[list[tuple[tuple[Any, ...], int]]], limit: int) -> None:
    store = Store(TABLES, frozenset(metric for table in TABLES for metric in table.metrics), Limits(limit))
    renderer = Renderer({"node": "x"})
    for steps in cycles:
        for step, owner in steps:
            do(store, step, owner)
        page = renderer.render(store)
        scratch = Renderer({"node": "x"}).render(store)
        assert b"".join(page.pieces(TEXT)) == b"".join(scratch.pieces(TEXT))
        assert b"".join(page.pieces(PROTOBUF)) == b"".join(scratch.pieces(PROTOBUF))
