"""`top --once` and `--json` as scripts use them, and the messages without a page."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.histogram import bucket_of_exponent
from kpod_metrics.top.columns import KEYS
from testkit.certificates import Certificates
from tests.fakes.agent import FakeAgent, basic, page
from tests.forced import variables

COMMAND = Path(sys.executable).parent / "kpod-metrics"
MS = bucket_of_exponent(-10)


def values(cycle: int) -> dict[str, object]:
    """A pod that does the same in each cycle of ten seconds."""
    return {
        "kpod_cpu_usage_seconds_total": 5.0 * cycle,
        "kpod_cpu_runqueue_latency_seconds": {MS: 1000 * cycle},
        "kpod_net_tcp_bytes_sent_total": 1e6 * cycle,
        "kpod_syscall_count_total": {("syscall", "read"): 70 * cycle, ("syscall", "openat"): 30 * cycle},
        "kpod_mem_cgroup_usage_bytes": 123456789.0,
    }


def known(cycle: int) -> bytes:
    return page(cycle, {("shop", "web 1\x1b[2J", "app"): values(cycle), ("", "idle", ""): {}})  # type: ignore[dict-item]


@contextmanager
def going_on(agent: FakeAgent, pages: Callable[[int], bytes] = known) -> Iterator[None]:
    """Have an agent go on to its next cycle as soon as the one before was taken."""
    ended = threading.Event()
    agent.page = pages(1)

    def run() -> None:
        at = 1
        while not ended.wait(0.02):
            if len(agent.accepted) > at:
                at += 1
                agent.page = pages(at)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def top(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [COMMAND, "top", "--interval", "100ms", *arguments],
        env=variables(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def failed(status: int, *arguments: str) -> str:
    """The only line on stderr."""
    result = top(*arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("kpod-metrics: ").rstrip("\n")


def test_once_is_a_table_for_scripts() -> None:
    with FakeAgent() as agent, going_on(agent):
        result = top("--once", "--url", agent.url)
    assert (result.returncode, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.split() == [
        *("NAMESPACE", "POD", "CONTAINER", "WAITS_FOR", "CPU_%", "RUNQ_P99_MS", "RUNQ_WAITS/S", "THROTTLED_%"),
        *("RETRANSMITS/S", "TCP_BYTES/S", "MAJOR_FAULTS/S", "SYSCALLS/S", "SYSCALL_ERRORS/S", "SYSCALL_P99_MS"),
        *("DISK_BYTES/S", "MEMORY_BYTES", "PSI_CPU_%", "PSI_MEMORY_%", "PSI_IO_%"),
    ]
    [line] = lines
    assert line.split() == [
        *("shop", r"web\x201\x1b[2J", "app", "cpu:16%", "50", "0.975", "100", "-"),
        *("-", "100000", "-", "10", "-", "-"),
        *("-", "123456789", "-", "-", "-"),
    ]
    assert agent.accepted == [PROTOBUF] * len(agent.accepted)


def test_json_has_base_units_and_names_as_they_are() -> None:
    with FakeAgent() as agent, going_on(agent):
        result = top("--json", "--url", agent.url)
    assert (result.returncode, result.stderr) == (0, "")
    [row] = json.loads(result.stdout)
    assert row.keys() == {*KEYS, "waits_for"}
    assert (row["pod"], row["cpu"], row["network"], row["throttled"]) == ("web 1\x1b[2J", 0.5, 100000, None)
    assert (row["waits_for"], row["waits"]) == ("cpu", pytest.approx(0.163 / 0.3, rel=0.01))
    assert row["runqueue_p99"] == pytest.approx(2**-10, rel=0.01)


def test_sorted_and_filtered() -> None:
    def pods(cycle: int) -> bytes:
        amounts = {"a": 1.0, "b": 3.0, "c": 2.0}
        return page(
            cycle, {("n", name, ""): {"kpod_cpu_usage_seconds_total": n * cycle} for name, n in amounts.items()}
        )

    with FakeAgent() as agent, going_on(agent, pods):
        lines = top("--once", "--url", agent.url, "--sort", "cpu").stdout.splitlines()[1:]
        assert [line.split()[1] for line in lines] == ["b", "c", "a"]
        lines = top("--once", "--url", agent.url, "--filter", "N/C").stdout.splitlines()[1:]
        assert [line.split()[1] for line in lines] == ["c"]


@pytest.mark.parametrize(
    "url", ["localhost:9090", "ftp://h", "http://", "http://h:99999", "http://h:x", "http://h h", ""]
)
def test_url_that_is_none(url: str) -> None:
    said = failed(2, "--once", f"--url={url or ' '}")
    assert said.startswith(f"url: {url or ' '!r} (from --url) is not accepted; accepted: http://HOST:PORT")


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--sort", "weather", "'weather' is not one of "),
        ("--interval", "soon", "invalid "),
        ("--interval", "0", "invalid "),
    ],
)
def test_flag_that_is_not_accepted(flag: str, value: str, said: str) -> None:
    result = top(flag, value)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"argument {flag}: {said}" in result.stderr
    assert repr(value) in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_a_terminal() -> None:
    assert failed(1) == "top needs a terminal: use --once or --json"


def test_nobody_there() -> None:
    with FakeAgent() as agent:
        url = agent.url
    assert failed(1, "--once", "--url", url) == f"no agent at {url} (Connection refused)"


def test_own_collection_that_is_refused_too(tmp_path: Path) -> None:
    """Nobody at the address that the settings have, and no cgroups here."""
    (tmp_path / "self").mkdir()
    with FakeAgent() as agent:
        address = agent.url.removeprefix("http://")
    said = failed(1, "--once", "--listen", address, "--proc-root", str(tmp_path))
    assert said.startswith(f"no agent at http://{address} (Connection refused), and this process cannot collect: ")
    assert said.endswith("; --url sets another agent")


def test_the_settings_say_where_this_machines_agent_is() -> None:
    with FakeAgent() as agent, going_on(agent):
        result = top("--once", "--listen", "0.0.0.0:" + agent.url.rpartition(":")[2])
    assert (result.returncode, result.stderr) == (0, "")
    assert "web" in result.stdout


@pytest.mark.parametrize(
    ("status", "kind", "body", "said"),
    [
        (404, "text/plain", b"secret", "HTTP 404"),
        (500, "text/plain", b"", "HTTP 500"),
        (200, "text/html; charset=utf-8", b"<html>", "not an agent's page (text/html)"),
    ],
)
def test_answer_that_is_no_page(status: int, kind: str, body: bytes, said: str) -> None:
    with FakeAgent() as agent:
        agent.status, agent.kind, agent.page = status, kind, body
        assert failed(1, "--once", "--url", agent.url) == f"no agent at {agent.url} ({said})"


def test_page_that_is_broken() -> None:
    with FakeAgent() as agent:
        agent.page = b"\xff" * 30
        said = failed(1, "--once", "--url", agent.url)
        assert said == f"no agent at {agent.url} (not an agent's page: truncated number)"


def test_page_of_something_else() -> None:
    """Prometheus itself likes the same port, and speaks protobuf."""
    with FakeAgent() as agent:
        agent.page = known(1).replace(b"kpod_last_cycle", b"prom_last_cycle")
        said = failed(1, "--once", "--url", agent.url)
    assert said == f"no agent at {agent.url} (not an agent's page: kpod_last_cycle_timestamp_seconds is missing)"


def test_agent_before_its_first_cycle_is_waited_for() -> None:
    with FakeAgent() as agent:
        agent.status, agent.page = 503, b"the first cycle is not over yet\n"

        def begin() -> None:
            time.sleep(1)
            agent.page, agent.status = known(1), 200
            seen = len(agent.accepted)
            # Two requests: if top has started late, the first one only looks whether there is an agent.
            while len(agent.accepted) < seen + 2:
                time.sleep(0.02)
            agent.page = known(2)

        thread = threading.Thread(target=begin)
        thread.start()
        result = top("--once", "--url", agent.url)
        thread.join()
    assert (result.returncode, result.stderr) == (0, "")
    assert "cpu:16%" in result.stdout


def test_user_and_password_are_sent_and_not_shown() -> None:
    with FakeAgent(authorization=basic("pro", "b:@d")) as agent, going_on(agent):
        url = agent.url.replace("://", "://pro:b%3A%40d@")
        assert top("--once", "--url", url).returncode == 0
        said = failed(1, "--once", "--url", url.replace("pro:", "con:"))
    assert said == f"no agent at {agent.url} (HTTP 401)"


def test_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")
    with FakeAgent(authorization="Bearer abc") as agent, going_on(agent):
        assert top("--once", "--url", agent.url, "--token-file", str(token)).returncode == 0
    missing = str(tmp_path / "none")
    assert failed(2, "--once", "--url", agent.url, "--token-file", missing).startswith(
        f"token_file: {missing!r} cannot"
    )


def test_certificates(certificates: Certificates, tmp_path: Path) -> None:
    with FakeAgent(certificates) as agent, going_on(agent):
        assert top("--once", "--url", agent.url, "--ca", certificates.ca).returncode == 0
        assert "CERTIFICATE_VERIFY_FAILED" in failed(1, "--once", "--url", agent.url)
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("")
    assert failed(2, "--once", "--url", agent.url, "--ca", str(nothing)).startswith(
        f"ca: {str(nothing)!r} cannot be used"
    )
