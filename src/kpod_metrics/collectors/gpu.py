"""What each container has of the node's GPUs: NVIDIA's by NVML, all others' by what DRM drivers tell of clients.

Utilization is that of the busiest kind of engine: a GPU whose video decoder works all the time is busy, though its
shaders are idle; adding kinds up would have it busier than whole. Where there is no GPU a cycle costs two system
calls: nothing is imported, and no process looked at. A driver that is loaded later is found in the next cycle.
"""

import logging
from collections.abc import Iterable, Sequence

from kpod_metrics.cgroup.processes import HIDDEN, others_are_hidden
from kpod_metrics.collectors.kit import Environment, Question, Signal
from kpod_metrics.collectors.parts.drm import Drm
from kpod_metrics.collectors.parts.nvml import Nvml, Process
from kpod_metrics.collectors.parts.per_group import FileCollector
from kpod_metrics.errors import RefusedError, UnavailableError
from kpod_metrics.kernel import rights
from kpod_metrics.metrics import Label, Metric, Profile, Row, Table, gauge
from kpod_metrics.pods.model import Group, Identity

log = logging.getLogger(__name__)

_WHERE = "where the container uses a GPU"

TABLE = Table(
    (
        gauge(
            "kpod_gpu_utilization_ratio",
            "Share of the time since the last read for which the GPU worked for the container, 0 to 1: that of the "
            "kind of engine that was busiest. Not told of NVIDIA's MIG instances and of AMD's compute queues (ROCm).",
            "NVML nvmlDeviceGetProcessUtilization; drm-engine-*, drm-cycles-* of /proc/PID/fdinfo",
            profile=Profile.COMPREHENSIVE,
            optional=_WHERE,
            advice="Near 0 on a GPU that is reserved: what feeds it is late, see the pod's CPU, disk and network. "
            "Near 1: the GPU is what it waits for.",
        ),
        gauge(
            "kpod_gpu_memory_used_bytes",
            "Memory of the GPU that the container's processes use; of a GPU without memory of its own, the system's "
            "that its buffers are in.",
            "NVML nvmlDeviceGetComputeRunningProcesses and its like; drm-resident-*, drm-memory-* of /proc/PID/fdinfo",
            profile=Profile.COMPREHENSIVE,
            optional=_WHERE,
            advice="Near the GPU's memory: the next allocation fails. Make batches smaller, or take a larger GPU.",
        ),
    ),
    labels=(Label("gpu", per="GPU"),),
)


class Gpu(FileCollector):
    """Utilization and memory of GPUs."""

    name = "gpu"
    description = "utilization and memory of GPUs"
    question = Question.GPU
    page = "gpu.md"
    device = "a GPU"

    def __init__(self, environment: Environment, wanted: frozenset[Metric] | None = None) -> None:
        super().__init__(environment, wanted)
        self._drm = Drm(environment)
        self._nvml = Nvml(environment)
        self._drm_problem = ""
        """Why processes' descriptors cannot be looked at."""
        self._said = ""
        """What was said of NVML last."""

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """One table."""
        return (TABLE,)

    def open(self) -> list[Signal]:
        """A signal for each way that there is a GPU for; raises UnavailableError where there is one and none works."""
        metrics = tuple(metric for metric in TABLE.metrics if metric in self.wanted)
        devices = self._drm.devices()
        signals = []
        if (devices or self._nvml.present()) and others_are_hidden(self.environment.cgroup_root):
            raise UnavailableError(HIDDEN)
        if devices:
            self._drm_problem = self._lacking()
            hook = "fdinfo of DRM clients, on " + ", ".join(
                f"{name} ({driver or '?'})" for name, driver in devices.items()
            )
            signals.append(Signal(metrics, hook, self._drm_problem))
        if self._nvml.present():
            try:
                signals.append(Signal(metrics, "NVML, on " + (", ".join(self._nvml.open()) or "no GPU")))
            except UnavailableError as error:
                self._said = str(error)
                signals.append(Signal(metrics, "", str(error)))
        if not signals:
            absent = "there is no GPU: no render node, and no driver of NVIDIA's is loaded"
            return [Signal(metrics, "", absent=absent)]
        if all(signal.problem for signal in signals):
            raise UnavailableError("; ".join(signal.problem for signal in signals))
        return signals

    def _lacking(self) -> str:
        """What lacks for descriptors of other users' processes to be looked at (ptrace_may_access)."""
        try:
            capabilities = rights.effective(self.environment.proc_root)
        except RefusedError:
            return ""
        lacking = rights.lacking(capabilities, rights.CAP_SYS_PTRACE)
        return f"EPERM: this process lacks {lacking}" if lacking else ""

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """One row a container and GPU; of utilization from a client's second cycle on."""
        looked = [group for group in groups if group.pids]
        rows: list[Row] = []
        has_drm = not self._drm_problem and bool(self._drm.devices())
        if has_drm:
            rows += self._of_drm(looked)
        else:
            self._drm.forget_all()
        if self._nvml.present():
            try:
                rows += _of_nvml(self._nvml.read(), looked)
                self._said = ""
            except UnavailableError as error:
                if not has_drm:
                    raise
                if str(error) != self._said:
                    log.warning("collector %s: %s", self.name, error)
                self._said = str(error)
        else:
            self._nvml.close()
        return rows

    def _of_drm(self, groups: Sequence[Group]) -> Iterable[Row]:
        self._drm.next_cycle(groups)
        uses = self._drm.uses(self.each(groups, self._drm.clients))
        for (group, gpu), use in uses.items():
            if use.ratio is not None or use.memory is not None:
                yield Row(TABLE, group.id, (gpu,), use)

    def close(self) -> None:
        """Let go of the driver."""
        self._nvml.close()
        super().close()


def _of_nvml(processes: Iterable[Process], groups: Sequence[Group]) -> Iterable[Row]:
    """Add up the processes of each container: NVML tells of all that are on the node."""
    owners = {pid: group for group in groups for pid in group.pids}
    found: dict[tuple[Identity, str], tuple[Group, list[Process]]] = {}
    for process in processes:
        if (owner := owners.get(process.pid)) is not None:
            found.setdefault((owner.identity, process.gpu), (owner, []))[1].append(process)
    for (_, gpu), (group, mine) in found.items():
        busy = [process.busy for process in mine if process.busy is not None]
        ratio = min(1.0, max(map(sum, zip(*busy, strict=True))) / 100) if busy else None
        memories = [process.memory for process in mine if process.memory is not None]
        memory = sum(memories) if memories else None
        if ratio is not None or memory is not None:
            yield Row(TABLE, group.id, (gpu,), (ratio, memory))
