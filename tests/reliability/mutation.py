"""Breaks the code in one place at a time and looks whether the tests that are about it fail.

`python -m tests.reliability.mutation python|bpf --sample 100`; as root for bpf. Each mutant is put into a copy of the
package that its tests import; mutants that do not compile are none. Prints the survivors, and adds the share that was
caught to the report. The whole of both (--sample 0) needs a separate machine, for some hours.
"""

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hatch_build import ROOT, compile_objects
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import BpfCollector
from tests.reliability.conftest import SEED
from tests.report import Outcome, add

PACKAGE = ROOT / "src" / "kpod_metrics"
EXPOSITION = ["tests/unit/exposition/test_text.py", "tests/unit/exposition/test_protobuf.py"]
HUB = "tests/unit/agent/test_cycle.py"
STORE = ["tests/unit/test_store.py", "tests/unit/test_ended_series.py", "tests/unit/test_limits.py"]
PYTHON = {
    "pods/resolver.py": ["tests/unit/pods/test_resolver.py", "tests/unit/pods/test_standalone.py"],
    "store.py": [*STORE, "tests/unit/exposition/test_page.py"],
    "growth.py": STORE,
    "limits.py": STORE,
    "series.py": STORE,
    "sources.py": STORE,
    "headroom.py": ["tests/unit/test_headroom.py"],
    "histogram.py": ["tests/unit/test_histogram.py"],
    "exposition/text.py": EXPOSITION,
    "exposition/protobuf.py": EXPOSITION,
    "exposition/wire.py": [*EXPOSITION, "tests/unit/exposition/test_wire.py"],
    "exposition/samples.py": EXPOSITION,
    "exposition/page.py": EXPOSITION,
    "kernel/maps.py": ["tests/unit/kernel/test_maps.py"],
    "agent/assembly.py": ["tests/unit/agent/test_assembly.py"],
    "agent/attribution.py": ["tests/unit/agent/test_attribution.py", HUB],
    "agent/cycle.py": ["tests/unit/agent/test_run.py", HUB],
    "agent/exporter.py": ["tests/unit/agent/test_assembly.py"],
    "agent/process.py": ["tests/unit/agent/test_process.py"],
    "agent/report.py": ["tests/unit/agent/test_report.py", "tests/unit/agent/test_run.py"],
    "agent/state.py": ["tests/unit/agent/test_state.py", HUB],
    "agent/workers.py": ["tests/unit/agent/test_workers.py", HUB],
}
_LOSS = "tests/live/test_loss.py"
BPF = {"cgroups.bpf.c": ["tests/live/test_cgroup_events.py"]} | {
    f"{name}.bpf.c": [f"tests/live/test_{name}.py", *([_LOSS] if name == "run_queue" else [])]
    for name, kind in registered().items()
    if issubclass(kind, BpfCollector)
}
"""The program of each collector, with the live test that has its name."""


EXPLAINED = {
    ("pods/resolver.py", "CAPACITY = ", "10000 and one more"): "a bound that promises no number",
    ("pods/resolver.py", "self.changes ", "0 and one more"): "the same: a number to be compared with itself",
    ("pods/resolver.py", "self.changes ", "1 and one more"): "the same: a number to be compared with itself",
    ("store.py", "_begun.clear()", "dropped"): "the same: it only looks again for series that are gone already",
    ("store.py", "[False] * len", "False turned"): "the same: more is written again than has changed",
    ("store.py", "continue", "dropped"): "the same: more is written again than has changed",
    ("store.py", "{table: 0 for", "0 and one more"): "the same: a number to be compared with itself",
    ("series.py", "self.cycle = 0", "0 and one more"): "the same: there is nothing yet to add to",
    ("store.py", "_cycles[table] += 1", "1 and one more"): "the same: a number to be compared with itself",
    ("growth.py", "min(values) >= 0", "0 and one more"): "the same by the longer way",
    ("growth.py", "min(values) >= 0", "GtE to Gt"): "the same by the longer way",
    ("limits.py", "strict=True", "True turned"): "the same: both are as long as the table's labels",
    ("store.py", "strict=True", "True turned"): "the same: both are as long as the table's labels",
    ("headroom.py", "walk.close()", "dropped"): "the same: a walk that may keep no files has none open",
    ("histogram.py", "return upper_bound", "2 and one more"): "reached only by rounding, beyond 2**53 observations",
    ("histogram.py", "return upper_bound", "Sub to Add"): "reached only by rounding, beyond 2**53 observations",
    ("histogram.py", "return upper_bound", "returns nothing"): "reached only by rounding, beyond 2**53 observations",
    ("exposition/text.py", "if value > 0", "0 and one more"): "the same: it is infinite there",
    ("exposition/text.py", "if value > 0", "Gt to GtE"): "the same: it is infinite there",
    ("exposition/wire.py", "range(128)", "128 and one more"): "one of them that nobody asks for",
    ("exposition/wire.py", "number < 1 << 14", "LShift to RShift"): "the same: two bytes the long way",
    ("exposition/samples.py", "strict=True", "True turned"): "the same: both are as long as the table's labels",
    ("exposition/samples.py", "self.stays = False", "False turned"): "the same: more is kept than is asked for again",
    ("exposition/page.py", "known.stays = True", "True turned"): "the same: what could be kept is written again",
    ("kernel/maps.py", "lookup_batch(1)", "1 and one more"): "the same: it is only asked whether there is the call",
    ("agent/workers.py", "<= {Row}", "LtE to Lt"): "the same by the longer way",
    ("syscall.bpf.c", "number >= SYSCALL_NUMBERS", ">= to >"): "a number that no kernel has",
    ("syscall.bpf.c", "ret >= -4095", ">= to >"): "an error that no kernel has",
    ("net_tcp.bpf.c", "skc_state);", "dropped"): "the same: the next change of state says from which",
    ("net_tcp.bpf.c", "!is_tcp(sk)", r"\|\| to &&"): "the state of a socket without TCP is kept, which nobody asks for",
    ("net_tcp.bpf.c", "(now - last) > 0", r"(?<![-<>=])>(?![>=]) to >="): "the same: 0 is added",
    ("cgroups.bpf.c", "length < 0", r"(?<![-<>=])<(?![<=]) to <="): "the same: a string has an end",
}
"""Why survivors live: by the file, what is in the line, and what was changed."""


@dataclass(frozen=True)
class Mutant:
    """A file with one thing changed."""

    file: str
    line: int
    what: str
    source: str


_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


class _Change(ast.NodeTransformer):
    """Makes the `at`-th change that can be made; with at = -1 counts them."""

    def __init__(self, at: int) -> None:
        self.count, self._at = 0, at
        self.line, self.what = 0, ""

    def _now(self, node: ast.AST, what: str) -> bool:
        self.count += 1
        if self.count - 1 != self._at:
            return False
        self.line, self.what = getattr(node, "lineno", 0), what
        return True

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        # Not what says things to people and to the type checker.
        first = node.body[0]
        documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        node.body = node.body[documented:] or node.body
        node.body = [self.visit(one) for one in node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node  # they are for the type checker

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        for at, operator in enumerate(node.ops):
            other = _COMPARE[type(operator)]
            if self._now(node, f"{type(operator).__name__} to {other.__name__}"):
                node.ops[at] = other()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        if self._now(node, "and to or, or to and"):
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and self._now(node, "not dropped"):
            return node.operand
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if (other := _BINARY.get(type(node.op))) and self._now(node, f"{type(node.op).__name__} to {other.__name__}"):
            node.op = other()
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool):
            return ast.Constant(not node.value) if self._now(node, f"{node.value} turned") else node
        if isinstance(node.value, int) and self._now(node, f"{node.value} and one more"):
            return ast.Constant(node.value + 1)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if node.value is not None and self._now(node, "returns nothing"):
            return ast.Return(None)
        return node

    def _drop(self, node: ast.stmt) -> ast.AST:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return node  # a docstring
        self.generic_visit(node)
        return ast.Pass() if self._now(node, "dropped") else node

    visit_Expr = visit_AugAssign = visit_Delete = visit_Continue = visit_Break = visit_Raise = _drop  # noqa: N815


def of_python(file: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    source = (PACKAGE / file).read_text()
    counter = _Change(-1)
    counter.visit(ast.parse(source))
    for at in range(counter.count):
        change = _Change(at)
        tree = ast.fix_missing_locations(change.visit(ast.parse(source)))
        yield Mutant(file, change.line, change.what, ast.unparse(tree))


IN_MACHINES = {"oom_group_id", "count_group_kill", "count_victim", "victim_chosen", "process_exits"}
"""Functions of BPF that are tried with the memory controller of version 2, by tests/live/test_oom.py, and on kernels of
which some need one and some another: only where `make test-kernels` boots a machine. Their mutants are left out."""
_FUNCTION = re.compile(r"^(?:static|int)\b.*?(?:BPF_PROG\()?(\w+)[(,]")
_C_SWAPS = [
    (r"==", "!="),
    (r"!=", "=="),
    (r"<=", "<"),
    (r">=", ">"),
    (r"(?<![-<>=])<(?![<=])", "<="),
    (r"(?<![-<>=])>(?![>=])", ">="),
    (r"&&", "||"),
    (r"\|\|", "&&"),
    (r"\+=", "-="),
    (r"\+\+", "--"),
    (r"if \(!", "if ("),
    (r"if \((?!!)([^()]*(?:\([^()]*\)[^()]*)*)\)$", r"if (!(\1))"),
    (r"(?<= )- ", "+ "),
    (r"(?<= )\+ ", "- "),
]
_STATEMENT = re.compile(r"^\t+(?!\t|return|goto|break|struct|__u|u\d|int|long|static|const|enum|bool)[^{}#/*]*;$")


def of_bpf(file: str) -> Iterator[Mutant]:
    """Every mutant of a program's source: within functions, not in comments, one change a line."""
    lines = (ROOT / "bpf" / file).read_text().splitlines()
    comment, function = False, ""
    for number, line in enumerate(lines):
        if match := _FUNCTION.match(line):
            function = match[1]
        comment = (comment or "/*" in line) and "*/" not in line
        if (
            function in IN_MACHINES
            or comment
            or not line.startswith("\t")
            or line.lstrip().startswith(("*", "/", "__uint", "__type"))
        ):
            continue
        changed = {
            f"{old} to {new}": line[: match.start()] + match.expand(new) + line[match.end() :]
            for old, new in _C_SWAPS
            for match in re.finditer(old, line)
        }
        if _STATEMENT.match(line):
            changed["dropped"] = "\t;"
        for what, other in changed.items():
            yield Mutant(file, number + 1, what, "\n".join([*lines[:number], other, *lines[number + 1 :]]) + "\n")


def survives(mutant: Mutant, tests: Sequence[str], scratch: Path) -> bool | None:
    """Whether a mutant's tests pass; None if it does not compile."""
    package = scratch / "kpod_metrics"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    if mutant.file.endswith(".c"):
        made = scratch / mutant.file
        made.write_text(mutant.source)
        try:
            compile_objects([made], package / "bpf")
        except SystemExit:
            return None
    else:
        (package / mutant.file).write_text(mutant.source)
    environment = os.environ | {"PYTHONPATH": str(scratch), "PYTHONDONTWRITEBYTECODE": "1", "CI": ""}
    longest = "timeout=60" if mutant.file.endswith(".c") else "timeout=10"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", longest, *tests]
    try:
        done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT, env=environment, timeout=300)
    except subprocess.TimeoutExpired:
        return False
    # 3: pytest itself fails; 4: a conftest cannot be imported.
    assert done.returncode in {0, 1, 2, 3, 4}, done.stdout[-2000:].decode() + done.stderr[-2000:].decode()
    return done.returncode == 0


def unchanged(file: str) -> Mutant:
    """A mutant that is none: where its tests fail they would catch every other one, too."""
    folder = ROOT / "bpf" if file.endswith(".c") else PACKAGE
    return Mutant(file, 0, "nothing", (folder / file).read_text())


def explained(mutant: Mutant) -> str:
    """Say what a survivor is, and why it lives where that is known."""
    folder = ROOT / "bpf" if mutant.file.endswith(".c") else PACKAGE
    line = (folder / mutant.file).read_text().splitlines()[mutant.line - 1]
    mine = (mutant.file, mutant.what)
    why = [said for (file, part, what), said in EXPLAINED.items() if (file, what) == mine and part in line]
    return f"`{mutant.file}:{mutant.line}` {mutant.what}" + "".join(f" ({said})" for said in why)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["python", "bpf"])
    parser.add_argument("--sample", type=int, default=100, help="how many of them; 0: all")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after that long")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--skip", type=int, default=0, help="how many of them to leave out first: a run that goes on")
    parser.add_argument("--only", default="", help="one file, or a folder")
    options = parser.parse_args()
    suites = PYTHON if options.kind == "python" else BPF
    make = of_python if options.kind == "python" else of_bpf
    mutants = [mutant for file in suites if file.startswith(options.only) for mutant in make(file)]
    every = len(mutants)
    random.Random(options.seed).shuffle(mutants)
    caught = tried = 0
    end = time.monotonic() + 60 * options.minutes
    alive: list[Mutant] = []
    with tempfile.TemporaryDirectory() as folder:
        for file in {tuple(suites[mutant.file]): mutant.file for mutant in mutants}.values():
            assert survives(unchanged(file), suites[file], Path(folder)), f"{suites[file]} fail as it is"
        for mutant in mutants[options.skip :]:
            if tried == (options.sample or every) or time.monotonic() > end:
                break
            result = survives(mutant, suites[mutant.file], Path(folder))
            if result is None:
                continue
            tried += 1
            caught += not result
            if result:
                alive.append(mutant)
            state = "survives" if result else "caught"
            print(f"{tried}: {mutant.file}:{mutant.line}: {mutant.what}: {state}", flush=True)
    share = f"{caught} of {tried}, {100 * caught / max(tried, 1):.0f} %"
    print(share)
    left = "; ".join(map(explained, alive)) or "none"
    what = {"python": "Python: " + ", ".join(PYTHON), "bpf": "BPF: " + ", ".join(BPF)}[options.kind]
    add([Outcome("Mutation", what, f"{tried} of {every}, seed {options.seed}", share, left.replace("|", "\\|"))])
    return 0 if caught >= 0.85 * tried else 1


if __name__ == "__main__":
    sys.exit(main())
