"""What the generated parts of pages say of collectors."""

import pytest

from kpod_metrics import reference
from kpod_metrics.collectors import registered
from kpod_metrics.reference import collectors_as_markdown, profiles_as_markdown, with_parts


def test_cost_of_one_more_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {name: registered()[name] for name in ("disk", "run_queue", "syscall")}
    monkeypatch.setattr(reference, "registered", lambda: kinds)
    assert "\nA further block device adds 4, a tracked syscall 12.\n" in reference.as_markdown()


def test_every_collector_has_a_row_and_a_profile() -> None:
    rows = [line.split(" | ") for line in collectors_as_markdown().splitlines()[2:]]
    assert sorted(row[0].strip("| `") for row in rows) == list(registered())
    sources = {row[0].strip("| `"): row[2] for row in rows}
    assert sources == {name: "BPF" if kind.uses_bpf else "files" for name, kind in registered().items()}
    for kind in registered().values():
        assert profiles_as_markdown().count(kind.description) == 1


def test_part_is_put_into_its_place() -> None:
    page = "# A\n\n<!-- x: written by `make generate` -->\n\nold\n\n<!-- end -->\n\nlast\n"
    made = with_parts(page, {"x": lambda: "new\n"})
    assert made == page.replace("old", "new")
    with pytest.raises(ValueError, match=r"^no place for 'y'$"):
        with_parts(page, {"y": lambda: "new\n"})
