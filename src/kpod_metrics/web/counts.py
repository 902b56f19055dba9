"""What the endpoint refused, for the agent's own metrics: written by the event loop, read by a cycle."""

from dataclasses import dataclass, field

REASONS = (
    "connections",
    "requests",
    "rate",
    "size",
    "malformed",
    "timeout",
    "tls",
    "auth",
    "config",
)
"""Why: as the label `reason` of kpod_http_refused_total has it."""


@dataclass
class Counts:
    """Numbers since the start."""

    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    connections: int = 0
    """Open now."""
    config_valid: bool | None = None
    """Whether the web configuration can be used; None where there is none."""
