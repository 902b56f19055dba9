"""The page at `/`, as HTML: no script, no resources of other hosts, every name escaped, at most MAX_PODS pods."""

import base64
import hashlib
import html
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from urllib.parse import parse_qs

from kpod_metrics import __version__
from kpod_metrics.diagnosis.causes import Cause, node_causes, percent, short
from kpod_metrics.exposition.recent import Comparison
from kpod_metrics.exposition.samples import clean, shown
from kpod_metrics.histogram import Histogram
from kpod_metrics.landing import waits
from kpod_metrics.landing.waits import Waits
from kpod_metrics.metrics import Scope

DOCS = "docs"
"""Path of the documentation that the agent serves, relative to this page."""
DEFAULT_PODS, MAX_PODS = 50, 1000
MAX_PROBLEMS = 30
"""Lines about what does not work; `/readyz` has all of them."""

_STYLE = files("kpod_metrics.landing").joinpath("style.css").read_text()
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='3' fill='%230b5cad'/%3E"
    "%3Cpath d='M3 9h2l2-5 2 8 2-5h2' fill='none' stroke='white' stroke-width='1.5'/%3E%3C/svg%3E"
)
_COLUMNS = (
    ("Tasks in the run queue", "in the run queue", "runqueue", short),
    ("Throttled", "throttled", "throttled", percent),
    ("Retransmits, a second", "retransmits a second", "retransmits", short),
    ("Major faults, a second", "major faults a second", "faults", short),
    ("Tasks in syscalls", "in syscalls", "syscalls", short),
    ("I/O", "I/O", "io", percent),
    ("Memory", "memory", "memory", percent),
)
"""Headings, labels of the numbers where a narrow screen has no columns, fields of `Waits`, and how they are written."""


def limit_of(query: str) -> int:
    """Return how many pods a query string asks for; raises ValueError with the accepted values."""
    pods = parse_qs(query, keep_blank_values=True, max_num_fields=10).get("pods", [str(DEFAULT_PODS)])[-1]
    if not re.fullmatch(r"[0-9]{1,4}", pods) or not 1 <= int(pods) <= MAX_PODS:
        raise ValueError(f"pods: {pods[:40]!r} is not accepted; accepted: 1 to {MAX_PODS}")
    return int(pods)


def text(value: str) -> str:
    """Escape a name, and show invisible characters by their number."""
    return html.escape(clean(shown(value)))


def render(
    compared: Comparison | None, problems: Sequence[str], node: str, limit: int = DEFAULT_PODS, cluster: str = ""
) -> bytes:
    """Write the page with at most `limit` pods.

    `compared` is None before the first cycle; `problems` are lines about what does not work.
    """
    where = f"{cluster} / {node}" if cluster else node
    parts = [
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{text(where)}: kpod-metrics</title>\n<link rel="icon" href="{_ICON}">\n<style>{_STYLE}</style>\n'
        f"</head>\n<body>\n<header>\n<h1>Node {text(where)}</h1>\n"
        f'<nav aria-label="This agent"><a href="metrics">Metrics</a> <a href="readyz">Readiness</a> '
        f'<a href="healthz">Health</a> <a href="{DOCS}/">Docs</a></nav>\n</header>\n<main>\n'
    ]
    if compared is None:
        parts.append('<p class="said some">The first cycle is not over yet.</p>\n')
        parts.append(_problems(problems))
    else:
        containers = waits.rates(compared)
        found = waits.pods(containers)
        parts.append(_summary(found, compared))
        parts += (f'<p class="said bad">{_cause(cause)}.</p>\n' for cause in node_causes(containers.values()))
        parts += (_problems(problems), _pods(found, compared, limit), _agent(compared))
    parts.append(
        f"</main>\n<footer><p>kpod-metrics {text(__version__)}. The thresholds are those of the alerts. "
        f'<a href="{DOCS}/runbook">Runbook</a>: what each means, and what to do. '
        f'<a href="{DOCS}/metrics">All metrics</a>.</p></footer>\n</body>\n</html>\n'
    )
    return "".join(parts).encode("utf-8", "replace")


RENDERED_PER_SECOND = 3
"""Pages that are rendered in a second, whatever clients ask for: one of 250 pods takes 40 ms of CPU time."""


class Pages:
    """Renders the page for each number of pods at most once per second, and few of them: it must not use much CPU."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._second = -1
        self._rendered: dict[tuple[object, ...], bytes] = {}
        """The pages of this second."""

    def get(
        self, compared: Comparison | None, problems: Sequence[str], node: str, limit: int, cluster: str
    ) -> bytes | None:
        """Return the page for the newest cycle; None if too many others were rendered in this second."""
        with self._lock:
            if (second := int(self._clock())) != self._second:
                self._second = second
                self._rendered.clear()
            key = (compared and compared.at, tuple(problems), limit)
            if key not in self._rendered:
                if len(self._rendered) >= RENDERED_PER_SECOND:
                    return None
                self._rendered[key] = render(compared, problems, node, limit, cluster)
            return self._rendered[key]


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = [f"<li>{text(line)}</li>" for line in problems[:MAX_PROBLEMS]]
    if more := len(problems) - MAX_PROBLEMS:
        items += [f'<li><a href="readyz">{more} more</a></li>'] if more > 0 else []
    return f'<div class="said bad">Not working<ul>{"".join(items)}</ul></div>\n'


def _summary(found: Sequence[Waits], compared: Comparison) -> str:
    if not compared.seconds:
        return '<p class="said some">Rates need a second cycle: reload this page then.</p>\n'
    many = sum(pod.severity >= 1 for pod in found)
    if not many:
        return f'<p class="said good">None of {_count(len(found), "pod")} is over the threshold of an alert.</p>\n'
    are = "is" if many == 1 else "are"
    return f'<p class="said bad">{many} of {_count(len(found), "pod")} {are} over the threshold of an alert.</p>\n'


def _cause(cause: Cause) -> str:
    return f'<a href="{DOCS}/runbook#{cause.alert.lower()}">{text(cause.text)}</a>'


def _count(number_: int, what: str) -> str:
    return f"{number_} {what}" if number_ == 1 else f"{number_} {what}s"


def _pods(found: Sequence[Waits], compared: Comparison, limit: int) -> str:
    if not found:
        return "<h2>Pods</h2>\n<p>There are no pods on this node.</p>\n"
    when = f"over the last {compared.seconds:.3g} s" if compared.seconds else "without rates yet"
    heads = "".join(f'<th scope="col" role="columnheader" class="n">{heading}</th>' for heading, *_ in _COLUMNS)
    rows = "".join(_row(pod, known=bool(compared.seconds)) for pod in found[:limit])
    more = len(found) - limit
    rest = ""
    if more > 0:
        quiet = sum(not pod.causes for pod in found[limit:])
        following = min(MAX_PODS, limit * 4, len(found))
        link = f' <a href="?pods={following}">Show {following}</a>' if following > limit else ""
        rest = f"<p>{_count(more, 'more pod')}, {quiet} of them wait for nothing.{link}</p>\n"
    return (
        f'<h2>What pods wait for</h2>\n<table class="pods" role="table"><caption>The worst first, {when}. '
        f'"-": unknown.</caption>\n'
        f'<thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Pod</th>'
        f'<th scope="col" role="columnheader">Waits for</th>{heads}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{rows}</tbody></table>\n{rest}'
    )


def _row(pod: Waits, *, known: bool) -> str:
    level = "bad" if pod.severity >= 1 else "some" if pod.causes else "none"
    if pod.causes:
        words = "".join(
            f'<li class="{"bad" if cause.severity >= 1 else "some"}"><span class="mark">{_cause(cause)}</span></li>'
            for cause in pod.causes
        )
        words = f"<ul>{words}</ul>"
    else:
        words = f'<span class="quiet">{"nothing" if known else "unknown yet"}</span>'
    numbers = "".join(
        f'<td class="n{"" if (value := getattr(pod, field)) else " zero"}" role="cell" data-name="{name}">'
        f"{'-' if value is None else html.escape(write(value))}</td>"
        for _, name, field, write in _COLUMNS
    )
    return (
        f'<tr class="{level}" role="row"><th scope="row" role="rowheader">{text(pod.pod)}'
        f'<small>{text(pod.namespace)}</small></th><td class="words" role="cell">{words}</td>{numbers}</tr>\n'
    )


_Own = dict[str, list[tuple[tuple[str, ...], float]]]
"""The agent's own metrics: labels and values by name."""


def _agent(compared: Comparison) -> str:
    own: _Own = {
        family.metric.name: [
            (sample.series.labels, sample.value) for sample in family.samples if not isinstance(sample.value, Histogram)
        ]
        for family in compared.page.families
        if family.table.scope is Scope.AGENT
    }

    def value(name: str) -> float | None:
        return own[name][0][1] if own.get(name) else None

    def total(name: str, last: str = "") -> float:
        return sum(found for labels, found in own.get(name, ()) if not last or labels[-1] == last)

    facts: list[tuple[str, str, bool]] = []
    collectors = own.get("kpod_collector_up", [])
    up = int(total("kpod_collector_up"))
    facts.append(("Working collectors", f"{up} of {len(collectors)}", up < len(collectors)))
    ended, took = value("kpod_last_cycle_timestamp_seconds"), value("kpod_collection_cycle_seconds")
    interval = value("kpod_poll_interval_seconds") or 0.0
    if ended is not None and took is not None:
        age = max(0.0, time.time() - ended)
        facts.append(("Last cycle ended", f"{short(round(age, 1))} s ago", age > 3 * interval))
        facts.append(("Duration of the cycle", f"{1000 * took:.0f} ms, every {interval:g} s", False))
    for labels, connected in own.get("kpod_pod_source_connected", ()):
        facts.append(("Source of pods", f"{labels[0]}, {'connected' if connected else 'disconnected'}", not connected))
    for name, what, bad in (
        ("kpod_pending_events", "Events of pods not known yet", False),
        ("kpod_bpf_map_update_errors_total", "Failed map updates", True),
        ("kpod_bpf_map_evictions_total", "Evicted map entries", True),
        ("kpod_bpf_program_missed_runs_total", "Missed program runs", True),
        ("kpod_series_overflow_total", "Updates above the series limit", True),
        ("kpod_otlp_dropped_points_total", "Dropped OTLP points", True),
    ):
        if name in own:
            facts.append((what, f"{total(name):.0f}", bad and total(name) > 0))
    unresolved = total("kpod_unattributed_events_total", "unresolved")
    facts.append(("Events of unknown pods", f"{unresolved:.0f}", unresolved > 0))
    resident = value("process_resident_memory_bytes")
    if resident is not None:
        facts.append(("Resident memory", f"{resident / 1e6:.1f} MB", False))
    items = "".join(
        f"<div><dt>{what}</dt><dd{' class=bad' if bad else ''}>{text(fact)}</dd></div>\n" for what, fact, bad in facts
    )
    return f'<h2>The agent</h2>\n<dl>\n{items}</dl>\n<div class="two">{_collectors(own)}{_maps(own)}</div>\n'


def _table(caption: str, heads: Sequence[str], rows: Iterable[tuple[str, ...]]) -> str:
    first, *others = heads
    head = f'<th scope="col">{first}</th>' + "".join(f'<th scope="col" class="n">{name}</th>' for name in others)
    body = "".join(
        f'<tr><th scope="row">{name}</th>' + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>\n"
        for name, *cells in rows
    )
    return f"<div><h2>{caption}</h2><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"


def _collectors(own: _Own) -> str:
    took, errors = (dict(own.get(f"kpod_collector_{what}", ())) for what in ("duration_seconds", "errors_total"))
    rows = (
        (
            text(labels[0]),
            "works" if up else '<span class="bad"><span class="mark">fails</span></span>',
            f"{1000 * took.get(labels, 0.0):.1f} ms",
            f"{errors.get(labels, 0):.0f}",
        )
        for labels, up in sorted(own.get("kpod_collector_up", ()))
    )
    return _table("Collectors", ("Collector", "State", "Last read", "Errors"), rows)


def _maps(own: _Own) -> str:
    room = dict(own.get("kpod_bpf_map_capacity", ()))
    found = [(labels, entries, room.get(labels, 0.0)) for labels, entries in own.get("kpod_bpf_map_entries", ())]
    if not found:
        return ""
    rows = (
        (text(labels[0]), f"{entries:.0f} of {capacity:.0f}", percent(entries / capacity) if capacity else "-")
        for labels, entries, capacity in sorted(found)
    )
    return _table("Kernel maps", ("Map", "Entries", "Full"), rows)
