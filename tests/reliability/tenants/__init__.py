"""Attacks of tenants on the agent, each declared once: the test runs it, and docs/security.md lists it."""
