from kpod_metrics.cgroup.drm import DrmClient, Engine, Region, client
from tests.unit.collectors.fdinfo import AMDGPU, AMDGPU_BEFORE_6_13, FILE, I915, PANFROST, XE


def parsed(text: str) -> DrmClient:
    found = client(text.encode())
    assert found is not None
    return found


def test_amdgpu() -> None:
    found = parsed(AMDGPU)
    assert (found.id, found.driver, found.device) == (217, "amdgpu", "0000:08:00.0")
    assert found.engines == {"gfx": Engine(busy_ns=107322799), "compute": Engine(busy_ns=5000000)}
    assert found.regions["vram"] == Region(resident=2068 << 10, alias=2068 << 10, shared=1 << 20)
    # gtt and cpu are the system's memory; doorbell, gds, ... are no memory for buffers.
    assert found.memory() == (1044 << 10, 1 << 20)


def test_amdgpu_of_older_kernels() -> None:
    found = parsed(AMDGPU_BEFORE_6_13)
    assert (found.id, found.device) == (217, "0000:08:00.0")
    assert found.engines == {"gfx": Engine(busy_ns=107322799)}
    assert found.memory() == (2068 << 10, 0)


def test_i915_that_has_no_memory_of_its_own() -> None:
    found = parsed(I915)
    assert (found.id, found.driver, found.device) == (5, "i915", "0000:00:02.0")
    assert found.engines == {
        "render": Engine(busy_ns=9288864723),
        "copy": Engine(busy_ns=2035071108),
        "video": Engine(busy_ns=0, capacity=2),
        "video-enhance": Engine(busy_ns=0),
    }
    assert found.memory() == ((3 << 20) + (512 << 10), 1 << 20)


def test_xe() -> None:
    found = parsed(XE)
    assert (found.id, found.driver, found.device) == (3, "xe", "0000:03:00.0")
    assert found.engines["rcs"] == Engine(cycles=28257900, total_cycles=7655183225)
    assert found.engines["ccs"] == Engine(capacity=4, cycles=0, total_cycles=7655183225)
    assert found.memory() == ((23992 << 10) - (16 << 20), 16 << 20)


def test_panfrost_that_is_on_no_pci_bus() -> None:
    found = parsed(PANFROST)
    assert (found.id, found.driver, found.device) == (14, "panfrost", "")
    assert found.engines["fragment"] == Engine(busy_ns=1846584880, cycles=1424359409)
    assert found.memory() == (10752 << 10, 0)


def test_descriptors_of_other_files() -> None:
    assert client(FILE.encode()) is None
    assert client(b"") is None


def test_driver_that_tells_who_but_not_how_much() -> None:
    found = parsed(FILE + "drm-driver:\tvirtio_gpu\ndrm-client-id:\t9\ndrm-pdev:\t0000:00:01.0\n")
    assert (found.id, found.engines, found.memory()) == (9, {}, None)


def test_what_is_of_another_form_is_left_out() -> None:
    found = parsed(
        "drm-client-id:\t9\ndrm-engine-gfx:\t12 %\ndrm-engine-dec:\tsoon ns\ndrm-memory-vram:\t5 GB\nnonsense\n"
        "drm-resident-vram:\t-1 KiB\ndrm-engine-capacity-enc:\t0\ndrm-shared-vram:\t7\n"
    )
    assert [engine.busy_ns for engine in found.engines.values()] == [None, None]
    assert found.engines["enc"].capacity == 1
    assert found.memory() is None


def test_more_shared_than_resident() -> None:
    """Shared buffers need not have memory behind them."""
    found = parsed("drm-client-id:\t9\ndrm-resident-vram0:\t1 MiB\ndrm-shared-vram0:\t16 MiB\n")
    assert found.memory() == (0, 1 << 20)
