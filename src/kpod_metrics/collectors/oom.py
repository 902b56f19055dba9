"""OOM kills, from `bpf/oom.bpf.c`."""

from collections.abc import Iterable

from kpod_metrics.collectors.kit import BpfCollector, Environment, Question, Signal
from kpod_metrics.features import BATCH, TP_BTF
from kpod_metrics.kernel import libbpf
from kpod_metrics.kernel.maps import Entry
from kpod_metrics.kernel.programs import attach_all
from kpod_metrics.metrics import Profile, Row, Scope, Table, counter

OOM_KILLS = counter(
    "kpod_mem_oom_kills_total",
    "Processes killed by the OOM killer.",
    "mark_victim or, if that passes only a PID, the exit of a process whose signal_struct.oom_mm is set",
    profile=Profile.MINIMAL,
    events=True,
    advice="KpodOomKill fires for each: find out whether the pod's limit or the node's memory was reached.",
)
GROUP_KILLS = counter(
    "kpod_mem_oom_group_kills_total",
    "How often the OOM killer killed all processes of a container or pod together. "
    "(kpod_mem_oom_kills_total counts the processes.)",
    "victims as for kpod_mem_oom_kills_total, in mem_cgroup.oom_group; equals oom_group_kill of memory.events (5.17)",
    advice=(
        "As for kpod_mem_oom_kills_total. The container or its pod has memory.oom.group set. If it is set above the "
        "cgroup whose limit was reached, the kernel kills only one process, and this counts too."
    ),
)
KILLS = Table((OOM_KILLS,))
GROUPS = Table((GROUP_KILLS,), scope=Scope.POD)
_EMPTY = 8
"""Instructions of a program that does nothing, with a margin."""


class Oom(BpfCollector):
    """OOM kills of each cgroup."""

    name = "oom"
    description = "OOM kills"
    question = Question.MEMORY
    features = (TP_BTF, BATCH)

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return a table for kills of containers, and one for group kills of pods."""
        return (KILLS, GROUPS)

    def attach(self, bpf: libbpf.Object, links: list[libbpf.Link]) -> list[Signal]:
        """Attach to the hook that shows the victims on this kernel."""
        programs = [bpf.programs[name] for name in ("victim_chosen", "process_exits")]
        # Each kernel needs one of the programs; it removes all code of the other one, except the return.
        needed = [program for program in programs if program.instructions() > _EMPTY] or programs
        attach_all(needed, links)
        return [Signal(self.metrics, " or ".join(program.hook for program in needed))]

    def rows(self, entry: Entry) -> Iterable[Row]:
        """Yield one row for the container, and one for the pod."""
        yield Row(KILLS, entry.key[0], (), (entry.number("kills"),), entry.epoch)
        yield Row(GROUPS, entry.key[0], (), (entry.number("group_kills"),), entry.epoch)
