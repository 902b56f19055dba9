"""What the bench makes of its figures: pages, rows, plots. No figure is measured."""

from pathlib import Path
from xml.etree import ElementTree

from bench import budget, counted, emulated, plot, report
from bench.report import Row, Sample


def test_page_keeps_what_was_not_measured_again(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    report.write(page, ("sched", "tcp"), {"sched": "## sched: old\n", "tcp": "## tcp: old\n"})
    report.write(page, ("sched", "tcp"), {"sched": "## sched: new\n"})
    assert page.read_text().endswith("## sched: new\n\n## tcp: old\n")
    page.write_text(page.read_text().replace("Machine: ", "Machine: another, "))
    report.write(page, ("sched", "tcp"), {"sched": "## sched: new\n"})
    assert "tcp" not in page.read_text()


def test_a_missed_limit_is_said() -> None:
    met = Row("x", Sample([1, 2, 3], "ms"), limit=2).cells()
    assert met == ["", "x", "2.00 ms [1.00 - 3.00]", "", "2 ms: met"]
    missed = Row("x", Sample([6.0]), Sample([10.0]), "them", limit=0.5).cells()
    assert missed == ["0.600", "x", "6.00", "them: 10.0", "0.5: **missed**"]
    drowned = Row("x", Sample([6.0]), Sample([-1.0]), "them", limit=0.5).cells()
    assert drowned[0] == "noise"
    assert "not measured" in drowned[-1]


def test_what_an_emulator_counted_is_told() -> None:
    counts = {
        "nothing": {"programs": [0.0, 0.0], "runs": [0.0, 0.0], "all": [700.0, 720.0]},
        "ours": {"programs": [50.0, 50.0], "runs": [1.0, 1.0], "all": [800.0, 820.0]},
        "bpftrace": {"programs": [100.0, 100.0], "runs": [2.0, 2.0], "all": [1100.0, 1120.0]},
    }
    refused = {"bcc tcprtt": "no kprobes"}
    told = emulated.section({"counts": dict.fromkeys(counted.ASKED, counts), "refused": refused}, "text")
    rows = [row.cells()[:4] for row in told.rows if row.what.startswith("another syscall")]
    assert rows == [
        ["0.500", "another syscall: programs", "50.0 [50.0 - 50.0]", "bpftrace: 100 [100 - 100]"],
        ["0.250", "another syscall: everything", "100 [100 - 100]", "bpftrace: 400 [400 - 400]"],
    ]
    assert "Not measured: `bcc tcprtt`. Ends with: no kprobes" in told.notes


def test_plots_are_drawn_to_scale() -> None:
    names = {"svg": "http://www.w3.org/2000/svg"}
    bars = ElementTree.fromstring(plot.bars("a < b", [("pipe: ours", 50), ("pipe: theirs", 100)], "ours"))
    drawn = bars.findall("svg:rect", names)
    assert [float(bar.get("width", "")) for bar in drawn] == [190, 380]
    assert [bar.get("fill") for bar in drawn] == [plot.OURS, plot.OTHERS]
    lines = ElementTree.fromstring(plot.lines("title", "pods", {"ms": [(100, 20), (50, 10)]}))
    [line] = lines.findall("svg:polyline", names)
    assert line.get("points") == "320.0,150.0 580.0,30.0"


def _figures(*calls: int) -> budget.Figures:
    return {pods: {"system calls": one, "opens": 0} for pods, one in zip(budget.SIZES, calls, strict=True)}


def test_what_a_cycle_takes_is_measured_until_each_pod_adds_the_same() -> None:
    measured = iter([_figures(18, 26, 45), _figures(20, 26, 42), _figures(1, 1, 1)])
    assert budget.evenly(lambda: next(measured)) == _figures(18, 26, 42)
    assert next(measured) == _figures(1, 1, 1)
    measured = iter([_figures(number, 26, 90 - number) for number in range(10)])
    assert budget.evenly(lambda: next(measured)) == _figures(0, 26, 86)
