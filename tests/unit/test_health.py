"""The agent's own metrics: what is left out while it is not known."""

from pathlib import Path

import pytest

from kpod_metrics import health
from kpod_metrics.kernel.programs import ProgramHealth


@pytest.mark.parametrize(("knob", "shown"), [("0\n", (None, None)), ("1\n", (2.0, 7)), (None, (2.0, 7))])
def test_times_of_programs_are_there_while_the_kernel_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knob: str | None, shown: tuple[float | None, int | None]
) -> None:
    """They stay in the kernel as they were; without the knob's file nobody can have turned it off."""
    file = tmp_path / "bpf_stats_enabled"
    if knob is not None:
        file.write_text(knob)
    monkeypatch.setattr(health, "STATISTICS", str(file))
    [(_, labels, values)] = health.kernel([], [ProgramHealth("task_leaves", 2.0, 7, 1)])
    assert (labels, values) == (("task_leaves",), (*shown, 1))
