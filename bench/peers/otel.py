"""Serves the series of a page with the OpenTelemetry SDK, in its own environment (`otel.txt`).

`otel.py serve PAGE PORT` serves them by its Prometheus exporter; `otel.py render PAGE ROUNDS` prints
as JSON the CPU time of writing them for Prometheus and for OTLP. The observations are made beforehand, so that only
the SDK's own work is measured. It has no observable histogram: a histogram's series are counters, as in the text.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from prometheus_client import generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families


def _register(page: str, reader: Any) -> int:
    """Give a reader all series of a page; return their number."""
    total = 0
    # Later versions combine all series of an instrument after the first 2,000 into one.
    meter = MeterProvider([reader], views=[_unlimited()], shutdown_on_exit=False).get_meter("bench")
    for family in text_string_to_metric_families(page):
        by_name: dict[str, list[Any]] = {}
        for sample in family.samples:
            by_name.setdefault(sample.name, []).append(Observation(sample.value, sample.labels))
        make = meter.create_observable_gauge if family.type == "gauge" else meter.create_observable_counter
        for name, observations in by_name.items():
            total += len(observations)
            make(name, [lambda _, them=observations: them])
    return total


def _unlimited() -> Any:
    try:
        return View(instrument_name="*", aggregation_cardinality_limit=1_000_000)
    except TypeError:  # no limit in this version
        return View(instrument_name="*")


def _timed(what: Callable[[], bytes], rounds: int) -> list[float]:
    taken = []
    for _ in range(rounds):
        start = time.thread_time()
        what()
        taken.append((time.thread_time() - start) * 1e3)
    return taken


def main() -> None:
    page = Path(sys.argv[2]).read_text()
    if sys.argv[1] == "serve":
        _register(page, PrometheusMetricReader())
        start_http_server(int(sys.argv[3]), "127.0.0.1")
        sys.stdin.read()
        return
    memory = InMemoryMetricReader()
    series = _register(page, PrometheusMetricReader())
    _register(page, memory)
    rounds = int(sys.argv[3])
    found = {
        "series": series,
        "prometheus_ms": _timed(generate_latest, rounds),
        "otlp_ms": _timed(lambda: encode_metrics(memory.get_metrics_data()).SerializeToString(), rounds),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
