"""Who made a cgroup, by its path: the layouts of the kubelet's drivers and of the runtimes, systemd, anybody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.bounds import clipped
from kpod_metrics.pods.model import Identity
from kpod_metrics.pods.paths import identity_of_path, place_of
from tests.unit.pods.layouts import BURSTABLE, GUARANTEED, ID, KIND, LAYOUTS, NODE, UID, Layout

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


def ids(path: str) -> tuple[str, str] | None:
    place = place_of(path)
    return None if place is None else place[:2]


@pytest.mark.parametrize(
    ("path", "tree", "pod", "directory", "apart"),
    [
        (f"{BURSTABLE}/cri-containerd-{ID}.scope/a", "kubepods.slice", BURSTABLE, "cri-containerd-ID.scope", False),
        (f"{GUARANTEED}/helper", "kubepods.slice", GUARANTEED, "", False),
        (f"{NODE}/{KIND}", f"{NODE}/kubelet.slice/kubelet-kubepods.slice", f"{NODE}/{KIND}", "", False),
        (
            f"custom/kubepods/burstable/pod{UID}/{ID}",
            "custom/kubepods",
            f"custom/kubepods/burstable/pod{UID}",
            ID,
            False,
        ),
        (f"pod{UID}/{ID}/b", "", f"pod{UID}", ID, False),
        (f"burstable/pod{UID}", "", f"burstable/pod{UID}", "", False),
        (f"a/kubepods-pod{UID}.slice:crio:{ID}/b", "a", "a", f"kubepods-pod{UID}.slice:crio:{ID}", True),
        (f"kubepods-pod{UID}.slice:crio:{ID}", "", "", f"kubepods-pod{UID}.slice:crio:{ID}", True),
        (
            f"kata_overhead/kubepods/burstable/pod{UID}/{ID}",
            "kubepods",
            f"kata_overhead/kubepods/burstable/pod{UID}",
            ID,
            True,
        ),
    ],
)
def test_where_the_ids_are(path: str, tree: str, pod: str, directory: str, apart: bool) -> None:
    own = "/".join(filter(None, (pod, directory.replace("ID", ID))))
    assert place_of(path) == (UID, ID if ID in path else "", tree, pod, own, apart)


@pytest.mark.parametrize(
    ("path", "pod"),
    [
        ("a" * 200, "a" * 200),
        ("a" * 201, clipped("a" * 201)),
        (f"system.slice/{'b' * 255}.service/x", clipped(f"{'b' * 255}.service")),
        ("/".join(["ä" * 120] * 30), clipped("/".join(["ä" * 120] * 30))),
    ],
)
def test_long_names_are_cut(path: str, pod: str) -> None:
    assert identity_of_path(path).pod == pod
    assert len(pod.encode()) <= 200


def test_no_layout_is_there_twice() -> None:
    assert len({layout.path for layout in LAYOUTS}) == len(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.path)
def test_kubernetes(layout: Layout) -> None:
    place = place_of(layout.path)
    assert place is not None
    assert place[:2] == (layout.uid, layout.container)
    assert identity_of_path(layout.path, place) == Identity("", layout.uid, layout.container[:12])
    assert identity_of_path(layout.path).namespace in {"system", "cgroup"}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.path)
def test_what_is_above_a_container_is_no_container(layout: Layout) -> None:
    """Each path above is of the container, the pod or neither, in this order; all paths below are of the container."""
    below = (layout.uid, layout.container)
    if layout.container:
        assert ids(f"{layout.path}/{'b' * 64}") == below
    path, order = layout.path, [below, (layout.uid, ""), None]
    while path:
        found = ids(path)
        assert found in order
        order = order[order.index(found) :]
        path = path.rpartition("/")[0]
    assert order[-1] is None


@pytest.mark.parametrize(("path", "expected"), OTHERS)
def test_others(path: str, expected: Identity) -> None:
    assert place_of(path) is None
    assert identity_of_path(path) == expected


@given(
    st.lists(st.text("abpod-_.:0123456789", min_size=1) | st.sampled_from(["a.service", f"pod{UID}", ID]), max_size=5)
)
def test_any_path_has_an_identity(parts: list[str]) -> None:
    path = "/".join(parts)
    place = place_of(path)
    identity = identity_of_path(path, place)
    assert identity.namespace in {"", "system", "cgroup"}
    assert identity.pod
    assert (identity.namespace == "") == (place is not None)
    assert identity.of_pod == Identity(identity.namespace, identity.pod, "")
