"""The whole endpoint: a real Prometheus by TLS with a certificate, a password, a token; and under attack."""

import base64
import hashlib
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from testkit.certificates import Certificates
from tests.live.agents import COMMAND, Page, eventually, free_port, get, process
from tests.live.prometheus import running_prometheus

PASSWORD, TOKEN = "correct horse", "battery-staple-0123456789abcdef"
QUICK = ("--profile", "minimal", "--discovery", "cgroup", "--poll-interval", "200ms", "--collector-deadline", "10s")


class Secured:
    """An agent with a web configuration, and a listener for probes."""

    def __init__(self, port: int, probes: int, file: Path, ca: str) -> None:
        self.port, self.probes, self.file, self.ca = port, probes, file, ca

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        context = ssl.create_default_context(cafile=self.ca)
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def probe(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.probes}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def page(self) -> Page:
        status, body = self.get("/metrics", Authorization=f"Bearer {TOKEN}")
        assert status == 200
        return Page(body)


@pytest.fixture(scope="module")
def config(certificates: Certificates) -> dict[str, Any]:
    certificate, key = certificates.signed("agent", "IP:127.0.0.1")
    return {
        "tls_server_config": {"cert_file": certificate, "key_file": key},
        "basic_auth_users": {"prometheus": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()},
        "bearer_tokens": {"other": hashlib.sha256(TOKEN.encode()).hexdigest()},
    }


@pytest.fixture(scope="module")
def secured(
    config: dict[str, Any], certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    file, port, probes = folder / "web.yaml", free_port(), free_port()
    file.write_text(yaml.safe_dump(config))
    command: list[str | Path] = [COMMAND, "run", *QUICK, "--listen", f"127.0.0.1:{port}"]
    command += ["--probe-listen", f"127.0.0.1:{probes}"]
    log = folder / "agent.log"
    with process([*command, "--web-config-file", file], log):
        agent = Secured(port, probes, file, certificates.ca)
        try:
            eventually(lambda: agent.probe("/readyz") == (200, "ready\n"))
        except AssertionError as error:
            raise AssertionError(log.read_text()) from error
        yield agent
    logged = log.read_text()
    for secret in (PASSWORD, TOKEN, *config["basic_auth_users"].values(), *config["bearer_tokens"].values()):
        assert secret not in logged
    assert "Traceback" not in logged


def change(file: Path, content: Any) -> None:
    new = file.with_suffix(".new")
    new.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    os.rename(new, file)


def test_prometheus_with_tls_and_a_password(secured: Secured, prometheus: Path, tmp_path: Path) -> None:
    scrape = [
        "scheme: https",
        f"tls_config: {{ca_file: {json.dumps(secured.ca)}}}",
        f"basic_auth: {{username: prometheus, password: {json.dumps(PASSWORD)}}}",
    ]
    target = f"127.0.0.1:{secured.port}"
    with running_prometheus(prometheus, tmp_path / "p", target, scrape=scrape) as there:
        eventually(lambda: there.query('kpod_collector_up{collector="run_queue"} == 1'))
    wrong = base64.b64encode(b"prometheus:wrong").decode()
    assert secured.get("/metrics", Authorization=f"Basic {wrong}") == (401, "unauthorized\n")
    eventually(lambda: secured.page().sum("kpod_http_refused_total", reason="auth") >= 1)


def test_prometheus_with_a_token(secured: Secured, prometheus: Path, tmp_path: Path) -> None:
    scrape = [
        "scheme: https",
        f"tls_config: {{ca_file: {json.dumps(secured.ca)}}}",
        f"authorization: {{credentials: {TOKEN}}}",
    ]
    with running_prometheus(prometheus, tmp_path / "p", f"127.0.0.1:{secured.port}", scrape=scrape) as there:
        eventually(lambda: there.query("kpod_web_config_valid == 1"))


def test_prometheus_with_a_certificate(
    secured: Secured, prometheus: Path, tmp_path: Path, config: dict[str, Any], certificates: Certificates
) -> None:
    """Asked for from now on, with the agent as it runs."""
    certificate, key = certificates.signed("scraper", "DNS:scraper.monitoring.svc")
    asked: dict[str, Any] = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": certificates.ca}
    asked |= {"client_allowed_sans": ["scraper.monitoring.svc"]}
    tls = f"{{ca_file: {secured.ca}, cert_file: {certificate}, key_file: {key}}}"
    scrape = ["scheme: https", f"tls_config: {tls}"]
    try:
        change(secured.file, {"tls_server_config": config["tls_server_config"] | asked})
        with pytest.raises(OSError, match=r"reset|alert|EOF|closed"):
            secured.get("/metrics")
        with running_prometheus(prometheus, tmp_path / "p", f"127.0.0.1:{secured.port}", scrape=scrape) as there:
            eventually(lambda: there.query('kpod_http_refused_total{reason="tls"} >= 1'))
        eventually(lambda: secured.probe("/healthz") == (200, "ok\n"))  # no certificate, as the kubelet has none
    finally:
        change(secured.file, config)


def test_nothing_is_told_without_leave(secured: Secured) -> None:
    for path in ("/", "/metrics", "/actuator/prometheus", "/healthz", "/readyz", "/nothing"):
        assert secured.get(path) == (401, "unauthorized\n")
    eventually(lambda: secured.probe("/healthz") == (200, "ok\n"))
    for path in ("/", "/metrics", "/actuator/prometheus", "/nothing"):
        assert secured.probe(path) == (404, "not found\n")


def test_faulty_file_leaves_the_probes_and_the_cycles(secured: Secured, config: dict[str, Any]) -> None:
    cycle = secured.page().sum("kpod_last_cycle_timestamp_seconds")
    change(secured.file, "basic_auth_users: [")
    with pytest.raises(OSError, match=r"reset|EOF|closed"):
        secured.page()
    eventually(lambda: secured.probe("/healthz") == (200, "ok\n"))
    eventually(lambda: secured.probe("/readyz") == (200, "ready\n"))
    change(secured.file, config)
    eventually(lambda: secured.page().sum("kpod_last_cycle_timestamp_seconds") > cycle)
    # The first later cycle may have begun before the refusal.
    eventually(lambda: secured.page().sum("kpod_http_refused_total", reason="config") >= 1)


def test_cycles_and_scrapes_go_on_under_attack(tmp_path: Path, tell: Callable[..., None]) -> None:
    """1,000 idle connections, 50 that drip, 20 that do not read, floods of what is no HTTP: 20 cycles are seen."""
    port = free_port()
    log = tmp_path / "agent.log"
    # A busy machine is not what makes a collector late here.
    profile = ("--profile", "standard", *QUICK[2:-2], "--collector-deadline", "60s")
    with ExitStack() as stack:
        agent = stack.enter_context(
            process([COMMAND, "run", *profile, "--listen", f"127.0.0.1:{port}", "--web-request-timeout", "2s"], log)
        )

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))

        def page() -> Page:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
                return Page(answer.read().decode())

        first = eventually(page)
        idle = [connect() for _ in range(1000)]
        deaf = [connect() for _ in range(20)]
        for client in deaf:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        dripping = [connect() for _ in range(50)]
        cycles: set[float] = set()
        resident = 0.0
        end = time.monotonic() + 90
        while len(cycles) < 20 and time.monotonic() < end:
            for client in list(dripping):
                try:
                    client.sendall(b"G")
                except OSError:
                    dripping.remove(client)
                    dripping.append(connect())
            for sent in (b"\0" * 1000, b"GET /" + b"x" * 100_000, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"):
                with socket.create_connection(("127.0.0.1", port), 20) as client:
                    client.sendall(sent)
            last = page()
            cycles.add(last.sum("kpod_last_cycle_timestamp_seconds"))
            resident = max(resident, last.sum("process_resident_memory_bytes"))
        assert len(cycles) >= 20
        assert last.sum("kpod_collector_errors_total") == 0
        assert set(last.find("kpod_collector_up").values()) == {1}
        refused = {
            dict(labels)["reason"]: count for labels, count in last.find("kpod_http_refused_total").items() if count
        }
        assert {"connections", "size", "malformed"} <= refused.keys()
        assert last.sum("kpod_http_connections") <= 128
        # 128 connections of about 20 KiB, and 64 KiB of the answer for each that does not read.
        assert resident - first.sum("process_resident_memory_bytes") < 30 << 20
        eventually(lambda: get(f"http://127.0.0.1:{port}/healthz") == "ok\n")
        assert agent.poll() is None
        assert len(idle) == 1000
    assert "Traceback" not in log.read_text()
    grown = (resident - first.sum("process_resident_memory_bytes")) / (1 << 20)
    told = ", ".join(f"{reason} {count:.0f}" for reason, count in sorted(refused.items()))
    tell(
        "Faults",
        "1,000 idle clients, 50 that send very slowly, 20 that do not read, and floods of data that is not HTTP",
        f"{len(cycles)} cycles",
        f"every cycle made a page, no collector was late; refused: {told}; resident memory grew by {grown:.0f} MiB",
        "nothing",
    )


def test_wrong_web_configuration_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("tls_server_config: {cert_file: a.crt, key_file: a.key, min_version: SSL3}")
    for command in ("run", "check"):
        done = subprocess.run(
            [COMMAND, command, *QUICK, "--web-config-file", file, *(("--listen", "127.0.0.1:0"))],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = (
            f"web_config_file: '{file}': tls_server_config.min_version: 'SSL3' is not accepted; accepted: TLS12, TLS13"
        )
        if command == "run":
            assert (done.returncode, done.stderr) == (2, f"kpod-metrics: {said}\n")
        else:
            assert done.returncode == 1
            assert [line.split(None, 2)[1:] for line in done.stdout.splitlines() if line.startswith("FAIL")] == [
                ["web", said]
            ]
