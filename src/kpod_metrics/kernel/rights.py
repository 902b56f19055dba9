"""What this process may do: the capabilities that loading and attaching programs need."""

import os

from kpod_metrics.errors import RefusedError
from kpod_metrics.files import read_bytes

# include/uapi/linux/capability.h
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_PERFMON = 38
CAP_BPF = 39


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


def may_use_bpf(capabilities: int) -> bool:
    """Whether tracing programs may be loaded: CAP_BPF and CAP_PERFMON (5.8), or CAP_SYS_ADMIN."""
    both = 1 << CAP_BPF | 1 << CAP_PERFMON
    return capabilities & both == both or bool(capabilities & 1 << CAP_SYS_ADMIN)
