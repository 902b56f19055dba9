"""Software perf events, the hook for page faults: one event per CPU, with the program attached to each."""

import ctypes
import os
import platform

from kpod_metrics.kernel.libbpf import KernelError

_SYSCALL = {"x86_64": 298, "aarch64": 241}
"""perf_event_open's number."""

_TYPE_SOFTWARE = 1
SW_PAGE_FAULTS_MAJ = 6
"""PERF_COUNT_SW_PAGE_FAULTS_MAJ of include/uapi/linux/perf_event.h."""
_FLAG_CLOEXEC = 8


class _Attributes(ctypes.Structure):
    """The head of struct perf_event_attr: the kernel takes a shorter one and fills the rest with 0."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("bp_addr", ctypes.c_uint64),
    )


def open_software_event(config: int, cpu: int) -> int:
    """Open a system-wide software event with period 1 on one CPU and return its descriptor.

    Raises KernelError: ENODEV if the CPU is offline, EACCES or EPERM if perf_event_paranoid or a seccomp profile
    refuses.
    """
    attributes = _Attributes(type=_TYPE_SOFTWARE, size=ctypes.sizeof(_Attributes), config=config, sample_period=1)
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(_SYSCALL[platform.machine()], ctypes.byref(attributes), -1, cpu, -1, _FLAG_CLOEXEC)
    if fd < 0:
        raise KernelError(f"perf_event_open on CPU {cpu}", ctypes.get_errno(), [])
    return fd


def online_cpus(sys_root: str = "/sys") -> set[int]:
    """Return the CPUs that are online, from /sys/devices/system/cpu/online ("0-3,5")."""
    with open(os.path.join(sys_root, "devices/system/cpu/online"), encoding="ascii") as file:
        text = file.read().strip()
    cpus: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        cpus.update(range(int(low), int(high or low) + 1))
    return cpus
