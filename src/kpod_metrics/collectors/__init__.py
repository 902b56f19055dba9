"""The collectors, and what they share. A class of a module here that is a `Collector` with a name is registered."""

import importlib
import pkgutil

from kpod_metrics.collectors.base import Collector


def registered() -> dict[str, type[Collector]]:
    """Return every collector by name, in the order of the names."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(Collector.registry.items()))
