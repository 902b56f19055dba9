"""GPUs, the whole way, with real cgroups; below the agent is a stand-in for NVIDIA's library, as none is here."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from tests.fakes.nvml import build
from tests.live.agents import COMMAND, Page, eventually, get, process, running_agent
from tests.live.harness import Cgroup

GIB = 1 << 30
ADDRESS = "0000:3b:00.0"
SETTINGS = ("--discovery", "cgroup", "--profile", "custom", "--collectors-gpu-enabled", "true")


def test_processes_that_nvml_names_are_their_cgroups(
    cgroup: Callable[[str], Cgroup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module/nvidia").mkdir(parents=True)
    state = tmp_path / "state"
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build(tmp_path).parent))
    monkeypatch.setenv("NVML_STAND_IN", str(state))
    trainer, server = cgroup("trainer"), cgroup("server")
    running = [trainer.start("sleep", "1000"), trainer.start("sleep", "1000"), server.start("sleep", "1000")]

    def say(time: int) -> None:
        """All of it at once, as the agent reads while it is written."""
        lines = ["count 1", "gpu 0 pci 0 59 0", f"gpu 0 compute {os.getpid()} {GIB}"]
        for number, child in enumerate(running, 1):
            lines += [f"gpu 0 compute {child.pid} {number * GIB}", f"gpu 0 sample {child.pid} {time} {number}0 1 0 0"]
        new = state.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.replace(state)

    say(1000)
    log = tmp_path / "log"
    settings = (*SETTINGS, "--sys-root", str(tmp_path), "--poll-interval", "100ms", "--collector-deadline", "5s")
    with running_agent(log, *settings) as (agent, port):

        def of(one: Cgroup) -> dict[str, float]:
            page = Page(get(f"http://127.0.0.1:{port}/metrics"))
            found = {}
            for name in ("kpod_gpu_memory_used_bytes", "kpod_gpu_utilization_ratio"):
                for labels, value in page.find(name, gpu=ADDRESS).items():
                    if dict(labels)["pod"].endswith(one.path.name):
                        found[name] = value
            return found

        assert eventually(lambda: of(trainer))["kpod_gpu_memory_used_bytes"] == 3 * GIB
        assert of(server)["kpod_gpu_memory_used_bytes"] == 3 * GIB
        # A sample is new for one cycle.
        times = count(2000, 1000)

        def ratios() -> list[float]:
            say(next(times))
            page = Page(get(f"http://127.0.0.1:{port}/metrics"))
            return sorted(filter(None, page.find("kpod_gpu_utilization_ratio", gpu=ADDRESS).values()))

        assert eventually(ratios) == [0.3, 0.3]
        for child in running[:2]:
            child.kill()
            child.wait()
        eventually(lambda: of(trainer) == {})
        assert of(server)["kpod_gpu_memory_used_bytes"] == 3 * GIB
        agent.send_signal(signal.SIGTERM)
        agent.wait()
    assert (tmp_path / "state.calls").read_text().split() == ["init", "shutdown"]
    running[2].kill()
    running[2].wait()


def test_check_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver whose library cannot be loaded: one line, and exit status 1."""
    (tmp_path / "module/nvidia").mkdir(parents=True)
    (tmp_path / "libnvidia-ml.so.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    log = tmp_path / "log"
    with process([COMMAND, "check", *SETTINGS, "--sys-root", str(tmp_path)], log) as started:
        assert started.wait() == 1
    [line] = [line for line in log.read_text().splitlines() if " gpu " in line]
    assert line.split(maxsplit=2) == [
        "FAIL",
        "gpu",
        "NVIDIA's driver is loaded, but its library libnvidia-ml.so.1 is not found: "
        "in a container, NVIDIA's runtime provides it (docs/gpu.md)",
    ]


def test_check_tells_what_fails_from_what_is_not_here(tmp_path: Path) -> None:
    """A machine without BTF and without a GPU: the first is a failure."""
    command: list[str | Path] = [COMMAND, "check", *SETTINGS, "--sys-root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    lines = {line[6:].split()[0]: line for line in done.stdout.splitlines()[1:-1]}
    assert lines["cgroup2"].startswith("ok    cgroup2 ")
    assert lines["BTF"].startswith("FAIL  BTF ")
    assert lines["gpu"].startswith("n/a   gpu ")
    assert " there is no GPU: no render node, and NVIDIA's driver is not loaded: kpod_gpu_" in lines["gpu"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=60)
    found = {line["subject"]: (line["ok"], line["status"]) for line in json.loads(done.stdout)["lines"]}
    assert (found["cgroup2"], found["BTF"], found["gpu"]) == ((True, "ok"), (False, "fail"), (True, "n/a"))
