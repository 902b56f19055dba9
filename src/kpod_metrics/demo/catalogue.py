"""The workloads: what each does, and by how much it moves which metrics."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Signal:
    """A metric that a workload moves, by more than `least` a second: a histogram by its sum, a gauge to that value.

    `label` is the value of its own label ("openat"). `controller`: what the cgroup v2 tree must have for it.
    """

    metric: str
    least: float
    label: str = ""
    controller: str = ""


@dataclass(frozen=True)
class Workload:
    """One workload. `needs` is the controller without which there is none; `limits` are its cgroup's files."""

    name: str
    does: str
    signals: tuple[Signal, ...] = ()
    needs: str = ""
    limits: tuple[tuple[str, str], ...] = ()


WORKLOADS = (
    Workload(
        "hog",
        "two tasks that want the same CPU half of the time: each waits while the other runs",
        (
            Signal("kpod_cpu_runqueue_latency_seconds", 0.02),
            Signal("kpod_cpu_usage_seconds_total", 0.02),
            Signal("kpod_pressure_cpu_waiting_seconds_total", 0.02),
        ),
    ),
    Workload("sleeper", "sleeps a second at a time, on the hog's CPU: how calm looks"),
    Workload(
        "lossy",
        "two ends of a TCP connection, of which one never sees every tenth segment",
        (
            Signal("kpod_net_tcp_retransmits_total", 0.3),
            Signal("kpod_net_tcp_bytes_sent_total", 20_000),
            Signal("kpod_net_tcp_bytes_received_total", 20_000),
            Signal("kpod_net_tcp_rtt_seconds", 1e-6),
        ),
    ),
    Workload(
        "refused",
        "connects to a port where nobody listens",
        (Signal("kpod_net_tcp_connect_failures_total", 1), Signal("kpod_syscall_errors_total", 1, "connect")),
    ),
    Workload(
        "faults",
        "reads a mapped file whose pages are not in memory: each waits for the disk",
        (Signal("kpod_mem_major_page_faults_total", 3), Signal("kpod_disk_read_bytes_total", 5_000, "", "io")),
    ),
    Workload(
        "syscalls",
        "opens a file that is not there, again and again",
        (Signal("kpod_syscall_count_total", 5, "openat"), Signal("kpod_syscall_errors_total", 5, "openat")),
    ),
    Workload(
        "writer",
        "writes and waits until it is on the disk",
        (
            Signal("kpod_syscall_latency_seconds", 1e-4, "fsync"),
            Signal("kpod_syscall_count_total", 1, "fsync"),
            Signal("kpod_disk_written_bytes_total", 20_000, "", "io"),
        ),
    ),
    Workload(
        "throttled",
        "wants a whole CPU and may have a fifth",
        (Signal("kpod_cpu_throttled_seconds_total", 0.05), Signal("kpod_cpu_throttled_periods_total", 1)),
        "cpu",
        (("cpu.max", "20000 100000"),),
    ),
    Workload(
        "memory",
        "takes 64 MB of memory until the kernel kills it for more, and begins anew after six seconds",
        (Signal("kpod_mem_oom_kills_total", 0.02), Signal("kpod_mem_cgroup_usage_bytes", 4096)),
        "memory",
        (("memory.max", str(64 << 20)), ("memory.swap.max", "0")),
    ),
)

LOAD = "0.7 of a CPU at low priority, 0.5 MB/s from and to the disk, 100 MB of memory"
"""What all of them cost the machine together, about."""
