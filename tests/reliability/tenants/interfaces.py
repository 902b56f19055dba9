"""Attacks by interfaces: their names, and their number over time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from tests.reliability.tenants.declared import Attack
from tests.reliability.tenants.inside import ip

if TYPE_CHECKING:
    from tests.reliability.tenants.inside import Tenant
    from tests.reliability.tenants.node import Fight

TX = "kpod_net_iface_tx_packets_total"


class RenamedInterfaces(Attack):
    name = "interfaces that are renamed"
    does = "A pod with hundreds of network interfaces renames all of them, again and again"
    bound = "`pod_series_limit` for all series of a pod with labels of its own choice"
    at_bound = "further interfaces are added up in the pod's own series `other`"
    limit = "series"
    sizes = (260, 400, 600)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Half of the interfaces are the other ends of the pairs."""
        ip(f"link add n{at} type veth peer name m{at}" for at in range(size // 2))
        yield
        names = [f"{end}{at}" for at in range(size // 2) for end in "nm"]
        rounds = count()

        def rename() -> None:
            now = next(rounds)
            for at, name in enumerate(names):
                names[at] = f"r{now}-{at}"
                tenant.rename_interface(name, names[at])
            tenant.pause(0.5)

        with tenant.again_and_again(rename):
            yield
        yield


class InterfaceChurn(Attack):
    name = "interfaces that come and go"
    does = "A pod makes pairs of network interfaces with new names and deletes them, again and again"
    bound = "the series of an interface end with it"
    at_bound = "nothing is lost: the last values are on one more page"
    sizes = (40, 120, 400)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Each pair exists for longer than a cycle."""
        yield
        for begin in range(0, size, 20):
            names = range(begin, begin + 20)
            ip(f"link add c{at} type veth peer name d{at}" for at in names)
            tenant.pause(0.3)
            ip(f"link delete c{at}" for at in names)
        yield
        yield

    def check(self, fight: Fight) -> None:
        """All of them are gone, and so are their series."""
        assert not fight.node.whole_cycles(2).find(TX, pod=fight.pod.name)


ATTACKS = (RenamedInterfaces, InterfaceChurn)
