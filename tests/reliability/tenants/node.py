"""A node with an agent, a tenant that attacks it, and pods beside that tenant whose counts are known."""

import os
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Self

from testkit.apiserver import ApiServer
from tests.conftest import REPOSITORY
from tests.live.agents import COMMAND, Page, eventually, free_port, get, process
from tests.live.containers import scope
from tests.live.harness import Cgroup, compile_workload, switches
from tests.live.piped import answer
from tests.nesting import clear
from tests.reliability.agents import SWITCHES
from tests.reliability.tenants.inside import CALLS, NOBODY
from tests.unit.pods.conftest import kubeconfig

NODE = "node-1"
MEMORY_LIMIT = 128 << 20
"""The chart's default."""
METRIC = "kpod_pod_limit_exceeded_total"
STAMP = "kpod_last_cycle_timestamp_seconds"
READ = {"x86_64": "0", "aarch64": "63"}[os.uname().machine]
"""The number of read()."""
UPDATES = "kpod_bpf_map_update_errors_total"
ERRORS = (
    *("kpod_collection_cycle_errors_total", "kpod_discovery_errors_total", "kpod_collector_errors_total"),
    UPDATES,
)
"""The agent's own metrics that no attack may raise."""
SETTINGS = (
    *("--discovery", "kubernetes", "--node-name", NODE, "--poll-interval", "50ms", "--grace-period", "500ms"),
    *("--collector-deadline", "5s", "--syscalls", "sched_get_priority_max", "--collectors-syscall-enabled", "true"),
    *("--memory-limit", str(MEMORY_LIMIT)),
)


class Pod:
    """A pod and its one container."""

    def __init__(self, node: "Node", stack: ExitStack, name: str, *, static: bool = False) -> None:
        """It ends with the `stack`."""
        self._node, self._stack, self._static = node, stack, static
        self.name = name
        self.uid = uuid.uuid4().hex if static else str(uuid.uuid4())
        """As in its cgroup's path: of a static pod, the hash of its file."""
        self.container = uuid.uuid4().hex * 2
        self.cgroup = node.make(scope(self.uid, self.container, node.top))
        self.home = Path(mkdtemp(prefix="kpod-test-"))
        self.home.chmod(0o755)
        stack.callback(rmtree, self.home)
        stack.callback(clear, self.cgroup.path.parent)

    def announce(self) -> None:
        """Have the API server list it."""
        identity = {"static_hash": self.uid} if self._static else {"uid": self.uid}
        self._node.api.create_pod(self.name, node=self._node.host, **identity)
        self._node.api.run_container("default", self.name, "app", self.container)
        self._stack.callback(self._node.api.delete_pod, "default", self.name)


class Victim:
    """A pod whose counts are known."""

    def __init__(self, pod: Pod, worker: "subprocess.Popen[bytes]") -> None:
        self.pod, self._worker = pod, worker
        self._done = 0
        self._before = 0.0
        """Switches that the agent counts more than the kernel: some of its start are in another cgroup."""

    @property
    def pid(self) -> int:
        """Its process."""
        return self._worker.pid

    def work(self, number: int) -> None:
        """Make so many of each event, and wait for the next line."""
        assert answer(self._worker, str(number)) == "done"
        self._done += number
        self.rest()

    def rest(self) -> None:
        """Wait until it has left its CPU to read its input (proc_pid_syscall(5))."""
        eventually(lambda: Path(f"/proc/{self.pid}/syscall").read_text().split()[:2] == [READ, "0x0"])

    def kernel(self) -> dict[str, float]:
        """What the agent should export, from the kernel's own figures and from what was done."""
        return {
            CALLS: self._done,
            "kpod_net_tcp_bytes_sent_total": 100 * self._done,
            "kpod_net_iface_tx_packets_total v0": self._done,
            "kpod_net_iface_tx_bytes_total v0": 100 * self._done,
            f"kpod_fs_capacity_bytes {self.pod.home}": 64 << 20,
            f"kpod_fs_usage_bytes {self.pod.home}": 4096 * self._done,
            SWITCHES: switches(self._worker.pid) + self._before,
        }

    def exported(self, page: Page) -> dict[str, float | None]:
        """What a page has of these; None where it has no series."""
        found: dict[str, float | None] = {}
        for name in self.kernel():
            metric, _, label = name.partition(" ")
            values = [
                value
                for labels, value in page.find(metric, pod=self.pod.name).items()
                if not label or label in dict(labels).values()
            ]
            found[name] = sum(values) if values else None
        return found

    def begin(self, page: Page) -> None:
        """Take the switches up to now as the agent counts them."""
        self._before += (self.exported(page)[SWITCHES] or 0) - self.kernel()[SWITCHES]


class Sampler:
    """Reads every page of an agent on its own thread until the end, as several scrapers would."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.cycles: dict[float, float] = {}
        """Seconds that each cycle took, by its end."""
        self.samples = 0
        """Most samples of one page."""

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            with suppress(OSError):
                page = self._node.page()
                self.cycles[page.sum(STAMP)] = page.sum("kpod_collection_cycle_seconds")
                self.samples = max(self.samples, len(page.samples))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Node:
    """An agent and its pods, all in a cgroup of this test."""

    def __init__(self, stack: ExitStack, folder: Path, cgroup_root: str, settings: tuple[str, ...] = ()) -> None:
        self._numbers = count()
        self.host = NODE
        self.folder, self.root = folder, cgroup_root
        self.top = f"kpod-test-{os.getpid()}-{time.monotonic_ns()}"
        Path(cgroup_root, self.top).mkdir()
        stack.callback(clear, Path(cgroup_root, self.top))
        self.api = stack.enter_context(ApiServer(bookmark_interval=1.0))
        self.calls = compile_workload("calls", folder, "-static", "-DCALL=SYS_sched_get_priority_max")
        self.log = folder / "agent.log"
        self.port = free_port()
        config = kubeconfig(folder / "kubeconfig", self.api.url)
        flags = ("--listen", f"127.0.0.1:{self.port}", "--kubeconfig", config, *SETTINGS, *settings)
        self.agent = stack.enter_context(process([COMMAND, "run", *flags], self.log))
        # Most of what looks like a pod's cgroup is the kubelet's.
        for at in range(3):
            Pod(self, stack, f"resident-{at}").announce()
        try:
            eventually(lambda: self.page().sum("kpod_discovered_pods") == 3)
        except AssertionError as error:
            raise AssertionError(self.log.read_text()) from error

    def get(self, path: str = "metrics") -> str:
        """What it serves."""
        return get(f"http://127.0.0.1:{self.port}/{path}")

    def page(self) -> Page:
        """Its page."""
        return Page(self.get())

    def whole_cycles(self, number: int = 1) -> Page:
        """The page after so many whole cycles after now."""
        page = self.page()
        for _ in range(number + 1):  # one may be under way
            before = page.sum(STAMP)
            page = eventually(lambda: page if (page := self.page()).sum(STAMP) > before else None)  # noqa: B023
        return page

    def make(self, path: str) -> Cgroup:
        """Make a cgroup; the path begins below the root."""
        whole = Path(self.root, path)
        whole.mkdir(parents=True, exist_ok=True)
        return Cgroup(whole)

    @staticmethod
    def compile(workload: str, into: Path) -> None:
        """Compile a workload to a folder."""
        compile_workload(workload, into)

    def name(self, name: str) -> str:
        """A name that no other pod of this node has."""
        return f"{name}-{next(self._numbers)}"

    def peak(self) -> int:
        """The most memory that the agent had since `forget_peak`."""
        status = Path(f"/proc/{self.agent.pid}/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))

    def forget_peak(self) -> None:
        """Measure the most memory from now on (proc_pid_clear_refs(5))."""
        Path(f"/proc/{self.agent.pid}/clear_refs").write_text("5")

    def errors(self, page: Page) -> dict[str, float]:
        """Its own metrics that no attack may raise.

        The kernel's reports of new cgroups do not count: any process of the machine can fill that ring, and a walk
        finds what is missing.
        """
        found = {name: page.sum(name) for name in ERRORS}
        found[UPDATES] -= page.sum(UPDATES, map="new_cgroups")
        return found


def end(worker: "subprocess.Popen[bytes]") -> None:
    """End a process and close what it had: its children may keep its standard output open."""
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            pipe.close()


class Fight:
    """One attack on a node: what was before it, during and after."""

    def __init__(self, node: Node, stack: ExitStack, attack: str, size: int) -> None:
        """`attack` is the name of its class. All of it ends with the `stack`."""
        self.node, self.stack, self.size = node, stack, size
        self.folder = Path(mkdtemp(prefix="kpod-test-"))
        """A folder of the host's."""
        self.folder.chmod(0o755)
        stack.callback(rmtree, self.folder)
        self._attack = attack
        self.pod = Pod(node, stack, node.name("tenant"))
        self._first = int(self.pod.name.rpartition("-")[2])
        """The attacker's."""
        self.pod.announce()
        eventually(lambda: node.page().find(SWITCHES, pod=self.pod.name))
        self.process: subprocess.Popen[bytes] | None = None
        self.steady = self.victim(static=True)
        """A pod that works before, during and after the attack."""

    def start(self, *, unit: bool) -> None:
        """Start the tenant's process, in its pod or in a `unit` of a user; it is ready to attack."""
        own = at = self.pod.cgroup
        if unit:
            own = self.node.make(f"{self.node.top}/user.slice/user-{NOBODY}.slice/user@{NOBODY}.service")
            at = self.node.make(f"{own.path.relative_to(self.node.root)}/init.scope")
            self.stack.callback(clear, own.path)
        for delegated in {own.path, at.path}:
            for path in (delegated, *(delegated / name for name in DELEGATED)):
                os.chown(path, NOBODY, NOBODY)
        os.chown(self.pod.home, NOBODY, NOBODY)
        module = "tests.reliability.tenants.started"
        arguments = (self._attack, str(self.size), str(own.path), str(self.pod.home))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": REPOSITORY}
        self.process = at.start(sys.executable, "-m", module, *arguments, **pipes)
        self.stack.callback(end, self.process)
        assert answer(self.process) == "ready"

    def step(self, line: str = "go") -> None:
        """Let the tenant take its next step: attack, or stop."""
        assert self.process is not None
        assert answer(self.process, line) == "ready"

    def victim(self, *, announced: bool = True, static: bool = False) -> Victim:
        """Start a pod that works on demand. An `announced` one has series before its first work."""
        pod = Pod(self.node, self.stack, self.node.name("victim"), static=static)
        if announced:
            pod.announce()
            eventually(lambda: self.node.page().find(SWITCHES, pod=pod.name))
        module = "tests.reliability.tenants.victim"
        worker = pod.cgroup.start(
            sys.executable, "-m", module, str(pod.home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
        )
        self.stack.callback(end, worker)
        assert answer(worker) == "ready"
        victim = Victim(pod, worker)
        victim.rest()
        return victim

    def brief(self, number: int, *, announced: bool = True) -> Pod:
        """Run a pod that makes so many calls, and ends with its cgroup at once."""
        pod = Pod(self.node, self.stack, self.node.name("brief"))
        if announced:
            pod.announce()
        subprocess.run([self.node.calls, str(number), pod.cgroup.path / "cgroup.procs"], check=True)
        pod.cgroup.destroy()
        return pod

    def crowd(self, number: int) -> None:
        """Have so many more pods, which do nothing."""
        pods = [Pod(self.node, self.stack, self.node.name("idle")) for _ in range(number)]
        for pod in pods:
            pod.announce()
        eventually(lambda: all(self.node.page().find(SWITCHES, pod=pod.name) for pod in pods[-1:]))

    def exceeded(self, page: Page) -> set[tuple[str, str]]:
        """Who went over which limit. The pods of an attack before this one may still be there."""
        found = {(dict(labels)["pod"], dict(labels)["limit"]) for labels in page.find(METRIC)}
        return {(pod, limit) for pod, limit in found if int(pod.rpartition("-")[2]) >= self._first}

    def samples(self, page: Page, of: Pod | None = None) -> int:
        """Samples of the attacker's pod, or of another one."""
        return sum(dict(labels).get("pod") == (of or self.pod).name for _, labels in page.samples)


DELEGATED = {"cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}
"""Files of a cgroup that its owner may write to (Documentation/admin-guide/cgroup-v2.rst, "Delegation")."""
