"""CPU time of a cycle inside the calls that read files; prints JSON, as `bench.probe` does.

In its own process, because an agent runs slower with a clock.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from bench.clock import Clock

if TYPE_CHECKING:  # the agent binds some defaults when it is imported: the clock must be installed before
    from kpod_metrics.agent import Agent


def _inside(clock: Clock, agent: "Agent", cycles: int) -> dict[str, Any]:
    from bench.probe import run_cycle  # noqa: PLC0415

    inside, calls = [], []
    for _ in range(cycles):
        clock.take()
        run_cycle(agent)
        count, seconds = clock.take()
        calls.append(count)
        inside.append(seconds * 1e3)
    return {"inside_ms": inside, "calls": calls}


def main() -> None:
    clock = Clock()
    clock.start()
    from bench import probe  # noqa: PLC0415

    probe.main({"inside": partial(_inside, clock)})


if __name__ == "__main__":
    main()
