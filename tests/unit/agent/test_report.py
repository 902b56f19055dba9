"""What the agent says of itself, on its page and in its problems."""

import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from kpod_metrics import health
from kpod_metrics.agent import report
from kpod_metrics.collectors.kit import Signal
from kpod_metrics.errors import KpodError
from kpod_metrics.kernel.containers import Containers
from kpod_metrics.kernel.programs import MapHealth, ProgramHealth
from kpod_metrics.limits import Room
from kpod_metrics.pods.model import Identity
from tests.unit.agent.hub import EVENTS, OTHERS, Counting, Hub

A = Identity("n", "a", "c")


def opened(root: Path, *collectors: Counting, **flags: str) -> Hub:
    hub = Hub(root, *collectors, **flags)
    hub.agent.open()
    return hub


def test_cycle_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = opened(tmp_path, Counting("one", EVENTS), poll_interval="30s")
    hub.cgroup("a", A)
    hub.cgroup("b", A._replace(container="d"))
    hub.cgroup("c", Identity("n", "b", "c"))
    monkeypatch.setattr(report, "time", SimpleNamespace(time=lambda: 1234.5))
    page = hub.cycle()
    assert page["kpod_last_cycle_timestamp_seconds", ""] == 1234.5
    assert page["kpod_poll_interval_seconds", ""] == 30
    assert page["kpod_discovered_pods", ""] == 2
    assert page["kpod_collection_cycle_errors_total", ""] == 0
    assert 0 < page["kpod_collection_cycle_seconds", ""] < 30
    assert page["kpod_discovery_errors_total", ""] == 0
    assert page["process_start_time_seconds", ""] > 0
    assert page["kpod_http_connections", ""] == 0


def test_collector_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Counting("one", EVENTS)
    hub = opened(tmp_path, one)
    one.unread_cgroups, one.skipped_processes = 3, 4
    monkeypatch.setattr(one, "skipped_mounts", lambda: {"hung": 5})
    maps = [MapHealth("map", 4096, 2, 1, 100, 3)]
    monkeypatch.setattr(one, "maps", lambda: maps)
    monkeypatch.setattr(one, "programs", lambda: [ProgramHealth("program", 0.0, 0, 7)])
    page = hub.cycle()
    assert 0 < page["kpod_collector_duration_seconds", "one"] < 30
    assert page["kpod_collector_unread_cgroups_total", "one"] == 3
    assert page["kpod_collector_skipped_processes_total", "one"] == 4
    assert page["kpod_filesystem_mounts_skipped_total", "hung"] == 5
    of_map = {key[0].removeprefix("kpod_bpf_map_"): value for key, value in page.items() if key[1] == "map"}
    assert of_map == {
        "entries": 1,
        "capacity": 100,
        "update_errors_total": 2,
        "evictions_total": 3,
        "memory_bytes": 4096,
    }
    assert page["kpod_bpf_program_missed_runs_total", "program"] == 7
    assert {key for key in page if key[0] == "kpod_unattributed_events_total"} == {
        ("kpod_unattributed_events_total", f"one,{reason}") for reason in ("host", "filtered", "unresolved")
    }


def test_collector_of_files_counts_no_events_without_owner(tmp_path: Path) -> None:
    one = Counting("one", EVENTS)
    one.uses_bpf = False  # type: ignore[misc]
    page = opened(tmp_path, one).cycle()
    assert not {"kpod_unattributed_events_total", "kpod_pending_events"} & {name for name, _ in page}


@pytest.mark.parametrize("error", [OSError(24, "planted"), KpodError("planted")])
def test_state_of_maps_that_cannot_be_asked_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    one = Counting("one", EVENTS)
    hub = opened(tmp_path, one)

    def maps() -> list[MapHealth]:
        raise error

    monkeypatch.setattr(one, "maps", maps)
    page = hub.cycle()
    assert page["kpod_collector_up", "one"] == 1
    assert [(record.message, record.levelno) for record in caplog.records] == [
        (f"state of kernel maps: {error}", logging.ERROR)
    ]


def test_process_that_cannot_be_asked_keeps_its_last_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = opened(tmp_path, Counting("one", EVENTS))
    before = hub.cycle()["process_start_time_seconds", ""]

    def process() -> health.Rows:
        raise OSError(24, "planted")

    monkeypatch.setattr(health, "process", process)
    assert hub.cycle()["process_start_time_seconds", ""] == before
    assert [(record.message, record.levelno) for record in caplog.records] == [("[Errno 24] planted", logging.ERROR)]


def test_collector_that_reads_or_is_off_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, off = Counting("one", EVENTS), Counting("off", OTHERS)
    off.refused = KpodError("planted")
    hub = opened(tmp_path, one, off)
    asked: list[str] = []

    def maps(name: str) -> list[MapHealth]:
        asked.append(name)
        return []

    for collector in (one, off):
        monkeypatch.setattr(collector, "maps", partial(maps, collector.name))
    hub.cycle()
    assert asked == ["one"]
    hub.agent.states[0].running = True
    hub.agent._report.write(hub.agent._store, 0)
    assert asked == ["one"]


def test_source_of_pods_is_told(tmp_path: Path) -> None:
    hub = opened(tmp_path, Counting("one", EVENTS))
    hub.names.relists, hub.names.forgotten = 3, {"deletion": 5, "waiting": 6}
    page = hub.cycle()
    assert (page["kpod_pod_source_connected", "test"], page["kpod_pod_source_relists_total", "test"]) == (1, 3)
    forgotten = {key[1]: value for key, value in page.items() if key[0] == "kpod_discovery_forgotten_total"}
    assert forgotten == {"deletion": 5, "pod": 0, "cgroup": 0, "waiting": 6, "outside": 0, "excess": 0}
    skipped = {key[1]: value for key, value in page.items() if key[0] == "kpod_discovery_skipped_cgroups"}
    assert skipped == {"depth": 0, "path": 0, "number": 0, "unreadable": 0}
    hub.names.connected = False
    assert hub.cycle()["kpod_pod_source_connected", "test"] == 0


class Reports:
    """The kernel's reports of new cgroups, with a map and a program."""

    containers = Containers()

    def open(self) -> None:
        """Nothing."""

    def take(self) -> dict[int, str]:
        """None."""
        return {}

    def maps(self) -> list[MapHealth]:
        """One."""
        return [MapHealth("new_cgroups", None, 9)]

    def programs(self) -> list[ProgramHealth]:
        """One."""
        return [ProgramHealth("cgroup_made", 0.0, 0, 8)]


def test_kernels_reports_of_cgroups_are_told(tmp_path: Path) -> None:
    hub = Hub(tmp_path, Counting("one", EVENTS))
    hub.agent.source.events = Reports()  # type: ignore[assignment]
    hub.agent.open()
    page = hub.cycle()
    assert page["kpod_bpf_map_update_errors_total", "new_cgroups"] == 9
    assert page["kpod_bpf_program_missed_runs_total", "cgroup_made"] == 8


def test_problems_are_in_the_order_of_what_they_are_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Counting("one", EVENTS)
    monkeypatch.setattr(one, "open", lambda: [Signal(EVENTS.metrics, "", "no hook")])
    hub = opened(tmp_path, one)
    assert hub.agent.problems() == ["kpod_events_total: no hook"]
    made = hub.agent._report
    made.cycle_problem, made.kept_rights = "planted", "rights are kept"
    monkeypatch.setattr(hub.names, "problem", lambda: "403")
    made.exporter = SimpleNamespace(endpoint="https://otlp", problem="503")  # type: ignore[assignment]
    made.headroom.room, made.headroom.limit, made.headroom.used = Room.NONE, 100 << 20, 90 << 20
    assert hub.agent.problems() == [
        "kpod_events_total: no hook",
        "the last cycle failed, its page was not published: planted",
        "rights are kept",
        "source of pods (test): 403",
        "memory: 90 of 100 MiB are used, the rest is for what is there: no new series are admitted, what they would "
        "count is in the overflow series",
        "OTLP to https://otlp: 503",
    ]
