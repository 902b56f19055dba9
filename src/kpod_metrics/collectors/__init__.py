"""One module a collector, found by itself; `kit` says what a collector is, `parts` is what collectors are made of."""

import importlib
import pkgutil

from kpod_metrics.collectors.kit import Collector
from kpod_metrics.columns import Column


def registered() -> dict[str, type[Collector]]:
    """Return every collector by name, in the order of the names."""
    for module in pkgutil.iter_modules(__path__):
        if not module.ispkg:
            importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(Collector.registry.items()))


def columns() -> list[Column]:
    """Return the columns of `top` that collectors declare, in their order."""
    return sorted(
        (column for kind in registered().values() for column in kind.columns), key=lambda column: column.place
    )
