"""What the agent's process is set up with: rights that it keeps, memory."""

import ctypes
import gc
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kpod_metrics.agent import process
from kpod_metrics.agent.state import State
from kpod_metrics.errors import RefusedError
from kpod_metrics.kernel import libbpf, rights
from kpod_metrics.settings import load
from tests.unit.agent.hub import EVENTS, Counting

BPF, PERFMON, ADMIN, FILES = rights.CAP_BPF, rights.CAP_PERFMON, rights.CAP_SYS_ADMIN, rights.CAP_DAC_READ_SEARCH


@pytest.mark.parametrize(
    ("setting", "refused", "needs"),
    [("0\n", True, True), ("0\n", False, True), ("1\n", True, True), ("2\n", False, False), (None, True, True)],
)
def test_right_to_bpf_is_needed_where_a_map_is_refused_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None, refused: bool, needs: bool
) -> None:
    """Where everybody may use bpf() it may be forbidden later, and the kernel cannot be asked."""
    (tmp_path / "sys/kernel").mkdir(parents=True)
    if setting is not None:
        (tmp_path / "sys/kernel/unprivileged_bpf_disabled").write_text(setting)
    asked: list[tuple[int, ...]] = []

    def without(capabilities: tuple[int, ...], ask: Callable[[], bool]) -> bool:
        asked.append(capabilities)
        return ask()

    monkeypatch.setattr(rights, "without", without)
    monkeypatch.setattr(libbpf, "is_refused", lambda: refused)
    assert process.needs_bpf(str(tmp_path)) is needs
    assert asked == ([] if setting == "0\n" else [(BPF, ADMIN)])


def needed(
    monkeypatch: pytest.MonkeyPatch,
    *,
    had: int = rights.mask(BPF, PERFMON),
    own: frozenset[int] = frozenset(),
    opened: bool = True,
    uses_bpf: bool = True,
    asks: bool = False,
    **flags: str,
) -> set[int]:
    collector = Counting("one", EVENTS)
    collector.uses_bpf = uses_bpf  # type: ignore[misc]
    monkeypatch.setattr(collector, "rights", lambda: own)
    monkeypatch.setattr(process, "needs_bpf", lambda proc_root: asks and proc_root == "/proc")
    monkeypatch.setattr(rights, "effective", lambda: had)
    settings, _ = load(flags, {}, None, ["one"])
    mask = process.needed([State(collector, 30, opened=opened)], settings)
    return {one for one in range(64) if mask & 1 << one}


def test_rights_that_running_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needed(monkeypatch) == set()
    assert needed(monkeypatch, own=frozenset({PERFMON})) == {PERFMON}
    assert needed(monkeypatch, own=frozenset({PERFMON}), opened=False) == set()
    assert needed(monkeypatch, asks=True) == {BPF}
    assert needed(monkeypatch, asks=True, uses_bpf=False) == set()
    assert needed(monkeypatch, asks=True, opened=False) == set()
    # Files of another user are read again: a kubeconfig, the web configuration's key.
    assert needed(monkeypatch, discovery="kubernetes") == {FILES}
    assert needed(monkeypatch, web_config_file=__file__) == {FILES}


def test_right_that_stands_for_others_is_kept_where_they_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = rights.mask(ADMIN)
    assert needed(monkeypatch, had=admin) == set()
    assert needed(monkeypatch, had=admin, asks=True) == {BPF, ADMIN}
    assert needed(monkeypatch, had=admin, own=frozenset({PERFMON})) == {PERFMON, ADMIN}
    assert needed(monkeypatch, had=rights.mask(ADMIN, BPF), asks=True) == {BPF}
    assert needed(monkeypatch, had=rights.mask(ADMIN, BPF), own=frozenset({PERFMON})) == {PERFMON, ADMIN}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, ""),
        (OSError(1, "prctl"), "rights that are not needed are kept: prctl"),
        (RefusedError("/proc/self: no"), "rights that are not needed are kept: /proc/self: no"),
    ],
)
def test_rights_that_could_not_be_given_up_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception | None, said: str
) -> None:
    given: list[int] = []

    def give_up(mask: int) -> None:
        given.append(mask)
        if error is not None:
            raise error

    monkeypatch.setattr(rights, "drop_all_but", give_up)
    assert process.give_up_rights(5) == said
    assert given == [5]
    assert [(record.message, record.levelno) for record in caplog.records] == [(said, logging.ERROR)] * bool(said)


@pytest.mark.parametrize("glibc", [True, False])
def test_memory_is_set_up_once(monkeypatch: pytest.MonkeyPatch, glibc: bool) -> None:
    calls: list[tuple[object, ...]] = []
    library = SimpleNamespace(mallopt=lambda *given: calls.append(given)) if glibc else SimpleNamespace()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(gc, "freeze", lambda: calls.append(("freeze",)))
    monkeypatch.setattr(gc, "set_threshold", lambda *given: calls.append(("threshold", *given)))
    process.tune_process()
    # M_ARENA_MAX, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h.
    of_malloc = [(-8, 1), (-1, 1048576), (-3, 4194304)] if glibc else []
    assert calls == [*of_malloc, ("freeze",), ("threshold", 50_000, 10, 10)]
