"""GPUs of NVIDIA's driver, from its management library NVML: memory and utilization of each process.

`nvidia-ml-py` (the extra `gpu`) is imported, and loads libnvidia-ml.so.1, only if the driver's module is loaded: it
takes 2.7 MB. The library keeps /dev/nvidiactl and the GPUs open, so the module cannot be unloaded while the agent runs.

NVML reports PIDs of the agent's PID namespace, so the agent must run in the host's.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kpod_metrics.collectors.kit import Environment
from kpod_metrics.errors import UnavailableError

log = logging.getLogger(__name__)

MAX_FAILURES = 10
"""Consecutive reads in which a GPU does not answer, after which the library is initialized again."""

_MAX_PERCENT = 100
"""The largest correct utilization: NVML reports it in per cent."""


class Process(NamedTuple):
    """The use of one GPU by one process."""

    pid: int
    gpu: str
    busy: tuple[float, float, float] | None
    """Per cent of the time since the last read: multiprocessors, encoders, decoders. None if not available."""
    memory: int | None
    """Bytes."""


class Nvml:
    """The library, and the time of the last sample that was read."""

    def __init__(self, environment: Environment) -> None:
        self._module = f"{environment.sys_root}/module/nvidia"
        self._library: Any = None
        """The module pynvml, while NVML is initialized."""
        self._newest: dict[str, int] = {}
        """Time of the newest sample in microseconds, by GPU."""
        self._failing: dict[str, str] = {}
        """GPUs that did not answer, with the error."""
        self._failed = 0
        """Consecutive reads in which a GPU did not answer."""

    def present(self) -> bool:
        """Whether the driver is loaded; one stat()."""
        return os.path.isdir(self._module)

    def open(self) -> list[str]:
        """Initialize the library, and return the names of the GPUs; raises UnavailableError."""
        try:
            import pynvml  # noqa: PLC0415 - takes memory, and is an optional package
        except ImportError:
            raise UnavailableError(
                "NVIDIA's driver is loaded, but the Python package nvidia-ml-py is not installed: "
                "pip install 'kpod-metrics[gpu]'"
            ) from None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError_LibraryNotFound:
            raise UnavailableError(
                "NVIDIA's driver is loaded, but its library libnvidia-ml.so.1 is not found: "
                "in a container, NVIDIA's runtime provides it (docs/gpu.md)"
            ) from None
        except pynvml.NVMLError as error:
            raise UnavailableError(f"NVML: {error}") from None
        self._library = pynvml
        return [name for name, _ in self._devices()]

    def close(self) -> None:
        """Shut the library down; the times of the last samples are kept."""
        library, self._library = self._library, None
        if library is not None:
            try:
                library.nvmlShutdown()
            except library.NVMLError as error:
                log.debug("NVML: %s", error)

    def read(self) -> list[Process]:
        """Return all processes on all GPUs; raises UnavailableError if the library is not available.

        A GPU that does not answer is skipped, and logged once. After a reset of a GPU the library may need a new start.
        This happens only after MAX_FAILURES reads, because it can interrupt the other GPUs.
        """
        if self._library is None:
            self.open()
        failing: dict[str, str] = {}
        found: list[Process] = []
        for name, device in self._devices(failing):
            try:
                found += list(self._of_device(name, device))
            except self._library.NVMLError as error:
                failing[name] = str(error)
        for name, why in failing.items():
            if name not in self._failing:
                log.warning("GPU %s is skipped: %s", name, why)
        self._failing = failing
        self._failed = self._failed + 1 if failing else 0
        if self._failed == MAX_FAILURES:
            self._failed = 0
            self.close()
        return found

    def _devices(self, failing: dict[str, str] | None = None) -> Iterable[tuple[str, Any]]:
        """Yield the PCI address and handle of each GPU; those that fail are added to `failing`."""
        nvml = self._library
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self.close()
            raise UnavailableError(f"NVML: {error}") from None
        for index in range(count):
            try:
                device = nvml.nvmlDeviceGetHandleByIndex(index)
                pci = nvml.nvmlDeviceGetPciInfo(device)
            except nvml.NVMLError as error:
                if failing is not None:
                    failing[f"number {index}"] = str(error)
                continue
            yield f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0", device

    def _of_device(self, name: str, device: Any) -> Iterable[Process]:
        instances = list(self._instances(device))
        if instances:
            for number, instance in instances:
                for pid, memory in self._memory(instance).items():
                    yield Process(pid, f"{name}/gi{number}", None, memory)
            return
        memories = self._memory(device)
        busy = self._busy(name, device)
        for pid, memory in memories.items():
            yield Process(pid, name, None if busy is None else busy.get(pid, (0.0, 0.0, 0.0)), memory)

    def _instances(self, device: Any) -> Iterable[tuple[int, Any]]:
        """Yield the instances of a GPU in MIG mode; nothing for other GPUs.

        For these, NVML reports the memory of processes by instance, and no utilization.
        """
        nvml = self._library
        try:
            if nvml.nvmlDeviceGetMigMode(device)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
                return
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            return
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
            try:
                instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index)
            except nvml.NVMLError_NotFound:
                continue
            yield nvml.nvmlDeviceGetGpuInstanceId(instance), instance

    def _memory(self, device: Any) -> Mapping[int, int | None]:
        """Return the memory of each process. A process with compute and graphics contexts is in both lists."""
        found: dict[int, int | None] = {}
        for kind in ("Compute", "Graphics", "MPSCompute"):
            for process in self._running(kind, device):
                known = found.get(process.pid)
                # pynvml returns None for NVML_VALUE_NOT_AVAILABLE.
                found[process.pid] = max((m for m in (known, process.usedGpuMemory) if m is not None), default=None)
        return found

    def _running(self, kind: str, device: Any) -> Sequence[Any]:
        """Return the processes with contexts of a kind; none if the GPU does not support it."""
        nvml = self._library
        for version in ("_v3", "_v2"):  # the second one is for older drivers
            try:
                running: Sequence[Any] = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses{version}")(device)
                return running
            except nvml.NVMLError_FunctionNotFound:
                continue
            except nvml.NVMLError_NotSupported:
                break
        return ()

    def _busy(self, name: str, device: Any) -> Mapping[int, tuple[float, float, float]] | None:
        """Return the mean of each process's samples since the last read; None at the first read or if unsupported.

        An idle process has no sample. Some drivers also return samples that are too old or above 100 %, which are
        ignored.
        """
        nvml = self._library
        since = self._newest.get(name)
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(device, since or 0)
        except nvml.NVMLError_NotFound:
            samples = []
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            return None
        self._newest[name] = max((sample.timeStamp for sample in samples), default=since or 0)
        if since is None:
            return None
        sampled: dict[int, set[tuple[int, int, int, int]]] = defaultdict(set)
        for sample in samples:
            values = (sample.smUtil, sample.encUtil, sample.decUtil)
            if sample.timeStamp > since and max(values) <= _MAX_PERCENT:
                sampled[sample.pid].add((sample.timeStamp, *values))
        return {pid: _mean(values) for pid, values in sampled.items()}


def _mean(samples: set[tuple[int, int, int, int]]) -> tuple[float, float, float]:
    """Return the means of the three values. The set removes duplicate samples."""
    _, multiprocessors, encoders, decoders = (sum(column) / len(samples) for column in zip(*samples, strict=True))
    return multiprocessors, encoders, decoders
