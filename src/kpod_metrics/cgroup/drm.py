"""Statistics of one DRM client, from `/proc/PID/fdinfo/FD` (Documentation/gpu/drm-usage-stats.rst).

A client is one open() of a render or primary node. Duplicated, inherited and received descriptors belong to the same
client and have the same `drm-client-id`. A line has a key, a colon, and a value with an optional unit. Other lines are
ignored.
"""

import os
from dataclasses import dataclass, field

from kpod_metrics.cgroup.keyed import decimal

_UNITS = {b"": 1, b"KiB": 1 << 10, b"MiB": 1 << 20}
_GPU_REGIONS = ("vram", "local")
"""How names of regions in GPU memory begin: vram (amdgpu), vram0 (xe), local0 (i915)."""


@dataclass(slots=True)
class Engine:
    """One class of engines, such as `render`, with the client's use of it since the client was opened."""

    capacity: int = 1
    """Engines of the class: the busy time grows by at most so many seconds per second."""
    busy_ns: int | None = None
    cycles: int | None = None
    """Busy time in cycles of the GPU's clock, for drivers without nanoseconds (xe)."""
    total_cycles: int | None = None
    """The GPU's clock at the time of the read."""


@dataclass(slots=True)
class Region:
    """One kind of memory, such as `vram`, in bytes."""

    resident: int | None = None
    """Size of the buffers that have memory."""
    alias: int | None = None
    """The same, by its older name drm-memory-REGION; amdgpu has both."""
    shared: int = 0
    """Size of the buffers shared with other clients, with or without memory."""


@dataclass(slots=True)
class DrmClient:
    """One client of one GPU."""

    id: int
    driver: str = ""
    device: str = ""
    """PCI address; empty if the GPU is not on a PCI bus."""
    engines: dict[str, Engine] = field(default_factory=dict)
    regions: dict[str, Region] = field(default_factory=dict)

    def memory(self) -> tuple[int, int] | None:
        """Return the bytes of its own buffers, and of shared ones; None if the driver reports neither.

        Counts GPU memory. For an integrated GPU, which has none, counts the buffers in system memory.
        """
        resident = {
            name: (region.alias if region.resident is None else region.resident, region.shared)
            for name, region in self.regions.items()
        }
        known = {name: (used, shared) for name, (used, shared) in resident.items() if used is not None}
        known = {name: value for name, value in known.items() if name.startswith(_GPU_REGIONS)} or known
        if not known:
            return None
        # The driver does not report how much of the shared buffers is resident: at most all of the resident memory.
        shared = sum(min(used, shared) for used, shared in known.values())
        return sum(used for used, _ in known.values()) - shared, shared


def client(data: bytes) -> DrmClient | None:
    """Return the client of a descriptor's fdinfo; None if it is not of a DRM driver with statistics."""
    if b"drm-client-id:" not in data:
        return None
    found: DrmClient | None = None
    pairs = [(key, value.strip()) for key, _, value in (line.partition(b":") for line in data.splitlines())]
    for key, value in pairs:
        if key == b"drm-client-id" and (id_ := decimal(value)) is not None:
            found = DrmClient(id_)
    if found is None:
        return None
    for key, value in pairs:
        if key.startswith(b"drm-"):
            _take(found, os.fsdecode(key), value)
    return found


def _take(into: DrmClient, key: str, value: bytes) -> None:
    """Add one pair to the client. The longer of two prefixes is tested first."""
    if key == "drm-driver":
        into.driver = os.fsdecode(value)
    elif key == "drm-pdev":
        into.device = os.fsdecode(value)
    elif name := _after(key, "drm-engine-capacity-"):
        into.engines.setdefault(name, Engine()).capacity = decimal(value) or 1
    elif name := _after(key, "drm-engine-"):
        nanoseconds, _, unit = value.partition(b" ")
        if unit == b"ns":
            into.engines.setdefault(name, Engine()).busy_ns = decimal(nanoseconds)
    elif name := _after(key, "drm-total-cycles-"):
        into.engines.setdefault(name, Engine()).total_cycles = decimal(value)
    elif name := _after(key, "drm-cycles-"):
        into.engines.setdefault(name, Engine()).cycles = decimal(value)
    elif name := _after(key, "drm-resident-"):
        into.regions.setdefault(name, Region()).resident = _bytes(value)
    elif name := _after(key, "drm-memory-"):
        into.regions.setdefault(name, Region()).alias = _bytes(value)
    elif name := _after(key, "drm-shared-"):
        into.regions.setdefault(name, Region()).shared = _bytes(value) or 0


def _after(key: str, prefix: str) -> str:
    return key[len(prefix) :] if key.startswith(prefix) else ""


def _bytes(value: bytes) -> int | None:
    amount, _, unit = value.partition(b" ")
    size = decimal(amount)
    return None if size is None or unit not in _UNITS else size * _UNITS[unit]
