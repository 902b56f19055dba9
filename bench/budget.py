"""Counts costs that do not depend on the load of the machine, and compares them with the accepted ones.

`python -m bench.budget` prints them as JSON; `--write` accepts them, into `budget.json`. As root.

- System calls and opened files of a cycle, of each pod and beside them, from cycles of the real agent with real
  cgroups, counted by a kernel program and an audit hook. The agent sees a part of the tree that has no controllers as
  its root, so that nobody else's cgroups count, and the files are the same on every machine. Calls of the allocator
  and between threads are left out: they depend on who runs when. Which iterators the kernel has decides how much is
  asked for: there is a row for each of `ROWS`, and those that this kernel can show are measured.
- Instructions that the verifier looked at, program by program: the nearest to a cost of an event that can be counted,
  as the kernel neither counts executed instructions nor runs tp_btf programs by BPF_PROG_TEST_RUN. They depend on the
  kernel: the limit is the most that was accepted on any (`tests/kernels/instructions.json` has the others' figures).
- Allocations of a cycle: all that the interpreter asks of its allocators, also what is given back at once.
- Bytes and memory of a series, from a node that is made up.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import struct
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.rig import FORCED_OFF, SWITCH, Options, Pods, compile_program, compile_workload
from bench.simulate import Node, squeezed
from kpod_metrics import agent as agents
from kpod_metrics import settings
from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.check import features
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import BpfCollector, Environment
from kpod_metrics.exposition.protobuf import PROTOBUF
from kpod_metrics.exposition.text import TEXT
from kpod_metrics.features import FILE_ITERATOR, SOCKET_ITERATOR, TASK_ITERATOR
from kpod_metrics.kernel import libbpf
from kpod_metrics.kernel.syscalls import ARM64, X86_64

ACCEPTED = Path(__file__).with_suffix(".json")
ON_OTHER_KERNELS = Path(__file__).parents[1] / "tests" / "kernels" / "instructions.json"
SIZES = (8, 16, 32)
"""Numbers of pods, each twice the last, to see whether a cost grows faster."""
WARM_UP, CYCLES, TRIES = 5, 3, 5
GROWING = ("system calls", "opens")
"""Counts that grow evenly with the pods."""
Figures = dict[int, dict[str, int]]
"""Counts by number of pods and kind."""
VERIFIED = slice(216, 220)
"""Offset of verified_insns in struct bpf_prog_info (include/uapi/linux/bpf.h, since 5.16)."""

NUMBERS = {"x86_64": X86_64, "aarch64": ARM64}[platform.machine()]
BPF = NUMBERS["bpf"]
_BY_CHANCE = """
brk clone clone3 exit futex getrandom gettid madvise mmap mprotect mremap munmap rseq rt_sigprocmask rt_sigaction
sched_yield set_robust_list
"""
BY_CHANCE = frozenset(NUMBERS[name] for name in _BY_CHANCE.split())
NOT_ACCEPTED = ("linear", "bpf() calls", "objects kept", "lacking")
"""Figures that are judged as they are: what two sizes have, the one after the other, and what must be about none."""
PROFILES = ("minimal", "standard", "comprehensive")
ROWS: dict[str, tuple[str, ...]] = {
    "every iterator": (),
    "TCP by hooks": (SOCKET_ITERATOR,),
    "no iterator": (SOCKET_ITERATOR, TASK_ITERATOR, FILE_ITERATOR),
}
"""Kernel features that are forced off for a row."""
ITERATORS = frozenset(ROWS["no iterator"])


class Calls:
    """Counts this process' system calls, by number."""

    def __init__(self, options: Options) -> None:
        self._object = libbpf.Object(str(compile_program(options, "calls")))
        self._object.set_rodata("process", struct.pack("=I", os.getpid()))
        self._object.load()
        self._link = self._object.programs["call_begins"].attach()

    def read(self) -> Counter[int]:
        """Return the calls so far. A read itself always makes the same number of calls."""
        entries = self._object.maps["calls"].lookup_batch(512)
        return Counter({struct.unpack("=I", key)[0]: struct.unpack("=Q", value)[0] for key, value in entries})

    def close(self) -> None:
        """Detach."""
        self._link.close()
        self._object.close()


class Allocations:
    """Counts the allocations of this process' interpreter; it cannot be switched off."""

    def __init__(self, options: Options) -> None:
        self._library = ctypes.CDLL(compile_workload(options, "allocations", "-shared", "-fPIC"))
        self._library.allocations.restype = ctypes.c_ulong
        self._library.watch(ctypes.pythonapi.PyMem_GetAllocator, ctypes.pythonapi.PyMem_SetAllocator)

    def read(self) -> int:
        """Return the allocations so far."""
        made: int = self._library.allocations()
        return made


_opened = 0


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    global _opened  # noqa: PLW0603 - a hook cannot be removed, and has no state of its own
    if event in {"open", "os.listdir", "os.scandir"}:
        _opened += 1


@contextmanager
def _agent(profile: str, root: Path, row: str) -> Iterator[agents.Agent]:
    given = {"profile": profile, "node_name": "bench", "discovery": "cgroup", "cgroup_root": str(root)}
    given["kernel_features_off"] = ",".join(FORCED_OFF.union(ROWS[row]))
    loaded, _ = settings.load(given, SWITCH, None, list(registered()))
    agent = agents.build(loaded)
    agent.open()
    try:
        yield agent
    finally:
        agent.close()


def cycles(options: Options, profile: str, row: str, allocations: Allocations) -> Figures:
    """Return calls, opened files, allocations and new objects per cycle, by pods: the minimum of some cycles."""
    found = {}
    for pods in SIZES:
        with Pods(options, pods, own_namespaces=True) as there, _agent(profile, there.root, row) as agent:
            calls = Calls(options)
            try:
                seen = []
                for cycle in range(WARM_UP + CYCLES):
                    before, opened, blocks = calls.read(), _opened, sys.getallocatedblocks()
                    made = allocations.read()
                    agent.cycle()
                    agent.published.get(TEXT, True)
                    made = allocations.read() - made
                    new = sys.getallocatedblocks() - blocks
                    counted = calls.read() - before
                    if cycle >= WARM_UP:
                        calls_made = sum(count for call, count in counted.items() if call not in BY_CHANCE | {BPF})
                        seen.append(
                            {
                                "system calls": calls_made,
                                "bpf() calls": counted[BPF],
                                "opens": _opened - opened,
                                "allocations": made,
                                "objects kept": new,
                            }
                        )
            finally:
                calls.close()
        found[pods] = {what: min(one[what] for one in seen) for what in seen[0]}
    return found


def slopes(found: Figures, what: str) -> tuple[float, float]:
    """Return what a pod adds: from the smallest number of pods to the middle, and from there to the largest."""
    few, middle, most = SIZES
    return (
        (found[middle][what] - found[few][what]) / (middle - few),
        (found[most][what] - found[middle][what]) / (most - middle),
    )


def evenly(measured: Callable[[], Figures]) -> Figures:
    """Return the minimum of some measurements: other work on the machine can only increase one."""
    found = measured()
    for _ in range(TRIES - 1):
        if all(first == second for first, second in (slopes(found, what) for what in GROWING)):
            break
        again = measured()
        found = {
            pods: {what: min(figure, again[pods][what]) for what, figure in one.items()} for pods, one in found.items()
        }
    return found


def lacking() -> dict[str, str]:
    """Return the features that are missing or forced off, and why."""
    states = features(Environment(cgroup_root=find_root()))
    refused = {state.name: state.refusal for state in states if not state.available}
    return refused | dict.fromkeys(sorted(FORCED_OFF), "forced off")


def verified(row: str) -> dict[str, int]:
    """Return the verifier's counts by collector and program, of the programs that this kernel loads."""
    found = {}
    off = FORCED_OFF.union(ROWS[row])
    for name, kind in registered().items():
        if not issubclass(kind, BpfCollector):
            continue
        collector = kind(Environment(cgroup_root=find_root(), syscalls=settings.DEFAULT_SYSCALLS, forced_off=off))
        try:
            collector.open()
            if collector._loaded is None:  # the cgroups lack its controller
                continue
            for program in collector._loaded.object.programs.values():
                if program.loaded:
                    info = ctypes.create_string_buffer(VERIFIED.stop)
                    size = ctypes.c_uint32(len(info))
                    libbpf.library().so.bpf_obj_get_info_by_fd(program.fd, info, ctypes.byref(size))
                    found[f"{name}/{program.name}"] = struct.unpack("=I", info.raw[VERIFIED])[0]
        finally:
            collector.close()
    return found


def series(profile: str) -> dict[str, float]:
    """Return bytes per series in each format, and memory: of store and samples, and additionally at the peak."""
    node = Node(profile, 100)
    gc.collect()
    tracemalloc.start()
    node.cycle()
    body = b"".join(node.renderer.render(node.store).pieces(TEXT))
    number = sum(1 for line in body.splitlines() if line[:1] != b"#")
    del body
    for _ in range(3):
        node.cycle()
        page = node.renderer.render(node.store)
        text = b"".join(page.pieces(TEXT))
    held = tracemalloc.get_traced_memory()[0] - len(text)
    tracemalloc.reset_peak()
    node.cycle()
    page = node.renderer.render(node.store)
    text = b"".join(page.pieces(TEXT))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    figures = {
        "plain": len(text),
        "zipped": len(squeezed(text)),
        "protobuf, zipped": len(squeezed(b"".join(page.pieces(PROTOBUF)))),
        "held since the first cycle": held,
        "at the peak of a cycle": peak - held,
    }
    return {"series of a pod": number / 100} | {name: round(value / number, 1) for name, value in figures.items()}


def measure() -> dict[str, Any]:
    """Return all figures, and for those that grow with the pods whether they grow evenly."""
    made: dict[str, Any] = {name: {} for name in ("series", "cycle", "allocations", "verifier", *NOT_ACCEPTED)}
    made["series"] = {profile: series(profile) for profile in PROFILES}
    made["lacking"] = lacking()
    sys.addaudithook(_hook)
    agents.tune_process()
    shown = [row for row, off in ROWS.items() if ITERATORS & made["lacking"].keys() <= set(off)]
    with tempfile.TemporaryDirectory(prefix="kpod-bench-") as folder:
        options = Options(quick=True, pods=0, scratch=Path(folder))
        allocations = Allocations(options)
        for row, profile in ((row, profile) for row in shown for profile in PROFILES):
            found, most = evenly(lambda r=row, p=profile: cycles(options, p, r, allocations)), SIZES[-1]  # type: ignore[misc]
            grown = {what: slopes(found, what) for what in GROWING}
            figures = {
                "linear": grown,
                "allocations": {f"{pods} pods": one["allocations"] for pods, one in found.items()},
                "bpf() calls": found[most]["bpf() calls"] - found[SIZES[0]]["bpf() calls"],
                "objects kept": found[most]["objects kept"],
                "cycle": {
                    "system calls of a pod": grown["system calls"][1],
                    "system calls beside": found[most]["system calls"] - most * grown["system calls"][1],
                    "opens of a pod": grown["opens"][1],
                    "opens beside": found[most]["opens"] - most * grown["opens"][1],
                    "bpf() calls": found[most]["bpf() calls"],
                },
            }
            for name, figure in figures.items():
                made[name].setdefault(row, {})[profile] = figure
    made["verifier"] = {row: verified(row) for row in shown}
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.budget")
    parser.add_argument("--write", action="store_true", help=f"accept the figures: write {ACCEPTED.name}")
    options = parser.parse_args()
    made = measure()
    print(json.dumps(made, indent=2))
    if options.write:
        if missing := sorted(ITERATORS & made["lacking"].keys()):
            parser.error(f"only a kernel with every iterator can show all rows: {', '.join(missing)} is not there")
        before = json.loads(ACCEPTED.read_text())
        for row, profiles in made["linear"].items():
            for profile, grown in profiles.items():
                if any(first != second for first, second in grown.values()):
                    print(f"too busy to measure cycles of {profile}, {row}: as they were accepted", file=sys.stderr)
                    for figures in ("cycle", "allocations"):
                        made[figures][row][profile] = before[figures][row][profile]
        for name in NOT_ACCEPTED:
            del made[name]
        ACCEPTED.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
