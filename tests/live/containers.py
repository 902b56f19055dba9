"""Real containers: runc with the namespaces that a pod's container has, in the cgroup that its path names."""

import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.live.harness import Cgroup, compile_workload

NAMESPACES = ("mount", "uts", "ipc", "pid", "cgroup")
"""What a pod's container has of its own; the network is the host's, as with `hostNetwork`."""
ID = re.compile(r"[0-9a-f]{64}")


def slice_of(uid: str, top: str) -> str:
    """A pod's cgroup of the kubelet's systemd driver, below `top`."""
    return f"{top}/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid.replace('-', '_')}.slice"


def scope(uid: str, container: str, top: str) -> str:
    """A container's cgroup of containerd and systemd, below `top`."""
    return f"{slice_of(uid, top)}/cri-containerd-{container}.scope"


def mounted_trees() -> list[Path]:
    """Where the cgroup hierarchies are mounted, v2 and v1: beside v1 runc makes a container's cgroup in each."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [Path(line.split()[4]) for line in lines if line.partition(" - ")[2].startswith("cgroup")]


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait up to ten seconds."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError(f"no {what} within 10 s")


class Container:
    """A running container."""

    def __init__(self, cgroups_path: str, cgroup: Cgroup, process: "subprocess.Popen[bytes]", pid: int) -> None:
        self.path = cgroups_path
        """Below the mount, without a leading slash."""
        self.cgroup = cgroup
        self.process = process
        """Runc itself: its standard streams are the container's, it ends when the container does."""
        self.first_pid = pid
        """Of its first process, in this machine's numbers."""
        ids = ID.findall(cgroups_path)
        self.id: str = ids[-1] if ids else ""
        """As Kubernetes has it: the last one in the path."""

    @property
    def pid(self) -> int:
        """The command's process; the first process where there is no command."""
        children = Path(f"/proc/{self.first_pid}/task/{self.first_pid}/children").read_text().split()
        return int(children[0]) if children else self.first_pid

    def stop_point(self) -> None:
        """Wait until the workload has stopped itself: a phase is over, and it makes no event until `go`."""

        def stopped() -> bool:
            return self.pid != self.first_pid and "\nState:\tT" in Path(f"/proc/{self.pid}/status").read_text()

        wait_for(stopped, f"stopped workload in {self.path}")

    def go(self) -> None:
        """Let a stopped workload go on."""
        os.kill(self.pid, signal.SIGCONT)


class Runtime:
    """Starts containers with runc; they share a read-only root that holds static workloads and nothing else."""

    _numbers = itertools.count()

    def __init__(self, runc: Path, scratch: Path, cgroup_root: str) -> None:
        self._runc = runc
        self._scratch = scratch
        self._cgroup_root = Path(cgroup_root)
        self._rootfs = scratch / "rootfs"
        for name in ("proc", "bin"):
            (self._rootfs / name).mkdir(parents=True)

    def _call(self, *arguments: str) -> list[str]:
        return [str(self._runc), "--root", str(self._scratch / "state"), *arguments]

    def _bundle(
        self, name: str, cgroups_path: str, command: Sequence[str], binds: Sequence[Path], capabilities: Sequence[str]
    ) -> Path:
        """Write what runc is to start; the first process is `pause`, which starts the command."""
        for workload in ("pause", *command[:1]):
            compile_workload(workload, self._rootfs / "bin", "-static")
        mounts: list[dict[str, object]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
        mounts += [
            {"destination": str(path), "type": "bind", "source": str(path), "options": ["bind", "rw"]} for path in binds
        ]
        spec = {
            "ociVersion": "1.0.2",
            "root": {"path": str(self._rootfs)},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/pause", *(f"/bin/{part}" for part in command[:1]), *command[1:]],
                "cwd": "/",
                "capabilities": {kind: list(capabilities) for kind in ("bounding", "effective", "permitted")},
            },
            "mounts": mounts,
            "linux": {"cgroupsPath": f"/{cgroups_path}", "namespaces": [{"type": kind} for kind in NAMESPACES]},
        }
        bundle = self._scratch / name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(spec))
        return bundle

    @contextmanager
    def container(
        self, cgroups_path: str, *command: str, binds: Sequence[Path] = (), capabilities: Sequence[str] = ()
    ) -> Iterator[Container]:
        """Run a workload (`workloads/NAME.c` and its arguments), or nothing but a sandbox's first process.

        `cgroups_path` is the container's cgroup below the mount, `binds` files that it has at the same path,
        `capabilities` what it has of them. At the end the container is killed, and its cgroups and those above it that
        were not there before are removed from all hierarchies.
        """
        above = [Path(cgroups_path), *Path(cgroups_path).parents][:-1]
        new = [tree / path for tree in mounted_trees() for path in above if not (tree / path).exists()]
        name = f"kpod-test-{os.getpid()}-{next(self._numbers)}"
        bundle = self._bundle(name, cgroups_path, command, binds, capabilities)
        log, pid_file = bundle / "log", bundle / "pid"
        process = subprocess.Popen(
            self._call("--log", str(log), "run", "--bundle", str(bundle), "--pid-file", str(pid_file), name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:

            def started() -> bool:
                assert process.poll() is None, f"runc: {log.read_text()}"
                # The file is written before the last of runc has become the container's first process.
                return (
                    pid_file.exists()
                    and (pid := pid_file.read_text()) != ""
                    and Path(f"/proc/{pid}/comm").read_text() == "pause\n"
                )

            wait_for(started, f"container in {cgroups_path}")
            cgroup = Cgroup(self._cgroup_root / cgroups_path)
            yield Container(cgroups_path, cgroup, process, int(pid_file.read_text()))
        finally:
            subprocess.run(self._call("delete", "--force", name), check=False, capture_output=True)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.communicate()
            for path in new:
                with suppress(OSError):
                    path.rmdir()
