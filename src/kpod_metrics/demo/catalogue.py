"""The workloads: what each does, which metrics it moves, and by how much."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effect:
    """A metric that a workload moves: by more than `minimum` per second (a histogram's sum), or above it (a gauge).

    `label` is the value of the metric's label ("openat"). `controller` is the cgroup v2 controller that it needs.
    """

    metric: str
    minimum: float
    label: str = ""
    controller: str = ""


@dataclass(frozen=True)
class Workload:
    """One workload. `needs` is a cgroup v2 controller; `limits` are files of its cgroup, with their content."""

    name: str
    does: str
    effects: tuple[Effect, ...] = ()
    needs: str = ""
    limits: tuple[tuple[str, str], ...] = ()


WORKLOADS = (
    Workload(
        "hog",
        "two tasks that compete for the same CPU half of the time: one waits while the other runs",
        (
            Effect("kpod_cpu_runqueue_latency_seconds", 0.02),
            Effect("kpod_cpu_usage_seconds_total", 0.02),
            Effect("kpod_pressure_cpu_waiting_seconds_total", 0.02),
        ),
    ),
    Workload("sleeper", "sleeps, on the CPU of the hog: nothing moves"),
    Workload(
        "lossy",
        "a TCP connection that loses every tenth segment in one direction",
        (
            Effect("kpod_net_tcp_retransmits_total", 0.3),
            Effect("kpod_net_tcp_bytes_sent_total", 20_000),
            Effect("kpod_net_tcp_bytes_received_total", 20_000),
            Effect("kpod_net_tcp_rtt_seconds", 1e-6),
        ),
    ),
    Workload(
        "refused",
        "connects to a port that no process listens on",
        (Effect("kpod_net_tcp_connect_failures_total", 1), Effect("kpod_syscall_errors_total", 1, "connect")),
    ),
    Workload(
        "faults",
        "reads a mapped file whose pages are not in memory: each read waits for the disk",
        (Effect("kpod_mem_major_page_faults_total", 3), Effect("kpod_disk_read_bytes_total", 5_000, "", "io")),
    ),
    Workload(
        "syscalls",
        "opens a file that does not exist, again and again",
        (Effect("kpod_syscall_count_total", 5, "openat"), Effect("kpod_syscall_errors_total", 5, "openat")),
    ),
    Workload(
        "writer",
        "writes and waits for the disk",
        (
            Effect("kpod_syscall_latency_seconds", 1e-4, "fsync"),
            Effect("kpod_syscall_count_total", 1, "fsync"),
            Effect("kpod_disk_written_bytes_total", 20_000, "", "io"),
        ),
    ),
    Workload(
        "throttled",
        "needs a whole CPU and has a limit of a fifth",
        (Effect("kpod_cpu_throttled_seconds_total", 0.05), Effect("kpod_cpu_throttled_periods_total", 1)),
        "cpu",
        (("cpu.max", "20000 100000"),),
    ),
    Workload(
        "memory",
        "allocates 64 MB until the OOM killer kills it, and starts again after six seconds",
        (Effect("kpod_mem_oom_kills_total", 0.02), Effect("kpod_mem_cgroup_usage_bytes", 4096)),
        "memory",
        (("memory.max", str(64 << 20)), ("memory.swap.max", "0")),
    ),
)

LOAD = "0.7 of a CPU at low priority, 0.5 MB/s from and to the disk, 100 MB of memory"
"""What all of them use together, about."""
