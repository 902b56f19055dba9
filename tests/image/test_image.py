"""What is in the image, and what is not."""

import json
import os
import subprocess
import tarfile
from pathlib import Path

from kpod_metrics import __version__
from tests.helm import Chart
from tests.image.pod import Object
from tests.image.tools import REPOSITORY

TOOLS = {"cc", "gcc", "clang", "ld", "as", "make", "pip", "pip3", "curl", "wget", "git"}


def test_size(image: Object) -> None:
    compressed = sum(image["compressed"])
    print(f"{compressed / 1e6:.1f} MB compressed")
    assert compressed < 120e6


def test_no_compiler_and_nothing_set_uid(rootfs: Path) -> None:
    programs = {name for folder in rootfs.glob("**/bin") if folder.is_dir() for name in os.listdir(folder)}
    assert not TOOLS & programs
    assert "python3" in programs
    for path in rootfs.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert not path.stat().st_mode & 0o6000, path


def test_every_module_is_compiled(rootfs: Path) -> None:
    [packages] = (rootfs / "opt/kpod-metrics/lib").glob("python3.*/site-packages")
    sources = [path for path in packages.rglob("*.py") if path.stat().st_size]
    assert len(sources) > 100
    bare = [path for path in sources if not list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))]
    assert not bare
    assert len(list((packages / "kpod_metrics/bpf").glob("*.bpf.o"))) >= 5


def test_every_page_of_the_documentation_is_there(rootfs: Path) -> None:
    [packages] = (rootfs / "opt/kpod-metrics/lib").glob("python3.*/site-packages")
    pages = {path.stem for path in (packages / "kpod_metrics/site").glob("*.html")}
    assert pages == {path.stem for path in (REPOSITORY / "docs").glob("*.md")}
    assert 'id="kpodoomkill"' in (packages / "kpod_metrics/site/runbook.html").read_text()


def test_receivers_certificates_can_be_verified(rootfs: Path) -> None:
    """A receiver of OTLP is verified by the system's CAs, which a slim base has none of."""
    assert (rootfs / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 100_000


def test_configuration(image: Object) -> None:
    config = image["config"]
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    # The agent sets malloc's parameters as it starts, over what is here.
    assert not {name for name in environment if name.startswith(("PIP_", "MALLOC_"))}
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["ExposedPorts"] == {"9090/tcp": {}}


def test_bill_of_materials_names_all_that_is_installed(rootfs: Path) -> None:
    bill = json.loads((rootfs / "usr/share/sbom/kpod-metrics.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    named = {(one["purl"].split("/")[0], one["name"].lower()) for one in bill["components"]}
    listed = subprocess.run(
        ["dpkg-query", f"--root={rootfs}", "-W", "-f", "${Package}\n"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {("pkg:deb", name) for name in listed} <= named
    for wanted in ("kpod-metrics", "lightkube", "msgspec", "h11", "bcrypt"):
        assert ("pkg:pypi", wanted) in named


def test_archive_is_what_the_chart_and_the_pages_name(chart: Chart) -> None:
    """A node that imports it has the image under exactly the name that the documented values render to."""
    archive = f"dist/kpod-metrics-{__version__}.oci.tar"
    with tarfile.open(REPOSITORY / archive) as tar:
        index = tar.extractfile("index.json")
        assert index is not None
        [manifest] = json.load(index)["manifests"]
    name = manifest["annotations"]["org.opencontainers.image.ref.name"]
    assert name == f"localhost/kpod-metrics:{__version__}"
    assert chart.render("--set", "image.repository=localhost/kpod-metrics").container["image"] == name
    page = (REPOSITORY / "docs/install.md").read_text()
    for said in (f"`{name}`", f"kind load image-archive {archive}", f"ctr images import {archive}"):
        assert said in page
