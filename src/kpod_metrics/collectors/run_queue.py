"""Run-queue latency and context switches, from `bpf/run_queue.bpf.c`."""

from collections.abc import Iterable

from kpod_metrics.collectors.kit import BpfCollector, Environment, Question, Signal
from kpod_metrics.columns import Column, Shows, Unit
from kpod_metrics.features import BATCH, TASK_ITERATOR, TASK_STORAGE, TASK_TABLE, TP_BTF
from kpod_metrics.kernel import libbpf
from kpod_metrics.kernel.maps import Entry
from kpod_metrics.kernel.programs import attach_all
from kpod_metrics.metrics import Profile, Row, Table, counter, latency

TABLE = Table(
    (
        latency(
            "kpod_cpu_runqueue_latency_seconds",
            "Time that tasks spent in the run queue before each run on a CPU, throttled time included "
            "(read it beside kpod_cpu_throttled_seconds_total). Observed when the task leaves the CPU.",
            "sched_switch: growth of task_struct.sched_info.run_delay, as in /proc/PID/schedstat",
            profile=Profile.MINIMAL,
            advice=(
                "The rate of its sum is the average number of waiting tasks. High without throttling: raise the CPU "
                "request, or move other pods (KpodRunQueueSaturated). High with throttling: KpodCpuThrottled."
            ),
        ),
        counter(
            "kpod_cpu_context_switches_total",
            "Context switches, voluntary and involuntary.",
            "sched_switch, as voluntary_ctxt_switches + nonvoluntary_ctxt_switches of /proc/PID/status",
            profile=Profile.MINIMAL,
            events=True,
            wraps=True,
            advice=(
                "Thousands per second of CPU time: many short waits for locks, or small reads and writes. Compare it "
                "with kpod_syscall_count_total of futex and read."
            ),
        ),
    )
)


class RunQueue(BpfCollector):
    """Run-queue latency and context switches of each cgroup."""

    name = "run_queue"
    description = "run-queue latency, context switches"
    question = Question.CPU
    columns = (
        Column(
            "runqueue_p99",
            "RUNQ-99",
            "RUNQ_P99_MS",
            "99th percentile of run-queue latency",
            ("kpod_cpu_runqueue_latency_seconds",),
            Unit.SECONDS,
            Shows.P99,
            place=20,
        ),
        Column(
            "runqueue_waits",
            "RUNQ 1us..64s",
            "RUNQ_WAITS/S",
            "distribution of run-queue latency: a bar is two octaves",
            ("kpod_cpu_runqueue_latency_seconds",),
            shows=Shows.DISTRIBUTION,
            place=30,
        ),
    )
    features = (TP_BTF, TASK_STORAGE, TASK_TABLE, TASK_ITERATOR, BATCH)
    extras = (TASK_TABLE,)

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def attach(self, bpf: libbpf.Object, links: list[libbpf.Link]) -> list[Signal]:
        """Attach first the programs that create the state of tasks, then the hook that uses it."""
        programs = bpf.programs
        new, existing, leaves = (programs[name] for name in ("new_task", "existing_tasks", "task_leaves"))
        attach_all((new, existing, leaves), links)
        if existing.loaded:
            return [Signal(TABLE.metrics, leaves.hook)]
        wait, switches = TABLE.metrics
        return [Signal((wait,), f"{leaves.hook}, only for tasks created since"), Signal((switches,), leaves.hook)]

    def rows(self, entry: Entry) -> Iterable[Row]:
        """Yield one row per cgroup."""
        wait = entry.histogram("wait")
        # A switch with an unknown wait is in no bucket.
        yield Row(TABLE, entry.key[0], (), (wait, wait.count + entry.number("untimed")), entry.epoch)
