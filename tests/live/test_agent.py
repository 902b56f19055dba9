"""The whole way: the installed command, a real kernel, a real Prometheus that scrapes it."""

import ctypes
import json
import re
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from kpod_metrics import health
from kpod_metrics.features import PERF_EVENT
from kpod_metrics.kernel.libbpf import library
from tests.forced import needs
from tests.live.agents import COMMAND, Page, eventually, free_port, get, process, running_agent
from tests.live.harness import Cgroup, go, stop_point, switches

INTERVAL = 0.2
GRACE = 1.5
SWITCHES = "kpod_cpu_context_switches_total"
FAULTS = "kpod_mem_major_page_faults_total"


@contextmanager
def agent(log: Path) -> "Iterator[tuple[subprocess.Popen[bytes], int]]":
    """A running agent past its first cycle, and its port."""
    settings = ["--node-name", "test-node", "--poll-interval", f"{INTERVAL}s", "--grace-period", f"{GRACE}s"]
    # Half of such a short interval, the default, is less than a busy machine may need.
    settings += ["--collector-deadline", "5s", "--discovery", "cgroup"]
    with running_agent(log, *settings) as (started, port):
        yield started, port


class Scraped:
    """An agent and the Prometheus that scrapes it."""

    def __init__(self, agent_port: int, prometheus_port: int, cgroup_root: str) -> None:
        self._page = f"http://127.0.0.1:{agent_port}/metrics"
        self._api = f"http://127.0.0.1:{prometheus_port}/api/v1/query?"
        self._root = cgroup_root

    def page(self) -> str:
        """The agent's newest page."""
        return get(self._page)

    def pod(self, cgroup: Cgroup) -> str:
        """A cgroup's pod label: its path below the mount."""
        return str(cgroup.path.relative_to(self._root))

    def series(self, name: str, cgroup: Cgroup) -> str:
        """The selector of a cgroup's series."""
        return f'{name}{{namespace="cgroup",pod="{self.pod(cgroup)}"}}'

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The result of an instant query: labels and value."""
        answer = json.loads(get(self._api + urllib.parse.urlencode({"query": expression})))
        assert answer["status"] == "success"
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def value(self, expression: str) -> float | None:
        """The only value of a query; None where it has none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, prometheus: Path, cgroup_root: str) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        _, agent_port = stack.enter_context(agent(folder / "agent.log"))
        port = free_port()
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
            "scrape_configs:\n"
            f"- {{job_name: kpod, static_configs: [{{targets: ['127.0.0.1:{agent_port}']}}]}}\n"
        )
        command: list[str | Path] = [prometheus, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        command.append(f"--web.listen-address=127.0.0.1:{port}")
        stack.enter_context(process(command, folder / "prometheus.log"))
        both = Scraped(agent_port, port, cgroup_root)
        try:
            eventually(lambda: both.value('up{job="kpod"}') == 1, 20)
        except AssertionError as error:
            raise AssertionError((folder / "prometheus.log").read_text()) from error
        yield both


def test_prometheus_has_the_true_number_of_switches(
    scraped: Scraped,
    cgroup: Callable[[str], Cgroup],
    workload: Callable[[str], str],
    children: list[subprocess.Popen[bytes]],
) -> None:
    group = cgroup("busy")
    sleeper = group.start(workload("hog"), "0", "500")
    children.append(sleeper)
    stop_point(sleeper)
    outside = switches(sleeper.pid)  # at most: it entered the cgroup before it executed the workload
    go(sleeper)
    eventually(lambda: switches(sleeper.pid) > 1000)
    sleeper.send_signal(signal.SIGSTOP)
    eventually(lambda: "T (stopped)" in Path(f"/proc/{sleeper.pid}/status").read_text())
    selector = scraped.series(SWITCHES, group)
    try:
        eventually(lambda: (scraped.value(selector) or 0) >= switches(sleeper.pid) - outside)
    except AssertionError as error:
        page = [line for line in scraped.page().splitlines() if scraped.pod(group) in line]
        had = [scraped.query(selector), scraped.query("up"), page]
        raise AssertionError(f"{switches(sleeper.pid)} switches, {outside} before its start: {had}") from error
    time.sleep(3 * INTERVAL)  # what came too much would come now
    [(labels, counted)] = scraped.query(selector)
    true = switches(sleeper.pid)
    assert true - outside <= counted <= true
    # Prometheus has a label with an empty value as none.
    path = scraped.pod(group)
    own = {name: value for name, value in labels.items() if name not in {"__name__", "job", "instance"}}
    assert own == {"namespace": "cgroup", "pod": path, "node": "test-node"}
    assert f'{SWITCHES}{{namespace="cgroup",pod="{path}",container="",node="test-node"}} ' in scraped.page()


@needs(PERF_EVENT)  # among the first events are faults
def test_increase_sees_the_first_events(
    scraped: Scraped,
    cgroup: Callable[[str], Cgroup],
    workload: Callable[[str], str],
    children: list[subprocess.Popen[bytes]],
    on_disk: Path,
) -> None:
    group = cgroup("idle")
    pages = 211
    faulting = group.start(workload("faults"), str(on_disk), str(pages), stdout=subprocess.PIPE)
    children.append(faulting)
    stop_point(faulting)
    faults, kills = (scraped.series(name, group) for name in (FAULTS, "kpod_mem_oom_kills_total"))
    eventually(lambda: scraped.value(f"count_over_time({faults}[1m])"))
    eventually(lambda: scraped.value(faults) == scraped.value(kills) == 0)
    go(faulting)
    stop_point(faulting)
    eventually(lambda: scraped.value(faults) == pages)
    # Extrapolated, so not the number itself; without the sample at 0 it would be 0 or nothing.
    grown = scraped.value(f"increase({faults}[1m])")
    assert grown is not None
    assert 0.9 * pages <= grown <= 1.6 * pages
    assert scraped.value(f"increase({kills}[1m])") == 0


def test_series_of_an_empty_cgroup_are_there_before_its_first_process(
    tmp_path: Path, cgroup: Callable[[str], Cgroup], cgroup_root: str
) -> None:
    """Its counters are at 0, and grow with what is done in it later."""
    with running_agent(tmp_path / "log", "--poll-interval", "5s", "--profile", "minimal") as (_, port):
        late = cgroup("late")
        pod = str(late.path.relative_to(cgroup_root))

        def counted() -> list[float]:
            page = Page(get(f"http://127.0.0.1:{port}/metrics"))
            return list(page.find("kpod_cpu_context_switches_total", pod=pod).values())

        assert eventually(counted) == [0.0]
        for _ in range(7):
            late.run("sleep", "0.01")
        eventually(lambda: sum(counted()) >= 7)


def test_series_end_after_the_grace_time(
    scraped: Scraped, cgroup: Callable[[str], Cgroup], children: list[subprocess.Popen[bytes]]
) -> None:
    group = cgroup("short")
    started = group.start("sleep", "60")
    children.append(started)
    selector = scraped.series(SWITCHES, group)
    eventually(lambda: scraped.query(selector))
    group.destroy()
    removed = time.monotonic()
    pod = f'pod="{scraped.pod(group)}"'
    assert pod in scraped.page()
    eventually(lambda: pod not in scraped.page())
    assert time.monotonic() - removed >= GRACE - INTERVAL
    # Prometheus marks them as stale at the next scrape.
    eventually(lambda: not scraped.query(selector))


def test_idle_container_over_the_limit_has_its_counters_once_there_is_room(
    tmp_path: Path, cgroup: Callable[[str], Cgroup], children: list[subprocess.Popen[bytes]]
) -> None:
    """Its files do not change, and it has no events: its series are still admitted once there is room."""
    first, second = cgroup("first"), cgroup("second")
    settings = ["--cgroup-root", str(first.path.parent), "--discovery", "cgroup", "--series-limit", "1"]
    settings += ["--poll-interval", f"{INTERVAL}s", "--grace-period", f"{GRACE}s", "--collector-deadline", "5s"]
    children.append(first.start("sleep", "1000"))
    with running_agent(tmp_path / "log", *settings) as (_, port):

        def pods(name: str) -> set[str]:
            found = Page(get(f"http://127.0.0.1:{port}/metrics")).find(name)
            return {dict(labels)["pod"].rpartition("/")[2] for labels in found}

        of_a_file, of_events = "kpod_pressure_io_waiting_seconds_total", "kpod_net_tcp_connect_failures_total"

        def all_have(*names: str) -> bool:
            return pods(of_a_file) == pods(of_events) == set(names)

        eventually(lambda: all_have("first"))
        children.append(second.start("sleep", "1000"))
        eventually(lambda: all_have("first", "kpod-overflow"))
        children[0].kill()
        children[0].wait()
        first.destroy()
        eventually(lambda: all_have("second", "kpod-overflow"))


def test_agents_own_health(scraped: Scraped) -> None:
    collectors = scraped.query("kpod_collector_up")
    assert {labels["collector"] for labels, _ in collectors} >= {"run_queue", "oom"}
    assert scraped.value('kpod_collector_up{collector="run_queue"}') == 1
    assert scraped.value('kpod_pod_source_connected{source="cgroup"}') == 1
    while_on = {"kpod_bpf_program_run_seconds_total", "kpod_bpf_program_runs_total"}
    while_on |= {"kpod_web_config_valid", *(metric.name for metric in health.OTLP.metrics)}
    there = set(re.findall(r"^# TYPE (\S+)", scraped.page(), re.MULTILINE))
    assert {metric.name for metric in health.METRICS} - there <= while_on
    assert scraped.value(f'kpod_series_overflow_total{{metric="{SWITCHES}"}}') == 0
    ended = scraped.value("kpod_last_cycle_timestamp_seconds") or 0
    eventually(lambda: (scraped.value("kpod_last_cycle_timestamp_seconds") or 0) > ended > 0)


def kernel_ids(kind: str) -> set[int]:
    """The ids of all programs or links in this kernel."""
    following = getattr(library().so, f"bpf_{kind}_get_next_id")
    found: set[int] = set()
    at = ctypes.c_uint32(0)
    while following(at, ctypes.byref(at)) == 0:
        found.add(at.value)
    return found


def held_ids(pid: int, kind: str) -> set[int]:
    """The ids of programs or links that a process holds descriptors of."""
    found: set[int] = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # of a file that it has closed meanwhile
            found.update(map(int, re.findall(rf"^{kind}_id:\s+(\d+)", entry.read_text(), re.MULTILINE)))
    return found


@needs(PERF_EVENT)  # which is one of those that are attached
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_is_left_attached(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    with agent(log) as (started, port):
        programs, links = held_ids(started.pid, "prog"), held_ids(started.pid, "link")
        assert len(programs) >= 3
        assert len(links) >= 3
        assert programs <= kernel_ids("prog")
        assert links <= kernel_ids("link")
        # A scraper keeps its connection open: the end must not wait for it.
        scraper = HTTPConnection("127.0.0.1", port, timeout=5)
        scraper.request("GET", "/metrics")
        assert scraper.getresponse().read()
        # Nor for one that does not read what it asked for, as often as fills all buffers.
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        time.sleep(0.5)
        started.send_signal(number)
        status = started.wait(10)
        scraper.close()
        slow.close()
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    # The kernel frees a program some milliseconds after its last user has gone (RCU).
    eventually(lambda: not programs & kernel_ids("prog"), 5)
    eventually(lambda: not links & kernel_ids("link"), 5)
    said = log.read_text()
    assert "Traceback" not in said
    assert "ERROR" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_agent_ends_with_make_run(number: signal.Signals, tmp_path: Path) -> None:
    """A user who started `make run` knows only that process."""
    port = free_port()
    root = Path(__file__).parents[2]
    with process(["make", "-C", root, "run", f"ARGS=--listen 127.0.0.1:{port}"], tmp_path / "make.log") as make:
        eventually(lambda: get(f"http://127.0.0.1:{port}/metrics"))
        [pid] = map(int, Path(f"/proc/{make.pid}/task/{make.pid}/children").read_text().split())
        programs = held_ids(pid, "prog")
        assert len(programs) >= 3
        make.send_signal(number)
        assert make.wait(5)
    eventually(lambda: not programs & kernel_ids("prog"), 5)


def test_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        address = f"127.0.0.1:{owner.getsockname()[1]}"
        result = subprocess.run(
            [COMMAND, "run", "--listen", address], capture_output=True, text=True, check=False, timeout=20
        )
    assert (result.returncode, result.stdout) == (1, "")
    why = "Address already in use; --listen HOST:PORT sets another address"
    assert result.stderr == f"kpod-metrics: cannot listen on {address}: {why}\n"
