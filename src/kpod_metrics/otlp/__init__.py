"""Pushing what the pages say by OTLP; imported only where an endpoint is set."""
