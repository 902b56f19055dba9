"""Dashboards, made from the declarations: the description of a panel is the HELP of its metrics, its unit their unit.

A row of the pod's board is a question that collectors answer. A row begins with hand-made panels, and continues with
one panel for each metric of its collectors that has none yet, so that every declared metric is on a board.
"""

import re
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

MIN_DENOMINATOR = {
    "kpod_cpu_throttled_periods_total": thresholds.MIN_PERIODS,
    "kpod_net_tcp_retransmits_total": 1,
    "kpod_syscall_errors_total": thresholds.SYSCALLS,
    "kpod_mem_cgroup_usage_bytes": 0,
    "kpod_bpf_map_entries": 0,
}
"""Minimum of what a share is divided by. Below it, a share means nothing, and idle pods have the largest ones."""

RATE_THRESHOLDS = {
    "kpod_pressure_memory_waiting_seconds_total": thresholds.MEMORY_WAIT_SHARE,
    "kpod_pressure_io_stalled_seconds_total": thresholds.IO_STALL_SHARE,
    "kpod_net_tcp_retransmits_total": thresholds.RETRANSMITS,
    "kpod_mem_major_page_faults_total": thresholds.MAJOR_FAULTS,
}
SHARE_THRESHOLDS = {
    "kpod_cpu_throttled_periods_total": thresholds.THROTTLED_SHARE,
    "kpod_net_tcp_retransmits_total": thresholds.RETRANSMIT_SHARE,
    "kpod_syscall_errors_total": thresholds.SYSCALL_ERROR_SHARE,
}
"""Thresholds of the alerts, as a line on panels of containers: of a metric's rate, and of its share of others."""

CONTAINER = ("namespace", "pod", "container")
SOURCE = model.DataSourceRef(type_val="prometheus", uid="$datasource")

Panel = Builder[model.Panel]


@dataclass(frozen=True)
class Query:
    """One expression of a panel, and the legend of its series."""

    expr: str
    legend: str = ""
    heatmap: bool = False


@dataclass(frozen=True)
class Selection:
    """The series of a board: the matchers of its variables, and the labels that distinguish series."""

    matchers: dict[str, str]
    by: tuple[str, ...]
    top: int = 0
    """Maximum number of series; 0: all."""

    def select(self, name: str, **more: str) -> str:
        """Return the selector of a metric with these labels."""
        own = ",".join(f'{label}=~"{value}"' for label, value in (self.matchers | more).items())
        return f"{name}{{{own}}}" if own else name

    def labels(self, metric: Metric) -> tuple[str, ...]:
        """Return the labels that distinguish series of a metric."""
        own, _ = METRICS[metric.name]
        mine = tuple(label for label in self.by if label != "container" or own.scope is Scope.CONTAINER)
        return (*mine, *(label.name for label in own.labels))

    def largest(self, expr: str) -> str:
        """Return the expression of the largest series, if their number is limited."""
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
    """Return Grafana's unit of a panel; for a counter, of its growth per second."""
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
    "mem cgroup": "memory",
    "mem": "memory",
    "cpu": "CPU",
    "net tcp": "TCP",
    "net iface": "interface",
    "rx": "received",
    "tx": "sent",
    "rtt": "round-trip time",
    "oom": "OOM",
    "gpu": "GPU",
    "bpf": "BPF",
    "io": "I/O",
    "otlp": "OTLP",
    "http": "HTTP",
    "fs": "file system",
    "fds": "file descriptors",
    "config": "configuration",
}
"""Parts of metrics' names as people write them."""
TITLES = {
    "kpod_bpf_program_run_seconds_total": "CPU time of BPF programs",
    "kpod_bpf_program_runs_total": "runs of BPF programs",
    "kpod_collection_cycle_errors_total": "failed cycles",
    "kpod_collector_skipped_processes_total": "skipped processes, by collector",
    "kpod_collector_unread_cgroups_total": "unread cgroups, by collector",
    "kpod_discovery_errors_total": "failed discoveries",
    "kpod_discovery_refused_claims_total": "refused claims to be a pod",
    "kpod_discovery_forgotten_total": "evictions from caches of the discovery",
    "kpod_discovery_skipped_cgroups": "skipped cgroups",
    "kpod_filesystem_mounts_skipped_total": "skipped mounts",
    "kpod_http_connections": "open HTTP connections",
    "kpod_http_refused_total": "refused HTTP requests",
    "kpod_otlp_queue_bytes": "size of the OTLP queue",
    "kpod_otlp_sent_points_total": "OTLP points sent",
    "kpod_pending_events": "events of pods not known yet",
    "kpod_web_config_valid": "valid web configuration",
    "process_open_fds": "open file descriptors of the agent",
    "process_max_fds": "limit of open file descriptors of the agent",
    "process_cpu_seconds_total": "CPU time of the agent",
    "process_virtual_memory_bytes": "virtual memory of the agent",
}
"""Titles of the metrics whose name makes a bad one."""


def _word(name: str) -> str:
    """Return what people call a metric: the words of its name, without the unit, which the panel shows."""
    if name in TITLES:
        return TITLES[name]
    words = re.sub(r"_total$|_seconds(_total)?$|_bytes$", "", name.removeprefix("kpod_")).replace("_", " ")
    parts = sorted(_SPELLED, key=len, reverse=True)
    return re.sub(rf"\b({'|'.join(parts)})\b", lambda match: _SPELLED[match[1]], words)


def _help(names: Iterable[str]) -> str:
    return "\n\n".join(f"`{name}`: {METRICS[name][1].help}" for name in dict.fromkeys(names))


def _target(query: Query, at: int) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(chr(ord("A") + at)).datasource(SOURCE).range()
    if query.legend:
        target = target.legend_format(query.legend)
    return target.format(PromQueryFormat.HEATMAP if query.heatmap else PromQueryFormat.TIME_SERIES)


def _series(
    title: str, names: Sequence[str], queries: Sequence[Query], of_unit: str, width: int = 8
) -> timeseries.Panel:
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


def _with_threshold(panel: timeseries.Panel, threshold: float | None) -> Panel:
    """Draw a threshold as a dashed line."""
    if threshold is None:
        return panel
    steps = [model.Threshold(color="transparent"), model.Threshold(color="red", value=threshold)]
    style = common.GraphThresholdsStyleConfig().mode(common_model.GraphTresholdsStyleMode.DASHED)
    return panel.thresholds(
        dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)
    ).thresholds_style(style)


def lines(selection: Selection, title: str, *names: str, width: int = 8) -> Panel:
    """Several metrics of one unit; if there is more than one, the legend has their names."""
    queries = [
        Query(
            selection.largest(selection.value(name)),
            _legend(selection.labels(METRICS[name][1]), _word(name) if len(names) > 1 else ""),
        )
        for name in names
    ]
    # An alert judges each container by itself.
    judged = len(names) == 1 and "container" in selection.by
    threshold = RATE_THRESHOLDS.get(names[0]) if judged else None
    return _with_threshold(_series(title, names, queries, unit(METRICS[names[0]][1]), width), threshold)


def share(selection: Selection, title: str, of: str, to: Sequence[str], width: int = 8) -> Panel:
    """One metric, divided by the sum of others."""
    labels = selection.labels(METRICS[of][1])
    whole = " + ".join(selection.value(name) for name in to)
    expr = selection.largest(f"{selection.value(of)} / (({whole}) > {MIN_DENOMINATOR[of]:g})")
    threshold = SHARE_THRESHOLDS.get(of) if "container" in selection.by else None
    return _with_threshold(_series(title, (of, *to), [Query(expr, _legend(labels))], "percentunit", width), threshold)


def tasks_waiting(selection: Selection, title: str, width: int = 8) -> Panel:
    """The average number of tasks in the run queue. Its share of the busy time would rank idle pods first."""
    name = "kpod_cpu_runqueue_latency_seconds"
    wait = promql.sum_rate(name, selector=selection.select(""), window=WINDOW, by=", ".join(selection.by))
    return _series(title, (name,), [Query(selection.largest(f"({wait})"), _legend(selection.by))], "none", width)


def heat(selection: Selection, title: str, name: str, width: int = 8) -> Panel:
    """A histogram over time. Prometheus stores it as native or classic, so one of the two queries has a result."""
    native = f"sum(increase({selection.select(name)}[{WINDOW}]))"
    classic = f"sum by (le) (increase({selection.select(f'{name}_bucket')}[{WINDOW}])) unless on () {native}"
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


def quantiles(selection: Selection, title: str, name: str, of: Sequence[float] = (0.5, 0.99), width: int = 8) -> Panel:
    """Quantiles of a histogram, for each series."""
    labels = selection.labels(METRICS[name][1])
    queries = []
    for one in of:
        expr = promql.quantile(one, name, selector=selection.select(""), window=WINDOW, by=", ".join(labels))
        queries.append(
            Query(selection.largest(f"({expr})") if selection.top else expr, _legend(labels, f"p{one * 100:g}"))
        )
    return _series(title, [name], queries, "s", width)


def events(selection: Selection, title: str, *names: str, width: int = 8) -> Panel:
    """Rare events, counted over the window, as a rate of them would be close to 0."""
    queries = []
    for name in names:
        labels = selection.labels(METRICS[name][1])
        expr = f"sum by ({', '.join(labels)}) (increase({selection.select(name)}[{WINDOW}]))"
        queries.append(Query(selection.largest(expr), _legend(labels, _word(name) if len(names) > 1 else "")))
    return _series(title, names, queries, "none", width)


def age(selection: Selection, title: str, name: str, width: int = 8) -> Panel:
    """The time since a timestamp."""
    labels = selection.labels(METRICS[name][1])
    query = Query(f"time() - min by ({', '.join(labels)}) ({selection.select(name)})", _legend(labels))
    return _series(title, [name], [query], "s", width)


def single(selection: Selection, title: str, name: str, how: str = "sum({})", width: int = 4) -> Panel:
    """One number, the last one."""
    _, metric = METRICS[name]
    query = Query(how.format(selection.select(name)))
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


def listing(selection: Selection, title: str, name: str, width: int = 24) -> Panel:
    """The labels of an info metric, as a table."""
    labels = selection.labels(METRICS[name][1])
    target = prometheus.Dataquery().expr(f"sum by ({', '.join(labels)}) ({selection.select(name)})")
    return (
        table.Panel()
        .title(title)
        .description(_help([name]))
        .datasource(SOURCE)
        .with_target(target.ref_id("A").datasource(SOURCE).format(PromQueryFormat.TABLE).instant())
        .span(width)
        .height(5)
    )


def left(selection: Selection, title: str, width: int = 8) -> Panel:
    """File systems with the least space left."""
    available, capacity = "kpod_fs_available_bytes", "kpod_fs_capacity_bytes"
    labels = ", ".join((*selection.by, "mountpoint"))
    expr = f"bottomk(15, min by ({labels}) ({selection.select(available)} / {selection.select(capacity)}))"
    target = _target(Query(expr, _legend((*selection.by, "mountpoint"))), 0).instant()
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


def plain(selection: Selection, name: str) -> Panel:
    """One metric, with a title from its name."""
    _, metric = METRICS[name]
    word = _word(name)
    title = word[0].upper() + word[1:]
    return heat(selection, title, name) if metric.kind is Kind.HISTOGRAM else lines(selection, title, name)


@dataclass(frozen=True)
class Section:
    """A row of panels, followed by those of its collectors' other metrics."""

    title: str
    panels: tuple[Panel, ...] = ()
    collectors: tuple[str, ...] = ()


def section_of(question: Question, *panels: Panel) -> Section:
    """Return the row of a question, with all metrics of the collectors that answer it."""
    return Section(
        question.value, panels, tuple(name for name, kind in registered().items() if kind.question is question)
    )


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    description: str
    selection: Selection
    rows: tuple[Section, ...]
    variables: tuple[str, ...]


_VALUES = {
    "cluster": ("kpod_cpu_context_switches_total", {}),
    "node": ("kpod_cpu_context_switches_total", {"cluster": "$cluster"}),
    "namespace": ("kpod_cpu_context_switches_total", NODE),
    "pod": ("kpod_cpu_context_switches_total", NODE | {"namespace": "$namespace"}),
    "syscall": ("kpod_syscall_count_total", PODS),
    # The agent's own metrics have no label cluster, those of its pods have.
    "instance": ("kpod_cpu_context_switches_total", NODE),
}


def _variable(name: str) -> Builder[model.VariableModel]:
    of, matchers = _VALUES[name]
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({Selection(matchers, ()).select(of)}, {name})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        # It also matches series without the label.
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
            plain(board.selection, metric.name)
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
    """A panel that is already built."""

    def __init__(self, panel: model.Panel) -> None:
        self._panel = panel

    def build(self) -> model.Panel:
        return self._panel


_OF_NODE = Selection(NODE | {"namespace": "$namespace"}, ("namespace", "pod"), top=10)
_OF_POD = Selection(PODS, CONTAINER)
_OF_SYSCALLS = Selection(PODS | {"syscall": "$syscall"}, CONTAINER)
_BY_SYSCALL = Selection(PODS | {"syscall": "$syscall"}, ())
_OF_NETWORK = Selection(PODS, ("namespace", "pod"), top=20)
_OF_AGENT = Selection(AGENT, ("instance",))
_PODS_OF_AGENT = Selection(AGENT, ("namespace", "pod"), top=20)

_RUNQUEUE, _RTT = "kpod_cpu_runqueue_latency_seconds", "kpod_net_tcp_rtt_seconds"
_AGAIN, _SEGMENTS = "kpod_net_tcp_retransmits_total", "kpod_net_tcp_segments_sent_total"
_THROTTLED, _PERIODS = "kpod_cpu_throttled_periods_total", "kpod_cpu_periods_total"
_CALLS, _FAILED, _TOOK = "kpod_syscall_count_total", "kpod_syscall_errors_total", "kpod_syscall_latency_seconds"


def _waits(selection: Selection) -> tuple[Panel, ...]:
    """What a pod can wait for, side by side."""
    return (
        tasks_waiting(selection, "Tasks in the run queue"),
        share(selection, "Throttled share of CPU periods", _THROTTLED, [_PERIODS]),
        lines(selection, "Memory pressure", "kpod_pressure_memory_waiting_seconds_total"),
        lines(selection, "Stalled on I/O", "kpod_pressure_io_stalled_seconds_total"),
        lines(selection, "TCP retransmits", "kpod_net_tcp_retransmits_total"),
        lines(selection, "Major page faults", "kpod_mem_major_page_faults_total"),
    )


def _interfaces(selection: Selection) -> tuple[Panel, ...]:
    return (
        *(
            lines(selection, f"Interfaces: {what}", *(f"kpod_net_iface_{way}_{what}_total" for way in ("rx", "tx")))
            for what in ("bytes", "packets")
        ),
        events(
            selection,
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
            Section("What pods wait for", _waits(_OF_NODE)),
            Section(
                "CPU",
                (
                    heat(_OF_NODE, "Run-queue latency", _RUNQUEUE),
                    quantiles(_OF_NODE, "Run-queue latency, p99", _RUNQUEUE, of=(0.99,)),
                    lines(_OF_NODE, "CPU usage", "kpod_cpu_usage_seconds_total"),
                ),
            ),
            Section(
                "Memory",
                (
                    lines(_OF_NODE, "Memory", "kpod_mem_cgroup_usage_bytes"),
                    share(
                        _OF_NODE,
                        "Memory, share of the limit",
                        "kpod_mem_cgroup_usage_bytes",
                        ["kpod_mem_cgroup_limit_bytes"],
                    ),
                    events(_OF_NODE, "OOM kills", "kpod_mem_oom_kills_total"),
                ),
            ),
            Section(
                "Disk and file systems",
                (
                    lines(_OF_NODE, "Disk reads", "kpod_disk_read_bytes_total"),
                    lines(_OF_NODE, "Disk writes", "kpod_disk_written_bytes_total"),
                    left(_OF_NODE, "Space left"),
                ),
            ),
            Section(
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
        "One pod, question by question. Select the pod above.",
        _OF_POD,
        (
            Section("Overview", _waits(_OF_POD)),
            Section(
                "Which pod is it?",
                (
                    listing(_OF_POD, "Owner and QoS class", "kpod_pod_info", 16),
                    lines(_OF_POD, "Restarts", "kpod_container_restarts"),
                ),
                ("pods",),
            ),
            section_of(
                Question.CPU,
                heat(_OF_POD, "Run-queue latency, throttled time included", _RUNQUEUE),
                quantiles(_OF_POD, "Run-queue latency, throttled time included", _RUNQUEUE),
                lines(
                    _OF_POD,
                    "CPU pressure",
                    "kpod_pressure_cpu_waiting_seconds_total",
                    "kpod_pressure_cpu_stalled_seconds_total",
                ),
            ),
            section_of(
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
                    "Memory pressure",
                    "kpod_pressure_memory_waiting_seconds_total",
                    "kpod_pressure_memory_stalled_seconds_total",
                ),
                events(_OF_POD, "OOM kills", "kpod_mem_oom_kills_total"),
                events(_OF_POD, "OOM kills of whole containers", "kpod_mem_oom_group_kills_total"),
            ),
            section_of(
                Question.DISK,
                lines(
                    _OF_POD,
                    "I/O pressure",
                    "kpod_pressure_io_waiting_seconds_total",
                    "kpod_pressure_io_stalled_seconds_total",
                ),
                lines(_OF_POD, "Disk bytes", "kpod_disk_read_bytes_total", "kpod_disk_written_bytes_total"),
                lines(_OF_POD, "Disk operations", "kpod_disk_reads_total", "kpod_disk_writes_total"),
                left(_OF_POD, "Space left"),
            ),
            section_of(
                Question.NETWORK,
                heat(_OF_POD, "TCP round trips", _RTT),
                quantiles(_OF_POD, "TCP round trips", _RTT),
                lines(_OF_POD, "TCP bytes", "kpod_net_tcp_bytes_sent_total", "kpod_net_tcp_bytes_received_total"),
                share(_OF_POD, "TCP retransmits, share of segments", _AGAIN, [_SEGMENTS]),
                events(_OF_POD, "Failed connects", "kpod_net_tcp_connect_failures_total"),
                *_interfaces(_OF_POD),
            ),
            section_of(
                Question.GPU,
                lines(_OF_POD, "GPU utilization, busiest engine", "kpod_gpu_utilization_ratio"),
                lines(_OF_POD, "GPU memory", "kpod_gpu_memory_used_bytes"),
            ),
            section_of(
                Question.SYSCALLS,
                heat(_OF_POD, "Syscall latency", _TOOK),
                quantiles(_OF_POD, "Syscall latency, p99", _TOOK, of=(0.99,)),
                share(_OF_POD, "Failed calls, share of all", _FAILED, [_CALLS]),
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
            Section(
                "TCP",
                (
                    heat(_OF_NETWORK, "Round trips", _RTT),
                    quantiles(_OF_NETWORK, "Round trips, p50", _RTT, of=(0.5,)),
                    quantiles(_OF_NETWORK, "Round trips, p99", _RTT, of=(0.99,)),
                    share(_OF_NETWORK, "Retransmits, share of segments", _AGAIN, [_SEGMENTS]),
                    events(_OF_NETWORK, "Failed connects", "kpod_net_tcp_connect_failures_total"),
                ),
                ("net_tcp",),
            ),
            Section("Interfaces", _interfaces(_OF_NETWORK), ("net_iface",)),
        ),
        ("cluster", "node", "namespace", "pod"),
    ),
    Board(
        "kpod-metrics-syscalls",
        "kpod-metrics / Syscalls",
        "Tracked syscalls of pods, in profile comprehensive.",
        _OF_SYSCALLS,
        (
            Section(
                "By call",
                (
                    heat(_BY_SYSCALL, "Latency", _TOOK),
                    quantiles(_BY_SYSCALL, "Latency", _TOOK),
                    lines(_BY_SYSCALL, "Calls", _CALLS),
                    share(_BY_SYSCALL, "Failed calls, share of all", _FAILED, [_CALLS]),
                ),
            ),
            Section(
                "By container",
                (
                    quantiles(_OF_SYSCALLS, "Latency, p99", _TOOK, of=(0.99,)),
                    share(_OF_SYSCALLS, "Failed calls, share of all", _FAILED, [_CALLS]),
                    lines(_OF_SYSCALLS, "Calls", _CALLS),
                    lines(_OF_SYSCALLS, "Failed calls", _FAILED),
                ),
                ("syscall",),
            ),
        ),
        ("cluster", "node", "namespace", "pod", "syscall"),
    ),
    Board(
        "kpod-metrics-agent",
        "kpod-metrics / Agent health",
        "What the agents collect, lose and cost.",
        _OF_AGENT,
        (
            Section(
                "Overview",
                (
                    single(_OF_AGENT, "Collectors off", "kpod_collector_up", "sum(1 - {})"),
                    single(_OF_AGENT, "Pods", "kpod_discovered_pods"),
                    single(_OF_AGENT, "Slowest cycle", "kpod_collection_cycle_seconds", "max({})"),
                    single(_OF_AGENT, "Largest agent", "process_resident_memory_bytes", "max({})"),
                    single(_OF_AGENT, "Connected sources of pods", "kpod_pod_source_connected"),
                    listing(_OF_AGENT, "Versions", "kpod_build_info", 4),
                ),
            ),
            Section(
                "Losses",
                (
                    events(_OF_AGENT, "Failed updates of kernel maps", "kpod_bpf_map_update_errors_total"),
                    events(_OF_AGENT, "Evictions from kernel maps", "kpod_bpf_map_evictions_total"),
                    events(_OF_AGENT, "Missed runs of kernel programs", "kpod_bpf_program_missed_runs_total"),
                    events(_OF_AGENT, "Updates above the series limit", "kpod_series_overflow_total"),
                    events(_PODS_OF_AGENT, "Limits that pods went over", "kpod_pod_limit_exceeded_total"),
                    events(_OF_AGENT, "Failed and late reads", "kpod_collector_errors_total"),
                    share(_OF_AGENT, "Fill level of kernel maps", "kpod_bpf_map_entries", ["kpod_bpf_map_capacity"]),
                    lines(_OF_AGENT, "Events without a pod", "kpod_unattributed_events_total"),
                    events(_OF_AGENT, "Dropped OTLP points", "kpod_otlp_dropped_points_total"),
                    events(_OF_AGENT, "Relists of pods", "kpod_pod_source_relists_total"),
                ),
            ),
            Section(
                "All other metrics",
                (
                    age(_OF_AGENT, "Time since the last cycle", "kpod_last_cycle_timestamp_seconds"),
                    age(_OF_AGENT, "Uptime of the agent", "process_start_time_seconds"),
                ),
                ("agent",),
            ),
        ),
        ("cluster", "node", "instance"),
    ),
)


def as_json(board: Board) -> str:
    """Return the file of a board for Grafana."""
    return JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode(build(board)) + "\n"
