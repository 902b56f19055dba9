"""What an agent that was built, and whose tree was walked once, has imported: in its own process."""

import subprocess
import sys
from pathlib import Path


def imported_by_an_agent(folder: Path, of: str, *modules: str) -> str:
    """Return which of `modules` an agent without Kubernetes and OTLP imports, beside module `of`; nothing if none."""
    (folder / "cgroup.procs").touch()
    (folder / "cgroup.controllers").touch()
    code = (
        f"import sys, kpod_metrics.cli, {of}\n"
        "from kpod_metrics.agent import build\n"
        "from kpod_metrics.settings import load\n"
        f"flags = {{'discovery': 'cgroup', 'profile': 'custom', 'cgroup_root': {str(folder)!r}}}\n"
        "build(load(flags, {}, None, ())[0]).source.refresh()\n"
        f"print(*{{*{modules!r}}} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
