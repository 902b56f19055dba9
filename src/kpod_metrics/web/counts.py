"""What the endpoint refused, for the agent's own metrics: the event loop writes it, a cycle reads it."""

from dataclasses import dataclass, field

REASONS = ("connections", "requests", "rate", "size", "malformed", "timeout", "tls", "auth", "config")
"""Values of the label `reason` of kpod_http_refused_total."""


@dataclass
class Counts:
    """Numbers since the start."""

    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    connections: int = 0
    """Open connections."""
    config_valid: bool | None = None
    """Whether the web configuration is valid; None without one."""
