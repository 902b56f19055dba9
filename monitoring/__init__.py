"""Recording rules, alerts and dashboards: declared here, written by `make generate` as the files that their users take.

`rules/*.yaml` are plain Prometheus rule files (2.40 or later: they read native histograms as well as classic ones),
`dashboards/*.json` are for Grafana. Every name in them is one that the agent declares, or that a rule here records.
"""

from pathlib import Path

ROOT = Path(__file__).parent
