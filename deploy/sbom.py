"""Print the software bill of materials of the image that this runs in, as CycloneDX, from dpkg and Python metadata."""

import hashlib
import json
import subprocess
import uuid
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

_FIELDS = "${Package}\t${Version}\t${Architecture}\t${source:Package}\t${db:Status-Status}\n"


def debian() -> list[dict[str, Any]]:
    """Return the installed Debian packages."""
    release = dict(
        line.rstrip("\n").split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    distro = f"debian-{release.get('VERSION_ID', '').strip(chr(34))}"
    listed = subprocess.run(["dpkg-query", "-W", "-f", _FIELDS], check=True, capture_output=True, text=True).stdout
    found = []
    for line in listed.splitlines():
        name, version, architecture, source, status = line.split("\t")
        if status == "installed":
            url = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={architecture}&distro={distro}"
            properties = [{"name": "debian:source", "value": source}]
            found.append({"type": "library", "name": name, "version": version, "purl": url, "properties": properties})
    return found


def python() -> list[dict[str, Any]]:
    """Return the Python packages of this environment."""
    found = []
    for package in distributions():
        name = package.metadata["Name"]
        entry: dict[str, Any] = {
            "type": "library",
            "name": name,
            "version": package.version,
            "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{package.version}",
        }
        if "License-Expression" in package.metadata:
            entry["licenses"] = [{"expression": package.metadata["License-Expression"]}]
        found.append(entry)
    return found


def bill() -> dict[str, Any]:
    """Return the document; equal packages give equal documents."""
    components = sorted(debian() + python(), key=lambda component: component["purl"])
    for component in components:
        component["bom-ref"] = component["purl"]
    digest = hashlib.sha256(json.dumps(components).encode()).digest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "kpod-metrics", "bom-ref": "kpod-metrics"}},
        "components": components,
    }


if __name__ == "__main__":
    print(json.dumps(bill(), indent=1))
