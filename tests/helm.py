"""The chart, rendered by the real helm."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

REPOSITORY = Path(__file__).parents[1]
CHART = REPOSITORY / "helm" / "kpod-metrics"
SCENARIOS = sorted((CHART / "ci").glob("*-values.yaml"))


REPOSITORY_OF_IMAGE = "image.repository=localhost/kpod-metrics"
"""What has to be given; a test that gives another one does so by `--set`, and later ones count."""


class Chart:
    """Renders the chart as the documentation installs it: release and namespace kpod-metrics, a loaded image."""

    def __init__(self, helm: Path, chart: Path = CHART) -> None:
        self.helm = helm
        self.chart = chart

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run helm."""
        return subprocess.run([self.helm, *arguments], capture_output=True, text=True, check=False)

    def text(self, *arguments: str | Path, release: str = "kpod-metrics") -> str:
        """What would be installed."""
        given = ("--namespace", "kpod-metrics", "--set", REPOSITORY_OF_IMAGE)
        done = self.run("template", release, self.chart, *given, *arguments)
        assert not done.returncode, done.stderr
        return done.stdout

    def render(self, *arguments: str | Path, release: str = "kpod-metrics") -> "Rendered":
        """The same, parsed."""
        return Rendered(self.text(*arguments, release=release))

    def refusal(self, *arguments: str | Path) -> str:
        """What helm says where it does not render."""
        done = self.run("template", "kpod-metrics", self.chart, "--set", REPOSITORY_OF_IMAGE, *arguments)
        assert done.returncode, done.stdout
        return done.stderr


class Rendered:
    """Parsed manifests."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.objects: list[Object] = [found for found in yaml.safe_load_all(text) if found]

    def all(self, kind: str) -> list[Object]:
        """All of a kind."""
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str) -> Object:
        """The only one of a kind."""
        [found] = self.all(kind)
        return found

    @property
    def pod(self) -> Object:
        """The agents' pod template."""
        template: Object = self.one("DaemonSet")["spec"]["template"]
        return template

    @property
    def container(self) -> Object:
        """The agent's container."""
        [found] = self.pod["spec"]["containers"]
        container: Object = found
        return container

    @property
    def config_maps(self) -> dict[str, dict[str, str]]:
        """Files by ConfigMap."""
        return {found["metadata"]["name"]: found["data"] for found in self.all("ConfigMap")}

    @property
    def config(self) -> Object:
        """The agent's configuration file."""
        [files] = [files for files in self.config_maps.values() if "config.yaml" in files]
        parsed: Object = yaml.safe_load(files["config.yaml"])
        return parsed


def leaves(tree: object, above: str = "") -> Iterator[str]:
    """Dotted names of the values in a tree; an empty mapping or a list is one value."""
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from leaves(value, f"{above}.{name}" if above else str(name))
    else:
        yield above
