"""Every command of README and docs is run as it stands there, beside an agent; what cannot be run here is named.

`localhost:9090` is that agent's port, `sudo` runs as the root that the tests have, and helm renders what it would
install. The commands of a page share one shell, as those of a reader do.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.doc_commands import BESIDE, PAGES, SERVES, begins, in_sentences, of_page, why_not
from tests.helm import Chart
from tests.live.agents import eventually, free_port, get, running_agent

RUN = {page: [command for command in of_page(page) if not why_not(command)] for page in PAGES}
SERVED = [(page, command) for page in PAGES for command in RUN[page] if begins(command, SERVES)]
SAID = sorted(
    {said for _, said in in_sentences() if re.match(r"(\.venv/bin/)?kpod-metrics (check|metrics|run --help)", said)}
)
HELM = """#!/bin/sh -e
[ "$1" != install ] || { shift; set -- template "$@"; }
exec "$HELM" "$@"
"""
AGAIN = """
again() { local at; for at in $(seq 60); do eval "$1" && return 0; sleep 0.5; done; echo "never: $1" >&2; return 1; }
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    settings = ("--discovery", "cgroup", "--poll-interval", "500ms", "--collector-deadline", "5s")
    with running_agent(tmp_path_factory.mktemp("agent") / "agent.log", *settings) as (_, port):
        yield port


@pytest.fixture
def environment(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """For a reader's shell: what is in the environment's folder is on the path, `sudo` and helm are stand-ins.

    What this run's own `make` hands on is not there.
    """
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "helm").write_text(HELM)
    for program in programs.iterdir():
        program.chmod(0o755)
    found = {
        name: value for name, value in os.environ.items() if not name.startswith(("KPOD_", "PYTEST", "MAKE", "ARGS"))
    }
    path = f"{programs}:{REPOSITORY / '.venv' / 'bin'}:{os.environ['PATH']}"
    return found | {"PATH": path, "KPOD_POLL_INTERVAL": "500ms"}


def script(commands: list[str], port: int) -> str:
    """Return a shell script of these: rates need two cycles, so what asks the agent may have to ask again."""
    lines = ["set -euo pipefail", AGAIN, "set -x"]
    for command in commands:
        here = command.replace("localhost:9090", f"localhost:{port}").replace("timeout 120", "timeout 15")
        if begins(command, BESIDE):
            lines.append(f"{here} &")
        elif begins(command, (r"curl .*localhost:9090",)):
            quoted = here.replace("'", "'\\''")
            lines.append(f"again '{quoted}'")
        else:
            lines += (["wait"] if command.startswith("sudo rmdir") else []) + [here]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not begins(c, SERVES) for c in RUN[page])], ids=lambda page: page.name
)
def test_commands_do_what_the_page_says(
    page: Path, agent: int, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    commands = [command for command in RUN[page] if not begins(command, SERVES)]
    if any(command.startswith("helm ") for command in commands):
        chart: Chart = request.getfixturevalue("chart")
        environment["HELM"] = str(chart.helm)
    environment["KPOD_LISTEN"] = f"127.0.0.1:{agent}"
    done = subprocess.run(
        ["bash", "-c", script(commands, agent)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("command", SAID)
def test_commands_in_sentences_end_well(command: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # What `check` finds is this machine's; that it says so is what the pages promise.
    assert done.returncode == 0 or (" check" in command and "\nFAIL" in done.stdout), done.stderr


@pytest.mark.parametrize(("page", "command"), SERVED, ids=[f"{page.name}: {command}" for page, command in SERVED])
def test_commands_serve_the_page(page: Path, command: str, environment: dict[str, str], tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    environment["KPOD_LISTEN"] = f"127.0.0.1:{port}"
    with log.open("wb") as file:
        started = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=REPOSITORY,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        eventually(lambda: "<title>" in get(f"http://127.0.0.1:{port}/"), 90)
    except AssertionError as error:
        raise AssertionError(log.read_text()[-2000:]) from error
    finally:
        started.terminate()
        started.wait(30)
