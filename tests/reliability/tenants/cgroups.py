"""Attacks by the owner of a delegated cgroup: nests of cgroups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kpod_metrics.cgroup.tree import MAX_DEPTH, MAX_PATH_BYTES
from tests.nesting import nest, unnest
from tests.reliability.tenants.declared import Attack

if TYPE_CHECKING:
    from tests.reliability.tenants.inside import Tenant
    from tests.reliability.tenants.node import Fight

SKIPPED = "kpod_discovery_skipped_cgroups"


class DeepNest(Attack):
    name = "cgroups nested deeply"
    does = "The owner of a delegated cgroup nests cgroups in one another"
    bound = f"{MAX_DEPTH} levels below the root of the tree"
    at_bound = "deeper cgroups are not read; what their processes do is counted as unresolved"
    limit = "cgroups"
    sizes = (100, 1_100, 3_000)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """One chain."""
        yield
        nest(tenant.cgroup, ["d"] * size)
        yield
        unnest(tenant.cgroup, "d")
        yield

    def check(self, fight: Fight) -> None:
        """The walk says what it skips."""
        assert fight.node.whole_cycles().sum(SKIPPED, reason="depth") == 1


class LongNames(Attack):
    name = "cgroups with long names"
    does = "The owner of a delegated cgroup nests cgroups whose names have 255 bytes"
    bound = f"{MAX_PATH_BYTES:,} bytes of a cgroup's path"
    at_bound = "cgroups with longer paths are not read; what their processes do is counted as unresolved"
    limit = "cgroups"
    sizes = (20, 40, 60)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """One chain."""
        yield
        nest(tenant.cgroup, ["x" * 255] * size)
        yield
        unnest(tenant.cgroup, "x" * 255)
        yield

    def check(self, fight: Fight) -> None:
        """The walk says what it skips."""
        assert fight.node.whole_cycles().sum(SKIPPED, reason="path") == 1


ATTACKS = (DeepNest, LongNames)
