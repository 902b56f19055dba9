"""What pods wait for: known growth in ten seconds, exact numbers and words."""

from pathlib import Path

import pytest

from kpod_metrics.agent import Agent
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import Environment
from kpod_metrics.landing import waits
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import Identity
from kpod_metrics.pods.standalone import StandaloneNamer
from kpod_metrics.settings import CollectorSettings, Settings
from kpod_metrics.store import OVERFLOW
from tests.unit.landing.fixture import A_POD, Node, grown

MIB = 1 << 20


def pods(node: Node) -> list[waits.Waits]:
    """What the page shows."""
    return waits.pods(waits.rates(node.compared))


@pytest.mark.parametrize(
    ("growth", "weight", "text", "alert"),
    [
        (
            {"cpu_runqueue_latency_seconds": 20.0, "cpu_usage_seconds_total": 5.0},
            0.8 / 0.3,
            "CPU: in the run queue 80 % of the time, 2 tasks on average",
            "KpodRunQueueSaturated",
        ),
        (
            # Much of little is little: a tenth of a task is the limit.
            {"cpu_runqueue_latency_seconds": 0.5, "cpu_usage_seconds_total": 0.5},
            0.5,
            "CPU: in the run queue 50 % of the time, 0.05 tasks on average",
            "KpodRunQueueSaturated",
        ),
        (
            # No CPU time: no cpu controller in the tree.
            {"cpu_runqueue_latency_seconds": 20.0, "pressure_cpu_waiting_seconds_total": 9.0},
            3.0,
            "CPU: in the run queue 90 % of the time, 2 tasks on average",
            "KpodRunQueueSaturated",
        ),
        (
            {"cpu_runqueue_latency_seconds": 55.5},
            0.99,
            "CPU: 5.55 tasks in the run queue on average",
            "KpodRunQueueSaturated",
        ),
        (
            {"cpu_periods_total": 100.0, "cpu_throttled_periods_total": 45.0},
            1.8,
            "CPU limit: throttled in 45 % of its periods",
            "KpodCpuThrottled",
        ),
        (
            # Throttled less than by itself would do, and waiting: it waits for its limit, not for a CPU.
            {
                "cpu_periods_total": 100.0,
                "cpu_throttled_periods_total": 12.0,
                "cpu_runqueue_latency_seconds": 20.0,
                "cpu_usage_seconds_total": 5.0,
            },
            1.0,
            "CPU limit: throttled in 12 % of its periods",
            "KpodCpuThrottled",
        ),
        (
            {
                "net_tcp_retransmits_total": 50.0,
                "net_tcp_segments_sent_total": 1000.0,
                "net_tcp_bytes_sent_total": 8948.0 * 1000,
            },
            2.5,
            "network: 5 retransmits a second",
            "KpodTcpRetransmits",
        ),
        (
            {"net_tcp_retransmits_total": 20.0, "net_tcp_segments_sent_total": 0.0},
            2.0,
            "network: 2 retransmits a second",
            "KpodTcpRetransmits",
        ),
        (
            {"mem_major_page_faults_total": 1234.0},
            1.234,
            "page faults: 123 a second wait for the disk",
            "KpodMajorFaultStorm",
        ),
        ({"mem_oom_kills_total": 1.0}, 100.0, "OOM killer: a process was killed", "KpodOomKill"),
        ({"mem_oom_kills_total": 3.0}, 100.0, "OOM killer: 3 processes were killed", "KpodOomKill"),
        (
            {"pressure_memory_waiting_seconds_total": 3.0},
            1.5,
            "memory: reclaim, swap or refaults 30 % of the time",
            "KpodMemoryPressure",
        ),
        (
            {"pressure_io_stalled_seconds_total": 6.0},
            1.2,
            "disk: all tasks wait for I/O 60 % of the time",
            "KpodDiskPressure",
        ),
        (
            {"fsync__syscall_latency_seconds": 8.0, "write__syscall_latency_seconds": 1.0},
            9.0,
            "fsync: 0.8 tasks in it on average",
            "KpodSyscallSlow",
        ),
        (
            {"net_tcp_connect_failures_total": 50.0},
            50.0,
            "connects: 5 a second fail",
            "KpodTcpConnectFailures",
        ),
        (
            {"net_tcp_connect_failures_total": 50.0, "outbound__net_tcp_connections_total": 250.0},
            2.0,
            "connects: 5 a second fail",
            "KpodTcpConnectFailures",
        ),
        (
            {"mem_major_page_faults_total": 400.0},
            0.5,
            "page faults: 40 a second wait for the disk",
            "KpodMajorFaultStorm",
        ),
        (
            {"openat__syscall_count_total": 100.0, "openat__syscall_errors_total": 100.0},
            2.0,
            "openat: 100 % of its calls fail, 10 a second",
            "KpodSyscallErrors",
        ),
        (
            {
                "eth0__net_iface_rx_packets_total": 900.0,
                "eth0__net_iface_tx_packets_total": 100.0,
                "eth0__net_iface_rx_drops_total": 15.0,
                "eth0__net_iface_tx_errors_total": 5.0,
            },
            2.0,
            "eth0: 2 packets a second are lost",
            "KpodInterfaceDrops",
        ),
        ({"container_restarts": 1.0}, 0.5, "restarts: once", "KpodContainerRestarts"),
        ({"container_restarts": 6.0}, 2.0, "restarts: 6 times", "KpodContainerRestarts"),
        (
            {"/data__fs_available_bytes": 5.0, "/data__fs_capacity_bytes": 100.0},
            2.0,
            "disk space: 5 % of /data is left",
            "KpodFilesystemLow",
        ),
        (
            {"/data__fs_available_bytes": 0.0, "/data__fs_capacity_bytes": 100.0},
            50.0,
            "disk space: 0 % of /data is left",
            "KpodFilesystemFull",
        ),
        (
            {"mem_cgroup_usage_bytes": 990.0 * MIB, "mem_cgroup_cache_bytes": 40 * MIB, "mem_cgroup_limit_bytes": 1e9},
            (950 * MIB / 1e9) / 0.9,
            "memory limit: 100 % of it is used",
            "KpodMemoryNearLimit",
        ),
    ],
)
def test_reasons(growth: dict[str, float], weight: float, text: str, alert: str) -> None:
    [pod] = pods(grown(growth))
    assert [(cause.text, cause.alert) for cause in pod.causes] == [(text, alert)]
    assert pod.severity == pytest.approx(weight)
    assert (pod.namespace, pod.pod) == ("shop", "web-1")


@pytest.mark.parametrize(
    "growth",
    [
        {"cpu_runqueue_latency_seconds": 1.4, "cpu_usage_seconds_total": 8.6},
        {"cpu_periods_total": 5.0, "cpu_throttled_periods_total": 5.0},  # one in two seconds had anything to run
        # Messages of 200 bytes, of which 0.28 % are retransmitted.
        {
            "net_tcp_retransmits_total": 28.0,
            "net_tcp_segments_sent_total": 10_000.0,
            "net_tcp_bytes_sent_total": 200.0 * 10_000,
        },
        {"mem_major_page_faults_total": 99.0},
        {"net_tcp_connect_failures_total": 0.4},
        {"net_tcp_connect_failures_total": 50.0, "outbound__net_tcp_connections_total": 2500.0},
        {"openat__syscall_count_total": 100.0, "openat__syscall_errors_total": 20.0},
        {"openat__syscall_count_total": 4.0, "openat__syscall_errors_total": 4.0},
        {"recvfrom__syscall_count_total": 100.0, "recvfrom__syscall_errors_total": 100.0},
        {"eth0__net_iface_rx_packets_total": 9e5, "eth0__net_iface_rx_drops_total": 15.0},
        {"eth0__net_iface_rx_packets_total": 10.0, "eth0__net_iface_rx_drops_total": 4.0},
        {"/data__fs_available_bytes": 20.0, "/data__fs_capacity_bytes": 100.0},
        {"/__fs_available_bytes": 1.0, "/__fs_capacity_bytes": 100.0},
        {"pressure_memory_waiting_seconds_total": 0.9, "pressure_io_stalled_seconds_total": 2.4},
        {f"{call}__syscall_latency_seconds": 99.0 for call in ("read", "futex", "epoll_wait", "recvfrom", "accept4")},
        {"mem_cgroup_usage_bytes": 8e8, "mem_cgroup_cache_bytes": 0.0, "mem_cgroup_limit_bytes": 1e9},
        {"mem_cgroup_usage_bytes": 8e8, "mem_cgroup_cache_bytes": 0.0},
    ],
)
def test_what_is_nothing(growth: dict[str, float]) -> None:
    [pod] = pods(grown(growth))
    assert (pod.causes, pod.severity) == ([], 0.0)


def test_numbers() -> None:
    node = grown(
        {
            "cpu_runqueue_latency_seconds": 12.5,
            "cpu_usage_seconds_total": 37.5,
            "cpu_periods_total": 100.0,
            "cpu_throttled_periods_total": 5.0,
            "net_tcp_retransmits_total": 30.0,
            "mem_major_page_faults_total": 70.0,
            "pressure_io_stalled_seconds_total": 1.0,
            "pressure_memory_waiting_seconds_total": 2.0,
            "fsync__syscall_latency_seconds": 5.0,
            "openat__syscall_latency_seconds": 2.5,
            "read__syscall_latency_seconds": 70.0,
        }
    )
    [pod] = pods(node)
    numbers = (pod.runqueue, pod.throttled, pod.retransmits, pod.faults, pod.io, pod.memory)
    assert numbers == pytest.approx((1.25, 0.05, 3.0, 7.0, 0.1, 0.2))
    assert pod.syscalls == pytest.approx(0.75)
    # The worst first.
    assert [cause.alert for cause in pod.causes] == [
        "KpodSyscallSlow",
        "KpodTcpRetransmits",
        "KpodMemoryPressure",
        "KpodRunQueueSaturated",
    ]


def test_containers_of_a_pod() -> None:
    """Tasks and events add up; of shares the largest counts."""
    node = Node()
    one, other, whole = A_POD, A_POD._replace(container="proxy"), A_POD._replace(container="")

    def saw(factor: float) -> None:
        node.saw(one, cpu_runqueue_latency_seconds=5 * factor, pressure_io_stalled_seconds_total=2 * factor)
        node.saw(other, cpu_runqueue_latency_seconds=15 * factor, pressure_io_stalled_seconds_total=1 * factor)
        node.saw(whole, mem_major_page_faults_total=10 * factor)

    saw(0)
    node.cycle()
    saw(1)
    node.cycle()
    [pod] = pods(node)
    assert (pod.runqueue, pod.io, pod.faults) == pytest.approx((2.0, 0.2, 1.0))


def test_each_container_is_judged_by_itself() -> None:
    """As the alerts do: a busy neighbour in the pod does not hide one that fails."""
    node = Node()
    one, other = A_POD, A_POD._replace(container="proxy")
    for identity, failed, connected in ((one, 0.0, 0.0), (other, 0.0, 0.0), (one, 20.0, 10.0), (other, 0.0, 9e4)):
        if (identity, failed) == (one, 20.0):
            node.cycle()
        node.saw(identity, net_tcp_connect_failures_total=failed, outbound__net_tcp_connections_total=connected)
    node.cycle()
    [pod] = pods(node)
    assert [(cause.alert, cause.severity) for cause in pod.causes] == [("KpodTcpConnectFailures", 20.0)]


def test_a_pod_that_was_restarted_long_ago_and_is_new_here() -> None:
    node = grown({"mem_oom_kills_total": 0.0})
    node.saw(Identity("shop", "new", "app"), container_restarts=7.0)
    node.cycle()
    assert [pod.causes for pod in pods(node)] == [[], []]


def test_the_worst_first() -> None:
    node = Node()
    waits_ = {"a": 0.0, "b": 30.0, "c": 1.0, "d": 8.0}
    for name in waits_:
        node.saw(Identity("x", name, ""), cpu_runqueue_latency_seconds=0, cpu_usage_seconds_total=0)
    node.cycle()
    for name, waited in waits_.items():
        node.saw(Identity("x", name, ""), cpu_runqueue_latency_seconds=waited, cpu_usage_seconds_total=10)
    node.cycle()
    assert [pod.pod for pod in pods(node)] == ["b", "d", "c", "a"]


def test_a_pod_that_is_new() -> None:
    """Events are its own from 0 on; what the kernel counted before it was seen is not the last cycle's."""
    node = grown({"cpu_runqueue_latency_seconds": 0.0, "cpu_usage_seconds_total": 0.0})
    new = Identity("shop", "new", "app")
    node.saw(new, cpu_runqueue_latency_seconds=10.0, cpu_usage_seconds_total=5.0)
    node.cycle()
    pod = pods(node)[0]
    # Of CPU time, which is the kernel's total, nothing is known yet: whether the wait is much cannot be told.
    assert (pod.pod, pod.runqueue, pod.severity) == ("new", 1.0, 0.99)


def test_before_there_are_two_cycles() -> None:
    node = Node()
    node.saw(A_POD, cpu_runqueue_latency_seconds=10.0)
    node.cycle()
    [pod] = pods(node)
    assert (pod.pod, pod.runqueue, pod.causes) == ("web-1", None, [])


def test_what_is_folded_together_is_no_pod() -> None:
    assert pods(grown({"cpu_runqueue_latency_seconds": 90.0}, OVERFLOW)) == []


def test_cycles_closer_than_the_window() -> None:
    """Rates are over at least a window, once there is one, and over all that there is before that."""
    node = Node()
    node.saw(A_POD, mem_major_page_faults_total=0)
    node.cycle()
    found = []
    for _ in range(6):
        node.saw(A_POD, mem_major_page_faults_total=60)
        node.cycle(4.0)
        [pod] = pods(node)
        assert pod.faults == pytest.approx(15.0)
        found.append(node.compared.seconds)
    assert found == [4.0, 8.0, 12.0, 16.0, 20.0, 12.0]


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [({}, 30.0), ({"pressure": 300.0, "memory": 60.0}, 300.0), ({"filesystem": 3600.0}, 30.0)],
    ids=["cycle", "slowest", "not shown"],
)
def test_window(tmp_path: Path, intervals: dict[str, float], expected: float) -> None:
    """Rates are over the longest interval of what is shown: a collector that was not read has not grown."""
    kinds = registered()
    settings = Settings(collectors={name: CollectorSettings(interval=intervals.get(name, 0.0)) for name in kinds})
    collectors = [kinds[name](Environment()) for name in ("pressure", "memory", "filesystem")]
    agent = Agent(settings, Finder(str(tmp_path), StandaloneNamer()), collectors)
    assert agent.recent.window == expected
