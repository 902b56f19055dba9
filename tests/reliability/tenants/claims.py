"""Attacks by identity: cgroups and pods that say that they are another pod."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.reliability.tenants.declared import Attack
from tests.reliability.tenants.inside import CALLS, RARE, end, syscall

if TYPE_CHECKING:
    from tests.reliability.tenants.inside import Tenant
    from tests.reliability.tenants.node import Fight


class SpoofedPath(Attack):
    name = "cgroups named like another pod's"
    does = "A user of the node makes cgroups below a unit of its own, named like a pod's, and works in them"
    bound = "a path counts as a pod's only in the kubelet's tree, which only root can create"
    at_bound = "other cgroups count as the host's; a second one with the ids of a container that exists is refused"
    metric = "kpod_discovery_refused_claims_total"
    quick = True
    sizes = (1, 20, 200)
    unit = True

    def line(self, fight: Fight) -> str:
        """The path of the victim's cgroup below the kubelet's."""
        return str(fight.steady.pod.cgroup.path).partition(f"{fight.node.top}/")[2]

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Each in a tree of its own, with a process that makes 1,000 calls."""
        yield
        folders = [f"{tenant.cgroup}/{at}/{tenant.line}" for at in range(size)]
        for folder in folders:
            os.makedirs(folder)

        def work(at: int) -> None:
            tenant.enter(folders[at])
            for _ in range(1000):
                syscall(RARE, 0)

        pids = tenant.children(size, work)
        yield
        end(pids)
        yield


class InnerClaim(SpoofedPath):
    name = "cgroups in a container named like another pod's"
    does = "A pod with a delegated cgroup makes cgroups in it, named like another pod's, and works in them"
    bound = "the outermost pod of a path, and the outermost container in it, own everything below"
    at_bound = "they count as the pod's that made them"
    limit = "claims"
    metric = ""
    unit = False

    def check(self, fight: Fight) -> None:
        """Its calls are its own."""
        assert fight.node.whole_cycles().sum(CALLS, pod=fight.pod.name) == 1000 * fight.size


class EmptyClaim(SpoofedPath):
    name = "empty cgroups named like another pod's"
    does = "A user of the node makes empty cgroups below a unit of its own, named like a pod's"

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Each in a tree of its own."""
        yield
        for at in range(size):
            os.makedirs(f"{tenant.cgroup}/{at}/{tenant.line}")
        yield
        yield


class MirrorAnnotation(Attack):
    name = "pods that claim to mirror a static pod"
    does = "A user who may create pods gives them the annotation `kubernetes.io/config.mirror` of a static pod"
    bound = "container ids of a pod's status decide"
    at_bound = "the annotation alone names no cgroup"
    sizes = (1, 10, 100)

    def attack(self, fight: Fight) -> None:
        """The victims are static pods."""
        for _ in range(fight.size):
            name = fight.node.name("mirror")
            fight.node.api.create_pod(name, node=fight.node.host, static_hash=fight.steady.pod.uid)
            fight.node.api.run_container("default", name, "app")
            fight.stack.callback(fight.node.api.delete_pod, "default", name)


class FakePods(Attack):
    name = "thousands of cgroups named like pods"
    does = "A user of the node makes thousands of cgroups below a unit of its own, named like pods of the kubelet"
    bound = "a path counts as a pod's only in the kubelet's tree; 1,000 cgroups below one unit"
    at_bound = "they count as the host's, and wait for no name"
    sizes = (1_000, 4_000, 10_050)
    unit = True

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """Each with a container."""
        yield
        above = f"{tenant.cgroup}/kubepods.slice/kubepods-burstable.slice"
        os.makedirs(above)
        for _ in range(size // 2):
            pod = f"{above}/kubepods-burstable-pod{str(uuid.uuid4()).replace('-', '_')}.slice"
            os.mkdir(pod)
            os.mkdir(f"{pod}/cri-containerd-{uuid.uuid4().hex * 2}.scope")
        yield
        yield


ATTACKS = (SpoofedPath, InnerClaim, EmptyClaim, MirrorAnnotation, FakePods)
