"""The chart's generated files: values.schema.json and README.md, from values.yaml, helm/schema.yaml and the settings.

`python scripts/chart.py --write` or `--check`, for the build.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kpod_metrics import __version__
from kpod_metrics.collectors import registered
from kpod_metrics.settings import catalogue

ROOT = Path(__file__).parent.parent
CHART = ROOT / "helm" / "kpod-metrics"
KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}

Object = dict[str, Any]


def comments(text: str) -> dict[str, str]:
    """Return the meanings of values by dotted name: their comments that begin with `# --`."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    meaning: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("# -- "):
            meaning = [bare.removeprefix("# -- ")]
        elif bare.startswith("# ") and meaning:
            meaning.append(bare.removeprefix("# "))
        elif match := re.match(r"( *)(\w+):", line):
            depth = len(match[1])
            above = [(indent, name) for indent, name in above if indent < depth]
            name = ".".join([*(name for _, name in above), match[2]])
            above.append((depth, match[2]))
            if meaning:
                found[name] = " ".join(meaning)
            meaning = []
        else:
            meaning = []
    return found


def schema(values: Object, by_hand: Object, meanings: dict[str, str]) -> Object:
    """Return the schema of all values."""
    used = set()

    def of(value: object, name: str) -> Object:
        described = {"description": meanings[name]} if name in meanings else {}
        if name == "config":
            return described | config()
        own: Object | None = by_hand.get(name)
        if own is not None:
            used.add(name)
        if isinstance(value, dict) and (value or own):
            below = {key: of(inner, f"{name}.{key}") for key, inner in value.items()}
            closed = {"additionalProperties": False} if own is None else {}
            labels = {"additionalProperties": {"type": "string"}} if name.endswith("abels") else {}
            return described | (own or {"type": "object"}) | closed | labels | ({"properties": below} if below else {})
        if own is not None:
            return described | own
        if isinstance(value, dict):
            return described | {"type": "object", "additionalProperties": {"type": "string"}}
        return described | {"type": KINDS[type(value)]}

    properties = {key: of(value, key) for key, value in values.items()}
    assert used == by_hand.keys(), f"helm/schema.yaml: no such value: {by_hand.keys() - used}"
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of kpod-metrics",
        "type": "object",
        "additionalProperties": False,
        # Helm sets it for a chart that is part of another chart.
        "properties": properties | {"enabled": {"type": "boolean"}},
    }


def config() -> Object:
    """Return the schema of the agent's configuration file."""
    properties: Object = {}
    for setting in catalogue(list(registered())):
        *groups, name = setting.path
        at = properties
        for group in groups:
            at = at.setdefault(group, {"type": "object", "additionalProperties": False, "properties": {}})["properties"]
        accepted = dict(setting.kind.schema)
        if isinstance(accepted.get("type"), str):
            accepted["type"] = [accepted["type"], "null"]
        elif "type" in accepted:
            accepted["type"] = [*accepted["type"], "null"]
        else:
            accepted["enum"] = [*accepted["enum"], None]
        at[name] = accepted | {"description": f"{setting.help}; {setting.kind.accepted}"}
    for required in ("profile", "discovery"):  # the chart's templates use them
        properties[required]["enum"].remove(None)
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["profile", "discovery"],
        "properties": properties,
    }


def leaves(tree: Object, above: str = "") -> Iterator[tuple[str, object]]:
    """Yield every value by its dotted name; an empty mapping is one."""
    for key, value in tree.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def readme(values: Object, meanings: dict[str, str]) -> str:
    """Return the chart's README."""

    def cell(text: object) -> str:
        return str(text).replace("|", "\\|")

    rows = []
    for name, value in leaves(values):
        meaning = meanings.get(name) or meanings.get(name.rpartition(".")[0])
        assert meaning, f"values.yaml: {name} has no meaning: a comment `# -- ...` above it"
        rows.append(f"| `{name}` | `{cell(json.dumps(value))}` | {cell(meaning)} |\n")
    settings = [
        f"| `config.{setting.name}` | {cell(setting.help)} | {cell(setting.kind.accepted)} |\n"
        for setting in catalogue(list(registered()))
    ]
    return (
        "# kpod-metrics: the chart\n\n"
        "The chart runs one agent per node. This page is generated by `make generate`.\n"
        "[docs/install.md](../../docs/install.md) describes what to expect, and why each right is needed.\n\n"
        "Build the image and load it (or push it) first. By default there is none to pull:\n\n"
        "```\nmake image\n"
        f"kind load image-archive dist/kpod-metrics-{__version__}.oci.tar    # other clusters: docs/install.md\n"
        "helm install kpod-metrics ./helm/kpod-metrics --namespace kpod-metrics --create-namespace \\\n"
        "  --set image.repository=localhost/kpod-metrics\n```\n\n"
        "## Values\n\n| value | default | meaning |\n|---|---|---|\n" + "".join(rows) + "\n## Settings of the agent\n\n"
        "All settings of the agent are values below `config`. By default the chart sets `node_name` to the node's\n"
        "name, and `kubelet_address` to its address.\n\n"
        "| value | meaning | accepted |\n|---|---|---|\n" + "".join(settings)
    )


def main() -> int:
    """Write the files, or compare."""
    text = (CHART / "values.yaml").read_text()
    values, meanings = yaml.safe_load(text), comments(text)
    by_hand = yaml.safe_load((ROOT / "helm" / "schema.yaml").read_text())
    files = {
        CHART / "values.schema.json": json.dumps(schema(values, by_hand, meanings), indent=1) + "\n",
        CHART / "README.md": readme(values, meanings),
    }
    differ = [path for path, content in files.items() if not path.exists() or path.read_text() != content]
    if "--write" in sys.argv:
        for path, content in files.items():
            path.write_text(content)
        return 0
    for path in differ:
        print(f"{path.relative_to(ROOT)} does not match the declarations: run `make generate`", file=sys.stderr)
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
