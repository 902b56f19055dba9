"""Whether this machine can run the agent: every collector is opened for real, and closed again."""

import os
import platform
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from kpod_metrics import __version__, agent
from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.cgroup.processes import HIDDEN, others_are_hidden
from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import Collector, Environment
from kpod_metrics.errors import KpodError
from kpod_metrics.exposition.pages import Published
from kpod_metrics.features import FEATURES
from kpod_metrics.kernel import rights
from kpod_metrics.pods.discovery import kubernetes_source
from kpod_metrics.settings import DEFAULT_SYSCALLS, Settings
from kpod_metrics.web.counts import Counts
from kpod_metrics.web.guard import Guard

_ANSWER = 5.0
"""Seconds that the source of pods has to answer."""


@dataclass
class Line:
    """One finding."""

    subject: str
    ok: bool
    """Also of what this machine does not have."""
    detail: str
    status: str = ""
    """`ok`, `fail`, or `n/a`: not a failure, and nothing is exported."""

    def __post_init__(self) -> None:
        self.status = self.status or ("ok" if self.ok else "fail")


@dataclass
class FeatureState:
    """What this kernel has of one feature, whatever the switches say."""

    name: str
    available: bool
    forced: str | None
    """"off" or "on" by a switch."""
    refusal: str
    """The kernel's own words where it is not available."""


@dataclass
class Report:
    """All findings; `ok` if the agent runs here with everything that was asked of it."""

    version: str
    kernel: str
    lines: list[Line] = field(default_factory=list)
    features: list[FeatureState] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing."""
        return all(line.ok for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {"ok": self.ok} | asdict(self)

    def as_text(self) -> str:
        """For a person."""
        width = max(len(line.subject) for line in self.lines)
        words = {"ok": "ok", "fail": "FAIL", "n/a": "n/a"}
        body = [f"{words[line.status]:<4}  {line.subject:<{width}}  {line.detail}" for line in self.lines]
        for feature in self.features:
            said = [f"forced {feature.forced}"] * bool(feature.forced) + [feature.refusal] * (not feature.available)
            if said:
                body.append(f"n/a   kernel feature {feature.name}: {'; '.join(said)}")
        end = "this machine can run it" if self.ok else "what fails is off; the rest works"
        return "\n".join([f"kpod-metrics {self.version} on Linux {self.kernel}", *body, end])


def run(settings: Settings) -> Report:
    """Try everything that `run` with these settings would do, short of serving."""
    report = Report(__version__, platform.release())
    add = report.lines.append
    capabilities = rights.effective(settings.proc_root)
    add(
        Line(
            "rights",
            rights.may_use_bpf(capabilities),
            f"uid {os.geteuid()}, "
            + (
                f"without {lacking}" if (lacking := rights.lacking_for_bpf(capabilities)) else "CAP_BPF and CAP_PERFMON"
            ),
        )
    )
    if settings.web_config_file:
        add(_web(settings.web_config_file))
    btf = os.path.join(settings.sys_root, "kernel/btf/vmlinux")
    add(Line("BTF", os.path.exists(btf), btf if os.path.exists(btf) else f"{btf} is missing"))
    try:
        root = settings.cgroup_root or find_root(settings.proc_root)
    except KpodError as error:
        add(Line("cgroup2", False, str(error)))
        return report
    add(Line("cgroup2", True, root))
    if settings.discovery == "cgroup" and others_are_hidden(root):
        add(Line("processes", False, HIDDEN))  # `run` refuses to start then
    add(_new_cgroups(settings))
    if settings.discovery != "cgroup":
        add(_pods(settings))
    if settings.otlp_endpoint:
        add(_receiver(settings))
    for collector in agent.select(settings, agent.environment_of(settings, root)):
        try:
            for signal in collector.open():
                names = ", ".join(metric.name for metric in signal.metrics)
                said = signal.problem or signal.absent or signal.hook
                status = "n/a" if signal.absent and not signal.problem else ""
                add(Line(collector.name, not signal.problem, f"{said}: {names}", status))
        except (KpodError, OSError) as error:
            add(Line(collector.name, False, str(error)))
        finally:
            collector.close()
    report.features = features(agent.environment_of(settings, root))
    return report


def features(environment: Environment) -> list[FeatureState]:
    """Try every kernel feature, by a collector that uses it, with nothing forced off.

    Most are there, and one load tells of all that a collector found; what it went without is insisted on once more, so
    that the kernel says why, or that it was given up though it is there.
    """
    found = {}
    bare = replace(environment, forced_off=frozenset(), syscalls=environment.syscalls or DEFAULT_SYSCALLS)
    switched = dict.fromkeys(environment.forced_off, "off") | dict.fromkeys(environment.forced_on, "on")
    for kind in registered().values():
        unknown = [name for name in kind.features if name not in found]
        if unknown and kind.uses_bpf:
            whole = not _refusal(kind(replace(bare, forced_on=frozenset(unknown))))
            for name in unknown:
                refusal = "" if whole else _refusal(kind(replace(bare, forced_on=frozenset({name}))))
                found[name] = FeatureState(name, not refusal, switched.get(name), refusal)
    return [found[name] for name in FEATURES]


def _refusal(collector: Collector) -> str:
    """Why a collector cannot have what it insists on; empty where it can."""
    try:
        return "; ".join(signal.problem for signal in collector.open() if signal.problem)
    except (KpodError, OSError) as error:
        return str(error)
    finally:
        collector.close()


def _new_cgroups(settings: Settings) -> Line:
    """Whether the kernel tells of cgroups that come and go between two cycles."""
    events = CgroupEvents(sys_root=settings.sys_root, proc_root=settings.proc_root)
    try:
        events.open()
        return Line("new cgroups", True, "tp_btf/cgroup_mkdir")
    except KpodError as error:
        return Line("new cgroups", False, str(error))
    finally:
        events.close()


def _web(path: str) -> Line:
    """Whether the web configuration can be used."""
    try:
        secure = Guard(path, Counts()).secure
    except KpodError as error:
        return Line("web", False, str(error))
    return Line("web", True, f"{path}: {'TLS' if secure else 'no TLS'}")


def _receiver(settings: Settings) -> Line:
    """Whether the OTLP receiver takes a request."""
    exporter = agent.exporter_of(settings, Published())
    assert exporter is not None
    problem = exporter.probe()
    exporter.stop()
    return Line("otlp", not problem, f"{exporter.endpoint}{': ' if problem else ''}{problem}")


def _pods(settings: Settings) -> Line:
    """Whether the source of pods answers within some seconds."""
    try:
        source = kubernetes_source(settings)
    except KpodError as error:
        return Line("pods", False, str(error))
    source.start()
    try:
        end = time.monotonic() + _ANSWER
        while not source.connected and time.monotonic() < end:
            time.sleep(0.05)
        found = f"{source.name}: {len(source.poll()[0])} on {settings.node_name}"
        return Line("pods", source.connected, source.problem() or found)
    finally:
        source.close()
