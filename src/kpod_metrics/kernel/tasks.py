"""The namespaces of every process at once, from `bpf/tasks.bpf.c`."""

import os
from typing import NamedTuple

from kpod_metrics.errors import UnavailableError
from kpod_metrics.kernel.programs import OBJECTS, Loads, Programs

_INITIAL = "pid:[4026531836]"
"""The PID namespace that has all processes: PROC_PID_INIT_INO, include/linux/proc_ns.h."""


KTHREADD = 2
"""The process that shows the machine's own namespaces; PID 1 may be hidden from all others."""


class View(NamedTuple):
    """What one process sees. Numbers only tell one from another."""

    mount_namespace: int
    network_namespace: int
    mount_changes: int
    """Another number than before: mounts of its namespace came or went."""
    root: tuple[int, int]


class Tasks(Loads):
    """Looks at all processes; for one thread at a time.

    Measured: 0.39 ms for 306 processes, where two links and the mountinfo of 100 of them take 5.3 ms. The mountinfo of
    a mount namespace says what it said as long as `mount_changes` is the same, but for options that were changed
    without mounting anything (remount).
    """

    def __init__(self, objects: str = OBJECTS, sys_root: str = "/sys", proc_root: str = "/proc") -> None:
        self._where = (objects, sys_root, proc_root)

    def open(self) -> None:
        """Load; raises UnavailableError where the kernel cannot tell, or in terms of processes that are not ours."""
        _, _, proc_root = self._where
        try:
            namespace = os.readlink(f"{proc_root}/self/ns/pid")
        except OSError as error:
            raise UnavailableError(f"{proc_root}/self/ns/pid: {error.strerror}") from None
        if namespace != _INITIAL:
            raise UnavailableError(f"{namespace} is not the machine's PID namespace")
        self._loaded = loaded = Programs("tasks", *self._where)
        loaded.object.load()
        loaded.links.append(loaded.object.programs["look_at_task"].attach())

    @property
    def is_open(self) -> bool:
        """Whether `look` can be called."""
        return self._loaded is not None and bool(self._loaded.links)

    def look(self) -> dict[int, View]:
        """Return what every process sees, by PID; a process that ends just now is left out. Raises KernelError."""
        assert self._loaded is not None
        layout = self._loaded.object.maps["task_view_record"].value_layout
        written = self._loaded.links[0].run_iterator()
        return {
            pid: View(mounts, network, changes, (root_mount, root_directory))
            for pid, mounts, network, _, changes, root_mount, root_directory in layout.iter_unpack(written)
            if mounts
        }
