"""Build hook: compiles `bpf/*.bpf.c` and renders `docs/*.md` into the package, so that the wheel carries both."""

import html
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
PACKAGE = ROOT / "src" / "kpod_metrics"
OBJECTS = PACKAGE / "bpf"
SITE = PACKAGE / "site"

# -g carries the BTF that CO-RE and the agent's layouts need. The instruction
# set is v3: 32-bit ALU and jumps, in every kernel since 5.1. There is no target
# macro: no program reads pt_regs, so one object works on all architectures.
FLAGS = [
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-Wno-unused-function",
    "-target",
    "bpf",
    "-mcpu=v3",
]


def compile_objects(sources: list[Path], into: Path) -> list[Path]:
    """Compile each source to `into`/NAME.o, with BTF but no other debug information, and with a checksum at the end.

    ELF readers ignore the checksum. The agent checks it, because libbpf can crash on a damaged file. Raises SystemExit
    with the failed command, or with the packages to install.
    """
    for tool in ("clang", "llvm-strip"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} not found, the BPF programs need it (Debian: apt-get install clang llvm)")
    into.mkdir(exist_ok=True)
    # clang's bpf target does not search the multiarch folder, in which Debian has <asm/types.h>.
    headers = [f"-I{path.parent}" for path in Path("/usr/include").glob("*/asm") if path.is_dir()]
    made = []
    for source in sources:
        target = into / source.name.replace(".bpf.c", ".bpf.o")
        # Relative paths, so that the objects do not depend on the folder of the build.
        command = [
            "clang",
            *FLAGS,
            f"-I{ROOT / 'bpf'}",
            *headers,
            f"-ffile-prefix-map={ROOT}=.",
            "-c",
            str(source),
        ]
        for step in ([*command, "-o", str(target)], ["llvm-strip", "-g", str(target)]):
            if subprocess.run(step, check=False, cwd=source.parent).returncode:
                sys.exit(f"failed: {' '.join(step)}")
        content = target.read_bytes()
        target.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))
        made.append(target)
    return made


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: kpod-metrics</title>
<link rel="stylesheet" href="style.css">
</head>
<body class="docs">
<header><nav aria-label="Documentation"><a href="../">This node</a> <a href="./">Docs</a> <a href="runbook">Runbook</a>
<a href="metrics">Metrics</a></nav></header>
<main>
{body}
</main>
</body>
</html>
"""


def _address(link: "re.Match[str]") -> str:
    """Return a link to a page of `docs/` as the agent serves it: `runbook.md#x` becomes `runbook#x`."""
    return f'href="{"./" if link[1] == "index" else link[1]}{link[2] or ""}"'


def render_docs(docs: Path, into: Path) -> None:
    """Render each page of `docs` into the folder `into`, and copy its pictures and the style there.

    This happens at build time, so that an agent needs no Markdown library: it only reads the files.
    """
    # Not at the top: some tests import this file without this library.
    import markdown  # noqa: PLC0415

    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    for page in sorted(docs.glob("*.md")):
        source = page.read_text()
        # The same extensions as in properdocs.yml, so that anchors are the same.
        extensions = ["tables", "fenced_code", "toc"]
        body = markdown.markdown(source, extensions=extensions, extension_configs={"toc": {"permalink": "#"}})
        title = html.escape(source.partition("\n")[0].removeprefix("# ").replace("`", ""))
        body = re.sub(r'href="([\w-]+)\.md(#[^"]*)?"', _address, body)
        (into / f"{page.stem}.html").write_text(_PAGE.format(title=title, body=body))
    for picture in sorted(docs.rglob("*.svg")):
        target = into / picture.relative_to(docs)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(picture, target)
    styles = (PACKAGE / "landing" / "style.css", PACKAGE / "docs.css")
    (into / "style.css").write_text("".join(style.read_text() for style in styles))


class PackageBuildHook(BuildHookInterface[Any]):
    """Runs before hatchling builds the package, also for an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile every program of the agent, and render its documentation."""
        made = compile_objects(sorted((ROOT / "bpf").glob("*.bpf.c")), OBJECTS)
        for stale in {*OBJECTS.glob("*.bpf.o")} - {*made}:  # its program was renamed or removed
            stale.unlink()
        render_docs(ROOT / "docs", SITE)


if __name__ == "__main__":
    render_docs(ROOT / "docs", SITE)
