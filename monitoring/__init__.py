"""Recording rules, alerts and dashboards: declared here, written to files by `make generate`.

`rules/*.yaml` are plain Prometheus rule files (2.40 or later, as they read native and classic histograms),
`dashboards/*.json` are for Grafana. All metrics in them are declared by the agent or recorded by a rule here.
"""

from pathlib import Path

ROOT = Path(__file__).parent
