"""The OTLP exporter, if it is enabled."""

from typing import TYPE_CHECKING

from kpod_metrics import health
from kpod_metrics.errors import SettingError
from kpod_metrics.exposition.pages import Published
from kpod_metrics.settings import Settings

if TYPE_CHECKING:
    from kpod_metrics.otlp.push import Exporter


def exporter_of(settings: Settings, published: Published) -> "Exporter | None":
    """Return the OTLP exporter, or None if it is disabled; raises SettingError."""
    if settings.otlp_key and not settings.otlp_certificate:
        raise SettingError(f"otlp_key: {settings.otlp_key!r} is not accepted; accepted: with otlp_certificate only")
    if not settings.otlp_endpoint:
        return None
    from kpod_metrics.otlp.push import Exporter  # noqa: PLC0415 - its HTTP client costs memory

    return Exporter(settings, lambda: published.page, health.STARTED_NS)
