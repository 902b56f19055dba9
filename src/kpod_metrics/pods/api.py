"""A pod as the Kubernetes API and a kubelet's /pods have it: only the fields that are needed, and their translation.

Everything else of an object (three quarters of its bytes) is skipped while it is decoded, and never held.
"""

from dataclasses import replace

import msgspec

from kpod_metrics.pods.model import Container, Pod

MAX_CONTAINER_IDS = 16
"""Ids that are remembered of one container; a crash loop makes a new one every few minutes."""


class _Object(msgspec.Struct, rename="camel", gc=False):
    """Fields have the API's names in camel case; those that an object lacks have their defaults."""


class Owner(_Object):
    """One of a pod's ownerReferences."""

    kind: str = ""
    name: str = ""
    controller: bool | None = None


class Annotations(_Object):
    """Those that the kubelet sets on static pods and on their mirrors in the API."""

    mirror: str = msgspec.field(name="kubernetes.io/config.mirror", default="")
    """Only on a mirror pod: the UID that the kubelet knows the static pod by, the hash of its file."""
    source: str = msgspec.field(name="kubernetes.io/config.source", default="api")
    """In a kubelet's list: where it has the pod from; "file" or "http" for a static one."""


class Metadata(_Object):
    """A pod's metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: Annotations | None = None
    owner_references: list[Owner] | None = None


class Named(_Object):
    """A container of the spec."""

    name: str = ""
    restart_policy: str = ""
    """Its own: Always makes a sidecar of an init container."""


class Spec(_Object):
    """A pod's spec. A sidecar is an init container that is restarted always."""

    node_name: str = ""
    restart_policy: str = "Always"
    init_containers: list[Named] | None = None
    containers: list[Named] | None = None
    ephemeral_containers: list[Named] | None = None


class Terminated(_Object):
    """How a container ended."""

    container_id: str = msgspec.field(name="containerID", default="")
    exit_code: int = 0


class ContainerState(_Object):
    """What a container is."""

    terminated: Terminated | None = None


class ContainerStatus(_Object):
    """What is known of a container; its id is there once it was made, prefixed by its runtime (`containerd://`)."""

    name: str = ""
    container_id: str = msgspec.field(name="containerID", default="")
    restart_count: int = 0
    state: ContainerState | None = None
    last_state: ContainerState | None = None


class Status(_Object):
    """A pod's status."""

    phase: str = ""
    qos_class: str = ""
    init_container_statuses: list[ContainerStatus] | None = None
    container_statuses: list[ContainerStatus] | None = None
    ephemeral_container_statuses: list[ContainerStatus] | None = None


class Item(_Object):
    """A pod; also the object of a bookmark, which has a resourceVersion only."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: Spec = msgspec.field(default_factory=Spec)
    status: Status = msgspec.field(default_factory=Status)


class ListMetadata(_Object):
    """A list's metadata."""

    resource_version: str = ""
    more: str = msgspec.field(name="continue", default="")
    """Not empty: where the next page begins."""


class Items(_Object):
    """A list of pods. An empty one is null where Go has a nil slice."""

    metadata: ListMetadata = msgspec.field(default_factory=ListMetadata)
    items: list[Item] | None = None


class Event(_Object):
    """An event of a watch. Its object is a pod, or a Refusal in an ERROR event: decoded when the type is known."""

    type: str
    object: msgspec.Raw


class Refusal(_Object):
    """What the API calls Status: the body of an HTTP error, the object of an ERROR event."""

    message: str = ""
    code: int = 0


items_of = msgspec.json.Decoder(Items).decode
item_of = msgspec.json.Decoder(Item).decode
event_of = msgspec.json.Decoder(Event).decode
refusal_of = msgspec.json.Decoder(Refusal).decode


def pod_of(item: Item) -> Pod:
    """Translate a pod."""
    metadata, spec, status = item.metadata, item.spec, item.status
    labels = metadata.labels or {}
    annotations = metadata.annotations or Annotations()
    statuses = {
        one.name: one
        for some in (status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses)
        for one in some or ()
    }
    kind, owner = _owner(item, labels, annotations)
    return Pod(
        uid=metadata.uid,
        namespace=metadata.namespace,
        name=metadata.name,
        containers=tuple(
            _container(one.name, statuses.get(one.name), status.phase, one.restart_policy or policy)
            for some, policy in (
                # An init container is done once it succeeded; nobody restarts an ephemeral one.
                (spec.init_containers, "Never" if spec.restart_policy == "Never" else "OnFailure"),
                (spec.containers, spec.restart_policy),
                (spec.ephemeral_containers, "Never"),
            )
            for one in some or ()
        ),
        labels=labels,
        owner_kind=kind,
        owner=owner,
        qos=status.qos_class,
        cgroup_uid=annotations.mirror or metadata.uid,
        created=metadata.creation_timestamp or "",
        terminating=metadata.deletion_timestamp is not None,
    )


def _container(name: str, status: ContainerStatus | None, phase: str, policy: str) -> Container:
    if status is None:
        return Container(name)
    before = status.last_state.terminated if status.last_state else None
    ids = [before.container_id if before else "", status.container_id]
    now = status.state.terminated if status.state else None
    ended = phase in {"Succeeded", "Failed"} or (
        now is not None and (policy == "Never" or (policy == "OnFailure" and not now.exit_code))
    )
    return Container(name, _newest([full.rpartition("://")[2] for full in ids]), status.restart_count, ended)


def _newest(ids: list[str]) -> tuple[str, ...]:
    """Return each id once, at its last place, and no more than are remembered."""
    unique = dict.fromkeys(one for one in reversed(ids) if one)
    return tuple(reversed(list(unique)[:MAX_CONTAINER_IDS]))


def _owner(item: Item, labels: dict[str, str], annotations: Annotations) -> tuple[str, str]:
    """Return kind and name of what made a pod."""
    for owner in item.metadata.owner_references or ():
        if owner.controller:
            # The hash is in the label and in the ReplicaSet's name, which is the Deployment's with the hash added.
            suffix = f"-{labels.get('pod-template-hash', '')}"
            if owner.kind == "ReplicaSet" and len(suffix) > 1 and owner.name.endswith(suffix):
                return "Deployment", owner.name.removesuffix(suffix)
            return owner.kind, owner.name
    # A kubelet lists its static pods without the reference to the node that their mirrors in the API have.
    return ("Node", item.spec.node_name) if annotations.source != "api" else ("Pod", item.metadata.name)


def merge(old: Pod | None, new: Pod) -> Pod:
    """Return the new state of a pod, with the container ids that it was known to have had."""
    if old is None:
        return new
    known = {container.name: container.ids for container in old.containers}
    containers = tuple(replace(one, ids=_newest([*known.get(one.name, ()), *one.ids])) for one in new.containers)
    return replace(new, containers=containers)
