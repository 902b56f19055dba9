"""Attacks by interfaces: their names, and their number over time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from kpod_metrics.limits import FEW
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
    quick = True
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


class RenamedWithLittleMemory(RenamedInterfaces):
    name = "interfaces that are renamed, with little memory"
    does = "The same, while the agent is near its memory limit (72 MiB)"
    bound = "100 such series for each pod while the node has little room (`limits.FEW`)"
    sizes = (120, 400, 800)
    settings = ("--memory-limit", "72Mi")

    def check(self, fight: Fight) -> None:
        """It stays within this limit; the attacker has few series, and other pods have all of theirs."""
        page = fight.node.whole_cycles(2)
        names = {dict(labels)["interface"] for labels in page.find(TX, pod=fight.pod.name)}
        assert len(names) <= 1 + FEW // 8
        assert "other" in names
        assert page.sum("kpod_series_overflow_total") == 0
        assert fight.node.peak() <= 1.1 * (72 << 20)


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


ATTACKS = (RenamedInterfaces, RenamedWithLittleMemory, InterfaceChurn)
