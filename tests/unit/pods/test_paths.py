"""Who made a cgroup, by its path: the layouts of the kubelet's drivers and of the runtimes, systemd, anybody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.pods.model import Identity
from kpod_metrics.pods.paths import identity_of_path, kubernetes_ids

UID = "3f1c0b1e-0d3c-4b7e-9a51-0c1d2e3f4a5b"
SYSTEMD_UID = UID.replace("-", "_")
STATIC_UID = "5f4dcc3b5aa765d61d8327deb882cf99"
ID = "0123456789abcdef" * 4
SLICE = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SYSTEMD_UID}.slice"
KUBELET = f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SYSTEMD_UID}.slice"
GUARANTEED = f"kubepods.slice/kubepods-pod{SYSTEMD_UID}.slice"

KUBERNETES = [
    # The kubelet's systemd driver.
    (f"{SLICE}/cri-containerd-{ID}.scope", UID, ID),
    (f"{SLICE}/crio-{ID}.scope", UID, ID),
    (f"{SLICE}/docker-{ID}.scope", UID, ID),
    (f"{GUARANTEED}/cri-containerd-{ID}.scope", UID, ID),
    (f"{SLICE.replace('burstable', 'besteffort')}/crio-{ID}.scope", UID, ID),
    # ... with containerd's cgroupfs driver below it.
    (f"system.slice/containerd.service/kubepods-burstable-pod{SYSTEMD_UID}.slice:cri-containerd:{ID}", UID, ID),
    (f"kubepods-pod{SYSTEMD_UID}.slice:cri-containerd:{ID}/nested", UID, ID),
    # The cgroupfs driver.
    (f"kubepods/burstable/pod{UID}/{ID}", UID, ID),
    (f"kubepods/besteffort/pod{UID}/{ID}", UID, ID),
    (f"kubepods/pod{UID}/{ID}", UID, ID),
    (f"kubepods/pod{UID}/crio-{ID}", UID, ID),
    # A static pod's UID is a hash.
    (f"kubepods/burstable/pod{STATIC_UID}/{ID}", STATIC_UID, ID),
    (f"kubepods.slice/kubepods-burstable-pod{STATIC_UID}.slice/cri-containerd-{ID}.scope", STATIC_UID, ID),
    # A kubelet with --cgroup-root, and kind: a node in a container.
    (
        f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SYSTEMD_UID}.slice/cri-containerd-{ID}.scope",
        UID,
        ID,
    ),
    (f"system.slice/docker-{'f' * 64}.scope/kubelet.slice/{SLICE}/cri-containerd-{ID}.scope", UID, ID),
    (f"docker/{'f' * 64}/kubelet/kubepods/burstable/pod{UID}/{ID}", UID, ID),
    # Nested in a container: systemd, Docker, a JVM that makes cgroups.
    (f"{SLICE}/cri-containerd-{ID}.scope/init.scope", UID, ID),
    (f"{SLICE}/crio-{ID}.scope/container/system.slice/ssh.service", UID, ID),
    (f"kubepods/pod{UID}/{ID}/docker/{'f' * 64}", UID, ID),
    (f"kubepods/pod{UID}/{ID}/kubepods/pod{STATIC_UID}/{'f' * 64}", UID, ID),
    # The pod as a whole.
    (SLICE, UID, ""),
    (GUARANTEED, UID, ""),
    (f"kubepods/besteffort/pod{UID}", UID, ""),
    (f"kubepods/pod{STATIC_UID}", STATIC_UID, ""),
    (f"{SLICE}/helper", UID, ""),
    # The monitor of a container is not the container.
    (f"{SLICE}/crio-conmon-{ID}.scope", UID, ""),
]

OTHERS = [
    ("", Identity("cgroup", "/", "")),
    ("system.slice/ssh.service", Identity("system", "ssh.service", "")),
    ("system.slice", Identity("system", "system.slice", "")),
    ("init.scope", Identity("system", "init.scope", "")),
    ("system.slice/ssh.service/worker/1", Identity("system", "ssh.service", "")),
    ("user.slice/user-0.slice/session-3.scope", Identity("system", "session-3.scope", "")),
    (
        "user.slice/user-1000.slice/user@1000.service/app.slice/app-a\\x2db@1.service",
        Identity("system", "app-a\\x2db@1.service", ""),
    ),
    ("system.slice/dbus.socket", Identity("system", "dbus.socket", "")),
    ("system.slice/tmp.mount", Identity("system", "tmp.mount", "")),
    ("system.slice/dev-sda2.swap", Identity("system", "dev-sda2.swap", "")),
    # Docker and podman without Kubernetes.
    (f"system.slice/docker-{ID}.scope", Identity("system", f"docker-{ID}.scope", "")),
    (f"docker/{ID}", Identity("cgroup", f"docker/{ID}", "")),
    (f"machine.slice/libpod-{ID}.scope/container", Identity("system", f"libpod-{ID}.scope", "")),
    # The kubelet's own folders hold no pod.
    ("kubepods", Identity("cgroup", "kubepods", "")),
    ("kubepods/burstable", Identity("cgroup", "kubepods/burstable", "")),
    ("kubepods.slice/kubepods-burstable.slice", Identity("system", "kubepods-burstable.slice", "")),
    # What only looks like it.
    ("pod", Identity("cgroup", "pod", "")),
    (f"kubepods/pod{UID[:-1]}", Identity("cgroup", f"kubepods/pod{UID[:-1]}", "")),
    (f"tripod{UID}", Identity("cgroup", f"tripod{UID}", "")),
    (f"kubepods/pod{UID}x", Identity("cgroup", f"kubepods/pod{UID}x", "")),
    ("a/b.services", Identity("cgroup", "a/b.services", "")),
    ("service", Identity("cgroup", "service", "")),
    ("kpod-test-1/a", Identity("cgroup", "kpod-test-1/a", "")),
    ("tür \udc80/日本", Identity("cgroup", "tür \udc80/日本", "")),
]


@pytest.mark.parametrize(("path", "uid", "container"), KUBERNETES)
def test_kubernetes(path: str, uid: str, container: str) -> None:
    assert kubernetes_ids(path) == (uid, container)
    assert identity_of_path(path) == Identity("", uid, container[:12])


@pytest.mark.parametrize(("path", "expected"), OTHERS)
def test_others(path: str, expected: Identity) -> None:
    assert kubernetes_ids(path) is None
    assert identity_of_path(path) == expected


@given(
    st.lists(st.text("abpod-_.:0123456789", min_size=1) | st.sampled_from(["a.service", f"pod{UID}", ID]), max_size=5)
)
def test_any_path_has_an_identity(parts: list[str]) -> None:
    path = "/".join(parts)
    identity = identity_of_path(path)
    assert identity.namespace in {"", "system", "cgroup"}
    assert identity.pod
    assert (identity.namespace == "") == (kubernetes_ids(path) is not None)
    assert identity.of_pod == Identity(identity.namespace, identity.pod, "")
