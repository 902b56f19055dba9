"""Checks whether this machine can run the agent: opens every collector, and closes it again."""

import os
import platform
import time
from contextlib import closing
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

_SOURCE_TIMEOUT = 5.0
"""Seconds that the source of pods has to answer."""


@dataclass
class Line:
    """One result of the check."""

    subject: str
    ok: bool
    """True also if this machine does not have it (`n/a`)."""
    detail: str
    status: str = ""
    """`ok`, `fail`, or `n/a`: no failure, but the metrics are absent."""

    def __post_init__(self) -> None:
        self.status = self.status or ("ok" if self.ok else "fail")


@dataclass
class FeatureState:
    """Whether this kernel has a feature, independent of the settings."""

    name: str
    available: bool
    forced: str | None
    """"off" or "on" if a setting forces it."""
    refusal: str
    """The kernel's error if it is not available."""


@dataclass
class Report:
    """All results; `ok` if the agent can run here with everything that the settings ask for."""

    version: str
    kernel: str
    lines: list[Line] = field(default_factory=list)
    features: list[FeatureState] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no line is a failure."""
        return all(line.ok for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        return {"ok": self.ok} | asdict(self)

    def as_text(self) -> str:
        """Return the report as text."""
        width = max(len(line.subject) for line in self.lines)
        words = {"ok": "ok", "fail": "FAIL", "n/a": "n/a"}
        body = [f"{words[line.status]:<4}  {line.subject:<{width}}  {line.detail}" for line in self.lines]
        for feature in self.features:
            said = [f"forced {feature.forced}"] * bool(feature.forced) + [feature.refusal] * (not feature.available)
            if said:
                body.append(f"n/a   kernel feature {feature.name}: {'; '.join(said)}")
        end = "this machine can run the agent" if self.ok else "the failed parts are off; everything else works"
        return "\n".join([f"kpod-metrics {self.version} on Linux {self.kernel}", *body, end])


def run(settings: Settings) -> Report:
    """Try everything that `run` with these settings would do, except serving."""
    report = Report(__version__, platform.release())
    add = report.lines.append
    lacking = rights.lacking_for_bpf(rights.effective(settings.proc_root))
    held = f"without {lacking}" if lacking else "CAP_BPF and CAP_PERFMON"
    add(Line("rights", not lacking, f"uid {os.geteuid()}, {held}"))
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
        add(Line("processes", False, HIDDEN))  # then `run` refuses to start
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
    """Try every kernel feature with a collector that uses it, without any forced off.

    One load shows all features that a collector found. A feature that it did without is required in a second load:
    either the kernel's error says why, or it works.
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
    """Return why a collector cannot use a required feature; empty if it can."""
    try:
        return "; ".join(signal.problem for signal in collector.open() if signal.problem)
    except (KpodError, OSError) as error:
        return str(error)
    finally:
        collector.close()


def _new_cgroups(settings: Settings) -> Line:
    """Check whether the kernel reports new cgroups."""
    try:
        with closing(CgroupEvents(sys_root=settings.sys_root, proc_root=settings.proc_root)) as events:
            events.open()
        return Line("new cgroups", True, "tp_btf/cgroup_mkdir")
    except KpodError as error:
        return Line("new cgroups", False, str(error))


def _web(path: str) -> Line:
    """Check the web configuration."""
    try:
        secure = Guard(path, Counts()).secure
    except KpodError as error:
        return Line("web", False, str(error))
    return Line("web", True, f"{path}: {'TLS' if secure else 'no TLS'}")


def _receiver(settings: Settings) -> Line:
    """Check whether the OTLP receiver accepts a request."""
    exporter = agent.exporter_of(settings, Published())
    assert exporter is not None
    problem = exporter.probe()
    exporter.stop()
    return Line("otlp", not problem, f"{exporter.endpoint}{': ' if problem else ''}{problem}")


def _pods(settings: Settings) -> Line:
    """Check whether the source of pods answers."""
    try:
        source = kubernetes_source(settings)
    except KpodError as error:
        return Line("pods", False, str(error))
    with closing(source):
        source.start()
        end = time.monotonic() + _SOURCE_TIMEOUT
        while not source.connected and time.monotonic() < end:
            time.sleep(0.05)
        found = f"{source.name}: {len(source.poll()[0])} on {settings.node_name}"
        return Line("pods", source.connected, source.problem() or found)
