"""The agent's own metrics: what it collects, what it lost, what it costs."""

import os
import resource
import time
from collections.abc import Iterable

from kpod_metrics import __version__
from kpod_metrics.cgroup.tree import SKIPPED as SKIPPED_REASONS
from kpod_metrics.collectors.parts.statvfs import SKIPPED as SKIPPED_MOUNTS
from kpod_metrics.files import read_bytes
from kpod_metrics.kernel.programs import MapHealth, ProgramHealth
from kpod_metrics.metrics import Label, Metric, Profile, Scope, Table, counter, gauge
from kpod_metrics.web.counts import REASONS, Counts

STATISTICS = "/proc/sys/kernel/bpf_stats_enabled"
FORGOTTEN_KINDS = ("deletion", "pod", "cgroup", "waiting", "outside")
_COLLECTOR = Label("collector", per="collector")
_MAP = Label("map", per="kernel map")


def _agent(*metrics: Metric, labels: tuple[Label, ...] = ()) -> Table:
    return Table(metrics, labels, Scope.AGENT)


def _counter(name: str, help: str, *, advice: str) -> Metric:  # noqa: A002
    return counter(name, help, "agent", profile=Profile.MINIMAL, advice=advice)


def _gauge(name: str, help: str, source: str = "agent", *, advice: str) -> Metric:  # noqa: A002
    return gauge(name, help, source, profile=Profile.MINIMAL, advice=advice)


COLLECTORS = _agent(
    _gauge(
        "kpod_collector_up",
        "Whether the collector's last read worked: 0 while it is off, failing or late, or lacks a hook of its metrics.",
        advice=("0: /readyz and `kpod-metrics check` say why (KpodCollectorOff). Its metrics are missing, not 0."),
    ),
    _gauge(
        "kpod_collector_duration_seconds",
        "How long the collector's last read took.",
        advice="The one that takes longest is what to look at first for KpodSlowCycles.",
    ),
    _counter(
        "kpod_collector_errors_total",
        "Reads that failed or were late, attempts to start included.",
        advice=("Grows while up is 1: it fails in turn. The log has each failure (KpodCollectorErrors)."),
    ),
    labels=(_COLLECTOR,),
)
UNREAD = _agent(
    _counter(
        "kpod_collector_unread_cgroups_total",
        "Cgroups that a read of the collector left out, as their files could not be read though they are there.",
        advice="Grows: these pods' metrics of the collector are missing; the log names one of them when it begins.",
    ),
    _counter(
        "kpod_collector_skipped_processes_total",
        "Processes that a read of the collector left out: of each cgroup it looks at the namespaces of the first 32.",
        advice="Grows: network or mount namespaces that only later processes of a container are in are not seen.",
    ),
    labels=(_COLLECTOR,),
)
CYCLE = _agent(
    _gauge(
        "kpod_collection_cycle_seconds",
        "How long the last cycle took.",
        advice=("Near the collectors' deadline: a longer interval, more CPU for the agent (KpodSlowCycles)."),
    ),
    _gauge(
        "kpod_last_cycle_timestamp_seconds",
        "When the last cycle ended, in Unix time.",
        advice="Older than three intervals: KpodAgentStuck.",
    ),
    _gauge(
        "kpod_discovered_pods",
        "Pods that have series.",
        advice=("0 on a node with pods: node name or rights are wrong. What series and map entries grow with."),
    ),
    _gauge(
        "kpod_poll_interval_seconds",
        "Time between two cycles, as set: what a cycle's duration and age are judged by.",
        advice="What a cycle's duration and age are judged by; nothing to do.",
    ),
    _counter(
        "kpod_collection_cycle_errors_total",
        "Cycles that failed: no page came of them, and what was read in them is lost.",
        advice="Grows: a defect. /readyz says which, and the log has its traceback.",
    ),
)
DISCOVERY = _agent(
    _counter(
        "kpod_discovery_errors_total",
        "Times that it could not be found out what cgroups and pods there are: what was known before stands.",
        advice="Grows: /readyz says why. New pods have no series meanwhile; what they do is held back.",
    ),
)
FORGOTTEN = _agent(
    _counter(
        "kpod_discovery_forgotten_total",
        "What discovery forgot to keep its tables bounded: pods deleted faster than cycles took note of them "
        "(deletion), pods and cgroups that are gone but had their time left (pod, cgroup), cgroups that waited for "
        "their pod's name (waiting), or that were once below a root that is a part of the tree (outside).",
        advice="Grows: thousands come and go in a cycle. Their last events are unresolved, or the host's (outside).",
    ),
    labels=(Label("what", FORGOTTEN_KINDS),),
)
SKIPPED = _agent(
    _gauge(
        "kpod_discovery_skipped_cgroups",
        "Cgroups that the last walk of the tree left out with all that is below them: more than 64 levels below the "
        "root (depth), with a path of more than 4,000 bytes (path), beyond 10,000 cgroups (number), or whose owner "
        "took the right to read them (unreadable).",
        advice="Above 0: somebody nests cgroups without end; the log names the place. What runs in them is unresolved, "
        "the rest of the tree is counted as ever.",
    ),
    labels=(Label("reason", SKIPPED_REASONS),),
)
UNATTRIBUTED = _agent(
    _counter(
        "kpod_unattributed_events_total",
        "Events of cgroups that are no pod's: host (kernel threads, kubelet, sshd; in a node that is a container, all "
        "outside of it), filtered (pods that settings leave out), or unresolved, which alerts.",
        advice=("Reason unresolved grows: KpodUnresolvedEvents. host and filtered are as they should be."),
    ),
    labels=(_COLLECTOR, Label("reason", ("host", "filtered", "unresolved"))),
)
PENDING = _agent(
    _gauge(
        "kpod_pending_events",
        "Events of cgroups whose pod is not known yet: they become the pod's, or unresolved.",
        advice=("Back to 0 within seconds of a pod's start. Stays up: the source of pods does not answer."),
    ),
    labels=(_COLLECTOR,),
)
OVERFLOW = _agent(
    _counter(
        "kpod_series_overflow_total",
        "Updates folded into the overflow series, for series_limit or series_limit_total was reached, or "
        "memory is near its limit.",
        advice="Grows: a lower profile, fewer syscalls or namespaces, or a higher limit (KpodSeriesOverflow).",
    ),
    labels=(Label("metric", per="metric"),),
)
SOURCE = _agent(
    _gauge(
        "kpod_pod_source_connected",
        "Whether the source of pods answers.",
        advice="0: /readyz says what is wrong and for how long (KpodPodSourceDisconnected).",
    ),
    _counter(
        "kpod_pod_source_relists_total",
        "Times that all pods were listed anew after a fault.",
        advice="Grows steadily: watches are cut off, by a proxy or an API server under load.",
    ),
    labels=(Label("source", per="source of pods"),),
)
MAPS = _agent(
    _gauge(
        "kpod_bpf_map_entries",
        "Entries of the map at the last read.",
        "bpf(BPF_MAP_LOOKUP_BATCH)",
        advice="Divide by the capacity: above 80 % is KpodMapNearCapacity.",
    ),
    _gauge(
        "kpod_bpf_map_capacity",
        "Entries that the map has room for.",
        "max_entries",
        advice="Set by `bpf_map_entries`.",
    ),
    counter(
        "kpod_bpf_map_update_errors_total",
        "Updates of the map that failed in the kernel: events that are not counted.",
        "per-CPU counter beside the map",
        profile=Profile.MINIMAL,
        advice="Grows: events are lost. Raise `bpf_map_entries` (KpodMapUpdatesFail).",
    ),
    counter(
        "kpod_bpf_map_evictions_total",
        "Entries that the kernel evicted to make room: what they counted after the last read is lost.",
        "created_ns of the map's values",
        profile=Profile.MINIMAL,
        advice="Grows: counters are too low. Raise `bpf_map_entries` (KpodMapEvictions).",
    ),
    _gauge(
        "kpod_bpf_map_memory_bytes",
        "Kernel memory of the map.",
        "memlock in /proc/self/fdinfo",
        advice=(
            "What a larger `bpf_map_entries` costs: kernel memory, which the agent's limit "
            "has in it from Linux 5.11 on."
        ),
    ),
    labels=(_MAP,),
)
PROGRAMS = _agent(
    counter(
        "kpod_bpf_program_run_seconds_total",
        "Time that the program ran; there while kernel.bpf_stats_enabled is on.",
        "run_time_ns in struct bpf_prog_info",
        profile=Profile.MINIMAL,
        advice=("Divide by the runs: what an event costs. Its rate is how many CPUs the programs take."),
    ),
    counter(
        "kpod_bpf_program_runs_total",
        "Times that the program ran; there while kernel.bpf_stats_enabled is on.",
        "run_cnt in struct bpf_prog_info",
        profile=Profile.MINIMAL,
        advice="How many events there are: what the cost is multiplied by.",
    ),
    counter(
        "kpod_bpf_program_missed_runs_total",
        "Times that the kernel did not run the program, for it was running on that CPU: events that are not counted.",
        "recursion_misses in struct bpf_prog_info",
        profile=Profile.MINIMAL,
        advice="A few are harmless; many are worth a report (KpodProgramRunsMissed).",
    ),
    labels=(Label("program", per="kernel program"),),
)
MOUNTS_SKIPPED = _agent(
    _counter(
        "kpod_filesystem_mounts_skipped_total",
        "Mounts of pods that were skipped in a cycle: a folder above is a symbolic link now (symlink), another mount "
        "or none is there (replaced), it does not answer (hung), another error (refused). There while the collector "
        "filesystem is on.",
        advice="symlink, replaced: rare, and gone in the next cycle; steadily: a pod tries to lead the agent "
        "elsewhere. hung: a server or FUSE daemon that is gone. refused: the log has the error.",
    ),
    labels=(Label("reason", SKIPPED_MOUNTS),),
)
OTLP = _agent(
    _counter(
        "kpod_otlp_sent_points_total",
        "Data points that the OTLP receiver took; there where one is set.",
        advice="Stands still while the queue grows: the receiver takes nothing.",
    ),
    _counter(
        "kpod_otlp_dropped_points_total",
        "Data points that the OTLP receiver refused, or that waited for it until there was no more room; there where "
        "one is set.",
        advice="Grows: the log says what the receiver answered (KpodOtlpDropsPoints).",
    ),
    _gauge(
        "kpod_otlp_queue_bytes",
        "What waits for the OTLP receiver; there where one is set.",
        advice="Grows: the receiver is away or too slow; at 4 MiB the oldest is dropped.",
    ),
)
HTTP_REFUSED = _agent(
    _counter(
        "kpod_http_refused_total",
        "Requests and connections that the HTTP endpoint refused: idle ones that made room (connections), pages "
        "beyond web_max_requests (requests), beyond rate_limit (rate), too large (size), no HTTP (malformed), too "
        "slow to send or to read (timeout), no handshake or no certificate (tls), no user or token (auth), a faulty "
        "web configuration (config).",
        advice="auth, tls: who asks has not what the web configuration wants. connections, requests, timeout: too many "
        "scrapers, or one that does not read.",
    ),
    labels=(Label("reason", REASONS),),
)
HTTP_CONNECTIONS = _agent(
    _gauge(
        "kpod_http_connections",
        "Connections that the HTTP endpoint has.",
        advice="At web_max_connections: the oldest idle one makes room for each that comes.",
    )
)
WEB_CONFIG = _agent(
    _gauge(
        "kpod_web_config_valid",
        "Whether the web configuration can be used: while it is 0 nobody is answered, and only a push tells. There "
        "where web_config_file is set.",
        advice="0: the log says what is wrong with the file.",
    )
)
BUILD = _agent(
    _gauge(
        "kpod_build_info",
        "1, with the version.",
        advice="Count by version: how far an update has got.",
    ),
    labels=(Label("version", per="version"),),
)
PROCESS = _agent(
    counter(
        "process_cpu_seconds_total",
        "CPU time of the agent.",
        "getrusage",
        profile=Profile.MINIMAL,
        advice=(
            "Its rate is what the agent costs. More than the page on performance has: many cgroups, a short interval."
        ),
    ),
    _gauge(
        "process_resident_memory_bytes",
        "Resident memory of the agent.",
        "/proc/self/statm",
        advice="Set the agent's memory limit by it.",
    ),
    _gauge(
        "process_virtual_memory_bytes",
        "Virtual memory of the agent.",
        "/proc/self/statm",
        advice="Nothing: address space costs nothing.",
    ),
    _gauge(
        "process_open_fds",
        "Open file descriptors of the agent.",
        "/proc/self/fd",
        advice=("Near process_max_fds: the agent keeps files of cgroups open, and fewer where the limit is low."),
    ),
    _gauge(
        "process_max_fds",
        "File descriptors that the agent may open.",
        "RLIMIT_NOFILE",
        advice="What the open ones are compared with.",
    ),
    _gauge(
        "process_start_time_seconds",
        "When the agent started, in Unix time.",
        "time at import",
        advice="Changes: the agent was started again, and its counters began anew.",
    ),
)

TABLES = (
    *(COLLECTORS, UNREAD, CYCLE, DISCOVERY, FORGOTTEN, SKIPPED, UNATTRIBUTED, PENDING, OVERFLOW, SOURCE, MAPS),
    *(PROGRAMS, MOUNTS_SKIPPED, OTLP, HTTP_REFUSED, HTTP_CONNECTIONS, WEB_CONFIG, BUILD, PROCESS),
)
METRICS = frozenset(metric for table in TABLES for metric in table.metrics)

_PAGE = os.sysconf("SC_PAGE_SIZE")
_STARTED = time.time()

Rows = Iterable[tuple[Table, tuple[str, ...], tuple[float | int | None, ...]]]


STARTED_NS = int(_STARTED * 1e9)


def http(counts: Counts) -> Rows:
    """Rows about the HTTP endpoint."""
    for reason, refused in counts.refused.items():
        yield HTTP_REFUSED, (reason,), (refused,)
    yield HTTP_CONNECTIONS, (), (counts.connections,)
    if counts.config_valid is not None:
        yield WEB_CONFIG, (), (int(counts.config_valid),)


def process() -> Rows:
    """Rows about this process and build."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    virtual, resident = read_bytes("/proc/self/statm").split()[:2]
    yield (
        PROCESS,
        (),
        (
            usage.ru_utime + usage.ru_stime,
            int(resident) * _PAGE,
            int(virtual) * _PAGE,
            # Their number is the directory's size since 6.2 (f1f1f2569901); listed, the listing itself is one more.
            os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd")) - 1,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            _STARTED,
        ),
    )
    yield BUILD, (__version__,), (1,)


def _are_measured() -> bool:
    """Whether kernel.bpf_stats_enabled is on; where that cannot be read, the numbers speak for themselves."""
    try:
        return read_bytes(STATISTICS).strip() != b"0"
    except OSError:
        return True


def kernel(maps: Iterable[MapHealth], programs: Iterable[ProgramHealth]) -> Rows:
    """Rows about kernel maps and programs."""
    for map_ in maps:
        yield (
            MAPS,
            (map_.name,),
            (map_.entries, map_.capacity, map_.update_errors, map_.evictions, map_.memory_bytes),
        )
    programs = list(programs)
    # The kernel's numbers stay as they are when it no longer measures.
    measures = any(program.runs for program in programs) and _are_measured()
    for program in programs:
        measured = (program.run_seconds, program.runs) if measures and program.runs else (None, None)
        yield PROGRAMS, (program.name,), (*measured, program.missed)
