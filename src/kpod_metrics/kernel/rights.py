"""What this process may do: the capabilities that loading and attaching programs need."""

import os

from kpod_metrics.errors import RefusedError
from kpod_metrics.files import read_bytes

# include/uapi/linux/capability.h
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_PERFMON = 38
CAP_BPF = 39

_NAMES = {CAP_SYS_PTRACE: "CAP_SYS_PTRACE", CAP_PERFMON: "CAP_PERFMON", CAP_BPF: "CAP_BPF"}


def effective(proc_root: str = "/proc") -> int:
    """Return the effective capabilities of this process, as a bit mask; raises RefusedError where /proc is none."""
    path = os.path.join(proc_root, "self/status")
    try:
        lines = read_bytes(path).splitlines()
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}: is --proc-root the host's /proc?") from None
    for line in lines:
        if line.startswith(b"CapEff:"):
            return int(line.split()[1], 16)
    return 0


def lacking(capabilities: int, *wanted: int) -> str:
    """The names of those that are not among these capabilities, as in a sentence; empty where none lacks."""
    return " and ".join(_NAMES[one] for one in wanted if not capabilities & 1 << one)


def lacking_for_bpf(capabilities: int) -> str:
    """What lacks for tracing programs to be loaded: CAP_BPF and CAP_PERFMON (5.8), unless CAP_SYS_ADMIN is there."""
    return "" if capabilities & 1 << CAP_SYS_ADMIN else lacking(capabilities, CAP_BPF, CAP_PERFMON)


def may_use_bpf(capabilities: int) -> bool:
    """Whether tracing programs may be loaded."""
    return not lacking_for_bpf(capabilities)
