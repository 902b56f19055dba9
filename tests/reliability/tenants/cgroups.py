"""Attacks by the owner of a delegated cgroup: nests of cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, ClassVar

from kpod_metrics.cgroup.tree import MAX_CGROUPS, MAX_DEPTH, MAX_HELD, MAX_PATH_BYTES
from tests.nesting import nest, unnest
from tests.reliability.tenants.declared import Attack
from tests.reliability.tenants.inside import CALLS, RARE, end, syscall

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
    quick = True
    sizes = (100, 1_100, 1_500)
    directory: ClassVar = "d"
    reason: ClassVar = "depth"

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """One chain."""
        yield
        nest(tenant.cgroup, [self.directory] * size)
        yield
        unnest(tenant.cgroup, self.directory)
        yield

    def check(self, fight: Fight) -> None:
        """The walk says what it skips."""
        assert fight.node.whole_cycles().sum(SKIPPED, reason=self.reason) >= 1


class LongNames(DeepNest):
    name = "cgroups with long names"
    does = "The owner of a delegated cgroup nests cgroups whose names have 255 bytes"
    bound = f"{MAX_PATH_BYTES:,} bytes of a cgroup's path"
    at_bound = "cgroups with longer paths are not read; what their processes do is counted as unresolved"
    sizes = (20, 40, 60)
    directory = "x" * 255
    reason = "path"


class ManyCgroups(Attack):
    name = "thousands of cgroups"
    does = "The owner of a delegated cgroup makes thousands of cgroups in it"
    bound = f"{MAX_HELD:,} cgroups below one container or unit, and {MAX_CGROUPS:,} of the node"
    at_bound = "further cgroups are not read; what their processes do is the container's, or the host's"
    limit = "cgroups"
    sizes = (1_100, 4_000, 12_000)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """All in one."""
        yield
        for at in range(size):
            os.mkdir(f"{tenant.cgroup}/{at}")
        yield
        for at in range(size):
            os.rmdir(f"{tenant.cgroup}/{at}")
        yield


class ShortLived(Attack):
    name = "cgroups that come and go"
    does = "The owner of a delegated cgroup makes and removes cgroups, thousands in a second"
    bound = "if too many cgroups have ended, the pod with most of them makes room first"
    at_bound = "nothing is lost"
    sizes = (2_000, 6_000, 14_000)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """It goes on until other pods have ended."""
        yield
        numbers = count()

        def some() -> None:
            for _ in range(1_000):
                folder = f"{tenant.cgroup}/{next(numbers)}"
                os.mkdir(folder)
                os.rmdir(folder)

        with tenant.again_and_again(some):
            while next(numbers) < size:
                tenant.pause(0.01)
            yield
        yield


class BusyCgroups(Attack):
    name = "cgroups that fill the maps"
    does = "The owner of a delegated cgroup makes thousands of cgroups, and has events in each"
    bound = "one entry of each map for a container: cgroups below it are charged to that"
    at_bound = "nothing is lost: these events count as the container's"
    sizes = (600, 2_000, 5_000)
    settings = ("--bpf-map-entries", "512")

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """One process that enters each of them, and calls and sleeps there."""
        yield
        for at in range(size):
            os.mkdir(f"{tenant.cgroup}/{at}")

        def visit(_: int) -> None:
            for at in range(size):
                tenant.enter(f"{tenant.cgroup}/{at}")
                syscall(RARE, 0)
                tenant.pause(1e-5)

        [pid] = tenant.children(1, visit)
        yield
        end([pid])
        yield

    def check(self, fight: Fight) -> None:
        """Nothing is lost."""
        page = fight.node.whole_cycles()
        assert page.sum("kpod_bpf_map_evictions_total") == 0
        assert page.sum(CALLS, pod=fight.pod.name) == fight.size


class BusyUnit(BusyCgroups):
    name = "cgroups of a user that fill the maps"
    does = "A user of the node does the same below a unit of its own, which is no container"
    bound = "`bpf_map_entries` for the node"
    at_bound = "the kernel evicts the entries that were not used for longest; each eviction is counted"
    metric = "kpod_bpf_map_evictions_total"
    unit = True

    def check(self, fight: Fight) -> None:
        """What is lost is counted: its calls are the host's."""


ATTACKS = (DeepNest, LongNames, ManyCgroups, ShortLived, BusyCgroups, BusyUnit)
