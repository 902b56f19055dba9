"""An API server that goes without a word: its machine is off, or what is between drops every packet."""

import subprocess
import sys
from pathlib import Path

import pytest

WATCHES = """
import subprocess, sys, time
from pathlib import Path
from kpod_metrics.pods import client
from kpod_metrics.retry import Backoff
from kpod_metrics.pods.reflector import KubernetesSource
from kpod_metrics.settings import Settings
from testkit.apiserver import ApiServer
from tests.unit.pods.conftest import kubeconfig

client.CONNECT = 1.0
client.KEEPALIVE = tuple((option, 1) for option, _ in client.KEEPALIVE)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with ApiServer() as server:
    settings = Settings(kubeconfig=kubeconfig(Path(sys.argv[1]), server.url))
    source = KubernetesSource(lambda: client.to_server(settings), "node-1")
    source.backoff, source.silence = Backoff(0.1, 0.2), 3600
    source.start()
    while not source.connected:
        time.sleep(0.01)
    print(len(server.asked("watch")), source.connected, source.problem())
    subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
    while source.connected:
        time.sleep(0.01)
    print("gone", flush=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    server.create_pod("a")
    while not source.poll()[0]:
        time.sleep(0.01)
    print([pod.name for pod in source.poll()[0].values()], source.connected, len(server.asked("list")))
    source.close()
"""


@pytest.mark.slow
def test_keepalive_finds_it_and_the_watch_goes_on_later(tmp_path: Path) -> None:
    """The watch is silent for an hour: only the kernel's keepalive can tell."""
    command = ("unshare", "-n", sys.executable, "-c", WATCHES, str(tmp_path / "kubeconfig"))
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == ["1 True ", "gone", "['a'] True 1"], done.stderr
