"""statvfs() of many file systems. Some may never answer (a lost file server, a FUSE daemon that hangs).

A pod can mount such file systems itself, of any type. So the type decides nothing, only what the pod's calls did. The
calls of a pod are one turn, which one thread makes. While turns wait, their threads double every tenth of the timeout:
pods that hang for the first time delay the others only by a few tenths. The mounts of the same pod wait for the call.
After a hang:

- The pod is a suspect for some cycles. Suspects have their turns after all other pods.
- The thread stays in the call, and the device is not read again until the call returns.
- While two calls of a pod hang, only those of its mounts are read that answered before; while four hang, none.
- While MAX_STUCK calls hang, suspects are not read. Another pod is, so there are at most four more for each pod.
- A device whose file system itself does not answer is not read for other pods either.

Pods that had no turn before the timeout have theirs first in the next cycle.

A thread that hangs does not delay the end of the agent, with one exception: even SIGKILL cannot interrupt a request
that a FUSE daemon has read but does not answer (fs/fuse/dev.c, request_wait_answer). Then the process stays a zombie
until the daemon ends.
"""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from kpod_metrics.cgroup.mounts import FileSystem, Point
from kpod_metrics.kernel.openat2 import fstatvfs_below
from kpod_metrics.pods.model import Group, Identity

log = logging.getLogger(__name__)

TIMEOUT = 0.5
"""Seconds after which a cycle begins no more calls. A file system in memory or on a disk answers in 10 us."""
_STALLS = 10
"""Part of the timeout after which another thread helps, and for which the last calls may take."""
_TURN = 0.4
"""Part of the timeout for the calls of one pod. A pod that takes longer is a suspect."""
SKIPPED = ("symlink", "replaced", "hung", "refused")
"""Why a mount is skipped: a link in its path; another mount or none there; no answer; another error."""
STUCK_OF_A_POD, STUCK_OF_A_POD_AT_MOST = 2, 4
"""Calls of a pod that hang: then its mounts that never answered wait; then all of them."""
MAX_STUCK = 64
"""Calls that hang, of all pods: then no suspect is read. A thread takes 20 KiB, and 16 KiB in the kernel."""
SUSPECT_CYCLES = 20
"""Cycles for which a pod is a suspect after its last call that hung."""


@dataclass(slots=True, eq=False)
class Probe:
    """A file system to read, and its answer; None until it answers."""

    system: FileSystem
    root: str
    """The directory above its mount points."""
    group: Group
    """The cgroup that it is read for first."""
    at: int = 0
    """Index of the mount point that is used: the first that is a directory."""
    answer: os.statvfs_result | OSError | None = None

    @property
    def pod(self) -> Identity:
        """The pod that it is read for."""
        return self.group.pod

    @property
    def point(self) -> Point:
        """The mount point that is used."""
        return self.system.points[self.at]

    @property
    def path(self) -> str:
        """Its path, for the log."""
        return f"{self.root}{self.point.path}"


StatvfsCall = Callable[[str, str, int, Callable[[str], object]], os.statvfs_result]
"""Signature of `fstatvfs_below`: root directory, mount point, mount id, function that is called with the device."""


@dataclass(slots=True, eq=False)
class _Call:
    """The call that a thread makes now."""

    probe: Probe | None = None
    began: float = 0.0
    device: str = ""
    """The device, once only its own answer is missing."""
    given_up: bool = False

    def reached(self, device: str) -> None:
        """Note that the path was looked up."""
        self.device = device


@dataclass(slots=True, eq=False)
class _Turn:
    pod: Identity
    probes: deque[Probe]
    end: float = 0.0
    """The time after which it makes no more calls."""


@dataclass(slots=True, eq=False)
class _Cycle:
    turns: deque[_Turn]
    over: bool = False
    threads: int = 0
    """Threads that make its calls."""
    calls: set[_Call] = field(default_factory=set)
    done: "SimpleQueue[None]" = field(default_factory=SimpleQueue)


@dataclass(slots=True)
class _Suspect:
    """A pod with calls that hung or took long."""

    until: int
    """The last cycle in which it is one."""
    stuck: list[str] = field(default_factory=list)
    """Devices of its calls that did not return."""
    good: set[str] = field(default_factory=set)
    """Devices that answered at once."""
    slow: set[str] = field(default_factory=set)
    """Devices that took long, or did not answer."""

    def note(self, device: str, *, took_long: bool) -> None:
        """Note an answer."""
        (self.slow.add if took_long else self.slow.discard)(device)
        (self.good.discard if took_long else self.good.add)(device)

    def forget_others(self, probes: Iterable[Probe]) -> None:
        """Forget what is not mounted any more."""
        devices = {probe.system.device for probe in probes}
        self.good &= devices
        self.slow &= devices

    def rank(self, probe: Probe) -> int:
        """Order of its mounts: those that do not answer cost only the ones behind them."""
        device = probe.system.device
        return 0 if device in self.good else 2 if device in self.slow else 1


class Statvfs:
    """Fills in the answers of probes. `read` and `close` are for one thread at a time."""

    def __init__(self, statvfs: StatvfsCall = fstatvfs_below, timeout: float = TIMEOUT) -> None:
        self._statvfs, self._timeout = statvfs, timeout
        self._lock = threading.Lock()
        """Protects everything below."""
        self._cycles: SimpleQueue[_Cycle | None] = SimpleQueue()
        """What the idle thread waits for."""
        self._idle = self._closed = False
        self._number = 0
        """Number of the cycle."""
        self._suspects: dict[Identity, _Suspect] = {}
        self._dead: Counter[str] = Counter()
        """Devices that do not answer themselves, with the calls that hang in them."""
        self.stuck = 0
        """Calls that hang."""
        self._passed_over: set[Identity] = set()
        """Pods that had no turn in the last cycle."""

    def read(self, probes: Iterable[Probe]) -> None:
        """Fill in the answers; returns within the timeout and a tenth of it."""
        probes = list(probes)
        with self._lock:
            self._closed = False
            self._number += 1
            self._suspects = {
                pod: suspect
                for pod, suspect in self._suspects.items()
                if suspect.stuck or suspect.until >= self._number
            }
            cycle = _Cycle(self._turns(probes))
            self._passed_over = set()
        if not cycle.turns:
            return
        stall, end = self._timeout / _STALLS, time.monotonic() + self._timeout
        self._help(cycle)
        while True:
            try:
                cycle.done.get(timeout=stall)
                break
            except Empty:
                if cycle.over:
                    self._give_up(cycle)
                    break
                if time.monotonic() >= end:
                    self._end(cycle)
                else:
                    for _ in range(min(cycle.threads, len(cycle.turns), MAX_STUCK - cycle.threads)):
                        self._help(cycle)
        with self._lock:
            for probe in probes if self._suspects else ():
                suspect = self._suspects.get(probe.pod)
                if suspect is not None and probe.answer is not None and probe.system.device not in suspect.slow:
                    suspect.good.add(probe.system.device)

    def is_suspect(self, pod: Identity) -> bool:
        """Whether calls of a pod hung or took long, so that it goes without an answer through its own fault."""
        return pod in self._suspects

    def hangs(self, probe: Probe) -> bool:
        """Whether a call in its device does not return."""
        device, suspect = probe.system.device, self._suspects.get(probe.pod)
        return device in self._dead or (suspect is not None and device in suspect.stuck)

    def close(self) -> None:
        """Stop the idle thread. A thread that hangs ends with its call, or with the process."""
        with self._lock:
            self._closed = True
            if self._idle:
                self._idle = False
                self._cycles.put(None)

    def _turns(self, probes: Iterable[Probe]) -> deque[_Turn]:
        """Return the turns of all pods: of those that had none in the last cycle, of the others, of suspects."""
        by_pod: dict[Identity, deque[Probe]] = {}
        pod, mine = None, deque[Probe]()
        for probe in probes:
            if probe.group.pod is not pod:  # the mounts of a pod follow each other
                pod = probe.group.pod
                mine = by_pod.setdefault(pod, deque())
            if probe.system.device not in self._dead:
                mine.append(probe)
        turns = [_Turn(pod, mine) for pod, mine in by_pod.items() if mine and pod not in self._suspects]
        for pod, suspect in self._suspects.items() if self.stuck < MAX_STUCK else ():
            stuck = len(suspect.stuck)
            suspect.forget_others(by_pod.get(pod, ()))
            wanted = [
                probe
                for probe in by_pod.get(pod, ())
                if probe.system.device not in suspect.stuck
                and stuck < (STUCK_OF_A_POD_AT_MOST if probe.system.device in suspect.good else STUCK_OF_A_POD)
            ]
            if wanted:
                turns.append(_Turn(pod, deque(sorted(wanted, key=suspect.rank))))
        if self._passed_over or self._suspects:
            turns.sort(key=lambda turn: (turn.pod in self._suspects, turn.pod not in self._passed_over))
        return deque(turns)

    def _help(self, cycle: _Cycle) -> None:
        """Have one more thread make the calls of a cycle."""
        with self._lock:
            cycle.threads += 1
            idle, self._idle = self._idle, False
        if idle:
            self._cycles.put(cycle)
        else:
            threading.Thread(target=self._work, args=(cycle,), name="statvfs", daemon=True).start()

    def _end(self, cycle: _Cycle) -> None:
        """Begin no more calls. Those that were begun just now have the last tenth of the timeout."""
        with self._lock:
            cycle.over = True
            self._passed_over.update(turn.pod for turn in cycle.turns)
            cycle.turns.clear()

    def _give_up(self, cycle: _Cycle) -> None:
        """Leave the threads that hang in their calls."""
        with self._lock:
            for call in cycle.calls:
                if (probe := call.probe) is None:
                    continue  # its thread has just finished
                call.given_up = True
                is_new = probe.pod not in self._suspects
                suspect = self._suspect(probe.pod)
                suspect.stuck.append(probe.system.device)
                suspect.slow.add(probe.system.device)
                self.stuck += 1
                if call.device:
                    self._dead[call.device] += 1
                if is_new:  # a pod that has this in every cycle must not fill the log
                    log.warning(
                        "file system %s at %s does not answer: skipped until it does (%d such)",
                        probe.system.device,
                        probe.path,
                        self.stuck,
                    )

    def _suspect(self, pod: Identity) -> _Suspect:
        suspect = self._suspects.setdefault(pod, _Suspect(0))
        suspect.until = self._number + SUSPECT_CYCLES
        return suspect

    def _work(self, cycle: _Cycle | None) -> None:
        while cycle is not None and self._take_turns(cycle):
            with self._lock:
                if self._idle or self._closed:
                    return
                self._idle = True
            cycle = self._cycles.get()

    def _take_turns(self, cycle: _Cycle) -> bool:
        """Make calls until no turn is left; return whether this thread was not given up meanwhile."""
        call, turn, now = _Call(), None, time.monotonic()
        with self._lock:
            turn, call.probe = self._next(cycle, turn, now)
            if call.probe is not None:
                cycle.calls.add(call)
        while (probe := call.probe) is not None:
            call.began, call.device = now, ""
            at, answer = self._ask(probe, call)
            now = time.monotonic()
            with self._lock:
                if call.given_up:
                    self._returned(call)
                    return False
                probe.at, probe.answer = at, answer
                if self._suspects and (suspect := self._suspects.get(probe.pod)) is not None:
                    suspect.note(probe.system.device, took_long=now - call.began > self._timeout / _STALLS)
                turn, call.probe = self._next(cycle, turn, now)
        with self._lock:
            cycle.calls.discard(call)
            cycle.threads -= 1
            if not cycle.threads:
                cycle.done.put(None)
        return True

    def _next(self, cycle: _Cycle, turn: _Turn | None, now: float) -> tuple[_Turn | None, Probe | None]:
        """Return the next probe, and the turn that it is of."""
        while not cycle.over:
            if turn is None or not turn.probes:
                if not cycle.turns:
                    break
                turn = cycle.turns.popleft()
                turn.end = now + self._timeout * _TURN
            probe = turn.probes.popleft()
            if now > turn.end:
                self._suspect(probe.pod)
                turn = None
            elif not ((self._dead or cycle.threads > 1) and self._waits(probe, cycle, now)):
                return turn, probe
        if turn is not None and turn.probes:
            self._passed_over.add(turn.pod)
        return None, None

    def _waits(self, probe: Probe, cycle: _Cycle, now: float) -> bool:
        """Whether a call in the same device does not return, or takes long."""
        device, since = probe.system.device, now - self._timeout / _STALLS
        return device in self._dead or any(call.device == device and call.began < since for call in cycle.calls)

    def _returned(self, call: _Call) -> None:
        """Note that a call that was given up has returned."""
        assert call.probe is not None
        device = call.probe.system.device
        self.stuck -= 1
        if call.device:
            self._dead[call.device] -= 1
            self._dead += Counter()  # without those at 0
        suspect = self._suspect(call.probe.pod)
        suspect.stuck.remove(device)
        suspect.slow.discard(device)
        if not suspect.stuck:
            log.info("file system %s answers again", device)

    def _ask(self, probe: Probe, call: _Call) -> tuple[int, os.statvfs_result | OSError | None]:
        """Return the index of the first mount point that is a directory, and the answer there."""
        answer: os.statvfs_result | OSError | None = None
        for at, point in enumerate(probe.system.points):
            try:
                answer = self._statvfs(probe.root, *point, call.reached)
            except OSError as error:
                answer = error
            if not isinstance(answer, NotADirectoryError):
                return at, answer
        return 0, answer
