"""Writes the declared metrics, settings and collectors: as a table, as JSON, and as pages of the documentation."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

from kpod_metrics import bounds, health
from kpod_metrics.collectors import registered
from kpod_metrics.collectors.kit import Collector, Environment, Question
from kpod_metrics.metrics import Kind, Metric, Profile, Scope, Table, series_per_container
from kpod_metrics.pods import info
from kpod_metrics.settings import DEFAULT_SYSCALLS, Setting, catalogue

_ENVIRONMENT = Environment(syscalls=DEFAULT_SYSCALLS)
_OF_SANDBOX = "run_queue"
"""The collector whose events a pod's sandbox has too."""
_DESCRIPTIONS = {
    "pods": "facts about each pod from Kubernetes",
    "limits": "the limits of each pod",
    "agent": "the agent itself",
}
_NOT_OF_COLLECTORS = (("pods", info.TABLES), ("limits", (bounds.EXCEEDED,)), ("agent", health.TABLES))


def declared() -> Iterator[tuple[str, Table, Metric]]:
    """Yield every metric with its table and collector, or what stands for it (keys of `_DESCRIPTIONS`)."""
    of_collectors = [(name, kind.declare(_ENVIRONMENT)) for name, kind in registered().items()]
    for name, tables in [*of_collectors, *_NOT_OF_COLLECTORS]:
        for table in tables:
            for metric in table.metrics:
                yield name, table, metric


def _labels(table: Table) -> list[str]:
    return [*table.scope.labels, *(label.name for label in table.labels)]


def as_json() -> str:
    """Return all metrics as JSON."""
    entries = [
        {
            "name": metric.name,
            "type": metric.kind.value,
            "help": metric.help,
            "labels": _labels(table),
            "profile": metric.profile.name.lower(),
            "collector": collector,
            "source": metric.source,
            "advice": metric.advice,
        }
        for collector, table, metric in declared()
    ]
    return json.dumps(entries, indent=2) + "\n"


def as_table() -> str:
    """Return all metrics as a table for a terminal."""
    rows = [("NAME", "TYPE", "PROFILE", "COLLECTOR", "LABELS")]
    rows += [
        (metric.name, metric.kind.value, metric.profile.name.lower(), collector, ",".join(_labels(table)))
        for collector, table, metric in declared()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) + "\n"
        for row in rows
    )


def _one_more() -> str:
    """Return how many series one more device, interface and so on has, in words."""
    costs: dict[str, int] = {}
    for kind in registered().values():
        for table in kind.declare(_ENVIRONMENT):
            series = sum(metric.series() for metric in table.metrics)
            for label in table.labels:
                if label.per:
                    children = table.children() // (len(label.values) or 1)
                    costs[label.per] = costs.get(label.per, 0) + series * children
    (first, cost), *others = costs.items()
    return ", ".join([f"A further {first} adds {cost}", *(f"a {per} {cost}" for per, cost in others)])


def _profiles(kind: type[Collector]) -> list[Profile]:
    """Return the lowest profiles of a collector's metrics."""
    return sorted({metric.profile for table in kind.declare(_ENVIRONMENT) for metric in table.metrics})


def _by_profile() -> list[tuple[Profile, str, type[Collector]]]:
    """Return all collectors with their lowest profile, grouped by question."""
    questions = list(Question)
    found = [(_profiles(kind)[0], name, kind) for name, kind in registered().items()]
    return sorted(found, key=lambda one: (one[0], questions.index(one[2].question), one[1]))


def collectors_as_markdown() -> str:
    """Return the table of collectors."""
    parts = ["| collector | signals | source | lowest profile |\n|---|---|---|---|\n"]
    for profile, name, kind in _by_profile():
        of_more = [f"; all from {more.name.lower()}" for more in _profiles(kind)[1:]][-1:]
        page = f" ([docs/{kind.page}](docs/{kind.page}))" if kind.page else ""
        parts.append(
            f"| `{name}` | {kind.description}{page} | {'BPF' if kind.uses_bpf else 'files'} "
            f"| {profile.name.lower()}{''.join(of_more)} |\n"
        )
    return "".join(parts)


def programs_as_markdown() -> str:
    """Which collectors load programs."""
    names = [f"`{name}`" for _, name, kind in _by_profile() if kind.uses_bpf]
    return f"The collectors {', '.join(names[:-1])} and {names[-1]} load BPF programs.\n"


_FOR = {
    Profile.MINIMAL: "every node, at the lowest cost",
    Profile.STANDARD: "the default",
    Profile.COMPREHENSIVE: "investigations; every syscall becomes slower",
}


def profiles_as_markdown() -> str:
    """Return the table of profiles."""
    parts = ["| profile | adds | for |\n|---|---|---|\n"]
    for profile in Profile:
        added = "; ".join(kind.description for lowest, _, kind in _by_profile() if lowest is profile)
        parts.append(f"| `{profile.name.lower()}` | {added} | {_FOR[profile]} |\n")
    parts.append("| `custom` | only the collectors you enable, with all of their metrics | your own selection |\n")
    return "".join(parts)


def profile_series(profile: Profile, *, native: bool, optional: bool = False) -> int:
    """Return the series of a pod with one container, device, interface and mount."""
    pairs = [(table, metric) for _, table, metric in declared() if table.scope is not Scope.AGENT]
    wanted = frozenset(metric for _, metric in pairs if metric.profile <= profile)
    return series_per_container(dict.fromkeys(table for table, _ in pairs), wanted, native=native, optional=optional)


def _series(name: str, *, native: bool) -> int:
    tables = registered()[name].declare(_ENVIRONMENT)
    every = frozenset(metric for table in tables for metric in table.metrics)
    return series_per_container(tables, every, native=native)


def as_markdown() -> str:
    """Return `docs/metrics.md`."""
    parts = [
        "# Metrics\n\n"
        "Generated from the declarations by `make generate`; `kpod-metrics metrics` prints the same.\n\n"
        "Every series of a pod has the labels `namespace`, `pod`, `container`, `node`, and `cluster` if it is set.\n"
        "Series of the whole pod have an empty `container`. Counters of kernel events start at 0 when a container is\n"
        "discovered.\n\n"
        "Below each name are its type, its lowest profile and its own labels. Below its meaning is the source in the\n"
        "kernel. Links lead to the runbook's section of an alert.\n\n"
        "## Series per pod\n\n"
        "For a pod with one container, one block device, one network interface, one mount and ten tracked syscalls.\n"
        f"{_one_more()}.\n"
        "A classic histogram has its buckets, sum and count; a native histogram is one series. On Kubernetes a pod's\n"
        "sandbox has series with an empty `container` after its first event, usually those of\n"
        f"`{_OF_SANDBOX}`: {_series(_OF_SANDBOX, native=False)}, or {_series(_OF_SANDBOX, native=True)} with native "
        "histograms.\n\n"
        "| profile | classic histograms | native histograms | classic, with all optional metrics |\n"
        "|---|---:|---:|---:|\n"
    ]
    parts += [
        f"| {profile.name.lower()} | {profile_series(profile, native=False)} "
        f"| {profile_series(profile, native=True)} | {profile_series(profile, native=False, optional=True)} |\n"
        for profile in Profile
    ]
    optional = [metric for _, _, metric in declared() if metric.optional]
    if optional:
        parts.append(
            "\nThese metrics are optional: not every container has "
            + ", ".join(f"`{m.name}` ({m.optional})" for m in optional)
            + ".\n"
        )
    collector = ""
    for name, table, metric in declared():
        if name != collector:
            collector = name
            description = _DESCRIPTIONS.get(name) or registered()[name].description
            parts.append(f"\n## {name}: {description}\n\n| metric | meaning | what to do |\n|---|---|---|\n")
        kind = metric.kind.value
        if metric.kind is Kind.HISTOGRAM:
            kind += f", {len(metric.exponents)} buckets"
        own = "".join(f", `{label.name}`" for label in table.labels)
        source = metric.source.replace("*", r"\*")
        parts.append(
            f"| `{metric.name}`<br>{kind}, {metric.profile.name.lower()}{own} "
            f"| {metric.help}<br>*{source}* | {_linked(metric.advice)} |\n"
        )
    return "".join(parts)


def _linked(advice: str) -> str:
    """Return the advice with alerts as links to the runbook, and metrics as code."""
    advice = re.sub(r"\bKpod[A-Z]\w+", lambda alert: f"[{alert[0]}](runbook.md#{alert[0].lower()})", advice)
    return re.sub(r"(?<![`\w])((?:kpod|process)_[a-z_]+)(?![`\w])", r"`\1`", advice)


def settings_as_markdown(settings: Iterable[Setting]) -> str:
    """Return `docs/configuration.md`."""
    parts = [
        "# Configuration\n\n"
        "Generated from the declarations by `make generate`; `kpod-metrics run --help` lists the same settings.\n\n"
        "Each setting has three names: a YAML key, a flag, and an environment variable. The agent reads the YAML file\n"
        "that `--config FILE` or `KPOD_CONFIG` names. A flag wins over an environment variable, and an environment\n"
        "variable wins over the file. In YAML, the keys of a collector nest:\n\n"
        "```yaml\npoll_interval: 15s\nexclude_namespaces: [kube-system]\n"
        "collectors:\n  filesystem: {interval: 5m}\n```\n\n"
        "- A duration is a number with `ms`, `s`, `m` or `h`. Without a unit it is in seconds.\n"
        "- A size is a number of bytes, or a number with `Ki`, `Mi`, `Gi` or `Ti`.\n"
        "- A list is a YAML list, or text with commas: `--namespaces shop,web`.\n"
        "- A switch is `true`, `on` or `1`, or `false`, `off` or `0`.\n\n"
        "The agent exits with status 2 if a flag or a key in the file is unknown, or if a value is not accepted. If\n"
        "an environment variable that begins with `KPOD_` is unknown, the agent logs a warning.\n\n"
        "With the [chart](install.md), settings are values below `config`. The defaults here are those of `run` and\n"
        "`check`. The chart, [top and demo](top.md) have a few other defaults.\n"
    ]
    for group, members in groupby(settings, lambda setting: setting.group):
        parts.append(
            f"\n## {str(group.__doc__).rstrip('.')}\n\n"
            "| setting, flag, environment variable | default | accepted values | what it does |\n|---|---|---|---|\n"
        )
        parts += [
            f"| `{setting.name}`<br>`{setting.flag}`<br>`{setting.variable}` | {_default(setting)} "
            f"| {_cell(setting.kind.accepted)} | {_cell(setting.what)} |\n"
            for setting in members
        ]
    return "".join(parts)


def _default(setting: Setting) -> str:
    if setting.otherwise:
        return _cell(setting.otherwise)
    text = setting.kind.text(setting.default)
    return f"`{text}`" if text else "none"


def _cell(text: str) -> str:
    """Return text for a table's cell: pages of the documentation as links, and special characters escaped."""
    return re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", text.replace("*", r"\*").replace("|", r"\|"))


FORMATS: dict[str, Callable[[], str]] = {"table": as_table, "json": as_json, "markdown": as_markdown}
PAGES: dict[str, Callable[[], str]] = {
    "docs/metrics.md": as_markdown,
    "docs/configuration.md": lambda: settings_as_markdown(catalogue(registered())),
}
"""The generated pages of the documentation."""
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"collectors": collectors_as_markdown},
    "docs/concepts.md": {"profiles": profiles_as_markdown},
    "docs/install.md": {"programs": programs_as_markdown},
}
"""The generated parts of pages that are written by hand, each between `<!-- NAME: ... -->` and `<!-- end -->`."""


def with_parts(page: str, parts: dict[str, Callable[[], str]]) -> str:
    """Put the generated parts into a page; raises ValueError if the page has no place for one."""
    for name, made in parts.items():
        before, mark, rest = page.partition(f"<!-- {name}: written by `make generate` -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        if not end:
            raise ValueError(f"no place for {name!r}")
        page = f"{before}{mark}\n{made()}\n{end}{after}"
    return page


def files(root: Path) -> dict[Path, str]:
    """Return all files with generated content."""
    made = {root / name: page() for name, page in PAGES.items()}
    return made | {root / name: with_parts((root / name).read_text(), parts) for name, parts in PARTS.items()}


def main() -> int:
    """`python -m kpod_metrics.reference --write|--check FOLDER`, of the repository: for the build."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path)
    parser.add_argument("--check", type=Path)
    options = parser.parse_args()
    status = 0
    for path, text in files(options.write or options.check).items():
        if options.write:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path} does not match the declarations: run `make generate`", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
