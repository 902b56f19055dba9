"""The namespaces of every process at once, from `bpf/tasks.bpf.c`."""

import os
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from kpod_metrics.errors import UnavailableError
from kpod_metrics.kernel.programs import OBJECTS, MapHealth, OwnsBpfObject, ProgramHealth, Programs

_INITIAL = "pid:[4026531836]"
"""The PID namespace that has all processes: PROC_PID_INIT_INO, include/linux/proc_ns.h."""


KTHREADD = 2
"""The process that shows the machine's own namespaces; PID 1 may be hidden from all others."""


class View(NamedTuple):
    """What one process sees, as struct task_view has it. Numbers only tell one from another."""

    pid: int
    mount_namespace: int
    network_namespace: int
    unused: int
    mount_changes: int
    """Another number than before: mounts of its namespace came or went."""
    root_mount: int
    root_directory: int

    @property
    def root(self) -> tuple[int, int]:
        """Its root directory."""
        return self.root_mount, self.root_directory


class Tasks(OwnsBpfObject):
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

    def look(self) -> dict[int, View]:
        """Return what every process sees, by PID; a process that ends just now is left out. Raises KernelError."""
        assert self._loaded is not None
        layout = self._loaded.object.maps["task_view_record"].value_layout
        written = self._loaded.links[0].run_iterator()
        return {view.pid: view for view in map(View._make, layout.iter_unpack(written)) if view.mount_namespace}


_AT_ONCE = 0.1
"""Seconds within which a look is good for whoever has not had it. Where the collectors in between take longer, each
looks for itself: no process should have moved to another namespace meanwhile."""


class SharedTasks:
    """`Tasks` for several users, on any thread: loaded once, and one look serves all who ask at the same time.

    None gets the same look twice. Measured with 100 pods: 0.5 ms of a cycle less than if two look for themselves.
    """

    def __init__(self, objects: str = OBJECTS, sys_root: str = "/sys", proc_root: str = "/proc") -> None:
        self._tasks = Tasks(objects, sys_root, proc_root)
        self._users: list[object] = []
        self._lock = threading.Lock()
        self._views: Mapping[int, View] = {}
        self._looked = 0.0
        """time.monotonic() before that look."""
        self._had: set[object] = set()
        """Who has had it."""

    def open(self, user: object) -> None:
        """Have it loaded for one more user; raises UnavailableError or OSError where that cannot be."""
        with self._lock:
            if not self._users:
                try:
                    self._tasks.open()
                except BaseException:
                    self._tasks.close()
                    raise
                self._had.clear()
                self._looked = 0.0
            self._users.append(user)

    def is_open(self, user: object) -> bool:
        """Whether this user may `look`."""
        return user in self._users

    def look(self, user: object) -> Mapping[int, View]:
        """Return what every process sees, by PID. Raises KernelError."""
        with self._lock:
            now = time.monotonic()
            if user in self._had or now - self._looked > _AT_ONCE:
                self._views, self._looked = self._tasks.look(), now
                self._had.clear()
            self._had.add(user)
            views = self._views
            if len(self._had) == len(self._users):
                self._views = {}  # not to be held until the next cycle
            return views

    def maps(self, user: object) -> list[MapHealth]:
        """State of its map, which the first user tells. Waits for no look."""
        return self._tasks.maps() if self._users[:1] == [user] else []

    def programs(self, user: object) -> list[ProgramHealth]:
        """Statistics of its program, which the first user tells. Waits for no look."""
        return self._tasks.programs() if self._users[:1] == [user] else []

    def close(self, user: object) -> None:
        """Unload once nobody uses it any more; a second call does nothing."""
        with self._lock:
            if user in self._users:
                self._users.remove(user)
                self._had.discard(user)
                if not self._users:
                    self._tasks.close()
                    self._views = {}
