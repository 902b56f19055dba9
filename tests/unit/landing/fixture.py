"""A node whose pods' numbers are made up: cycles of a real store, ten seconds apart."""

from kpod_metrics import health
from kpod_metrics.exposition.page import Renderer
from kpod_metrics.exposition.recent import Comparison, Recent
from kpod_metrics.histogram import Histogram
from kpod_metrics.metrics import Kind, Scope, Table, Value
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import Store
from tests.growth import grow
from tests.unit.exposition.fixture import tables

SECONDS = 10.0

A_POD = Identity("shop", "web-1", "app")


class Node:
    """`now` is the clock of its cycles."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.tables = tables()
        self.store = Store(self.tables, frozenset(metric for table in self.tables for metric in table.metrics))
        self.recent = Recent(SECONDS, lambda: self.now)
        self._renderer = Renderer({"node": "n1"})

    @property
    def compared(self) -> Comparison:
        assert self.recent.newest is not None
        return self.recent.newest

    def saw(self, identity: Identity, **growth: float | Histogram) -> None:
        """Have metrics of a pod grow, or a gauge be so much; `write__syscall...` is of that syscall."""
        rows: dict[tuple[Table, tuple[str, ...]], dict[str, float | Histogram]] = {}
        for key, by in growth.items():
            label, _, name = key.rpartition("__")
            table = next(t for t in self.tables for m in t.metrics if m.name == f"kpod_{name}")
            labels: tuple[str, ...] = (label,) if table.labels else ()
            rows.setdefault((table, labels), {})[f"kpod_{name}"] = by
        for (table, labels), wanted in rows.items():
            values: list[Value] = []
            for metric in table.metrics:
                value: Value = wanted.get(metric.name)
                if isinstance(value, int | float) and metric.kind is Kind.HISTOGRAM:
                    value = Histogram((1,), round(value * 1e9))
                values.append(value)
            grow(self.store, table, identity, labels, values, hash(identity))

    def agent(self, table: Table, labels: tuple[str, ...], *values: float | None) -> None:
        """Set the agent's own numbers."""
        assert table.scope is Scope.AGENT
        self.store.set(table, labels, values)

    def cycle(self, after: float = SECONDS) -> None:
        """End a cycle."""
        self.now += after
        self.recent.note(self._renderer.render(self.store))


def grown(growth: dict[str, float], identity: Identity = A_POD) -> Node:
    """A node of one pod that had these metrics, all at some value, and in ten seconds they grew."""
    node = Node()
    node.saw(identity, **dict.fromkeys(growth, 0.0))
    node.cycle()
    node.saw(identity, **growth)
    node.cycle()
    return node


def healthy(node: Node) -> None:
    """Add the agent's own numbers, all well."""
    for name in ("run_queue", "disk"):
        node.agent(health.COLLECTORS, (name,), 1, 0.0021, 0)
    node.agent(health.CYCLE, (), 0.034, 1000.0, 2, 30.0)
    node.agent(health.SOURCE, ("kubernetes",), 1, 0)
    node.agent(health.MAPS, ("run_queue",), 512, 10240, 0, 0, 4096)
    for reason in ("host", "filtered", "unresolved"):
        node.agent(health.UNATTRIBUTED, ("run_queue", reason), 7 if reason == "host" else 0)
