"""What a kubelet and containerd make of a pod: an OCI container of exactly what the rendered manifest says, under runc.

Sources: containerd's internal/cri/server (container_create_linux.go, spec_opts.go), its default spec (pkg/oci/spec.go),
and the kubelet's pkg/kubelet (kubelet_pods.go for the environment, the projected service account volume).
"""

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.image import seccomp
from tests.live.containers import mounted_trees

Object = dict[str, Any]

DEFAULT_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"),
    *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
)
MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi"),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass
class Node:
    """What of the machine is in a pod's manifest, or in its environment, or has to be there for it."""

    folder: Path
    name: str = "node-1"
    address: str = "127.0.0.1"
    network: str = ""
    """Path of the pod's network namespace; empty: the host's."""
    api: tuple[str, int] = ("127.0.0.1", 6443)
    token: str = ""
    ca: str = ""
    seccomp: Path | None = None
    """The runtime's own profile; None: that of containerd."""
    seccomp_folder: Path | None = None
    """The kubelet's, which Localhost profiles are in."""
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def folder_of(self, volume: str) -> Path:
        """Where a volume's files are."""
        return self.folder / f"volume-{volume}"


def memory(quantity: str) -> int:
    """Bytes of a quantity such as 128Mi."""
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi)?", quantity)
    assert match
    return int(match[1]) * {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}[match[2]]


def bundle(pod: Object, image: Object, rootfs: Path, node: Node, cgroup: str) -> Object:
    """The OCI configuration of the only container of a pod."""
    spec = pod["spec"]
    [container] = spec["containers"]
    context = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
    assert not context.get("privileged")
    configured = image["config"]
    names = ["uts", "ipc", "mount", "cgroup"]
    namespaces: list[Object] = [{"type": name} for name in names]
    if not spec.get("hostPID"):
        namespaces.append({"type": "pid"})
    if not spec.get("hostNetwork") and node.network:
        namespaces.append({"type": "network", "path": node.network})
    capabilities = _capabilities(context.get("capabilities", {}))
    user = configured.get("User", "0:0").split(":")
    uid = context.get("runAsUser", int(user[0] or 0))
    assert not (context.get("runAsNonRoot") and not uid)
    # For users other than root, execve() clears the effective capabilities.
    sets = ("bounding", "effective", "permitted") if not uid else ("bounding",)
    limits = container.get("resources", {}).get("limits", {})
    linux: Object = {
        "cgroupsPath": f"/{cgroup}",
        "namespaces": namespaces,
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
    }
    if "memory" in limits:
        limit = memory(limits["memory"])
        linux["resources"]["memory"] = {"limit": limit, "swap": limit}
    profile = _seccomp(context.get("seccompProfile", {}), capabilities, node)
    if profile is not None:
        linux["seccomp"] = profile
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(rootfs), "readonly": bool(context.get("readOnlyRootFilesystem"))},
        "hostname": pod.get("metadata", {}).get("name", "agent-x1y2z"),
        "process": {
            "user": {"uid": uid, "gid": context.get("runAsGroup", 0)},
            "args": [
                *container.get("command", configured.get("Entrypoint", [])),
                *container.get("args", [] if "command" in container else configured.get("Cmd", [])),
            ],
            "env": _environment(spec, container, configured, node),
            "cwd": configured.get("WorkingDir") or "/",
            "noNewPrivileges": context.get("allowPrivilegeEscalation") is False,
            "capabilities": dict.fromkeys(sets, capabilities),
        },
        "mounts": _mounts(spec, container, node),
        "linux": linux,
    }


def _capabilities(wanted: Object) -> list[str]:
    names = set(DEFAULT_CAPABILITIES)
    names = set() if "ALL" in wanted.get("drop", []) else names - set(wanted.get("drop", []))
    return sorted(f"CAP_{name}" for name in names | set(wanted.get("add", [])))


def _seccomp(wanted: Object, capabilities: Sequence[str], node: Node) -> Object | None:
    kind = wanted.get("type", "Unconfined")
    if kind == "Unconfined":
        return None
    if kind == "Localhost":
        assert node.seccomp_folder is not None
        return seccomp.of_json(node.seccomp_folder / wanted["localhostProfile"], capabilities)
    return seccomp.of(node.seccomp or seccomp.default(), capabilities)


def _environment(spec: Object, container: Object, configured: Object, node: Node) -> list[str]:
    assert spec.get("enableServiceLinks") is False
    values = dict(entry.split("=", 1) for entry in configured.get("Env", []))
    values |= {
        "HOSTNAME": "agent-x1y2z",
        # Of the service `kubernetes`, which every container has whatever enableServiceLinks says.
        "KUBERNETES_SERVICE_HOST": node.api[0],
        "KUBERNETES_SERVICE_PORT": str(node.api[1]),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(node.api[1]),
        "KUBERNETES_PORT": f"tcp://{node.api[0]}:{node.api[1]}",
    }
    fields = {"spec.nodeName": node.name, "status.hostIP": node.address}
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        values[entry["name"]] = fields[source] if source else entry["value"]
    return [f"{name}={value}" for name, value in values.items()]


def _mounts(spec: Object, container: Object, node: Node) -> list[Object]:
    quiet = ["nosuid", "noexec", "nodev"]
    mounts: list[Object] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": quiet},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*quiet, "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*quiet, "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*quiet, "relatime", "ro"]},
    ]
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    mounts += [
        _bind(_source(volumes[mount["name"]], node), mount["mountPath"], mount.get("readOnly", False))
        for mount in container.get("volumeMounts", [])
    ]
    if spec.get("automountServiceAccountToken", True):
        mounts.append(_bind(_account(node), ACCOUNT, True))
    return mounts


def _bind(source: Path, destination: str, read_only: bool) -> Object:
    options = ["rbind", "rprivate", "ro" if read_only else "rw"]
    return {"destination": destination, "type": "bind", "source": str(source), "options": options}


def _source(volume: Object, node: Node) -> Path:
    if "hostPath" in volume:
        path = Path(volume["hostPath"]["path"])
        assert path.is_dir() or volume["hostPath"].get("type") != "Directory"
        return path
    folder = node.folder_of(volume["name"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if "secret" in volume:
        write_volume(folder, node.secrets[volume["secret"]["secretName"]], volume["secret"]["defaultMode"])
    else:
        write_volume(folder, node.config_maps[volume["configMap"]["name"]])
    return folder


def write_volume(folder: Path, files: Mapping[str, str], mode: int = 0o644) -> None:
    """Write a volume, the first time or again, as the kubelet does: links to a folder that is replaced."""
    written = folder / f"..2026_{len(list(folder.iterdir()))}"
    written.mkdir()
    for name, text in files.items():
        (written / name).write_text(text)
        (written / name).chmod(mode)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(written.name)
    (folder / "..data_tmp").rename(folder / "..data")


def _account(node: Node) -> Path:
    folder = node.folder / "volume-account"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "..2026").mkdir(parents=True)
    (folder / "..data").symlink_to("..2026")
    for name, text in (("token", node.token), ("ca.crt", node.ca), ("namespace", "kpod-metrics")):
        (folder / "..2026" / name).write_text(text)
        (folder / "..2026" / name).chmod(0o600 if name == "token" else 0o644)
        (folder / name).symlink_to(f"..data/{name}")
    return folder


class Pods:
    """Starts containers of one image."""

    _numbers = itertools.count()

    def __init__(self, runc: Path, rootfs: Path, image: Object, scratch: Path) -> None:
        self._runc = runc
        self.rootfs = rootfs
        self.image = image
        self._scratch = scratch

    def _call(self, *arguments: str) -> list[str]:
        return [str(self._runc), "--root", str(self._scratch / "state"), *arguments]

    @contextmanager
    def running(self, pod: Object, node: Node, log: Path) -> "Iterator[subprocess.Popen[bytes]]":
        """Start the only container of a pod; its output goes to a file. It is stopped as by a kubelet, and removed."""
        name = f"kpod-test-{os.getpid()}-{next(self._numbers)}"
        cgroup = f"kpod-test-agent-{os.getpid()}/{name}"
        new = [tree / path for tree in mounted_trees() for path in (cgroup, os.path.dirname(cgroup))]
        where = self._scratch / name
        where.mkdir()
        config = bundle(pod, self.image, self.rootfs, node, cgroup)
        (where / "config.json").write_text(json.dumps(config))
        with log.open("wb") as file:
            started = subprocess.Popen(self._call("run", "--bundle", str(where), name), stdout=file, stderr=file)
        try:
            yield started
        finally:
            if started.poll() is None:
                subprocess.run(self._call("kill", name, "TERM"), check=False, capture_output=True)
                with suppress(subprocess.TimeoutExpired):
                    started.wait(5)
            subprocess.run(self._call("delete", "--force", name), check=False, capture_output=True)
            started.kill()
            started.wait()
            for path in new:
                with suppress(OSError):
                    path.rmdir()
