"""From two pages to the figures of each container."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kpod_metrics.collectors import columns
from kpod_metrics.columns import Column, Shows
from kpod_metrics.diagnosis.causes import Cause, causes
from kpod_metrics.diagnosis.rates import Input, Labels, Rates, Totals, Value
from kpod_metrics.histogram import Histogram, quantile
from kpod_metrics.pods.model import Identity
from kpod_metrics.top.page import decode

COLUMNS = columns()
_CYCLE = "kpod_last_cycle_timestamp_seconds"
_INTERVAL = "kpod_poll_interval_seconds"
_UP = "kpod_collector_up"
_OF_AGENT = frozenset({_CYCLE, _INTERVAL, _UP})
_WANTED = _OF_AGENT | frozenset(Input) | {name for column in COLUMNS for name in column.metrics}

_WHERE = frozenset({"namespace", "pod", "container", "node", "cluster"})
"""Labels of every pod's metrics; those that begin with `label_` are others."""


@dataclass(frozen=True)
class Reading:
    """One cycle of the agent: the totals on its page."""

    time: float
    """When the cycle ended, in Unix time."""
    interval: float
    """Seconds between two cycles, by the settings."""
    node: str
    off: tuple[str, ...]
    """Collectors that do not work."""
    totals: Mapping[Identity, Totals]
    """By container."""


def read(page: bytes) -> Reading:
    """Read a page; raises ValueError if it is not the page of an agent."""
    time = interval = math.nan
    node = ""
    off = []
    totals: dict[Identity, dict[str, dict[Labels, Value]]] = {}
    for sample in decode(page, _WANTED):
        labels, value = sample.labels, sample.value
        if sample.name not in _OF_AGENT:
            owner = Identity(labels.get("namespace", ""), labels.get("pod", ""), labels.get("container", ""))
            node = labels.get("node", "") or node
            own = tuple(value for name, value in labels.items() if name not in _WHERE and not name.startswith("label_"))
            totals.setdefault(owner, {}).setdefault(sample.name, {})[own] = value
        elif not isinstance(value, Histogram):
            if sample.name == _CYCLE:
                time = value
            elif sample.name == _INTERVAL:
                interval = value
            elif not value:
                off.append(labels.get("collector", ""))
    if not math.isfinite(time):
        raise ValueError(f"{_CYCLE} is missing")
    return Reading(time, interval if math.isfinite(interval) else 0.0, node, tuple(off), totals)


@dataclass(frozen=True)
class Figures:
    """The figures of one container."""

    owner: Identity
    values: dict[str, float | None]
    """By the key of the column; None is not known. In seconds, bytes, shares, or per second."""
    bars: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Observations by bucket, of the columns that show a distribution."""
    cause: Cause | None = None
    """What it waits for most."""


def figures(before: Reading | None, now: Reading) -> list[Figures]:
    """Return the figures of each container: rates since `before`, as far as they are known."""
    seconds = now.time - before.time if before else 0.0
    found = []
    for owner, totals in now.totals.items():
        rates = Rates(before.totals.get(owner, {}) if before else None, totals, seconds)
        values, bars = {}, {}
        for column in COLUMNS:
            values[column.key], buckets = _value(column, rates)
            if buckets and column.shows is Shows.DISTRIBUTION:
                bars[column.key] = buckets
        found.append(Figures(owner, values, bars, next(iter(causes([rates])), None)))
    return found


def _value(column: Column, rates: Rates) -> tuple[float | None, list[int] | None]:
    """Return the value of a column, and the observations that it is from."""
    if column.shows is Shows.RATE:
        return rates.rate(*column.metrics), None
    if column.shows is Shows.LAST:
        return rates.last(*column.metrics), None
    [name] = column.metrics
    observed = rates.observed(name, column.chosen)
    if observed is None:
        return None, None
    if column.shows is Shows.DISTRIBUTION:
        return sum(observed) / rates.seconds, observed
    return (quantile(observed, 0.99) if any(observed) else None), observed
