"""The kernel features that the agent can do without, each declared once: for `check`, the switches and the tests.

Which of them a kernel has is found by loading and attaching what uses them, never by its release.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

TP_BTF = "tp_btf"
TASK_STORAGE = "task_storage"
SOCKET_STORAGE = "socket_storage"
TASK_TABLE = "task_table"
BATCH = "batch"
PERF_EVENT = "perf_event"
UNPREEMPTED = "unpreempted"
SOCKET_ITERATOR = "iter/bpf_sk_storage_map"
TASK_ITERATOR = "iter/task"
FILE_ITERATOR = "iter/task_file"


@dataclass(frozen=True)
class Feature:
    """One kernel feature; an iterator has the name of its programs' section."""

    name: str
    meaning: str
    without: str
    """What the agent does without it."""
    needs: tuple[str, ...] = ()
    """Features without which it is not used."""


FEATURES = {
    feature.name: feature
    for feature in (
        Feature(
            TP_BTF,
            "Tracepoint programs get typed arguments.",
            "Raw tracepoints are used, and the state of tasks and sockets is in hash maps.",
        ),
        Feature(
            TASK_STORAGE,
            "The state of a task is in task storage (5.13).",
            "The state is in a hash map, by the task's address.",
            (TP_BTF,),
        ),
        Feature(
            TASK_TABLE,
            "Programs can compare and swap (5.12, arm64: 5.18), so the state of most tasks is in a table.",
            "The state of every task is in task storage.",
            (TASK_STORAGE,),
        ),
        Feature(
            SOCKET_STORAGE,
            "The state of a socket is in socket storage (5.11).",
            "The state is in a hash map, by the socket's address.",
            (TP_BTF,),
        ),
        Feature(
            SOCKET_ITERATOR,
            "An iterator reads the totals of all TCP sockets once per cycle (5.12 to 6.x).",
            "Hooks read them at each segment, read and retransmit.",
            (SOCKET_STORAGE,),
        ),
        Feature(
            TASK_ITERATOR,
            "An iterator reads the namespaces of all processes at once, and finds tasks that started before the agent.",
            "The agent reads /proc for each process; waits of tasks that started before the agent are not counted.",
        ),
        Feature(
            FILE_ITERATOR,
            "An iterator over open files finds TCP connections that were opened before the agent started.",
            "An older connection counts from the first hook that sees it.",
        ),
        Feature(BATCH, "One call reads a whole map.", "Maps are read key by key."),
        Feature(
            PERF_EVENT,
            "A perf event on each CPU counts major page faults.",
            "Major page faults are read from memory.stat, if the cgroup has the memory controller.",
        ),
        Feature(
            UNPREEMPTED,
            "A syscall program runs to its end before another task runs (before 7.2).",
            "Four programs are attached at each end of a syscall; any one of them counts.",
        ),
    )
}
ACCEPTED = f"a list of {', '.join(sorted(FEATURES))}, or patterns such as iter/*"


def matching(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the names that the patterns stand for; raises ValueError for a pattern that stands for none."""
    found: dict[str, None] = {}
    for pattern in patterns:
        names = [name for name in FEATURES if fnmatchcase(name, pattern)]
        if not names:
            raise ValueError(pattern)
        found.update(dict.fromkeys(names))
    return tuple(found)


def with_needed(names: Collection[str]) -> frozenset[str]:
    """Return these features and all that they need."""
    return frozenset(names).union(*(with_needed(FEATURES[name].needs) for name in names))


def with_dependent(names: Iterable[str]) -> frozenset[str]:
    """Return these features and all that are not used without them."""
    off = frozenset(names)
    return off | {name for name in FEATURES if with_needed((name,)) & off}
