"""Pushes pages by OTLP. Imported only if an endpoint is configured."""
