"""Dashboards, made from the declarations: a panel's description is its metrics' HELP, its unit is that of their names.

A row of the pod's board is a question that collectors answer. It begins with panels that say more than one metric does,
and goes on with one for each metric of theirs that no panel shows by then: a metric that is declared is on a board.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import Question
from kpod_metrics.diagnosis import thresholds
from kpod_metrics.metrics import Kind, Metric, Scope, Table
from kpod_metrics.reference import declared
from monitoring import promql

METRICS: dict[str, tuple[Table, Metric]] = {metric.name: (table, metric) for _, table, metric in declared()}

WINDOW = "$__rate_interval"
PODS = {"cluster": "$cluster", "node": "$node", "namespace": "$namespace", "pod": "$pod"}
NODE = {"cluster": "$cluster", "node": "$node"}
AGENT = {"instance": "$instance"}

LEAST = {
    "kpod_cpu_throttled_periods_total": thresholds.MIN_PERIODS,
    "kpod_net_tcp_retransmits_total": 1,
    "kpod_syscall_errors_total": thresholds.SYSCALLS,
    "kpod_mem_cgroup_usage_bytes": 0,
    "kpod_bpf_map_entries": 0,
}
"""Of what a share is of: of fewer a share says nothing, and the idlest have the largest. Sizes need no such bound."""

CONTAINER = ("namespace", "pod", "container")
SOURCE = model.DataSourceRef(type_val="prometheus", uid="$datasource")

Panel = Builder[model.Panel]


@dataclass(frozen=True)
class Query:
    """One expression of a panel, and what its series are called."""

    expr: str
    legend: str = ""
    heatmap: bool = False


@dataclass(frozen=True)
class View:
    """What a board shows of: the matchers of its variables, and the labels that tell series apart."""

    matchers: dict[str, str]
    by: tuple[str, ...]
    top: int = 0
    """How many series at most; 0: all."""

    def select(self, name: str, **more: str) -> str:
        """Return the selector of a metric, with the labels that it has."""
        own = ",".join(f'{label}=~"{value}"' for label, value in (self.matchers | more).items())
        return f"{name}{{{own}}}" if own else name

    def labels(self, metric: Metric) -> tuple[str, ...]:
        """Return the labels that tell series of a metric apart here."""
        own, _ = METRICS[metric.name]
        mine = tuple(label for label in self.by if label != "container" or own.scope is Scope.CONTAINER)
        return (*mine, *(label.name for label in own.labels))

    def most(self, expr: str) -> str:
        """Only the largest, where there would be too many."""
        return f"topk({self.top}, {expr})" if self.top else expr

    def value(self, name: str, **more: str) -> str:
        """Return the expression of a counter's rate, or of a gauge."""
        _, metric = METRICS[name]
        selected = self.select(name, **more)
        if metric.kind is Kind.COUNTER:
            selected = f"rate({selected}[{WINDOW}])"
        return f"sum by ({', '.join(self.labels(metric))}) ({selected})"


def _legend(labels: Sequence[str], word: str = "") -> str:
    named = "/".join(f"{{{{{label}}}}}" for label in labels if label in {"namespace", "pod"})
    others = [f"{{{{{label}}}}}" for label in labels if label not in {"namespace", "pod"}]
    return " ".join(part for part in (word, named, *others) if part)


def unit(metric: Metric) -> str:
    """Return Grafana's unit of what is drawn: of a counter that is its growth a second."""
    name, counts = metric.name, metric.kind is Kind.COUNTER
    if "bytes" in name:
        return "Bps" if counts else "bytes"
    if name.endswith("_ratio"):
        return "percentunit"
    if "seconds" in name:
        if counts:
            return "none" if "cpu" in name and "pressure" not in name else "percentunit"
        return "s"
    return "cps" if counts else "none"


_SPELLED = {
    "cpu": "CPU",
    "tcp": "TCP",
    "rtt": "RTT",
    "oom": "OOM",
    "gpu": "GPU",
    "bpf": "BPF",
    "otlp": "OTLP",
    "mem": "memory",
    "fs": "file system",
}


def _word(name: str) -> str:
    words = name.removeprefix("kpod_").removesuffix("_total").removesuffix("_seconds").split("_")
    return " ".join(_SPELLED.get(word, word) for word in words)


def _help(names: Iterable[str]) -> str:
    return "\n\n".join(f"`{name}`: {METRICS[name][1].help}" for name in dict.fromkeys(names))


def _target(query: Query, at: int) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(chr(ord("A") + at)).datasource(SOURCE).range()
    if query.legend:
        target = target.legend_format(query.legend)
    return target.format(PromQueryFormat.HEATMAP if query.heatmap else PromQueryFormat.TIME_SERIES)


def _series(title: str, names: Sequence[str], queries: Sequence[Query], of_unit: str, width: int = 8) -> Panel:
    legend = common.VizLegendOptions().display_mode(common_model.LegendDisplayMode.LIST).show_legend(True)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(_help(names))
        .datasource(SOURCE)
        .unit(of_unit)
        .min(0)
        .line_width(1)
        .fill_opacity(10)
        .legend(legend.placement(common_model.LegendPlacement.BOTTOM))
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_model.TooltipDisplayMode.MULTI)
            .sort(common_model.SortOrder.DESCENDING)
        )
        .span(width)
        .height(8)
    )
    for at, query in enumerate(queries):
        panel = panel.with_target(_target(query, at))
    return panel


def lines(view: View, title: str, *names: str, width: int = 8) -> Panel:
    """Several metrics of one unit; their names are in the legend where there is more than one."""
    queries = [
        Query(
            view.most(view.value(name)),
            _legend(view.labels(METRICS[name][1]), _word(name) if len(names) > 1 else ""),
        )
        for name in names
    ]
    return _series(title, names, queries, unit(METRICS[names[0]][1]), width)


def share(view: View, title: str, of: str, to: Sequence[str], width: int = 8) -> Panel:
    """One metric, divided by others."""
    labels = view.labels(METRICS[of][1])
    whole = " + ".join(view.value(name) for name in to)
    expr = view.most(f"{view.value(of)} / (({whole}) > {LEAST[of]:g})")
    return _series(title, (of, *to), [Query(expr, _legend(labels))], "percentunit", width)


def tasks_waiting(view: View, title: str, width: int = 8) -> Panel:
    """Tasks that wait for a CPU, on average. A share of the time that tasks run would rank idle pods first."""
    name = "kpod_cpu_runqueue_latency_seconds"
    wait = promql.sum_rate(name, selector=view.select(""), window=WINDOW, by=", ".join(view.by))
    return _series(title, (name,), [Query(view.most(f"({wait})"), _legend(view.by))], "none", width)


def heat(view: View, title: str, name: str, width: int = 8) -> Panel:
    """A histogram over time, of whichever kind the scraper keeps: one of the two queries has an answer."""
    native = f"sum(increase({view.select(name)}[{WINDOW}]))"
    classic = f"sum by (le) (increase({view.select(f'{name}_bucket')}[{WINDOW}])) unless on () {native}"
    panel = (
        heatmap.Panel()
        .title(title)
        .description(_help([name]))
        .datasource(SOURCE)
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .show_tooltip()
        .span(width)
        .height(8)
    )
    for at, query in enumerate((Query(classic, "{{le}}", heatmap=True), Query(native, heatmap=True))):
        panel = panel.with_target(_target(query, at))
    return panel


def quantiles(view: View, title: str, name: str, of: Sequence[float] = (0.5, 0.99), width: int = 8) -> Panel:
    """Quantiles of a histogram, each series' own."""
    labels = view.labels(METRICS[name][1])
    queries = []
    for one in of:
        expr = promql.quantile(one, name, selector=view.select(""), window=WINDOW, by=", ".join(labels))
        queries.append(Query(view.most(f"({expr})") if view.top else expr, _legend(labels, f"p{one * 100:g}")))
    return _series(title, [name], queries, "s", width)


def events(view: View, title: str, *names: str, width: int = 8) -> Panel:
    """Rare events, counted over the window: a rate of them is a number that says nothing."""
    queries = []
    for name in names:
        labels = view.labels(METRICS[name][1])
        expr = f"sum by ({', '.join(labels)}) (increase({view.select(name)}[{WINDOW}]))"
        queries.append(Query(view.most(expr), _legend(labels, _word(name) if len(names) > 1 else "")))
    return _series(title, names, queries, "none", width)


def age(view: View, title: str, name: str, width: int = 8) -> Panel:
    """How long ago a time was."""
    labels = view.labels(METRICS[name][1])
    query = Query(f"time() - min by ({', '.join(labels)}) ({view.select(name)})", _legend(labels))
    return _series(title, [name], [query], "s", width)


def number(view: View, title: str, name: str, how: str = "sum({})", width: int = 4) -> Panel:
    """One number, the newest."""
    _, metric = METRICS[name]
    query = Query(how.format(view.select(name)))
    return (
        stat.Panel()
        .title(title)
        .description(_help([name]))
        .datasource(SOURCE)
        .unit(unit(metric))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query, 0))
        .span(width)
        .height(4)
    )


def listing(view: View, title: str, name: str, width: int = 24) -> Panel:
    """The labels of an information metric, as a table."""
    labels = view.labels(METRICS[name][1])
    target = prometheus.Dataquery().expr(f"sum by ({', '.join(labels)}) ({view.select(name)})")
    return (
        table.Panel()
        .title(title)
        .description(_help([name]))
        .datasource(SOURCE)
        .with_target(target.ref_id("A").datasource(SOURCE).format(PromQueryFormat.TABLE).instant())
        .span(width)
        .height(5)
    )


def left(view: View, title: str, width: int = 8) -> Panel:
    """File systems by how little is left of them."""
    available, capacity = "kpod_fs_available_bytes", "kpod_fs_capacity_bytes"
    labels = ", ".join((*view.by, "mountpoint"))
    expr = f"bottomk(15, min by ({labels}) ({view.select(available)} / {view.select(capacity)}))"
    target = _target(Query(expr, _legend((*view.by, "mountpoint"))), 0).instant()
    return (
        bargauge.Panel()
        .title(title)
        .description(_help([available, capacity]))
        .datasource(SOURCE)
        .unit("percentunit")
        .min(0)
        .max(1)
        .orientation(common_model.VizOrientation.HORIZONTAL)
        .with_target(target)
        .span(width)
        .height(8)
    )


def plain(view: View, name: str) -> Panel:
    """A metric by itself."""
    _, metric = METRICS[name]
    word = _word(name)
    title = word[0].upper() + word[1:]
    return heat(view, title, name) if metric.kind is Kind.HISTOGRAM else lines(view, title, name)


@dataclass(frozen=True)
class Row:
    """A row of panels; those of its collectors' other metrics come after these."""

    title: str
    panels: tuple[Panel, ...] = ()
    collectors: tuple[str, ...] = ()


def asked(question: Question, *panels: Panel) -> Row:
    """The row of a question, with all metrics of the collectors that answer it."""
    return Row(question.value, panels, tuple(name for name, kind in registered().items() if kind.question is question))


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    description: str
    view: View
    rows: tuple[Row, ...]
    variables: tuple[str, ...]


_VALUES = {
    "cluster": ("kpod_cpu_context_switches_total", {}),
    "node": ("kpod_cpu_context_switches_total", {"cluster": "$cluster"}),
    "namespace": ("kpod_cpu_context_switches_total", NODE),
    "pod": ("kpod_cpu_context_switches_total", NODE | {"namespace": "$namespace"}),
    "syscall": ("kpod_syscall_count_total", PODS),
    # The agent's own metrics do not say their cluster, its pods' do.
    "instance": ("kpod_cpu_context_switches_total", NODE),
}


def _variable(name: str) -> Builder[model.VariableModel]:
    of, matchers = _VALUES[name]
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({View(matchers, ()).select(of)}, {name})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        # Also series without the label.
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def shown(panels: Iterable[model.Panel]) -> set[str]:
    """Return the declared metrics that panels show."""
    found: set[str] = set()
    for panel in panels:
        for target in panel.targets or ():
            names, _ = promql.names(getattr(target, "expr", ""))
            for name in names:
                found |= {name, name.removesuffix("_bucket"), name.removesuffix("_sum"), name.removesuffix("_count")}
    return found & METRICS.keys()


def build(board: Board) -> model.Dashboard:
    """Make Grafana's object of a board."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["kpod-metrics"])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("kpod-metrics")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["kpod-metrics"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for name in board.variables:
        made = made.with_variable(_variable(name))
    there = shown(panel.build() for row in board.rows for panel in row.panels)
    number_of = 0
    for row in board.rows:
        made = made.with_row(dashboard.Row(row.title))
        others = [
            plain(board.view, metric.name)
            for collector, _, metric in declared()
            if collector in row.collectors and metric.name not in there
        ]
        for panel in (*row.panels, *others):
            built = panel.build()
            number_of += 1
            built.id_val = number_of
            made = made.with_panel(_Built(built))
    return made.build()


class _Built(Builder[model.Panel]):
    """A panel that is built already."""

    def __init__(self, panel: model.Panel) -> None:
        self._panel = panel

    def build(self) -> model.Panel:
        return self._panel


_OF_NODE = View(NODE | {"namespace": "$namespace"}, ("namespace", "pod"), top=10)
_OF_POD = View(PODS, CONTAINER)
_OF_SYSCALLS = View(PODS | {"syscall": "$syscall"}, CONTAINER)
_BY_SYSCALL = View(PODS | {"syscall": "$syscall"}, ())
_OF_NETWORK = View(PODS, ("namespace", "pod"), top=20)
_OF_AGENT = View(AGENT, ("instance",))

_RUNQUEUE, _RTT = "kpod_cpu_runqueue_latency_seconds", "kpod_net_tcp_rtt_seconds"
_AGAIN, _SEGMENTS = "kpod_net_tcp_retransmits_total", "kpod_net_tcp_segments_sent_total"
_THROTTLED, _PERIODS = "kpod_cpu_throttled_periods_total", "kpod_cpu_periods_total"
_CALLS, _FAILED, _TOOK = "kpod_syscall_count_total", "kpod_syscall_errors_total", "kpod_syscall_latency_seconds"


def _waits(view: View) -> tuple[Panel, ...]:
    """What a pod may be waiting for, side by side."""
    return (
        tasks_waiting(view, "Tasks waiting for a CPU"),
        share(view, "Throttled, of all periods", _THROTTLED, [_PERIODS]),
        lines(view, "Waiting for memory", "kpod_pressure_memory_waiting_seconds_total"),
        lines(view, "Waiting for I/O", "kpod_pressure_io_waiting_seconds_total"),
        lines(view, "TCP segments sent again", "kpod_net_tcp_retransmits_total"),
        lines(view, "Major page faults", "kpod_mem_major_page_faults_total"),
    )


def _interfaces(view: View) -> tuple[Panel, ...]:
    return (
        *(
            lines(view, f"Interfaces: {what}", *(f"kpod_net_iface_{way}_{what}_total" for way in ("rx", "tx")))
            for what in ("bytes", "packets")
        ),
        events(
            view,
            "Interfaces: errors and drops",
            *(f"kpod_net_iface_{way}_{what}_total" for what in ("errors", "drops") for way in ("rx", "tx")),
        ),
    )


BOARDS = (
    Board(
        "kpod-metrics-node",
        "kpod-metrics / Node",
        "Which pods of a node wait, and for what.",
        _OF_NODE,
        (
            Row("What pods wait for", _waits(_OF_NODE)),
            Row(
                "CPU",
                (
                    heat(_OF_NODE, "Waits for a CPU", _RUNQUEUE),
                    quantiles(_OF_NODE, "Waits for a CPU, p99", _RUNQUEUE, of=(0.99,)),
                    lines(_OF_NODE, "CPUs used", "kpod_cpu_usage_seconds_total"),
                ),
            ),
            Row(
                "Memory",
                (
                    lines(_OF_NODE, "Memory", "kpod_mem_cgroup_usage_bytes"),
                    share(
                        _OF_NODE, "Memory, of the limit", "kpod_mem_cgroup_usage_bytes", ["kpod_mem_cgroup_limit_bytes"]
                    ),
                    events(_OF_NODE, "OOM kills", "kpod_mem_oom_kills_total"),
                ),
            ),
            Row(
                "Disk and file systems",
                (
                    lines(_OF_NODE, "Read", "kpod_disk_read_bytes_total"),
                    lines(_OF_NODE, "Written", "kpod_disk_written_bytes_total"),
                    left(_OF_NODE, "Space left"),
                ),
            ),
            Row(
                "Network",
                (
                    heat(_OF_NODE, "TCP round trips", _RTT),
                    lines(
                        _OF_NODE,
                        "TCP bytes",
                        "kpod_net_tcp_bytes_sent_total",
                        "kpod_net_tcp_bytes_received_total",
                    ),
                    events(_OF_NODE, "Failed connects", "kpod_net_tcp_connect_failures_total"),
                ),
            ),
        ),
        ("cluster", "node", "namespace"),
    ),
    Board(
        "kpod-metrics-pod",
        "kpod-metrics / Pod: why is it slow?",
        "One pod, question by question. Choose it above.",
        _OF_POD,
        (
            Row("In short", _waits(_OF_POD)),
            Row(
                "Who is it?",
                (
                    listing(_OF_POD, "Owner and class", "kpod_pod_info", 16),
                    lines(_OF_POD, "Restarts", "kpod_container_restarts"),
                ),
                ("pods",),
            ),
            asked(
                Question.CPU,
                heat(_OF_POD, "Waits for a CPU, throttled time included", _RUNQUEUE),
                quantiles(_OF_POD, "Waits for a CPU, throttled time included", _RUNQUEUE),
                lines(
                    _OF_POD,
                    "Time with every or some task waiting for a CPU",
                    "kpod_pressure_cpu_waiting_seconds_total",
                    "kpod_pressure_cpu_stalled_seconds_total",
                ),
            ),
            asked(
                Question.MEMORY,
                lines(
                    _OF_POD,
                    "Memory and its limit",
                    "kpod_mem_cgroup_usage_bytes",
                    "kpod_mem_cgroup_cache_bytes",
                    "kpod_mem_cgroup_peak_bytes",
                    "kpod_mem_cgroup_limit_bytes",
                ),
                lines(
                    _OF_POD,
                    "Time with every or some task waiting for memory",
                    "kpod_pressure_memory_waiting_seconds_total",
                    "kpod_pressure_memory_stalled_seconds_total",
                ),
                events(_OF_POD, "OOM kills", "kpod_mem_oom_kills_total"),
                events(_OF_POD, "OOM kills of whole containers", "kpod_mem_oom_group_kills_total"),
            ),
            asked(
                Question.DISK,
                lines(
                    _OF_POD,
                    "Time with every or some task waiting for I/O",
                    "kpod_pressure_io_waiting_seconds_total",
                    "kpod_pressure_io_stalled_seconds_total",
                ),
                lines(_OF_POD, "Disk bytes", "kpod_disk_read_bytes_total", "kpod_disk_written_bytes_total"),
                lines(_OF_POD, "Disk operations", "kpod_disk_reads_total", "kpod_disk_writes_total"),
                left(_OF_POD, "Space left"),
            ),
            asked(
                Question.NETWORK,
                heat(_OF_POD, "TCP round trips", _RTT),
                quantiles(_OF_POD, "TCP round trips", _RTT),
                lines(_OF_POD, "TCP bytes", "kpod_net_tcp_bytes_sent_total", "kpod_net_tcp_bytes_received_total"),
                share(_OF_POD, "TCP segments sent again, of all", _AGAIN, [_SEGMENTS]),
                events(_OF_POD, "Failed connects", "kpod_net_tcp_connect_failures_total"),
                *_interfaces(_OF_POD),
            ),
            asked(
                Question.GPU,
                lines(_OF_POD, "GPU, its busiest kind of engine", "kpod_gpu_utilization_ratio"),
                lines(_OF_POD, "Memory of the GPU", "kpod_gpu_memory_used_bytes"),
            ),
            asked(
                Question.SYSCALLS,
                heat(_OF_POD, "Calls by how long they took", _TOOK),
                quantiles(_OF_POD, "Calls, p99", _TOOK, of=(0.99,)),
                share(_OF_POD, "Failing calls, of all", _FAILED, [_CALLS]),
            ),
        ),
        ("cluster", "node", "namespace", "pod"),
    ),
    Board(
        "kpod-metrics-network",
        "kpod-metrics / Network",
        "TCP and network interfaces of pods.",
        _OF_NETWORK,
        (
            Row(
                "TCP",
                (
                    heat(_OF_NETWORK, "Round trips", _RTT),
                    quantiles(_OF_NETWORK, "Round trips, p50", _RTT, of=(0.5,)),
                    quantiles(_OF_NETWORK, "Round trips, p99", _RTT, of=(0.99,)),
                    share(_OF_NETWORK, "Segments sent again, of all", _AGAIN, [_SEGMENTS]),
                    events(_OF_NETWORK, "Failed connects", "kpod_net_tcp_connect_failures_total"),
                ),
                ("net_tcp",),
            ),
            Row("Interfaces", _interfaces(_OF_NETWORK), ("net_iface",)),
        ),
        ("cluster", "node", "namespace", "pod"),
    ),
    Board(
        "kpod-metrics-syscalls",
        "kpod-metrics / Syscalls",
        "Tracked system calls of pods; with the comprehensive profile.",
        _OF_SYSCALLS,
        (
            Row(
                "By call",
                (
                    heat(_BY_SYSCALL, "How long calls took", _TOOK),
                    quantiles(_BY_SYSCALL, "How long calls took", _TOOK),
                    lines(_BY_SYSCALL, "Calls", _CALLS),
                    share(_BY_SYSCALL, "Failing, of all", _FAILED, [_CALLS]),
                ),
            ),
            Row(
                "By container",
                (
                    quantiles(_OF_SYSCALLS, "How long calls took, p99", _TOOK, of=(0.99,)),
                    share(_OF_SYSCALLS, "Failing, of all", _FAILED, [_CALLS]),
                    lines(_OF_SYSCALLS, "Calls", _CALLS),
                    lines(_OF_SYSCALLS, "Failing calls", _FAILED),
                ),
                ("syscall",),
            ),
        ),
        ("cluster", "node", "namespace", "pod", "syscall"),
    ),
    Board(
        "kpod-metrics-agent",
        "kpod-metrics / Agent health",
        "What the agents collect, what they lost, what they cost.",
        _OF_AGENT,
        (
            Row(
                "In short",
                (
                    number(_OF_AGENT, "Collectors off", "kpod_collector_up", "sum(1 - {})"),
                    number(_OF_AGENT, "Pods", "kpod_discovered_pods"),
                    number(_OF_AGENT, "Slowest cycle", "kpod_collection_cycle_seconds", "max({})"),
                    number(_OF_AGENT, "Largest memory", "process_resident_memory_bytes", "max({})"),
                    number(_OF_AGENT, "Sources of pods that answer", "kpod_pod_source_connected"),
                    listing(_OF_AGENT, "Versions", "kpod_build_info", 4),
                ),
            ),
            Row(
                "What is lost",
                (
                    events(_OF_AGENT, "Failed updates of kernel maps", "kpod_bpf_map_update_errors_total"),
                    events(_OF_AGENT, "Evictions from kernel maps", "kpod_bpf_map_evictions_total"),
                    events(_OF_AGENT, "Runs of kernel programs missed", "kpod_bpf_program_missed_runs_total"),
                    events(_OF_AGENT, "Updates over the bound of series", "kpod_series_overflow_total"),
                    events(_OF_AGENT, "Reads that failed or were late", "kpod_collector_errors_total"),
                    share(_OF_AGENT, "Kernel maps filled", "kpod_bpf_map_entries", ["kpod_bpf_map_capacity"]),
                    lines(_OF_AGENT, "Events that are no pod's", "kpod_unattributed_events_total"),
                    events(_OF_AGENT, "Points that the OTLP receiver did not take", "kpod_otlp_dropped_points_total"),
                    events(_OF_AGENT, "Pods listed anew", "kpod_pod_source_relists_total"),
                ),
            ),
            Row(
                "Everything",
                (
                    age(_OF_AGENT, "Since the last cycle", "kpod_last_cycle_timestamp_seconds"),
                    age(_OF_AGENT, "Since the agent's start", "process_start_time_seconds"),
                ),
                ("agent",),
            ),
        ),
        ("cluster", "node", "instance"),
    ),
)


def as_json(board: Board) -> str:
    """Return a board as the file that Grafana takes."""
    return JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode(build(board)) + "\n"
