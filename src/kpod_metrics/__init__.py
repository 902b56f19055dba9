"""kpod-metrics: what a pod really did, at the kernel level."""

__version__ = "0.1.0"
