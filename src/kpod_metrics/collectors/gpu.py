"""The use of GPUs by each container: NVML reports it for NVIDIA's driver, client statistics for other DRM drivers.

Utilization is that of the busiest class of engines: a GPU whose video decoder is always busy is busy, although its
shaders are idle. The sum of all classes could be above 100 %. Without a GPU, a cycle makes two system calls, imports
nothing and reads no process. If a driver is loaded later, the next cycle finds it.
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
            "Share of the time, 0 to 1, in which the GPU's busiest class of engines worked for the container, since "
            "the last read. Not available for NVIDIA's MIG instances and AMD's compute queues (ROCm).",
            "NVML nvmlDeviceGetProcessUtilization; drm-engine-*, drm-cycles-* of /proc/PID/fdinfo",
            profile=Profile.COMPREHENSIVE,
            optional=_WHERE,
            advice="Near 0 on a reserved GPU: the pod does not supply work fast enough. See its CPU, disk and network. "
            "Near 1: the GPU is the bottleneck.",
        ),
        gauge(
            "kpod_gpu_memory_used_bytes",
            "GPU memory that the container's processes use. For a GPU without its own memory: the system memory of its "
            "buffers.",
            "NVML nvmlDeviceGetComputeRunningProcesses and similar; drm-resident-*, drm-memory-* of /proc/PID/fdinfo",
            profile=Profile.COMPREHENSIVE,
            optional=_WHERE,
            advice="Near the size of the GPU's memory: allocations will fail. Use smaller batches, or a larger GPU.",
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
        """Why the descriptors of processes cannot be read."""
        self._nvml_problem = ""
        """The problem of NVML that was logged last."""

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def open(self) -> list[Signal]:
        """Return a signal for each kind of GPU here; raises UnavailableError if there are GPUs and none can be read."""
        metrics = tuple(metric for metric in TABLE.metrics if metric in self.wanted)
        devices = self._drm.devices()
        signals = []
        if (devices or self._nvml.present()) and others_are_hidden(self.environment.cgroup_root):
            raise UnavailableError(HIDDEN)
        if devices:
            self._drm_problem = self._missing_right()
            hook = "fdinfo of DRM clients, on " + ", ".join(
                f"{name} ({driver or '?'})" for name, driver in devices.items()
            )
            signals.append(Signal(metrics, hook, self._drm_problem))
        if self._nvml.present():
            try:
                signals.append(Signal(metrics, "NVML, on " + (", ".join(self._nvml.open()) or "no GPU")))
            except UnavailableError as error:
                self._nvml_problem = str(error)
                signals.append(Signal(metrics, "", str(error)))
        if not signals:
            absent = "there is no GPU: no render node, and NVIDIA's driver is not loaded"
            return [Signal(metrics, "", absent=absent)]
        if all(signal.problem for signal in signals):
            raise UnavailableError("; ".join(signal.problem for signal in signals))
        return signals

    def _missing_right(self) -> str:
        """Return the missing right to read descriptors of other users' processes (ptrace_may_access)."""
        try:
            capabilities = rights.effective(self.environment.proc_root)
        except RefusedError:
            return ""
        lacking = rights.lacking(capabilities, rights.CAP_SYS_PTRACE)
        return f"EPERM: this process lacks {lacking}" if lacking else ""

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Yield one row per container and GPU; the first utilization of a client is in its second cycle."""
        running = [group for group in groups if group.pids]
        rows: list[Row] = []
        has_drm = not self._drm_problem and bool(self._drm.devices())
        if has_drm:
            rows += self._drm_rows(running)
        else:
            self._drm.forget_all()
        if self._nvml.present():
            try:
                rows += _nvml_rows(self._nvml.read(), running)
                self._nvml_problem = ""
            except UnavailableError as error:
                if not has_drm:
                    raise
                if str(error) != self._nvml_problem:
                    log.warning("collector %s: %s", self.name, error)
                self._nvml_problem = str(error)
        else:
            self._nvml.close()
        return rows

    def _drm_rows(self, groups: Sequence[Group]) -> Iterable[Row]:
        self._drm.next_cycle(groups)
        uses = self._drm.uses(self.each(groups, self._drm.clients))
        for (group, gpu), use in uses.items():
            if use.ratio is not None or use.memory is not None:
                yield Row(TABLE, group.id, (gpu,), use)

    def close(self) -> None:
        """Release the driver."""
        self._nvml.close()
        self._drm.close()
        super().close()


def _nvml_rows(processes: Iterable[Process], groups: Sequence[Group]) -> Iterable[Row]:
    """Add up the processes of each container. NVML reports all processes of the node."""
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
