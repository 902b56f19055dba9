"""From settings to an agent: which collectors, which source of names, which exporter."""

import os
import resource

from kpod_metrics import collectors as collectors_package
from kpod_metrics.agent.cycle import Agent
from kpod_metrics.bounds import Ledger
from kpod_metrics.cgroup.events import CgroupEvents
from kpod_metrics.cgroup.processes import HIDDEN, others_are_hidden
from kpod_metrics.cgroup.tree import find_root
from kpod_metrics.collectors.kit import Collector, Environment
from kpod_metrics.errors import RefusedError
from kpod_metrics.kernel import rights
from kpod_metrics.metrics import Profile
from kpod_metrics.pods.cluster import ClusterNamer, Filter
from kpod_metrics.pods.discovery import kubernetes_source
from kpod_metrics.pods.finder import Finder, Namer
from kpod_metrics.pods.kubelet_tree import KubeletTree
from kpod_metrics.pods.standalone import StandaloneNamer
from kpod_metrics.selector import parse as parse_selector
from kpod_metrics.settings import Settings

READERS = 7
"""Readers that keep file descriptors: the tree walk, the file collectors, and `net_iface` for folders of threads."""
MAX_KEPT = 10_000
SPARE_FILES = 512
"""File descriptors for everything else: connections, maps, programs."""


def kept_files() -> int:
    """Return how many file descriptors each reader of cgroup files may keep open, by RLIMIT_NOFILE."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_KEPT if limit == resource.RLIM_INFINITY else min(max(0, limit - SPARE_FILES) // READERS, MAX_KEPT)


def environment_of(settings: Settings, cgroup_root: str) -> Environment:
    """Return the settings that collectors use."""
    return Environment(
        cgroup_root=cgroup_root,
        proc_root=settings.proc_root,
        sys_root=settings.sys_root,
        map_entries=settings.bpf_map_entries,
        kept_files=kept_files(),
        syscalls=settings.syscalls,
        forced_off=frozenset(settings.kernel_features_off),
        forced_on=frozenset(settings.kernel_features_on),
    )


def select(settings: Settings, environment: Environment) -> list[Collector]:
    """Return the collectors that the profile and the switches enable, with their metrics.

    `custom` has the collectors that are switched on, and those whole.
    """
    ceiling = Profile[settings.profile.upper()] if settings.profile != "custom" else None
    chosen = []
    for name, kind in collectors_package.registered().items():
        switch = settings.collectors[name].enabled if name in settings.collectors else None
        if switch is False:
            continue
        collector = kind(environment)
        every = collector.wanted
        collector.wanted = frozenset(m for m in every if ceiling is not None and m.profile <= ceiling)
        if switch and not collector.wanted:
            collector.wanted = every
        if collector.wanted:
            chosen.append(collector)
    return chosen


def build(settings: Settings) -> Agent:
    """Make an agent from settings; raises SettingError or RefusedError."""
    root = settings.cgroup_root or find_root(settings.proc_root)
    if settings.discovery == "cgroup" and others_are_hidden(root):
        raise RefusedError(HIDDEN)
    environment = environment_of(settings, root)
    chosen = select(settings, environment)
    uses_bpf = any(collector.uses_bpf for collector in chosen)
    # Root without these capabilities can still read files. Another user most likely forgot sudo.
    if uses_bpf and os.geteuid() and rights.lacking_for_bpf(rights.effective(settings.proc_root)):
        raise RefusedError(
            f"uid {os.geteuid()} may not load BPF programs: run as root, or with CAP_BPF and CAP_PERFMON"
        )
    events = CgroupEvents(
        sys_root=settings.sys_root, proc_root=settings.proc_root, root=root, containers=environment.containers
    )
    namer = namer_of(settings, environment.exceeded)
    trusted = settings.kubelet_cgroup_root.strip("/")
    finder = Finder(root, namer, kept_files(), events, environment.exceeded, trusted=trusted)
    return Agent(settings, finder, chosen)


def namer_of(settings: Settings, exceeded: Ledger) -> Namer:
    """Return the namer of cgroups; raises SettingError or RefusedError if its address is not known."""
    tree = KubeletTree(settings.kubelet_cgroup_root, exceeded)
    if settings.discovery == "cgroup":
        return StandaloneNamer(tree, exceeded)
    wanted = Filter(
        frozenset(settings.namespaces),
        frozenset(settings.exclude_namespaces),
        parse_selector(settings.pod_selector),
        settings.pod_labels,
    )
    return ClusterNamer(kubernetes_source(settings), wanted, settings.grace_period, tree=tree)
