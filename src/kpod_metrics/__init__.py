"""kpod-metrics: what a pod really did, at the kernel level."""

import os

__version__ = "0.1.0"
USER_AGENT = f"kpod-metrics/{__version__} (linux; {os.uname().machine})"
"""What every HTTP client of ours says of itself."""
