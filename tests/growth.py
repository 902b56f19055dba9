"""Rows that say what a counter grew by, for tests that are about sums: each is the only row of an epoch of its own."""

from collections.abc import Sequence
from itertools import count

from kpod_metrics.metrics import Row, Table, Value
from kpod_metrics.pods.model import Identity
from kpod_metrics.store import Store

_EPOCHS = count(1)


def grow(  # noqa: PLR0917
    store: Store, table: Table, identity: Identity, labels: tuple[str, ...], values: Sequence[Value], owner: int = 1
) -> None:
    """Have the counters of an owner grow by these values; gauges become these values."""
    store.put(Row(table, owner, labels, values, next(_EPOCHS)), identity)
