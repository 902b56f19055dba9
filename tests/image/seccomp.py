"""The runtimes' own seccomp profiles, as their packages have them, made into what runc takes for some capabilities."""

import json
import platform
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from tests.image.tools import fetched

Object = dict[str, Any]

ARCHITECTURES = {"x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "aarch64": ["SCMP_ARCH_AARCH64"]}
GO = {"x86_64": "amd64", "aarch64": "arm64"}

_GOCODE = "usr/share/gocode/src/github.com"
CONTAINERD = (
    "golang-github-containerd-containerd-dev",
    f"{_GOCODE}/containerd/containerd/contrib/seccomp/seccomp_default.go",
)
DOCKER = ("golang-github-docker-docker-dev", f"{_GOCODE}/docker/docker/profiles/seccomp/default.json")
COMMON = ("golang-github-containers-common", "usr/share/containers/seccomp.json")
"""Of Podman, Buildah and CRI-O."""

PROFILES = {
    "containerd-1.6": ("bookworm", *CONTAINERD),
    "containerd-1.7": ("trixie", *CONTAINERD),
    "docker-20.10": ("bookworm", *DOCKER),
    "docker-26.1": ("trixie", *DOCKER),
    "containers-common-0.50": ("bookworm", *COMMON),
    "containers-common-0.62": ("trixie", *COMMON),
}


@cache
def profile(name: str) -> Path:
    """The file of a runtime's profile."""
    suite, package, path = PROFILES[name]
    return fetched(f"{suite}/{package}") / path


def default() -> Path:
    """That of containerd, which most clusters have."""
    return profile("containerd-1.7")


def of(path: Path, capabilities: Collection[str]) -> Object:
    """What the runtime gives to runc for a container with these capabilities."""
    return of_go(path, capabilities) if path.suffix == ".go" else of_json(path, capabilities)


def of_json(path: Path, capabilities: Collection[str]) -> Object:
    """Of Docker's format: rules for some capabilities and architectures (profiles/seccomp/seccomp_linux.go)."""
    whole = json.loads(path.read_text())
    machine = GO[platform.machine()]
    rules = []
    for rule in whole["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if machine in (excludes.get("arches") or ()) or set(excludes.get("caps") or ()) & set(capabilities):
            continue
        if (arches := includes.get("arches")) and machine not in arches:
            continue
        if not set(includes.get("caps") or ()) <= set(capabilities):
            continue
        made = {"names": rule["names"], "action": rule["action"], "args": rule.get("args") or []}
        if (number := rule.get("errnoRet")) is not None:
            made["errnoRet"] = number
        rules.append(made)
    found = {
        "defaultAction": whole["defaultAction"],
        "architectures": ARCHITECTURES[platform.machine()],
        "syscalls": rules,
    }
    if (number := whole.get("defaultErrnoRet")) is not None:
        found["defaultErrnoRet"] = number
    return found


_CASE = re.compile(r'case "(CAP_\w+)":(.*?)(?=\n\t\tcase |\n\t\t\}\n)', re.DOTALL)
_NAMES = re.compile(r"Names:\s*\[\]string\{(.*?)\}", re.DOTALL)


def of_go(path: Path, capabilities: Collection[str]) -> Object:
    """Of containerd, which has it as Go: the names of its list, and of its cases for capabilities.

    Rules for arguments (personality, socket, clone) are left out but for clone(), whose namespaces nobody here makes:
    without them a little more is allowed, of what the agent does not do.
    """
    text = path.read_text()
    base = text[text.index("func DefaultProfile") : text.index("DefaultAction")]
    names = {name for group in _NAMES.findall(base) for name in re.findall(r'"(\w+)"', group)}
    for machine in ("amd64", "arm64"):
        if machine == GO[platform.machine()]:
            case = re.search(rf'case (?:"arm", )?"{machine}":\n\t\ts\.Syscalls(.*?)\n\tcase', text, re.DOTALL)
            assert case
            names |= set(re.findall(r'"(\w+)"', case[1]))
    names |= {"ptrace", "process_vm_readv", "process_vm_writev", "clone"}
    for capability, body in _CASE.findall(text):
        if capability in capabilities:
            names |= {name for group in _NAMES.findall(body) for name in re.findall(r'"(\w+)"', group)}
    rules: list[Object] = [{"names": sorted(names), "action": "SCMP_ACT_ALLOW"}]
    if "CAP_SYS_ADMIN" not in capabilities and "clone3" in text:
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
        rules[0]["names"] = sorted(names - {"clone3"})
    return {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ARCHITECTURES[platform.machine()], "syscalls": rules}
