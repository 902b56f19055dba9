"""All attacks."""

from tests.reliability.tenants import cgroups, claims, clients, interfaces, mounts, processes, servers
from tests.reliability.tenants.declared import Attack

ATTACKS: tuple[type[Attack], ...] = (
    *(*mounts.ATTACKS, *interfaces.ATTACKS, *processes.ATTACKS),
    *(*cgroups.ATTACKS, *claims.ATTACKS, *clients.ATTACKS, *servers.ATTACKS),
)
"""All of them, in the order of the table."""
