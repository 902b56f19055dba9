"""Common code of the parts: pinned workloads, attached programs, the kernel's statistics, sleeping pods."""

import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from hatch_build import compile_objects
from kpod_metrics import settings
from kpod_metrics.agent import select
from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import BpfCollector, Environment
from kpod_metrics.kernel import libbpf
from kpod_metrics.metrics import Row
from kpod_metrics.settings import DEFAULT_SYSCALLS
from testkit.apiserver import ApiServer
from testkit.certificates import Certificates

BENCH = Path(__file__).parent
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
TRACEFS = "/sys/kernel/tracing"
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
SWITCH = {name: value for name, value in os.environ.items() if name == "KPOD_KERNEL_FEATURES_OFF"}
"""The setting that switches kernel features off, also for the bench."""
FORCED_OFF = frozenset(settings.load({}, SWITCH, None, ())[0].kernel_features_off)


class SkippedError(Exception):
    """A part cannot be measured on this machine; the text says why, and what to install."""


@dataclass(frozen=True)
class Options:
    """The options of a part."""

    quick: bool
    pods: int
    scratch: Path
    """A temporary folder for compiled files."""

    @property
    def profiles(self) -> tuple[str, ...]:
        """Profiles to measure."""
        return ("standard",) if self.quick else ("minimal", "standard", "comprehensive")

    def rounds(self, full: int) -> int:
        """How often each variant is measured."""
        return 2 if self.quick else full


_stopped = threading.Event()


def stop(*_: object) -> None:
    """Handle a signal with an exception, so that everything that is attached, created or switched on is undone."""
    _stopped.set()
    sys.exit(1)


def end_if_stopped() -> None:
    """End the bench if a signal came whose exception was lost.

    Python and ctypes swallow what is raised inside a callback: of libbpf's, after a fork, of the garbage collector.
    """
    if _stopped.is_set():
        sys.exit(1)


def say(what: str) -> None:
    """Print on standard error what is measured next."""
    end_if_stopped()
    print(f"bench: {what}", file=sys.stderr, flush=True)


def compile_workload(options: Options, name: str, *how: str) -> str:
    """Compile `workloads/NAME.c`, static unless `how` says otherwise, so that it starts fast and maps little."""
    target = options.scratch / name
    if not target.exists():
        command = ["clang", "-O2", *(how or ("-static",)), "-Wall", "-Wextra", "-Werror", "-o", str(target)]
        subprocess.run([*command, str(BENCH / "workloads" / f"{name}.c")], check=True)
    return str(target)


def compile_program(options: Options, name: str) -> Path:
    """Compile `bpf/NAME.bpf.c` with the flags of the shipped objects."""
    [made] = compile_objects([BENCH / "bpf" / f"{name}.bpf.c"], options.scratch)
    return made


def compile_empty(options: Options, sections: Sequence[str]) -> Path:
    """Make an object with one empty program for each section."""
    name = "empty_" + re.sub(r"\W+", "_", "_".join(sections))
    source = options.scratch / f"{name[:200]}.bpf.c"
    programs = [
        f'SEC("{section}")\nint empty_{at}(void *ctx)\n{{\n\treturn 0;\n}}\n' for at, section in enumerate(sections)
    ]
    includes = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
    source.write_text(includes + "\n".join(programs) + 'char LICENSE[] SEC("license") = "Dual BSD/GPL";\n')
    [made] = compile_objects([source], options.scratch)
    return made


def package_version(name: str) -> str:
    """Return the version of an installed Debian package; "not there" if it is not installed."""
    command = ["dpkg-query", "-W", "-f", "${Version}", name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout or "not there"


def mount_tracefs() -> None:
    """Mount tracefs, which classic tracepoints need, at both of its paths, in this process' own mount namespace."""
    if os.path.exists(f"{TRACEFS}/events"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = ctypes.c_ulong(0)
    failed = (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
        or libc.mount(b"tracefs", TRACEFS.encode(), b"tracefs", nothing, None)
        or libc.mount(b"debugfs", b"/sys/kernel/debug", b"debugfs", nothing, None)
    )
    if failed:
        raise SkippedError(f"tracefs cannot be mounted in a mount namespace: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def statistics(on: bool) -> Iterator[None]:
    """Switch the kernel's statistics of BPF programs on or off, and restore them at the end."""
    before = STATISTICS.read_text()
    STATISTICS.write_text(str(int(on)))
    try:
        yield
    finally:
        STATISTICS.write_text(before)


class Runs(NamedTuple):
    """The runs of a program."""

    nanoseconds: float
    runs: int


class Variant:
    """What is attached while a workload runs; the base class attaches nothing."""

    def attach(self) -> None:
        """Attach."""

    def detach(self) -> None:
        """Detach, and free everything."""

    def read(self) -> dict[str, Runs]:
        """Return the runs of each program by section, while statistics are on."""
        return {}


class Programs(Variant):
    """Programs of an object of the bench; `prepare` may fill its maps."""

    def __init__(self, path: Path, sections: Sequence[str], fill: dict[str, list[tuple[bytes, bytes]]] | None = None):
        self._path, self._sections, self._fill = path, sections, fill or {}
        self._object: libbpf.Object | None = None
        self._links: list[libbpf.Link] = []
        self._programs: list[libbpf.Program] = []

    def attach(self) -> None:
        """Load and attach the programs of the sections wanted."""
        self._object = libbpf.Object(str(self._path))
        for program in self._object.programs.values():
            if program.section not in self._sections:
                program.disable_autoload()
        self._object.load()
        for name, entries in self._fill.items():
            for key, value in entries:
                self._object.maps[name].update(key, value)
        self._programs = [program for program in self._object.programs.values() if program.section in self._sections]
        for program in self._programs:
            self._links.append(program.attach())

    def detach(self) -> None:
        """Detach and unload."""
        while self._links:
            self._links.pop().close()
        if self._object is not None:
            self._object.close()
            self._object = None

    def read(self) -> dict[str, Runs]:
        """Return the runs of each program."""
        return {program.section: Runs(*program.statistics()[:2]) for program in self._programs}


class Shipped(Variant):
    """A collector of the agent, opened as the agent opens it."""

    def __init__(self, name: str, without: Sequence[str] = ()) -> None:
        """`without` are kernel features to switch off. Raises SkippedError if there is no such collector."""
        kind = registered().get(name)
        if kind is None or not issubclass(kind, BpfCollector):
            raise SkippedError(f"there is no collector {name} with kernel programs")
        self._kind: type[BpfCollector] = kind
        self._without = FORCED_OFF | frozenset(without)
        self._collector: BpfCollector | None = None
        self._hooks: dict[str, str] = {}
        """Return what each program attaches to: its section, or the typed tracepoint if this kernel has it."""

    def attach(self) -> None:
        """Open the collector."""
        environment = Environment(cgroup_root=find_root(), syscalls=DEFAULT_SYSCALLS, forced_off=self._without)
        self._collector = self._kind(environment)
        self._collector.open()
        assert self._collector._loaded is not None
        self._hooks = {name: program.hook for name, program in self._collector._loaded.object.programs.items()}

    def detach(self) -> None:
        """Close the collector."""
        if self._collector is not None:
            self._collector.close()
            self._collector = None

    def read(self) -> dict[str, Runs]:
        """Return the runs of its loaded programs by hook, without iterators, which have no hook."""
        ran: dict[str, Runs] = {}
        for hook, program in self._ran():
            if not hook.startswith("iter"):
                before = ran.get(hook, Runs(0, 0))
                ran[hook] = Runs(before.nanoseconds + program.nanoseconds, before.runs + program.runs)
        return ran

    def read_iterator(self, hook: str) -> Runs:
        """Return the runs of an iterator: one per object that it visits."""
        return next(runs for name, runs in self._ran() if name == hook)

    def _ran(self) -> Iterator[tuple[str, Runs]]:
        assert self._collector is not None
        for program in self._collector.programs():
            yield self._hooks[program.name], Runs(program.run_seconds * 1e9, program.runs)

    def collect(self) -> list[Row]:
        """Return its rows."""
        assert self._collector is not None
        return list(self._collector.collect(()))

    def hooks(self) -> list[str]:
        """Return the hooks of a collector on this kernel."""
        with statistics(True), attached(self):
            return list(self.read())


class Whole(Variant):
    """All collectors of a profile that have kernel programs, opened as the agent opens them."""

    def __init__(self, profile: str) -> None:
        self._settings, _ = settings.load({"profile": profile}, SWITCH, None, list(registered()))
        self._open: list[BpfCollector] = []

    @property
    def collectors(self) -> Sequence[BpfCollector]:
        """The open collectors."""
        return self._open

    def attach(self) -> None:
        """Open the collectors."""
        environment = Environment(cgroup_root=find_root(), syscalls=self._settings.syscalls, forced_off=FORCED_OFF)
        for collector in select(self._settings, environment):
            if isinstance(collector, BpfCollector):
                self._open.append(collector)
                collector.open()

    def detach(self) -> None:
        """Close the collectors."""
        while self._open:
            self._open.pop().close()

    def read(self) -> dict[str, Runs]:
        """Return the runs of their programs by collector and hook."""
        found = {}
        for collector in self._open:
            # Without its controller a collector has none.
            hooks = {} if collector._loaded is None else collector._loaded.object.programs
            for program in collector.programs():
                found[f"{collector.name} {hooks[program.name].hook}"] = Runs(program.run_seconds * 1e9, program.runs)
        return found


class Tool(Variant):
    """Another project's tool, started with the command of a user; its output is ignored.

    It is given `starts_in` seconds for its first program, and `quiet` of them for each further one.
    """

    def __init__(self, command: Sequence[str], starts_in: float = 20, quiet: float = 1) -> None:
        self._command, self._starts_in, self._quiet = command, starts_in, quiet
        self._process: subprocess.Popen[bytes] | None = None
        self.resident_mb = 0.0

    def attach(self) -> None:
        """Start it, and wait until its programs run; raises SkippedError with its last output if they never do."""
        name, *arguments = self._command
        # Debian 13 has another prefix for libbpf-tools.
        program = shutil.which(name) or shutil.which(f"{name}-libbpf")
        if program is None:
            raise SkippedError(f"{name} is not installed")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by detach
        command = [program, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        since, seen = time.monotonic(), 0
        # Programs are loaded one after another: if there is no new one for some time, all are loaded.
        while not seen or time.monotonic() - since < self._quiet:
            if len(now := self.read()) != seen:
                since, seen = time.monotonic(), len(now)
            if not seen and time.monotonic() - since > self._starts_in:
                raise SkippedError(self._last_words())
            time.sleep(0.05)
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        self.resident_mb = int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024 / 1e6

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode("utf-8", "replace").splitlines()]
        wrong = [line for line in lines if re.search(r"(?i)no such|fail|error|exception", line)] or lines[-1:]
        return wrong[0] if wrong else "it loads no programs"

    def detach(self) -> None:
        """Stop it with SIGINT, as a user would."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._log.close()

    def read(self) -> dict[str, Runs]:
        """Return the runs of its programs by id, from the fdinfo of its descriptors."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise SkippedError(self._last_words())
        found = {}
        for descriptor in list(Path(f"/proc/{self._process.pid}/fdinfo").iterdir()):
            with contextlib.suppress(OSError):
                fields = dict(line.split(":\t", 1) for line in descriptor.read_text().splitlines() if ":\t" in line)
                if "run_cnt" in fields:
                    found[fields["prog_id"]] = Runs(float(fields["run_time_ns"]), int(fields["run_cnt"]))
        return found


@contextlib.contextmanager
def attached(variant: Variant) -> Iterator[None]:
    """Attach a variant, and detach it at the end."""
    try:
        variant.attach()
        yield
    finally:
        variant.detach()
    end_if_stopped()


@dataclass
class Measured:
    """The measurements of a workload under one variant, one value per round."""

    wall_ns: list[float] = field(default_factory=list)
    """Nanoseconds per operation, with statistics off."""
    programs: list[dict[str, Runs]] = field(default_factory=list)
    """Runs of each program in a second run, with statistics on."""

    def per_run(self, *hooks: str) -> list[float]:
        """Nanoseconds of all programs for each run of those whose section ends with one of `hooks`, a value a round."""
        found = []
        for sections in self.programs:
            runs = sum(run.runs for section, run in sections.items() if section.endswith(hooks))
            found.append(sum(run.nanoseconds for run in sections.values()) / max(runs, 1) if runs else 0.0)
        return found

    def per_operation(self, operations: int) -> list[float]:
        """Nanoseconds of all programs for each operation of the workload, a value a round."""
        return [sum(run.nanoseconds for run in sections.values()) / operations for sections in self.programs]


def measure(
    variants: dict[str, Variant], workload: Sequence[str], *, operations: int, rounds: int, unit_ns: float, pin: bool
) -> dict[str, Measured]:
    """Run a workload under each variant in turn, `rounds` times over; it prints a number of `unit_ns` nanoseconds.

    The order turns by one from round to round, so that drift falls on all alike. Raises SkippedError for a workload
    that fails.
    """
    results = {name: Measured() for name in variants}
    names = list(variants)
    for round_ in range(rounds):
        at = round_ % len(names)
        for name in names[at:] + names[:at]:
            with attached(variants[name]):
                with statistics(False):
                    results[name].wall_ns.append(_run(workload, pin) * unit_ns / operations)
                with statistics(True):
                    before = variants[name].read()
                    _run(workload, pin)
                    after = variants[name].read()
                results[name].programs.append(
                    {
                        section: Runs(after[section].nanoseconds - start.nanoseconds, after[section].runs - start.runs)
                        for section, start in before.items()
                    }
                )
    return results


def _run(command: Sequence[str], pin: bool) -> float:
    def place() -> None:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    # Its own process group, so that its children end with it, also if the bench is interrupted.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=place if pin else None,  # noqa: PLW1509
    )
    try:
        output, errors = process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise SkippedError(f"{' '.join(command)}: {errors.strip()[-200:]}")
    return float(output.split()[-1])


def less(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the values minus those of their base in the same round."""
    return [value - under for value, under in zip(values, base, strict=True)]


def _uid(number: int) -> str:
    return f"{number:08x}-1111-4222-8333-444444444444"


def _container_id(number: int) -> str:
    return f"{number:064x}"


class Pods:
    """Pods of one container with one sleeping process, in cgroups laid out as the kubelet does it."""

    @contextlib.contextmanager
    def api_server(self, options: Options) -> Iterator[list[str]]:
        """Serve the pods as a Kubernetes API server does, over TLS; return the agent's settings for it."""
        kubeconfig, folder = options.scratch / "kubeconfig", options.scratch / "certificates"
        folder.mkdir(exist_ok=True)
        certificates = Certificates(unpacked("openssl") / "usr/bin/openssl", folder)
        with ApiServer(certificate=certificates.signed("apiserver")) as server:
            for number in range(self._number):
                name = f"bench-{number}"
                server.create_pod(name, node="bench", uid=_uid(number))
                server.run_container("default", name, "app", _container_id(number))
            context = {
                "clusters": [
                    {"name": "bench", "cluster": {"server": server.url, "certificate-authority": certificates.ca}}
                ],
                "users": [{"name": "bench", "user": {}}],
                "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
                "current-context": "bench",
            }
            kubeconfig.write_text(json.dumps(context))
            yield ["--discovery", "kubernetes", "--kubeconfig", str(kubeconfig), "--node-name", "bench"]

    def __init__(self, options: Options, number: int, own_namespaces: bool) -> None:
        self._program = compile_workload(options, "pod")
        self._number, self._own = number, own_namespaces
        self._made = Path(find_root()) / f"kpod-bench-{os.getpid()}"
        self.root = self._made / "pods"
        """The parent cgroup of the pods. It has no controllers, even if the tree has some."""
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Pods":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self.root.mkdir(parents=True)
        for number in range(self._number):
            pod = f"kubepods-burstable-pod{_uid(number).replace('-', '_')}.slice"
            path = self.root / pod / f"cri-containerd-{_container_id(number)}.scope"
            path.mkdir(parents=True)

            def enter(procs: Path = path / "cgroup.procs") -> None:
                procs.write_text(str(os.getpid()))

            command = [self._program, *(["own"] if self._own else [])]
            self._processes.append(
                subprocess.Popen(command, preexec_fn=enter, stdout=subprocess.PIPE, text=True)  # noqa: PLW1509
            )
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SkippedError("a process cannot have its own namespaces here")

    def stop(self) -> None:
        """Stop all pods."""
        for process in self._processes:
            process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue all pods after `stop`."""
        for process in self._processes:
            process.send_signal(signal.SIGCONT)

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        for directory, _, _ in os.walk(self._made, topdown=False):
            for _ in range(200):
                try:
                    os.rmdir(directory)
                except OSError:
                    # A process whose start was interrupted by a signal is in no list.
                    with contextlib.suppress(OSError):
                        for pid in Path(directory, "cgroup.procs").read_text().split():
                            os.kill(int(pid), signal.SIGKILL)
                    time.sleep(0.01)
                else:
                    break
            else:
                say(f"{directory} could not be removed")


def probe(*arguments: str) -> dict[str, Any]:
    """Run `bench.probe` or `bench.inside` in its own process, and return the measurements."""
    module = "bench.inside" if arguments[0] == "inside" else "bench.probe"
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


@dataclass(frozen=True)
class Answer:
    """A response with a page."""

    body: bytes
    content_type: str
    zipped: bool


class Running:
    """An exporter as a child process, available from its first page on."""

    def __init__(self, command: Sequence[str], port: int, environment: dict[str, str] | None = None) -> None:
        self._command, self.port, self._environment = command, port, environment or {}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self.ready_after = 0.0
        """Seconds from exec to the first page."""

    def __enter__(self) -> Self:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KPOD_", "MALLOC_"))}
        kept |= SWITCH
        start = time.perf_counter()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, env=kept | self._environment
        )
        try:
            while True:
                try:
                    self.get("/metrics")
                    break
                except (OSError, http.client.HTTPException):
                    if self._process.poll() is not None or time.perf_counter() - start > 30:
                        self._log.seek(0)
                        said = self._log.read().decode("utf-8", "replace")[-2000:]
                        raise RuntimeError(f"no page from {' '.join(self._command)}: {said}") from None
                time.sleep(0.005)
        except BaseException:
            self.__exit__()
            raise
        self.ready_after = time.perf_counter() - start
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._log.close()

    def get(self, path: str) -> bytes:
        """Fetch a page; raises OSError for every status except 200."""
        return self.ask({}, path).body

    def ask(self, headers: dict[str, str], path: str = "/metrics") -> Answer:
        """Fetch a page over a new connection; raises OSError for every status except 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise OSError(f"{path}: {response.status}")
        zipped = response.getheader("Content-Encoding") == "gzip"
        return Answer(body, response.getheader("Content-Type") or "", zipped)

    def reload(self) -> None:
        """Send SIGHUP."""
        self._process.send_signal(signal.SIGHUP)

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far, to the nanosecond."""
        # The clock of a process, from its id: CPUCLOCK_SCHED of include/linux/posix-timers.h.
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def memory_mb(self) -> tuple[float, float]:
        """Resident and proportional memory, in millions of bytes."""
        sizes = self._memory()
        return sizes["Rss:"], sizes["Pss:"]

    def private_mb(self) -> float:
        """Return the private memory, in millions of bytes."""
        sizes = self._memory()
        return sizes["Private_Clean:"] + sizes["Private_Dirty:"]

    def _memory(self) -> dict[str, float]:
        text = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text()
        return {line.split()[0]: int(line.split()[1]) * 1024 / 1e6 for line in text.splitlines()[1:]}


class RunningAgent(Running):
    """`kpod-metrics run` as a child."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        port = free_port()
        program = str(Path(sys.executable).with_name("kpod-metrics"))
        command = [program, "run", "--discovery", "cgroup", "--listen", f"127.0.0.1:{port}", *arguments]
        super().__init__(command, port, environment)


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def output_of(
    command: Sequence[str], failed: str, *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Return the output of a command; raises SkippedError with `failed` and the last output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    if done.returncode:
        raise SkippedError(f"{failed}: {done.stderr.strip()[-200:]}")
    return done.stdout


def unpacked(package: str) -> Path:
    """Return the folder of a Debian package, fetched but not installed; raises SkippedError if that fails."""
    command = [str(BENCH.parent / "scripts" / "tools"), package]
    return Path(output_of(command, f"{package} cannot be fetched").strip())


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """Return a path in the cache. The first time, `make` creates it under another name, and it is then renamed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kpod-metrics" / "tools"
    made = cache / name
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            target = Path(folder) / "made"
            make(target)
            target.rename(made)
    return made


def environment_of(requirements: Path) -> Path:
    """Return the Python of an environment with these packages, created once; raises SkippedError if that fails."""

    def make(target: Path) -> None:
        install = [str(target / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(requirements)]
        for command in ([sys.executable, "-m", "venv", str(target)], install):
            output_of(command, f"{requirements.name} cannot be installed")

    name = f"bench-{requirements.stem}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    return made_once(name, make) / "bin" / "python"


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder for compiled files."""
    return tempfile.TemporaryDirectory(prefix="kpod-bench-")
