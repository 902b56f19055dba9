"""`python -m kpod_metrics`."""

import sys

from kpod_metrics.cli import main

sys.exit(main())
