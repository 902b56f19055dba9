"""Cgroup paths as real nodes have them, below the mount, each with whom it belongs to and where that is laid down."""

from typing import NamedTuple

UID = "3f1c0b1e-0d3c-4b7e-9a51-0c1d2e3f4a5b"
STATIC_UID = "a5363f4f31e043bdae3c93aca4991903"
"""Of a static pod: the MD5 of its file and node (kubernetes: pkg/kubelet/config/common.go, applyDefaults)."""
INNER_UID = "77f1c0b1-2222-4333-9444-0c1d2e3f4a5b"
ID = "0123456789abcdef" * 4
SANDBOX = "5a" * 32
INNER = "f" * 64
"""Container of a container runtime that runs in a container."""


class Layout(NamedTuple):
    """A path, and the pod UID and container id that it is to give; "" where it is the pod's and no container's."""

    path: str
    uid: str
    container: str


# The kubelet's systemd driver: a slice's name is the path to it, dashes of a UID become underscores (kubernetes:
# pkg/kubelet/cm/cgroup_manager_linux.go, ToSystemd), and guaranteed pods have no slice of their class
# (pkg/kubelet/cm/pod_container_manager_linux.go, GetPodContainerName).
_POD = f"pod{UID.replace('-', '_')}"
GUARANTEED = f"kubepods.slice/kubepods-{_POD}.slice"
BURSTABLE = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{_POD}.slice"
BEST_EFFORT = f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-{_POD}.slice"
# kind's kubelet has cgroupRoot: /kubelet (kind: pkg/cluster/internal/kubeadm/config.go).
KIND = (
    f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-{_POD}.slice"
)
# A node that is a container of Docker's, with its systemd driver.
NODE = f"system.slice/docker-{INNER}.scope"

SYSTEMD = [
    # containerd hands runc "SLICE:cri-containerd:ID" (containerd: internal/cri/server/podsandbox/helpers.go,
    # getCgroupsPath), and runc makes PREFIX-NAME.scope of it (runc: libcontainer/cgroups/systemd, getUnitName).
    Layout(f"{GUARANTEED}/cri-containerd-{ID}.scope", UID, ID),
    Layout(f"{BURSTABLE}/cri-containerd-{ID}.scope", UID, ID),
    Layout(f"{BEST_EFFORT}/cri-containerd-{ID}.scope", UID, ID),
    # CRI-O: "SLICE:crio:ID" (cri-o: internal/config/cgmgr/systemd_linux.go, ContainerCgroupPath).
    Layout(f"{GUARANTEED}/crio-{ID}.scope", UID, ID),
    Layout(f"{BURSTABLE}/crio-{ID}.scope", UID, ID),
    Layout(f"{BEST_EFFORT}/crio-{ID}.scope", UID, ID),
    # ... with crun, whose processes are in their own group below the scope (crun: crun.1,
    # run.oci.systemd.subgroup).
    Layout(f"{BURSTABLE}/crio-{ID}.scope/container", UID, ID),
    # cri-dockerd: dockerd's own prefix (moby: daemon/oci_linux.go, "SLICE:docker:ID").
    Layout(f"{GUARANTEED}/docker-{ID}.scope", UID, ID),
    Layout(f"{BURSTABLE}/docker-{ID}.scope", UID, ID),
    Layout(f"{BEST_EFFORT}/docker-{ID}.scope", UID, ID),
    # Dashes kept in the slice's name, as the first kubelets with slices did.
    Layout(f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice/docker-{ID}.scope", UID, ID),
    # The kubelet with systemd, containerd without (SystemdCgroup = false): one directory with the unit's three names,
    # beside containerd itself (elastic/apm-agent-nodejs#3550) or at the root (containerd/runwasi#821).
    Layout(f"system.slice/containerd.service/kubepods-burstable-{_POD}.slice:cri-containerd:{ID}", UID, ID),
    Layout(f"kubepods-{_POD}.slice:cri-containerd:{ID}", UID, ID),
    Layout(f"kubepods-besteffort-{_POD}.slice:crio:{ID}", UID, ID),
]

CGROUPFS = [
    # pkg/kubelet/cm/cgroup_manager_linux.go, ToCgroupfs; containerd and cri-dockerd: the bare id below the pod.
    Layout(f"kubepods/pod{UID}/{ID}", UID, ID),
    Layout(f"kubepods/burstable/pod{UID}/{ID}", UID, ID),
    Layout(f"kubepods/besteffort/pod{UID}/{ID}", UID, ID),
    # CRI-O has its prefix here too (cri-o: internal/config/cgmgr/cgroupfs_linux.go).
    Layout(f"kubepods/pod{UID}/crio-{ID}", UID, ID),
    Layout(f"kubepods/burstable/pod{UID}/crio-{ID}", UID, ID),
    Layout(f"kubepods/besteffort/pod{UID}/crio-{ID}", UID, ID),
]

ROOTS = [
    # kind, seen from the node itself (containerd/nri#227) and from the machine that it is a container of.
    Layout(f"{KIND}/cri-containerd-{ID}.scope", UID, ID),
    Layout(f"{NODE}/{KIND}/cri-containerd-{ID}.scope", UID, ID),
    Layout(f"docker/{INNER}/kubelet/kubepods/burstable/pod{UID}/{ID}", UID, ID),
    # ... in rootless Podman, whose user's systemd has the node.
    Layout(
        f"user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{INNER}.scope/container/{KIND}/"
        f"cri-containerd-{ID}.scope",
        UID,
        ID,
    ),
    # k3s: under systemd as above; in Docker (k3d: k3s-io/k3s#4085) and rootless, where it has moved itself to k3s_evac
    # beside its pods (k3s: pkg/rootless/rootless.go), with the cgroupfs driver.
    Layout(f"{NODE}/kubepods/besteffort/pod{UID}/{ID}", UID, ID),
    Layout(
        f"user.slice/user-1000.slice/user@1000.service/app.slice/k3s-rootless.service/kubepods/pod{UID}/{ID}", UID, ID
    ),
    # minikube's node with systemd's driver.
    Layout(f"{NODE}/{BURSTABLE}/docker-{ID}.scope", UID, ID),
    # --cgroup-root: /custom, /a/b-c, /kubelet.slice; a slice's name has all that is above it.
    Layout(f"custom/kubepods/burstable/pod{UID}/{ID}", UID, ID),
    Layout(f"custom.slice/custom-kubepods.slice/custom-kubepods-{_POD}.slice/crio-{ID}.scope", UID, ID),
    Layout(
        f"a.slice/a-b_c.slice/a-b_c-kubepods.slice/a-b_c-kubepods-burstable.slice/a-b_c-kubepods-burstable-{_POD}.slice/"
        f"cri-containerd-{ID}.scope",
        UID,
        ID,
    ),
    Layout(f"kubelet.slice/kubepods/besteffort/pod{UID}/{ID}", UID, ID),
    # Only a part of the tree is seen, from a pod's class or the pod down.
    Layout(f"burstable/pod{UID}/{ID}", UID, ID),
    Layout(f"kubepods-burstable-{_POD}.slice/cri-containerd-{ID}.scope", UID, ID),
]

STATIC = [
    # Mirror pods have another UID; their annotation kubernetes.io/config.hash is the one of the path.
    Layout(f"kubepods/burstable/pod{STATIC_UID}/{ID}", STATIC_UID, ID),
    Layout(
        f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC_UID}.slice/cri-containerd-{ID}.scope",
        STATIC_UID,
        ID,
    ),
    Layout(f"kubepods.slice/kubepods-pod{STATIC_UID}.slice/crio-{ID}.scope", STATIC_UID, ID),
    Layout(f"kubepods/pod{STATIC_UID}", STATIC_UID, ""),
]

PODS = [
    # The pod's own cgroup, which all of the above are in.
    Layout(GUARANTEED, UID, ""),
    Layout(BURSTABLE, UID, ""),
    Layout(BEST_EFFORT, UID, ""),
    Layout(f"kubepods/pod{UID}", UID, ""),
    Layout(f"kubepods/besteffort/pod{UID}", UID, ""),
    Layout(KIND, UID, ""),
    Layout(f"{NODE}/{KIND}", UID, ""),
    Layout(f"{BURSTABLE}/helper", UID, ""),
    # The sandbox (pause) is a container by its path; only the API server's list of containers tells it apart.
    Layout(f"{BURSTABLE}/cri-containerd-{SANDBOX}.scope", UID, SANDBOX),
    Layout(f"{BURSTABLE}/crio-{SANDBOX}.scope", UID, SANDBOX),
    Layout(f"kubepods/besteffort/pod{UID}/{SANDBOX}", UID, SANDBOX),
    # CRI-O's monitor of each container, with conmon_cgroup = "pod" (cri-o: systemd_linux.go, cgroupfs_linux.go,
    # MoveConmonToCgroup).
    Layout(f"{BURSTABLE}/crio-conmon-{ID}.scope", UID, ""),
    Layout(f"kubepods/pod{UID}/crio-conmon-{ID}", UID, ""),
    # Kata's virtual machine, named after the sandbox (kata-containers: docs/design/host-cgroups.md), and what of it is
    # kept out of the pod's limits (runtime-rs: gen_overhead_path).
    Layout(f"kubepods/pod{UID}/kata_{SANDBOX}", UID, ""),
    Layout(f"kata_overhead/kubepods/burstable/pod{UID}/{SANDBOX}", UID, SANDBOX),
]

NESTED = [
    # All that is in a container is the container's, whatever its name: systemd ...
    Layout(f"{BURSTABLE}/cri-containerd-{ID}.scope/init.scope", UID, ID),
    Layout(f"{BURSTABLE}/crio-{ID}.scope/container/system.slice/ssh.service", UID, ID),
    # ... Docker and Podman in it ...
    Layout(f"kubepods/pod{UID}/{ID}/docker/{INNER}", UID, ID),
    Layout(f"{GUARANTEED}/cri-containerd-{ID}.scope/system.slice/docker-{INNER}.scope", UID, ID),
    Layout(f"{GUARANTEED}/crio-{ID}.scope/container/libpod_parent/libpod-{INNER}", UID, ID),
    Layout(f"kubepods-{_POD}.slice:cri-containerd:{ID}/docker/{INNER}", UID, ID),
    # ... a whole cluster in it: kind in a pod, k3s in a pod (rancher/k3k#792).
    Layout(f"kubepods/pod{UID}/{ID}/kubepods/pod{INNER_UID}/{INNER}", UID, ID),
    Layout(f"kubepods/pod{UID}/{ID}/kubepods/pod{INNER_UID}", UID, ID),
    Layout(
        f"{BURSTABLE}/cri-containerd-{ID}.scope/docker/{INNER}/kubelet.slice/kubelet-kubepods.slice/"
        f"kubelet-kubepods-pod{INNER_UID.replace('-', '_')}.slice/cri-containerd-{'e' * 64}.scope",
        UID,
        ID,
    ),
]

LAYOUTS = SYSTEMD + CGROUPFS + ROOTS + STATIC + PODS + NESTED
