"""The page at `/` of a real agent: a pod in the run queue is the first, with the right value."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from kpod_metrics.features import TASK_ITERATOR
from tests.forced import needs
from tests.live.agents import eventually, free_port, get, process, running_agent
from tests.live.harness import Cgroup, go, stop_point

TASKS = 3


@needs(TASK_ITERATOR)  # the workloads are older than the agent
def test_contention_is_told(
    cgroup: Callable[[str], Cgroup],
    workload: Callable[[str], str],
    children: list[subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    """Of three that compete for one CPU two wait at any time; more if others use that CPU too, but never all three."""
    contended, quiet = cgroup("contended"), cgroup("quiet")
    hogs = [contended.start(workload("hog"), "0") for _ in range(TASKS)]
    children += [*hogs, quiet.start("sleep", "60")]
    settings = ("--discovery", "cgroup", "--poll-interval", "500ms", "--collector-deadline", "5s")
    with running_agent(tmp_path / "agent.log", *settings, "--node-name", "<node>") as (_, port):

        def rows() -> dict[str, str]:
            """The page's rows, in their order, by the last part of the pod's path."""
            found = re.findall(r"<tr class.*?</tr>", get(f"http://127.0.0.1:{port}/"), re.DOTALL)
            return {row.split("<small>")[0].rpartition("/")[2]: row for row in found}

        def waiting() -> float:
            """How many tasks of the contended pod wait, in words."""
            said = re.search(r">CPU: (?:in the run queue \d+ % of the time, )?([0-9.]+) tasks ", rows()["contended"])
            return float(said[1]) if said else 0.0

        eventually(lambda: {"contended", "quiet"} <= rows().keys())
        for hog in hogs:
            stop_point(hog)
            go(hog)
        # From the second cycle after that on. A wait that began before the earlier of two is in their difference, too:
        # where others use that CPU as well, it may be more than all three for once.
        eventually(lambda: TASKS - 1.1 < waiting() <= TASKS)
        page = get(f"http://127.0.0.1:{port}/")
        assert "Node &lt;node&gt;" in page
        assert re.search(r"\d+ of \d+ pods? (is|are) over the threshold of an alert", page)
        now = rows()
        assert "#kpodrunqueuesaturated" in now["contended"]
        assert '<span class="quiet">nothing</span>' in now["quiet"]
        assert 'data-name="in the run queue">0</td>' in now["quiet"]
        assert list(now).index("contended") < list(now).index("quiet")


def test_imported_when_asked_for(tmp_path: Path) -> None:
    """By a running agent that is scraped, through several cycles; the interpreter tells of each import."""
    port, log = free_port(), tmp_path / "agent.log"
    settings = ["--discovery", "cgroup", "--poll-interval", "100ms", "--collector-deadline", "5s"]
    command = [sys.executable, "-X", "importtime", "-m", "kpod_metrics", "run", "--listen", f"127.0.0.1:{port}"]

    def imported() -> set[str]:
        return {line.rpartition("|")[2].strip() for line in log.read_text().splitlines() if line.startswith("import")}

    with process([*command, *settings], log):
        at = "kpod_last_cycle_timestamp_seconds"
        pages: set[str] = set()
        for _ in range(3):
            eventually(lambda: re.findall(rf"^{at} .*", get(f"http://127.0.0.1:{port}/metrics"), re.M)[0] not in pages)
            pages.add(re.findall(rf"^{at} .*", get(f"http://127.0.0.1:{port}/metrics"), re.M)[0])
        for path in ("healthz", "readyz"):
            get(f"http://127.0.0.1:{port}/{path}")
        heavy = ("kpod_metrics.landing", "properdocs", "jinja2", "markdown", "babel")
        assert "kpod_metrics.agent" in imported()
        assert not [name for name in imported() if name.startswith(heavy)]
        assert "<title>" in get(f"http://127.0.0.1:{port}/")
        assert "kpod_metrics.landing.page" in imported()
        assert not [name for name in imported() if name.startswith(heavy[1:])]
