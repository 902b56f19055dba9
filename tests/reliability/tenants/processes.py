"""Attacks by processes: decoys, namespaces, and threads."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kpod_metrics.collectors.parts.per_process import MAX_NAMESPACES
from kpod_metrics.features import TASK_ITERATOR
from tests.reliability.tenants.declared import Attack
from tests.reliability.tenants.inside import end, enter_new, mount, quiet_link, send_frames

if TYPE_CHECKING:
    from tests.reliability.tenants.inside import Tenant
    from tests.reliability.tenants.node import Fight

TX = "kpod_net_iface_tx_packets_total"


def sent_by_hidden(fight: Fight) -> list[float]:
    """The packets that the attacker's interface `hidden` sent."""
    return list(fight.node.whole_cycles().find(TX, pod=fight.pod.name, interface="hidden").values())


class Decoys(Attack):
    name = "processes that hide another one"
    does = "A pod starts many processes, and only then the one with the network that has traffic"
    bound = "the namespaces of all threads are listed by the kernel at once, not those of the first processes"
    at_bound = "nothing is lost"
    needs = (TASK_ITERATOR,)
    sizes = (40, 200, 1_000)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """The decoys are in one namespace."""
        pids = tenant.children(size, lambda _: None)
        yield

        def busy(_: int) -> None:
            enter_new("network")
            quiet_link("hidden")
            send_frames("hidden", 123)

        pids += tenant.children(1, busy)
        yield
        end(pids)
        yield

    def check(self, fight: Fight) -> None:
        """Its traffic is seen."""
        assert sent_by_hidden(fight) == [123]


class EndedMainThread(Attack):
    name = "processes whose main thread has ended"
    does = "A pod has processes whose main thread has ended, so that `/proc/PID` shows no namespaces"
    bound = "the namespaces of all threads are listed by the kernel at once"
    at_bound = "nothing is lost"
    needs = (TASK_ITERATOR,)
    sizes = (1, 40, 200)

    def before(self, fight: Fight) -> None:
        """The program."""
        fight.node.compile("headless", fight.pod.home)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """All of them are in the namespace of the last one."""
        yield
        enter_new("network")
        quiet_link("hidden")
        send_frames("hidden", 77)
        with tenant.programs([["./headless"]] * size):
            # The process that could be read leaves it.
            enter_new("network")
            yield
        yield

    def check(self, fight: Fight) -> None:
        """Its traffic is seen."""
        assert sent_by_hidden(fight) == [77]


class ManyNetworks(Attack):
    name = "many network namespaces"
    does = "A pod makes many network namespaces, each with a process"
    bound = f"{MAX_NAMESPACES} network namespaces of a pod, those of its oldest threads first"
    at_bound = "the interfaces of further namespaces are not read"
    limit = "network_namespaces"
    needs = (TASK_ITERATOR,)
    sizes = (80, 150, 400)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Each process has its own."""
        yield
        pids = tenant.children(size, lambda _: enter_new("network"))
        yield
        end(pids)
        yield


class ManyMountNamespaces(Attack):
    name = "many mount namespaces"
    does = "A pod makes many mount namespaces, each with a process and a mount of its own"
    bound = f"{MAX_NAMESPACES} mount namespaces and root directories of a pod, those of its oldest threads first"
    at_bound = "the mounts of further namespaces are not read"
    limit = "mount_namespaces"
    needs = (TASK_ITERATOR,)
    sizes = (80, 150, 400)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Each process has its own."""
        os.mkdir("x")
        yield

        def mounted(_: int) -> None:
            enter_new("mount")
            mount("none", "x", "tmpfs", 0, "size=1m")

        pids = tenant.children(size, mounted)
        yield
        end(pids)
        yield


class KeptNetworks(Attack):
    name = "network namespaces that come and go"
    does = "A pod makes network namespaces and leaves them, again and again"
    bound = "no descriptor keeps a namespace after the cycle that read it"
    at_bound = "nothing is lost"
    sizes = (2, 6, 12)

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Eight in each round. The kernel lets it have two rounds of them at a time: kept ones are missing then."""
        with open("/proc/sys/user/max_net_namespaces", "w", encoding="utf-8") as most:
            most.write("16")
        yield
        for _ in range(size):
            pids = tenant.children(8, lambda _: enter_network())
            tenant.pause(0.25)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        yield
        yield


def enter_network() -> None:
    """Enter a new network namespace; the kernel removes old ones some time after their end."""
    end = time.monotonic() + 10
    while True:
        try:
            enter_new("network")
        except OSError as error:
            if error.errno != errno.ENOSPC or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


ATTACKS = (Decoys, EndedMainThread, ManyNetworks, ManyMountNamespaces, KeptNetworks)
