"""What a DRM driver tells of one client in `/proc/PID/fdinfo/FD` (Documentation/gpu/drm-usage-stats.rst).

A client is one open() of a render or primary node: descriptors that were duplicated, inherited or passed on are the
same client, with the same `drm-client-id`. A line is a key, a colon, and a value with an optional unit; what is not
of that form is left out.
"""

import os
from dataclasses import dataclass, field

from kpod_metrics.cgroup.keyed import decimal

_UNITS = {b"": 1, b"KiB": 1 << 10, b"MiB": 1 << 20}
_OF_DEVICE = ("vram", "local")
"""What the regions are called that are on the GPU: vram (amdgpu), vram0 (xe), local0 (i915)."""


@dataclass(slots=True)
class Engine:
    """One class of engines, such as `render`, with what this client had of it since it was opened."""

    capacity: int = 1
    """Engines of the class: that many seconds of busy time pass in a second at most."""
    busy_ns: int | None = None
    cycles: int | None = None
    """Busy time in cycles of the GPU's clock, where the driver has that in place of nanoseconds (xe)."""
    total_cycles: int | None = None
    """The GPU's clock at the moment of the read."""


@dataclass(slots=True)
class Region:
    """One kind of memory, such as `vram`, in bytes."""

    resident: int | None = None
    """Buffers with memory behind them."""
    alias: int | None = None
    """The same under its older name, drm-memory-REGION; amdgpu has both."""
    shared: int = 0
    """Buffers that other clients have as well, with memory behind them or not."""


@dataclass(slots=True)
class DrmClient:
    """One client of one GPU."""

    id: int
    driver: str = ""
    device: str = ""
    """PCI address; empty for what is not on a PCI bus."""
    engines: dict[str, Engine] = field(default_factory=dict)
    regions: dict[str, Region] = field(default_factory=dict)

    def memory(self) -> tuple[int, int] | None:
        """Return bytes of buffers that are its own, and of those that it shares; None where the driver tells none.

        Memory on the GPU where there is any, else (an integrated GPU) the system's that its buffers are in.
        """
        there = {
            name: (region.alias if region.resident is None else region.resident, region.shared)
            for name, region in self.regions.items()
        }
        told = {name: (used, shared) for name, (used, shared) in there.items() if used is not None}
        told = {name: value for name, value in told.items() if name.startswith(_OF_DEVICE)} or told
        if not told:
            return None
        # Of the shared buffers it is not told how many are resident: at most as much as is resident in all.
        shared = sum(min(used, shared) for used, shared in told.values())
        return sum(used for used, _ in told.values()) - shared, shared


def client(data: bytes) -> DrmClient | None:
    """Return the client of a descriptor's fdinfo; None if the descriptor is none of a DRM driver that counts."""
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
    """Take one pair. The longer of two prefixes comes first."""
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
