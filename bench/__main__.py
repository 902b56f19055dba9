"""`python -m bench [PART ...]`: measure, print, and write docs/evidence-performance.md."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from bench import cycle, emulated, exporters, fleet, growth, memory, report, rig, sched, scrape, syscall, tcp, tools
from bench.report import Section

PARTS: dict[str, Callable[[rig.Options], Section]] = {
    "sched": sched.run,
    "syscall": syscall.run,
    "tcp": tcp.run,
    "tools": tools.run,
    "emulated": emulated.run,
    "cycle": cycle.run,
    "scrape": scrape.run,
    "memory": memory.run,
    "exporters": exporters.run,
    "growth": growth.run,
    "fleet": fleet.run,
}
PAGE = rig.BENCH.parent / "docs" / "evidence-performance.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a short run to try the bench; writes no page by default")
    parser.add_argument(
        "--pods", type=int, default=0, metavar="N", help="pods of the parts from cycle to exporters (default: 100)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"page to write (default: docs/{PAGE.name})")
    arguments = parser.parse_args()
    for name in arguments.parts:
        if name not in PARTS:
            parser.error(f"there is no part {name}: {', '.join(PARTS)}")
    if os.geteuid():
        parser.error("needs root: it loads programs into the kernel and makes cgroups")
    signal.signal(signal.SIGTERM, rig.stop)
    if os.getloadavg()[0] > 0.5:
        rig.say(f"this machine is busy (load {os.getloadavg()[0]}): figures will spread")
    made: dict[str, str] = {}
    plots: dict[str, str] = {}
    failed = False
    with rig.scratch_folder() as folder:
        options = rig.Options(arguments.quick, arguments.pods or (10 if arguments.quick else 100), Path(folder))
        for name in arguments.parts or PARTS:
            try:
                section = PARTS[name](options)
                plots |= section.plots
                made[name] = section.markdown(name)
            except rig.SkippedError as reason:
                made[name] = Section("not measured", f"Not measured: {reason}.").markdown(name)
            except Exception:
                traceback.print_exc()
                failed = True
                continue
            rig.end_if_stopped()
            print(made[name], flush=True)
    page = arguments.output or (None if arguments.quick else PAGE)
    if page is not None:
        report.write(page, list(PARTS), made, plots)
        rig.say(f"written: {page}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
