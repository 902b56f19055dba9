"""Pods as the Kubernetes API and a kubelet's /pods send them: only the needed fields, and their translation.

The decoder skips all other fields, three quarters of the bytes, so they never take memory.
"""

from dataclasses import replace

import msgspec

from kpod_metrics.pods.model import Container, Pod

MAX_CONTAINER_IDS = 16
"""Ids that are remembered for one container; a crash loop creates a new one every few minutes."""


class _Object(msgspec.Struct, rename="camel", gc=False):
    """Fields have the API's names in camel case. A field that an object does not have keeps its default."""


class _Owner(_Object):
    """One of a pod's ownerReferences."""

    kind: str = ""
    name: str = ""
    controller: bool | None = None


class _Annotations(_Object):
    """The annotations that the kubelet sets on static pods, and on their mirrors in the API."""

    mirror: str = msgspec.field(name="kubernetes.io/config.mirror", default="")
    """Only on a mirror pod: the kubelet's UID of the static pod, the hash of its file."""
    source: str = msgspec.field(name="kubernetes.io/config.source", default="api")
    """In a kubelet's list: the source of the pod; "file" or "http" for a static pod."""


class _Metadata(_Object):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: _Annotations | None = None
    owner_references: list[_Owner] | None = None


class _Named(_Object):
    """A container of the spec."""

    name: str = ""
    restart_policy: str = ""
    """The container's own policy. An init container with Always is a sidecar."""


class _Spec(_Object):
    node_name: str = ""
    restart_policy: str = "Always"
    init_containers: list[_Named] | None = None
    containers: list[_Named] | None = None
    ephemeral_containers: list[_Named] | None = None


class _Terminated(_Object):
    container_id: str = msgspec.field(name="containerID", default="")
    exit_code: int = 0


class _ContainerState(_Object):
    terminated: _Terminated | None = None


class _ContainerStatus(_Object):
    """The status of a container. It has an id once the container exists, prefixed by the runtime (`containerd://`)."""

    name: str = ""
    container_id: str = msgspec.field(name="containerID", default="")
    restart_count: int = 0
    state: _ContainerState | None = None
    last_state: _ContainerState | None = None


class _Status(_Object):
    phase: str = ""
    qos_class: str = ""
    init_container_statuses: list[_ContainerStatus] | None = None
    container_statuses: list[_ContainerStatus] | None = None
    ephemeral_container_statuses: list[_ContainerStatus] | None = None


class Item(_Object):
    """A pod. A bookmark's object is one too, with a resourceVersion only."""

    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class _ListMetadata(_Object):
    resource_version: str = ""
    more: str = msgspec.field(name="continue", default="")
    """Where the next page begins; empty on the last page."""


class Items(_Object):
    """A list of pods. Go encodes an empty list as null."""

    metadata: _ListMetadata = msgspec.field(default_factory=_ListMetadata)
    items: list[Item] | None = None


class Event(_Object):
    """An event of a watch. Its object is decoded when the type is known: a pod, or a Refusal in an ERROR event."""

    type: str
    object: msgspec.Raw


class Refusal(_Object):
    """The API's type Status: the body of an HTTP error, the object of an ERROR event."""

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
    annotations = metadata.annotations or _Annotations()
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
                # An init container ends when it succeeds. An ephemeral container is never restarted.
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


def _container(name: str, status: _ContainerStatus | None, phase: str, policy: str) -> Container:
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
    """Return every id once, at its last place, and at most MAX_CONTAINER_IDS."""
    unique = dict.fromkeys(one for one in reversed(ids) if one)
    return tuple(reversed(list(unique)[:MAX_CONTAINER_IDS]))


def _owner(item: Item, labels: dict[str, str], annotations: _Annotations) -> tuple[str, str]:
    """Return kind and name of a pod's controller."""
    for owner in item.metadata.owner_references or ():
        if owner.controller:
            # A ReplicaSet's name is that of its Deployment and the hash, which is also in the label.
            suffix = f"-{labels.get('pod-template-hash', '')}"
            if owner.kind == "ReplicaSet" and len(suffix) > 1 and owner.name.endswith(suffix):
                return "Deployment", owner.name.removesuffix(suffix)
            return owner.kind, owner.name
    # In a kubelet's list, static pods have no owner reference to the node; their mirrors in the API have one.
    return ("Node", item.spec.node_name) if annotations.source != "api" else ("Pod", item.metadata.name)


def merge(old: Pod | None, new: Pod) -> Pod:
    """Return the new state of a pod, with the earlier ids of its containers."""
    if old is None:
        return new
    known = {container.name: container.ids for container in old.containers}
    containers = tuple(replace(one, ids=_newest([*known.get(one.name, ()), *one.ids])) for one in new.containers)
    return replace(new, containers=containers)
