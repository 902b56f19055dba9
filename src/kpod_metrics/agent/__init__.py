"""The agent: opens the collectors, runs the cycles, publishes a page after each."""

from kpod_metrics.agent.assembly import build, environment_of, kept_files, namer_of, select
from kpod_metrics.agent.cycle import Agent
from kpod_metrics.agent.exporter import exporter_of
from kpod_metrics.agent.process import needs_bpf, tune_process

__all__ = [
    "Agent",
    "build",
    "environment_of",
    "exporter_of",
    "kept_files",
    "namer_of",
    "needs_bpf",
    "select",
    "tune_process",
]
