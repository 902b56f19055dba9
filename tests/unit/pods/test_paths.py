"""Who made a cgroup, by its path: the layouts of the kubelet's drivers and of the runtimes, systemd, anybody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.pods.model import Identity
from kpod_metrics.pods.paths import identity_of_path, kubernetes_ids
from tests.unit.pods.layouts import ID, LAYOUTS, UID, Layout

OTHERS = [
    ("", Identity("cgroup", "/", "")),
    ("system.slice/ssh.service", Identity("system", "ssh.service", "")),
    ("system.slice", Identity("system", "system.slice", "")),
    ("init.scope", Identity("system", "init.scope", "")),
    ("system.slice/ssh.service/worker/1", Identity("system", "ssh.service", "")),
    ("user.slice/user-0.slice/session-3.scope", Identity("system", "session-3.scope", "")),
    (
        "user.slice/user-1000.slice/user@1000.service/app.slice/app-a\\x2db@1.service",
        Identity("system", "user@1000.service/app.slice/app-a\\x2db@1.service", ""),
    ),
    ("system.slice/dbus.socket", Identity("system", "dbus.socket", "")),
    ("system.slice/tmp.mount", Identity("system", "tmp.mount", "")),
    ("system.slice/dev-sda2.swap", Identity("system", "dev-sda2.swap", "")),
    # Docker and podman without Kubernetes.
    (f"system.slice/docker-{ID}.scope", Identity("system", f"docker-{ID}.scope", "")),
    (f"docker/{ID}", Identity("cgroup", f"docker/{ID}", "")),
    (f"machine.slice/libpod-{ID}.scope/container", Identity("system", f"libpod-{ID}.scope", "")),
    # CRI-O's monitors with conmon_cgroup = "system.slice"; Kata's processes outside a pod; a pod of Podman.
    (f"system.slice/crio-conmon-{ID}.scope", Identity("system", f"crio-conmon-{ID}.scope", "")),
    (f"kata_overhead/{ID}", Identity("cgroup", f"kata_overhead/{ID}", "")),
    (
        f"machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope",
        Identity("system", f"libpod-{ID}.scope", ""),
    ),
    # A node in a container, outside its pods; managers of users, machines, LXC and Docker: each has its own names.
    *(
        (f"{above}{own}", Identity("system", own, ""))
        for above, own in (
            ("system.slice/", f"docker-{ID}.scope/kubelet.slice/kubelet.service"),
            ("user.slice/user-1000.slice/", "user@1000.service/app.slice/x.service"),
            ("user.slice/user-1001.slice/", "user@1001.service/app.slice/x.service"),
            ("user.slice/user-1001.slice/", "user@1001.service/init.scope"),
            ("machine.slice/", "systemd-nspawn@a.service/payload/system.slice/x.service"),
            ("machine.slice/", "systemd-nspawn@b.service/payload/system.slice/x.service"),
            ("machine.slice/", "machine-c.scope/user.slice/user-0.slice/user@0.service/app.slice/x.service"),
            ("", "lxc.payload.a/system.slice/x.service"),
            ("", f"docker/{ID}/system.slice/x.service"),
            ("", "a.slice/b/system.slice/x.service"),
        )
    ),
    ("machine.slice/systemd-nspawn@a.service/supervisor", Identity("system", "systemd-nspawn@a.service", "")),
    ("user.slice/user-1000.slice", Identity("system", "user-1000.slice", "")),
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


def test_no_layout_is_there_twice() -> None:
    assert len({layout.path for layout in LAYOUTS}) == len(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.path)
def test_kubernetes(layout: Layout) -> None:
    assert kubernetes_ids(layout.path) == (layout.uid, layout.container)
    assert identity_of_path(layout.path) == Identity("", layout.uid, layout.container[:12])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.path)
def test_what_is_above_a_container_is_no_container(layout: Layout) -> None:
    """Each path above is of the container, the pod or neither, in this order; all paths below are of the container."""
    below = (layout.uid, layout.container)
    if layout.container:
        assert kubernetes_ids(f"{layout.path}/{'b' * 64}") == below
    path, order = layout.path, [below, (layout.uid, ""), None]
    while path:
        found = kubernetes_ids(path)
        assert found in order
        order = order[order.index(found) :]
        path = path.rpartition("/")[0]
    assert order[-1] is None


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
