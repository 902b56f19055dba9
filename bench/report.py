"""Writes the figures as a page: medians with their range, ratios, and limits."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

HEAD = """\
# Performance: the figures

Written by `make bench`, as root. `make bench ARGS="NAME ..."` measures single parts and rewrites only them.
A figure is the median; the lowest and highest measurement are in brackets. A ratio is the cost of kpod-metrics ("ours")
divided by the cost of the peer, measured alternately in the same run: below 1, kpod-metrics costs less. "Noise" means
that the difference is not clearly above 0. The limits are the project's own requirements.

Other costs do not depend on the speed of the machine, and are counted: system calls and opened files per cycle, bytes
and memory per series, the verifier's instructions. `bench/budget.json` has the accepted counts, a test fails if a
count is higher, and `python -m bench.budget --write` accepts new counts. An emulator counts the instructions that an
event executes ([Kernels](evidence-kernels.md#instructions-that-an-event-executes)), and those of other tools (part
"emulated").
"""

PLOTS = "performance"
"""The folder of plots beside the page."""


def short(number: float) -> str:
    """Write a number with three significant digits."""
    if abs(number) >= 1000:
        return f"{number:,.0f}".replace(",", " ")
    digits = 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2 if abs(number) >= 1 else 3
    return f"{number:.{digits}f}"


@dataclass(frozen=True)
class Sample:
    """Measurements of one thing."""

    values: Sequence[float]
    unit: str = ""

    @property
    def median(self) -> float:
        """The median of the values."""
        return median(self.values)

    @property
    def stands_out(self) -> bool:
        """Whether at least three quarters of the values are above 0; net values can be below."""
        return sorted(self.values)[len(self.values) // 4] > 0

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if len(self.values) == 1:
            return f"{short(self.median)}{unit}"
        return f"{short(self.median)}{unit} [{short(min(self.values))} - {short(max(self.values))}]"


@dataclass(frozen=True)
class Row:
    """One row. `limit` is for the ratio if there is a peer, otherwise for our value."""

    what: str
    ours: Sample
    peer: Sample | None = None
    peer_name: str = ""
    limit: float | None = None

    @property
    def ratio(self) -> float | None:
        """Our value divided by the peer's; None if there is no peer, or if one of them is noise."""
        if self.peer is None or not self.peer.stands_out or not self.ours.stands_out:
            return None
        return self.ours.median / self.peer.median

    def cells(self) -> list[str]:
        """Return the cells of the row."""
        ratio = "" if self.peer is None else "noise" if self.ratio is None else short(self.ratio)
        peer = "" if self.peer is None else f"{self.peer_name}: {self.peer}"
        return [ratio, self.what, str(self.ours), peer, self._limit()]

    def _limit(self) -> str:
        if self.limit is None:
            return ""
        value = self.ours.median if self.peer is None else self.ratio
        unit = self.ours.unit if self.peer is None else ""
        verdict = "**not measured**" if value is None else "met" if value <= self.limit else "**missed**"
        return f"{self.limit:g}{f' {unit}' if unit else ''}: {verdict}"


@dataclass
class Section:
    """The figures of one part."""

    title: str
    text: str
    rows: list[Row] = field(default_factory=list)
    raw: list[tuple[str, ...]] = field(default_factory=list)
    """A second table without ratios; the first line is the header."""
    notes: list[str] = field(default_factory=list)
    """Paragraphs at the end, such as what could not be measured, and why."""
    plots: dict[str, str] = field(default_factory=dict)
    """SVG images by name, each a file beside the page."""

    def markdown(self, name: str) -> str:
        """Return the section in Markdown."""
        parts = [heading(name, self.title), "", self.text.strip(), "", command(name), ""]
        if self.rows:
            parts += _table([("ratio", "what", "ours", "peer", "limit"), *(row.cells() for row in self.rows)], {0})
        if self.raw:
            parts += ["", *_table(self.raw, set())]
        for plot in self.plots:
            parts += ["", f"![{plot}]({PLOTS}/{plot}.svg)"]
        for note in self.notes:
            parts += ["", note]
        return "\n".join(parts) + "\n"


def heading(name: str, title: str) -> str:
    """Return the heading of a part."""
    return f"## {name}: {title}"


def command(name: str) -> str:
    """Return the command that reproduces a part."""
    return f'Reproduce: `make bench ARGS="{name}"`'


def _table(lines: Sequence[Sequence[str]], right: set[int]) -> list[str]:
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    rule = "|".join("---:" if at in right else "---" for at in range(len(lines[0])))
    return [head, f"|{rule}|", *body]


def machine() -> str:
    """Return a description of this machine."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"Machine: {platform.system()} {platform.release().split('-')[0]} on {platform.machine()}, "
        f"{os.cpu_count()} CPUs ({model}), {memory:.0f} GiB; Python {platform.python_version()}.\n"
    )


def write(path: Path, order: Sequence[str], made: dict[str, str], plots: Mapping[str, str] | None = None) -> None:
    """Write the page, and its plots into a folder beside it.

    Parts that were not measured stay unchanged if the machine is the same.
    """
    sections: dict[str, str] = {}
    if path.exists():
        old = path.read_text()
        if machine() in old:
            for chunk in re.split(r"(?m)^(?=## )", old)[1:]:
                sections[chunk[3:].partition(":")[0]] = chunk.rstrip("\n") + "\n"
    sections.update(made)
    body = [sections[name] for name in order if name in sections]
    path.write_text("\n".join([HEAD, machine(), *body]))
    for name, plot in (plots or {}).items():
        folder = path.parent / PLOTS
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.svg").write_text(plot)
