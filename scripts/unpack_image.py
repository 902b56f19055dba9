"""Unpack an OCI image layout as a node does, and print its configuration with the size of its layers: LAYOUT FOLDER."""

import gzip
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any


def main(layout: Path, into: Path) -> None:
    """Unpack layer upon layer."""

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    image: dict[str, Any] = json.loads(blob(manifest["config"]["digest"]).read_text())
    into.mkdir()
    for layer in manifest["layers"]:
        with gzip.open(blob(layer["digest"])) as stream, tarfile.open(fileobj=stream) as tar:
            tar.extraction_filter = tarfile.fully_trusted_filter
            for member in tar:
                path = into / member.name
                if path.name.startswith(".wh."):
                    gone = path.with_name(path.name.removeprefix(".wh."))
                    if gone.is_dir() and not gone.is_symlink():
                        shutil.rmtree(gone)
                    else:
                        gone.unlink(missing_ok=True)
                    continue
                if path.is_symlink() or (path.exists() and not path.is_dir()):
                    path.unlink()
                if member.isdir() and path.is_dir():
                    path.chmod(member.mode)
                else:
                    tar.extract(member, into, numeric_owner=True)
    print(json.dumps(image | {"compressed": [layer["size"] for layer in manifest["layers"]]}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
