"""GPUs of NVIDIA's driver, by its management library NVML: memory and utilization of each process.

`nvidia-ml-py` (the extra `gpu`) is imported, and loads libnvidia-ml.so.1, only where the driver's module is loaded:
2.7 MB. It keeps /dev/nvidiactl and the GPUs open: the module cannot be unloaded while the agent runs.

Processes are told by their number in the agent's own PID namespace, so it has to be the host's.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kpod_metrics.collectors.kit import Environment
from kpod_metrics.errors import UnavailableError

log = logging.getLogger(__name__)

AGAIN = 10
"""Reads in a row with a GPU that does not answer, after which the library is initialized anew."""

_WHOLE = 100
"""NVML's utilization is in per cent."""


class Process(NamedTuple):
    """What one process has of one GPU."""

    pid: int
    gpu: str
    busy: tuple[float, float, float] | None
    """Per cent of the time since the last read: its multiprocessors, encoders, decoders. None where it is not told."""
    memory: int | None
    """Bytes."""


class Nvml:
    """The library, and where its samples were read up to."""

    def __init__(self, environment: Environment) -> None:
        self._module = f"{environment.sys_root}/module/nvidia"
        self._library: Any = None
        """The module pynvml, while NVML is initialized."""
        self._until: dict[str, int] = {}
        """Of each GPU: the time of the newest sample, in microseconds."""
        self._failing: dict[str, str] = {}
        """GPUs that did not answer, and why."""
        self._failed = 0
        """Reads in a row in which some did not."""

    def present(self) -> bool:
        """Whether the driver is loaded; one stat()."""
        return os.path.isdir(self._module)

    def open(self) -> list[str]:
        """Initialize the library and return the GPUs' names; raises UnavailableError, one line."""
        try:
            import pynvml  # noqa: PLC0415 - costs memory, and is there with the extra only
        except ImportError:
            raise UnavailableError(
                "NVIDIA's driver is loaded, but the Python package nvidia-ml-py is not installed: "
                "pip install 'kpod-metrics[gpu]'"
            ) from None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError_LibraryNotFound:
            raise UnavailableError(
                "NVIDIA's driver is loaded, but its library libnvidia-ml.so.1 is not found here: "
                "in a container NVIDIA's runtime brings it (docs/gpu.md)"
            ) from None
        except pynvml.NVMLError as error:
            raise UnavailableError(f"NVML: {error}") from None
        self._library = pynvml
        return [name for name, _ in self._devices()]

    def close(self) -> None:
        """Give the library's state back; what was read up to is kept."""
        library, self._library = self._library, None
        if library is not None:
            try:
                library.nvmlShutdown()
            except library.NVMLError as error:
                log.debug("NVML: %s", error)

    def read(self) -> list[Process]:
        """Return every process on every GPU; raises UnavailableError where the library cannot be had.

        A GPU that does not answer is left out, which is said when it begins. As the library may have to begin anew for
        one that was reset, it does that now and then; not each time, as that may start the other GPUs anew as well.
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
                log.warning("GPU %s is left out: %s", name, why)
        self._failing = failing
        self._failed = self._failed + 1 if failing else 0
        if self._failed == AGAIN:
            self._failed = 0
            self.close()
        return found

    def _devices(self, failing: dict[str, str] | None = None) -> Iterable[tuple[str, Any]]:
        """Yield each GPU's PCI address and handle; `failing` takes those without."""
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
        """Yield the instances of a GPU in MIG mode; none of others.

        Memory of such a GPU's processes is told for each instance without further rights, utilization not at all.
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
        """Return the memory of each process; one with compute and graphics contexts is in both lists, with the same."""
        found: dict[int, int | None] = {}
        for kind in ("Compute", "Graphics", "MPSCompute"):
            for process in self._running(kind, device):
                known = found.get(process.pid)
                # NVML_VALUE_NOT_AVAILABLE is None here.
                found[process.pid] = max((m for m in (known, process.usedGpuMemory) if m is not None), default=None)
        return found

    def _running(self, kind: str, device: Any) -> Sequence[Any]:
        """Return the processes with contexts of a kind; none where the GPU has no such kind."""
        nvml = self._library
        for version in ("_v3", "_v2"):  # the older one for older drivers
            try:
                running: Sequence[Any] = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses{version}")(device)
                return running
            except nvml.NVMLError_FunctionNotFound:
                continue
            except nvml.NVMLError_NotSupported:
                break
        return ()

    def _busy(self, name: str, device: Any) -> Mapping[int, tuple[float, float, float]] | None:
        """Return the mean of each process's samples since the last read; None at the first, or where it is not told.

        A process that was idle has no sample. What the driver has been seen to add is left out: samples as old as
        those that were asked for, or above 100 %.
        """
        nvml = self._library
        since = self._until.get(name)
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(device, since or 0)
        except nvml.NVMLError_NotFound:
            samples = []
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            return None
        self._until[name] = max((sample.timeStamp for sample in samples), default=since or 0)
        if since is None:
            return None
        sampled: dict[int, set[tuple[int, int, int, int]]] = defaultdict(set)
        for sample in samples:
            values = (sample.smUtil, sample.encUtil, sample.decUtil)
            if sample.timeStamp > since and max(values) <= _WHOLE:
                sampled[sample.pid].add((sample.timeStamp, *values))
        return {pid: _mean(values) for pid, values in sampled.items()}


def _mean(samples: set[tuple[int, int, int, int]]) -> tuple[float, float, float]:
    """The means of their three values; a sample that is there twice is one."""
    _, multiprocessors, encoders, decoders = (sum(column) / len(samples) for column in zip(*samples, strict=True))
    return multiprocessors, encoders, decoders
