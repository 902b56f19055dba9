"""The agent's own metrics: its work, its losses and its costs."""

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
FORGOTTEN_KINDS = ("deletion", "pod", "cgroup", "waiting", "outside", "excess")
_COLLECTOR = Label("collector", per="collector")


def _agent(*metrics: Metric, labels: tuple[Label, ...] = ()) -> Table:
    return Table(metrics, labels, Scope.AGENT)


def _counter(name: str, help: str, source: str = "agent", *, advice: str) -> Metric:  # noqa: A002
    return counter(name, help, source, profile=Profile.MINIMAL, advice=advice)


def _gauge(name: str, help: str, source: str = "agent", *, advice: str) -> Metric:  # noqa: A002
    return gauge(name, help, source, profile=Profile.MINIMAL, advice=advice)


COLLECTORS = _agent(
    _gauge(
        "kpod_collector_up",
        "1 if the collector's last read succeeded; 0 if it is off, failing or late, or if a metric has no hook.",
        advice=("0: /readyz and `kpod-metrics check` say why (KpodCollectorOff). Its metrics are missing, not 0."),
    ),
    _gauge(
        "kpod_collector_duration_seconds",
        "How long the collector's last read took.",
        advice="If KpodSlowCycles fires, look at the slowest collector first.",
    ),
    _counter(
        "kpod_collector_errors_total",
        "Reads that failed or were late, and failed starts.",
        advice="Grows while kpod_collector_up is 1: some reads fail. The log has each failure (KpodCollectorErrors).",
    ),
    _counter(
        "kpod_collector_unread_cgroups_total",
        "Cgroups that the collector could not read although they exist.",
        advice="Grows: these pods have no metrics of the collector. The log names the first one.",
    ),
    _counter(
        "kpod_collector_skipped_processes_total",
        "Processes whose namespaces the collector did not read. Only on kernels without an iterator for tasks (before "
        "5.8, or refused): it reads the first 32 processes of each cgroup.",
        advice="Grows: interfaces and mounts that only later processes of a container have are missing.",
    ),
    labels=(_COLLECTOR,),
)
CYCLE = _agent(
    _gauge(
        "kpod_collection_cycle_seconds",
        "How long the last cycle took.",
        advice="Near collector_deadline: set a longer interval, or give the agent more CPU (KpodSlowCycles).",
    ),
    _gauge(
        "kpod_last_cycle_timestamp_seconds",
        "Time at which the last cycle ended, in Unix time.",
        advice="Older than three intervals: KpodAgentStuck.",
    ),
    _gauge(
        "kpod_discovered_pods",
        "Pods that have series.",
        advice="0 on a node with pods: the node name or the rights are wrong. Series and map entries grow with it.",
    ),
    _gauge(
        "kpod_poll_interval_seconds",
        "Time between two cycles (setting poll_interval).",
        advice="Nothing to do: alerts compare the duration and the age of a cycle with it.",
    ),
    _counter(
        "kpod_collection_cycle_errors_total",
        "Cycles that failed and made no page.",
        advice="Grows: a defect. /readyz has the error, and the log its traceback.",
    ),
    _counter(
        "kpod_discovery_errors_total",
        "Failed updates of the list of cgroups and pods: the agent continues with the last list.",
        advice="Grows: /readyz says why. Until an update succeeds, new pods have no series, and their events are held.",
    ),
    _counter(
        "kpod_discovery_refused_claims_total",
        "Cgroups outside of all pods whose path has the ids of a pod: they do not count as that pod.",
        advice="Grows: a user of this node creates cgroups that look like a pod's (docs/security.md). If they are the "
        "kubelet's, set kubelet_cgroup_root.",
    ),
)
FORGOTTEN = _agent(
    _counter(
        "kpod_discovery_forgotten_total",
        "Entries that full tables of discovery dropped: deleted pods that no cycle has seen (deletion), removed pods "
        "and cgroups within their grace period (pod, cgroup), cgroups whose pod is not known yet (waiting), "
        "removed cgroups below a root that is only a part of the tree (outside), and reports of pods beyond the first "
        "10,000 of the source (excess).",
        advice="Grows: thousands of pods start and end in one cycle. Their last events count as unresolved, or as the "
        "host's (outside).",
    ),
    labels=(Label("what", FORGOTTEN_KINDS),),
)
SKIPPED = _agent(
    _gauge(
        "kpod_discovery_skipped_cgroups",
        "Cgroups that the last walk of the tree skipped, with everything below them: more than 64 levels below the "
        "root (depth), with a path of more than 4,000 bytes (path), after the first 1,000 cgroups below one container, "
        "service or user, or after 10,000 in all (number), or without the right to read them (unreadable).",
        advice="Above 0: a process creates very many or deeply nested cgroups; the log names one, and "
        "kpod_pod_limit_exceeded_total its pod. Their events are unresolved; all other cgroups are counted.",
    ),
    labels=(Label("reason", SKIPPED_REASONS),),
)
UNATTRIBUTED = _agent(
    _counter(
        "kpod_unattributed_events_total",
        "Events of cgroups that belong to no pod: of the host (kernel threads, kubelet, sshd, and everything outside "
        "of a node that is a container), of pods that the settings exclude (filtered), or of a pod that never became "
        "known (unresolved).",
        advice="Only unresolved needs action (KpodUnresolvedEvents).",
    ),
    labels=(_COLLECTOR, Label("reason", ("host", "filtered", "unresolved"))),
)
PENDING = _agent(
    _gauge(
        "kpod_pending_events",
        "Events of cgroups whose pod is not known yet: they are held, and then count as the pod's or as unresolved.",
        advice="Above 0 for some seconds after a pod starts. For longer: the source of pods does not answer.",
    ),
    labels=(_COLLECTOR,),
)
OVERFLOW = _agent(
    _counter(
        "kpod_series_overflow_total",
        "Updates added to the overflow series, because series_limit or series_limit_total is reached, or memory is "
        "near its limit.",
        advice="Grows: use a lower profile, fewer syscalls or namespaces, or a higher limit (KpodSeriesOverflow).",
    ),
    labels=(Label("metric", per="metric"),),
)
SOURCE = _agent(
    _gauge(
        "kpod_pod_source_connected",
        "1 if the source of pods answers, else 0.",
        advice="0: /readyz has the reason, and since when (KpodPodSourceDisconnected).",
    ),
    _counter(
        "kpod_pod_source_relists_total",
        "How often all pods were listed again after a failure.",
        advice="Grows steadily: a proxy or an overloaded API server ends the watches.",
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
        "Maximum number of entries of the map.",
        "max_entries",
        advice="Set by `bpf_map_entries`.",
    ),
    _counter(
        "kpod_bpf_map_update_errors_total",
        "Updates of the map that failed in the kernel: these events are lost.",
        "per-CPU counter beside the map",
        advice="Grows: raise `bpf_map_entries` (KpodMapUpdatesFail).",
    ),
    _counter(
        "kpod_bpf_map_evictions_total",
        "Entries that the kernel evicted from the full map: their events after the last read are lost.",
        "entries created by the kernel programs, without those that are in the map or that the agent deleted",
        advice="Grows: counters are too low: raise `bpf_map_entries` (KpodMapEvictions).",
    ),
    _gauge(
        "kpod_bpf_map_memory_bytes",
        "Kernel memory of the map.",
        "memlock in /proc/self/fdinfo",
        advice="Grows with `bpf_map_entries`. From Linux 5.11 on it counts towards the agent's memory limit.",
    ),
    labels=(Label("map", per="kernel map"),),
)
PROGRAMS = _agent(
    _counter(
        "kpod_bpf_program_run_seconds_total",
        "Time in which the program ran. Only if kernel.bpf_stats_enabled is on.",
        "run_time_ns in struct bpf_prog_info",
        advice="Its rate is the number of CPUs that the program uses. Divide by the runs to get the cost of one.",
    ),
    _counter(
        "kpod_bpf_program_runs_total",
        "How often the program ran. Only if kernel.bpf_stats_enabled is on.",
        "run_cnt in struct bpf_prog_info",
        advice="A high rate explains a high cost: each event runs the program.",
    ),
    _counter(
        "kpod_bpf_program_missed_runs_total",
        "How often the kernel skipped the program because it was already running on that CPU: these events are lost.",
        "recursion_misses in struct bpf_prog_info",
        advice="A few are harmless. Report a high rate (KpodProgramRunsMissed).",
    ),
    labels=(Label("program", per="kernel program"),),
)
MOUNTS_SKIPPED = _agent(
    _counter(
        "kpod_filesystem_mounts_skipped_total",
        "Mounts of pods that the collector filesystem skipped: a folder in the path is a symbolic link (symlink), "
        "the mount changed or disappeared (replaced), the file system does not answer (hung), or another error "
        "occurred (refused).",
        advice="symlink, replaced: harmless once; if they grow steadily, a pod tries to redirect the agent. hung: a "
        "file server or FUSE daemon does not answer. refused: the log has the error.",
    ),
    labels=(Label("reason", SKIPPED_MOUNTS),),
)
OTLP = _agent(
    _counter(
        "kpod_otlp_sent_points_total",
        "Data points that the OTLP receiver accepted. Only if otlp_endpoint is set.",
        advice="Does not grow, but the queue does: the receiver accepts nothing.",
    ),
    _counter(
        "kpod_otlp_dropped_points_total",
        "Data points that the OTLP receiver refused, or that a full queue dropped. Only if otlp_endpoint is set.",
        advice="Grows: the log has the receiver's answer (KpodOtlpDropsPoints).",
    ),
    _gauge(
        "kpod_otlp_queue_bytes",
        "Size of the queue for the OTLP receiver. Only if otlp_endpoint is set.",
        advice="Grows: the receiver is down or too slow. At 4 MiB the oldest points are dropped.",
    ),
)
HTTP_REFUSED = _agent(
    _counter(
        "kpod_http_refused_total",
        "Requests and connections that the HTTP endpoint refused: idle connections closed for new ones (connections), "
        "more than web_max_requests at once (requests), above rate_limit (rate), too large (size), not HTTP "
        "(malformed), too slow (timeout), a failed handshake or a missing client certificate (tls), a missing or "
        "wrong user or token (auth), a wrong web configuration (config).",
        advice="auth, tls: a client without the credentials that the web configuration requires. connections, "
        "requests, timeout: too many scrapers, or one that does not read.",
    ),
    labels=(Label("reason", REASONS),),
)
HTTP = _agent(
    _gauge(
        "kpod_http_connections",
        "Open connections of the HTTP endpoint.",
        advice="At web_max_connections a new connection closes the one that has been idle longest.",
    ),
    _gauge(
        "kpod_web_config_valid",
        "1 if the web configuration is valid; 0 if not: then all requests are refused, and only an OTLP push has this "
        "value. Only if web_config_file is set.",
        advice="0: the log has the error.",
    ),
)
BUILD = _agent(
    _gauge(
        "kpod_build_info",
        "1. The label has the agent's version.",
        advice="Count it by version to see the progress of an update.",
    ),
    labels=(Label("version", per="version"),),
)
PROCESS = _agent(
    _counter(
        "process_cpu_seconds_total",
        "CPU time of the agent.",
        "getrusage",
        advice="Its rate is the agent's CPU usage. It grows with cgroups and with shorter intervals.",
    ),
    _gauge(
        "process_resident_memory_bytes",
        "Resident memory of the agent.",
        "/proc/self/statm",
        advice="Use it to set the agent's memory limit.",
    ),
    _gauge(
        "process_virtual_memory_bytes",
        "Virtual memory of the agent.",
        "/proc/self/statm",
        advice="Nothing to do: address space has no cost.",
    ),
    _gauge(
        "process_open_fds",
        "Open file descriptors of the agent.",
        "/proc/self/fd",
        advice="Near process_max_fds is normal: the agent keeps files of cgroups open, as many as the limit allows.",
    ),
    _gauge(
        "process_max_fds",
        "Maximum number of open file descriptors of the agent.",
        "RLIMIT_NOFILE",
        advice="The limit for process_open_fds.",
    ),
    _gauge(
        "process_start_time_seconds",
        "Start time of the agent, in Unix time.",
        "time at import",
        advice="Changes: the agent restarted, and its counters started at 0.",
    ),
)

TABLES = (
    *(COLLECTORS, CYCLE, FORGOTTEN, SKIPPED, UNATTRIBUTED, PENDING, OVERFLOW, SOURCE, MAPS, PROGRAMS),
    *(MOUNTS_SKIPPED, OTLP, HTTP_REFUSED, HTTP, BUILD, PROCESS),
)
METRICS = frozenset(metric for table in TABLES for metric in table.metrics)

_PAGE = os.sysconf("SC_PAGE_SIZE")
_STARTED = time.time()
STARTED_NS = int(_STARTED * 1e9)

Rows = Iterable[tuple[Table, tuple[str, ...], tuple[float | int | None, ...]]]


def http(counts: Counts) -> Rows:
    """Rows about the HTTP endpoint."""
    for reason, refused in counts.refused.items():
        yield HTTP_REFUSED, (reason,), (refused,)
    yield HTTP, (), (counts.connections, None if counts.config_valid is None else int(counts.config_valid))


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
            # Since 6.2 (f1f1f2569901) the directory's size is their number. A listing opens one more.
            os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd")) - 1,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            _STARTED,
        ),
    )
    yield BUILD, (__version__,), (1,)


def _are_measured() -> bool:
    """Whether kernel.bpf_stats_enabled is on; True if it cannot be read: then only the numbers can show it."""
    try:
        return read_bytes(STATISTICS).strip() != b"0"
    except OSError:
        return True


def kernel(maps: Iterable[MapHealth], programs: Iterable[ProgramHealth]) -> Rows:
    """Rows about kernel maps and programs."""
    for of in maps:
        yield MAPS, (of.name,), (of.entries, of.capacity, of.update_errors, of.evictions, of.memory_bytes)
    programs = list(programs)
    # The kernel keeps the numbers when its statistics are switched off.
    measures = any(program.runs for program in programs) and _are_measured()
    for program in programs:
        measured = (program.run_seconds, program.runs) if measures and program.runs else (None, None)
        yield PROGRAMS, (program.name,), (*measured, program.missed)
