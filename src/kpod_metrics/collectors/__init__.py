"""The collectors: one module each, registered by import. `kit` has their base, `parts` has shared parts."""

import importlib
import pkgutil

from kpod_metrics.collectors.kit import Collector
from kpod_metrics.columns import Column


def registered() -> dict[str, type[Collector]]:
    """Return all collectors by name, sorted."""
    for module in pkgutil.iter_modules(__path__):
        if not module.ispkg:
            importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(Collector.registry.items()))


def columns() -> list[Column]:
    """Return the columns of `top` that collectors declare, in their order."""
    declared = [column for kind in registered().values() for column in kind.columns]
    return sorted(declared, key=lambda column: (column.place, column.key))
