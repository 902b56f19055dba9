"""The process of a tenant: `python -m tests.reliability.tenants.started NAME SIZE CGROUP HOME`, started by root.

It becomes user 65534 in a user namespace of its own before the attack begins. It prints "ready" after each step, and
begins the next one when it gets a line. Everything is imported before: a user without rights may not be able to read
this folder.
"""

import os
import sys

from tests.reliability.tenants.catalogue import ATTACKS
from tests.reliability.tenants.inside import Tenant, become


def main(name: str, size: str, cgroup: str, home: str) -> None:
    """Run the inside of an attack."""
    attack = next(attack for attack in ATTACKS if attack.__name__ == name)
    become(attack.namespaces)
    os.chdir(home)
    tenant = Tenant(cgroup, home)
    for _ in attack().inside(tenant, int(size)):
        print("ready", flush=True)
        tenant.line = sys.stdin.readline().rstrip("\n")
        if not tenant.line:
            break
    os._exit(0)  # whatever threads it has


if __name__ == "__main__":
    main(*sys.argv[1:])
