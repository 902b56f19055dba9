"""What drivers print of a client, whole, with the source of each set of keys; and processes that hold clients."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.unit.collectors.cycles import Tree

FILE = "pos:\t0\nflags:\t02400002\nmnt_id:\t26\nino:\t685\n"
"""fs/proc/fd.c: the lines of every descriptor, and all of a file's that is no device."""

# drivers/gpu/drm/drm_file.c: drm_show_fdinfo(), drm_print_memory_stats(); drivers/gpu/drm/amd/amdgpu/amdgpu_fdinfo.c
AMDGPU = (
    FILE
    + """drm-driver:	amdgpu
drm-client-id:	217
drm-pdev:	0000:08:00.0
pasid:	32784
drm-total-vram:	2068 KiB
drm-shared-vram:	1 MiB
drm-active-vram:	0
drm-resident-vram:	2068 KiB
drm-purgeable-vram:	0
drm-total-gtt:	8 MiB
drm-shared-gtt:	0
drm-active-gtt:	0
drm-resident-gtt:	8 MiB
drm-purgeable-gtt:	0
drm-total-cpu:	0
drm-shared-cpu:	0
drm-active-cpu:	0
drm-resident-cpu:	0
drm-purgeable-cpu:	0
drm-total-gds:	0
drm-shared-gds:	0
drm-active-gds:	0
drm-resident-gds:	0
drm-purgeable-gds:	0
drm-total-gws:	0
drm-shared-gws:	0
drm-active-gws:	0
drm-resident-gws:	0
drm-purgeable-gws:	0
drm-total-oa:	0
drm-shared-oa:	0
drm-active-oa:	0
drm-resident-oa:	0
drm-purgeable-oa:	0
drm-total-doorbell:	0
drm-shared-doorbell:	0
drm-active-doorbell:	0
drm-resident-doorbell:	0
drm-purgeable-doorbell:	0
drm-memory-vram:	2068 KiB
drm-memory-gtt: 	8192 KiB
drm-memory-cpu: 	0 KiB
amd-evicted-vram:	0 KiB
amd-requested-vram:	2068 KiB
amd-requested-gtt:	8192 KiB
drm-engine-gfx:	107322799 ns
drm-engine-compute:	5000000 ns
"""
)

# As in github.com/Umio-Yasuno/amdgpu_top/issues/87
AMDGPU_BEFORE_6_13 = (
    FILE
    + """pasid:	32784
drm-driver:	amdgpu
drm-pdev:	0000:08:00.0
drm-client-id:	217
drm-memory-vram:	2068 KiB
drm-memory-gtt: 	8192 KiB
drm-memory-cpu: 	0 KiB
drm-engine-gfx:	107322799 ns
"""
)

# drivers/gpu/drm/i915/i915_drm_client.c; the regions' names: intel_memory_region.c, region_type_str()
I915 = (
    FILE
    + """drm-driver:	i915
drm-client-id:	5
drm-pdev:	0000:00:02.0
drm-total-system0:	4 MiB
drm-shared-system0:	1 MiB
drm-active-system0:	0
drm-resident-system0:	4 MiB
drm-purgeable-system0:	64 KiB
drm-total-stolen-system0:	512 KiB
drm-shared-stolen-system0:	0
drm-active-stolen-system0:	0
drm-resident-stolen-system0:	512 KiB
drm-purgeable-stolen-system0:	0
drm-engine-render:	9288864723 ns
drm-engine-copy:	2035071108 ns
drm-engine-video:	0 ns
drm-engine-capacity-video:	2
drm-engine-video-enhance:	0 ns
"""
)

# drivers/gpu/drm/xe/xe_drm_client.c, "DRM Client usage stats"
XE = (
    FILE
    + """drm-driver:	xe
drm-client-id:	3
drm-pdev:	0000:03:00.0
drm-total-system:	0
drm-shared-system:	0
drm-active-system:	0
drm-resident-system:	0
drm-purgeable-system:	0
drm-total-gtt:	192 KiB
drm-shared-gtt:	0
drm-active-gtt:	0
drm-resident-gtt:	192 KiB
drm-total-vram0:	23992 KiB
drm-shared-vram0:	16 MiB
drm-active-vram0:	0
drm-resident-vram0:	23992 KiB
drm-total-stolen:	0
drm-shared-stolen:	0
drm-active-stolen:	0
drm-resident-stolen:	0
drm-cycles-rcs:	28257900
drm-total-cycles-rcs:	7655183225
drm-cycles-bcs:	0
drm-total-cycles-bcs:	7655183225
drm-cycles-vcs:	0
drm-total-cycles-vcs:	7655183225
drm-engine-capacity-vcs:	2
drm-cycles-vecs:	0
drm-total-cycles-vecs:	7655183225
drm-engine-capacity-vecs:	2
drm-cycles-ccs:	0
drm-total-cycles-ccs:	7655183225
drm-engine-capacity-ccs:	4
"""
)

# Documentation/gpu/panfrost.rst
PANFROST = (
    FILE
    + """drm-driver:	panfrost
drm-client-id:	14
drm-engine-fragment:	1846584880 ns
drm-cycles-fragment:	1424359409
drm-maxfreq-fragment:	799999987 Hz
drm-curfreq-fragment:	799999987 Hz
drm-engine-vertex-tiler:	71932239 ns
drm-cycles-vertex-tiler:	52617357
drm-maxfreq-vertex-tiler:	799999987 Hz
drm-curfreq-vertex-tiler:	799999987 Hz
drm-total-memory:	290 MiB
drm-shared-memory:	0 MiB
drm-active-memory:	226 MiB
drm-resident-memory:	10752 KiB
drm-purgeable-memory:	128 KiB
"""
)


def change(text: str, **values: str) -> str:
    """Return fdinfo with other values of these keys; `engine_gfx` is drm-engine-gfx, whether it was there or not."""
    lines = text.splitlines()
    for name, value in values.items():
        key = f"drm-{name.replace('_', '-')}:"
        lines = [line for line in lines if not line.startswith(key)] + [f"{key}\t{value}"]
    return "\n".join(lines) + "\n"


class Gpus:
    """DRM devices of a fixture, and processes with descriptors."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def add(self, node: str, device: str, driver: str) -> None:
        """Make a render node, as /sys/class/drm has it."""
        path = self._tree.sys / "devices" / device
        path.mkdir(parents=True)
        drivers = self._tree.sys / "drivers" / driver
        drivers.mkdir(parents=True, exist_ok=True)
        (path / "driver").symlink_to(drivers)
        folder = self._tree.sys / "class/drm" / node
        folder.mkdir(parents=True)
        (folder / "device").symlink_to(path)

    def process(self, pid: int, clients: Mapping[str, str], *, dri: bool = True) -> Path:
        """Make a process, or let it have other descriptors: each by its number, with its fdinfo."""
        path = self._tree.proc / str(pid)
        if not path.exists():
            self._tree.process(pid)
            root = self._tree.root / f"root-of-{pid}"
            (root / "dev").mkdir(parents=True)
            (path / "root").symlink_to(root)
            if dri:
                (root / "dev/dri").mkdir()
        for folder in ("fd", "fdinfo"):
            shutil.rmtree(path / folder, ignore_errors=True)
            (path / folder).mkdir()
        (path / "fd/0").symlink_to("/dev/null")
        (path / "fdinfo/0").write_text(FILE)
        for descriptor, text in clients.items():
            (path / "fd" / descriptor).symlink_to("/dev/dri/renderD128")
            (path / "fdinfo" / descriptor).write_text(text)
        return path

    def tell(self, pid: int, descriptor: str, text: str) -> None:
        """Let a client count on."""
        (self._tree.proc / str(pid) / "fdinfo" / descriptor).write_text(text)
