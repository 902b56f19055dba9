"""The live table in a terminal, driven by keys: its frames are those of a fake agent's known pages."""

import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kpod_metrics.histogram import bucket_of_exponent
from kpod_metrics.top.text import fit
from tests.fakes.agent import FakeAgent, Pod, Values, page
from tests.terminal import DOWN, END, ENTER, ESCAPE, LEFT, RIGHT, UP, Terminal, terminal

COMMAND = Path(sys.executable).parent / "kpod-metrics"
MS, US, SECOND = (bucket_of_exponent(exponent) for exponent in (-10, -20, 0))
KEYS_LINE = "q quit  h help  ←→ sort  r reverse  / filter  p pause  ↑↓ scroll"
EVIL = "evil\x1b]0;title\x07\x1b[31m\x9b2J\u202e日本"

WEB, DB, BAD = ("shop", "web-7d9c5-x2v4q", "app"), ("shop", "db-0", "postgres"), ("", EVIL, "")


def pods(cycle: int) -> dict[Pod, Values]:
    """What three pods have done until a cycle."""
    return {
        WEB: {
            "kpod_cpu_usage_seconds_total": 12.5 * cycle,
            "kpod_cpu_runqueue_latency_seconds": {US: 900 * cycle, MS: 900 * cycle},
            "kpod_cpu_throttled_seconds_total": 6.0 * cycle,
            "kpod_cpu_periods_total": 100.0 * cycle,
            "kpod_cpu_throttled_periods_total": 60.0 * cycle,
            "kpod_net_tcp_retransmits_total": 3.0 * cycle,
            "kpod_net_tcp_bytes_sent_total": 10 * 2048.0 * cycle,
            "kpod_net_tcp_bytes_received_total": 10 * 1024.0 * cycle,
            "kpod_syscall_count_total": {("syscall", "read"): 5000.0 * cycle, ("syscall", "fsync"): 100.0 * cycle},
            "kpod_syscall_errors_total": {("syscall", "read"): 15.0 * cycle, ("syscall", "fsync"): 0.0},
            "kpod_syscall_latency_seconds": {
                ("syscall", "read"): {SECOND: 5000 * cycle},
                ("syscall", "fsync"): {MS: 100 * cycle},
            },
            "kpod_mem_cgroup_usage_bytes": float(300 << 20),
        },
        DB: {
            "kpod_cpu_usage_seconds_total": 1.0 * cycle,
            "kpod_mem_major_page_faults_total": 4000.0 * cycle,
            "kpod_disk_read_bytes_total": {("device", "sda"): 4096.0 * 4000 * cycle},
            "kpod_pressure_cpu_waiting_seconds_total": 0.1 * cycle,
            "kpod_pressure_memory_waiting_seconds_total": 0.0,
            "kpod_pressure_io_waiting_seconds_total": 8.8 * cycle,
        },
        BAD: {"kpod_cpu_usage_seconds_total": 0.0},
    }


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with FakeAgent() as fake:
        fake.page = page(0, pods(0))
        yield fake


def rated(agent: FakeAgent, shown: Terminal) -> None:
    """Wait for the first cycle, and then for rates."""
    shown.until(lambda lines: "22:13:20" in lines[0])
    agent.page = page(1, pods(1))
    shown.until(lambda lines: "22:13:30" in lines[0])


def command(agent: FakeAgent, *more: str) -> list[str | Path]:
    return [COMMAND, "top", "--url", agent.url, "--interval", "100ms", *more]


def names(lines: Sequence[str]) -> list[str]:
    """The pods that are shown, in a window of 80 columns."""
    return [line.split()[1] for line in lines[2:-1] if line]


LEFT_HALF = r"""
NAMESPACE POD                                        CONTAINER WAITS FOR        CPU% RUNQ-99 RUNQ 1us..64s
shop      db-0                                       postgres  faults 400/s     10.0       - -
shop      web-7d9c5-x2v4q                            app       throttled 60%   125.0   973us █   █
-         evil\x1b]0;title\x07…b[31m\x9b2J\u202e日本 -         -                 0.0       - -
"""
RIGHT_HALF = """
 THROT% RETR/s TCP B/s MAJFL/s CALLS/s  ERR/s CALL-99 DISK B/s
      -      -       -     400       -      -       -     1.6M
   60.0    0.3    3.0K       -     510    1.5   975us        -
      -      -       -       -       -      -       -        -
"""
"""The table in a window of 168 columns."""


def test_frame_of_known_pages(agent: FakeAgent) -> None:
    with terminal(command(agent), 8, 168) as shown:
        rated(agent, shown)
        left, right = (half.strip("\n").splitlines() for half in (LEFT_HALF, RIGHT_HALF))
        shown.shows(
            [
                f"kpod-metrics top  node-1  22:13:30 every 10s  3  by waits  {agent.url}",
                *(fit(one, len(left[0])) + other for one, other in zip(left, right, strict=True)),
                *("", "", KEYS_LINE),
            ]
        )
        assert b"\x07" not in shown.written
        assert b"\x9b" not in shown.written
        assert b"]0;title" not in shown.written.replace(rb"\x1b]0;title", b"")
        assert shown.style("kpod-metrics top") == (False, False, True)
        assert shown.style("WAITS FOR") == (True, True, False)
        assert shown.style("CPU%") == (True, False, False)
        assert shown.style("db-0") == (False, False, False)
        shown.press("q")
        assert shown.ended() == 0


def test_small_windows(agent: FakeAgent) -> None:
    with terminal(command(agent), 24, 80) as shown:
        rated(agent, shown)
        shown.until(lambda lines: names(lines) == ["db-0", "web-7d9c5-x2v4q", r"evil\x1…202e日本"])
        shown.resize(5, 20)
        shown.shows(
            [
                "kpod-metrics top  n…",
                "POD   WAITS FOR",
                "db-0  faults 400/s",
                "we…4q throttled 60%",
                "q quit  h help  ←→ …",
            ]
        )
        for lines, columns in ((1, 1), (2, 7), (1, 200), (200, 1)):
            shown.resize(lines, columns)
        shown.resize(3, 30)
        shown.until(lambda lines: lines[1:] == ["POD             WAITS FOR", "db-0            faults 400/s"])
        shown.press("q")
        assert shown.ended() == 0


def test_sort_and_scroll(agent: FakeAgent) -> None:
    many = {("ns", f"pod-{number:02}", ""): {"kpod_cpu_usage_seconds_total": float(number)} for number in range(30)}
    more = {pod: {"kpod_cpu_usage_seconds_total": 3.0 * number} for number, pod in enumerate(many)}
    agent.page = page(0, many)
    with terminal(command(agent), 8, 80) as shown:
        shown.until(lambda lines: "22:13:20" in lines[0])
        agent.page = page(1, more)
        shown.until(lambda lines: "22:13:30" in lines[0] and names(lines) == [f"pod-{n:02}" for n in range(5)])
        shown.press(RIGHT)
        shown.until(lambda lines: "by cpu" in lines[0] and names(lines) == [f"pod-{n}" for n in range(29, 24, -1)])
        shown.press("r")
        shown.until(lambda lines: "by cpu, reversed" in lines[0] and names(lines)[0] == "pod-00")
        shown.press(DOWN, DOWN, UP)
        shown.until(lambda lines: names(lines)[0] == "pod-01")
        shown.press(END)
        shown.until(lambda lines: names(lines) == [f"pod-{n}" for n in range(25, 30)])
        shown.press(DOWN)  # there is no more
        shown.press(LEFT)
        shown.until(lambda lines: "by waits " in lines[0] and names(lines)[0] == "pod-00")
        shown.press(*[LEFT] * 2)
        shown.until(lambda lines: "by pod" in lines[0] and names(lines)[0] == "pod-00")


def test_filter(agent: FakeAgent) -> None:
    with terminal(command(agent), 10, 80) as shown:
        rated(agent, shown)
        shown.press("/", "Q", "\x7f", "w", "E")
        shown.until(lambda lines: lines[-1] == "filter: wE_" and names(lines) == ["web-7d9c5-x2v4q"])
        shown.press(ENTER)
        shown.until(lambda lines: lines[-1] == KEYS_LINE and "1 of 3" in lines[0])
        shown.press("/", "x", "x", ENTER)
        shown.until(lambda lines: lines[2] == "no name contains 'wExx': Esc clears the filter")
        shown.press(ESCAPE)
        shown.until(lambda lines: len(names(lines)) == 3)
        shown.press("q")  # a letter of the filter no longer
        assert shown.ended() == 0


def test_pause(agent: FakeAgent) -> None:
    with terminal(command(agent), 10, 80) as shown:
        rated(agent, shown)
        shown.press("p")
        shown.until(lambda lines: lines[0].startswith("PAUSED  node-1  22:13:30"))
        asked = len(agent.accepted)
        agent.page = page(2, pods(2))
        shown.until(lambda _: len(agent.accepted) > asked + 3)
        assert shown.lines[0].startswith("PAUSED  node-1  22:13:30")
        shown.press(" ")
        shown.until(lambda lines: lines[0].startswith("kpod-metrics top  node-1  22:13:40"))


def test_help(agent: FakeAgent) -> None:
    with terminal(command(agent), 12, 80) as shown:
        rated(agent, shown)
        shown.press("?")
        shown.until(lambda lines: lines[1] == "q            quit" and lines[-1] == KEYS_LINE)
        shown.press(END)
        shown.until(lambda lines: lines[-2] == "PSIio         time in which at least one task waited for I/O")
        shown.press("h")
        shown.until(lambda lines: lines[1].startswith("NAMESPACE"))


def test_pods_come_and_go_and_counters_start_from_0(agent: FakeAgent) -> None:
    with terminal(command(agent), 10, 80) as shown:
        rated(agent, shown)
        new = ("shop", "new-1", "")
        cpu = "kpod_cpu_usage_seconds_total"
        # Another agent: cycles go on, its totals start from 0.
        agent.page = page(2, {WEB: {"kpod_net_tcp_retransmits_total": 2.0, cpu: 4.0}, new: {cpu: 9999.0}})
        shown.until(lambda lines: names(lines) == ["new-1", "web-7d9c5-x2v4q"])
        assert [line.split()[3:6] for line in shown.lines[2:4]] == [["-", "-", "-"], ["-", "40.0", "-"]]
        agent.page = page(3, {new: {cpu: 10004.0}})
        shown.until(lambda lines: names(lines) == ["new-1"])
        assert shown.lines[2].split()[:4] == ["shop", "new-1", "-", "50.0"]


def test_endpoint_goes_away_and_comes_back(agent: FakeAgent) -> None:
    with terminal(command(agent), 10, 100) as shown:
        rated(agent, shown)
        agent.stop()
        shown.until(lambda lines: lines[0] == f"Connection refused: {agent.url}, shown is 22:13:30")
        assert len(names(shown.lines)) == 3
        assert shown.style("Connection refused") == (True, False, True)
        agent.page = page(2, pods(2))
        agent.start()
        shown.until(lambda lines: lines[0].startswith("kpod-metrics top  node-1  22:13:40"))
        agent.page = b"\xff"
        shown.until(lambda lines: lines[0].startswith("not an agent's page: truncated number"))
        agent.page, agent.status = b"one\n\x1b[2Jtwo", 503
        shown.until(lambda lines: lines[0].startswith(r"HTTP 503 one \x1b[2Jtwo: "))
        agent.page, agent.status = page(3, pods(3), off=["disk", "memory"]), 200
        shown.until(lambda lines: lines[0].startswith("kpod-metrics top  off: disk, memory  node-1  22:13:50"))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_the_terminal_as_it_was(end: signal.Signals, agent: FakeAgent) -> None:
    with terminal(command(agent), 10, 80, TERM="xterm") as shown:
        shown.until(lambda lines: "22:13:20" in lines[0])
        assert b"\x1b[?1049h" in shown.written
        shown.process.send_signal(end)
        assert shown.ended() == 0
        assert b"\x1b[?1049l" in shown.written


def test_terminal_without_unicode(agent: FakeAgent) -> None:
    with terminal(command(agent), 10, 110, LANG="en", LC_ALL="POSIX", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0") as shown:
        rated(agent, shown)
        shown.until(lambda lines: any("@   @" in line for line in lines) and "<> sort" in lines[-1])
        assert shown.written.isascii()


def test_unknown_terminal_is_one_line(agent: FakeAgent) -> None:
    with terminal(command(agent), 10, 120, TERM="nonsense") as shown:
        assert shown.ended() == 1
        [said] = [line for line in shown.lines if line]
        assert said.startswith("kpod-metrics: this terminal (TERM='nonsense') cannot show a table: ")
