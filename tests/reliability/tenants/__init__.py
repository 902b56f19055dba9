"""Attacks of tenants on the agent, each declared once: the test runs it, and docs/security.md lists it."""

from tests.reliability.tenants import cgroups, interfaces
from tests.reliability.tenants.declared import Attack

ATTACKS: tuple[type[Attack], ...] = (*interfaces.ATTACKS, *cgroups.ATTACKS)
"""All of them, in the order of the table."""
