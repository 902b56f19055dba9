"""Pods as the Kubernetes API and a kubelet's /pods send them: only the needed fields, and their translation.

The decoder skips all other fields, three quarters of the bytes, so they never take memory.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, ParamSpec, TypeVar

import msgspec

from kpod_metrics.bounds import clipped
from kpod_metrics.errors import RequestError, shown
from kpod_metrics.pods.model import Container, Pod

MAX_UID = 253
"""Characters of the UID of a static pod: the hash of its file has 32."""
_ENDED = frozenset({"Succeeded", "Failed"})
_TEMPLATE_HASH = "pod-template-hash"
MAX_CONTAINER_IDS = 16
"""Ids that are remembered for one container; a crash loop creates a new one every few minutes."""


MAX_OBJECTS = 1000
"""Objects of one pod that are decoded: a container has up to six. An empty one has two bytes in JSON, but takes up to
90 in memory, and Kubernetes does not limit the number of containers."""

Name = Annotated[str, msgspec.Meta(max_length=253)]
"""As long as Kubernetes allows."""
Number = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
Data = bytes | bytearray | msgspec.Raw | str


class _Budget:
    left = 0


class _Plain(msgspec.Struct, rename="camel", gc=False):
    """Fields have the API's names in camel case. A field that an object does not have keeps its default."""


class _Object(_Plain):
    """One that a pod can have many of."""

    def __post_init__(self) -> None:
        # Here and not afterwards, because then all objects would be in memory.
        _Budget.left -= 1
        if _Budget.left < 0:
            raise ValueError(f"more than {MAX_OBJECTS} objects")


class _Owner(_Object):
    """One of a pod's ownerReferences."""

    kind: str = ""
    """Like the name, of any length: the API server checks only that there is one."""
    name: str = ""
    controller: bool | None = None


class _Annotations(_Object):
    """The annotations that the kubelet sets on static pods, and on their mirrors in the API."""

    mirror: str = msgspec.field(name="kubernetes.io/config.mirror", default="")
    """Only on a mirror pod: the kubelet's UID of the static pod, the hash of its file."""
    source: str = msgspec.field(name="kubernetes.io/config.source", default="api")
    """In a kubelet's list: the source of the pod; "file" or "http" for a static pod."""


class _Metadata(_Object):
    name: Name = ""
    namespace: Name = ""
    uid: Name = ""
    resource_version: Name = ""
    creation_timestamp: Name | None = None
    deletion_timestamp: Name | None = None
    labels: msgspec.Raw = msgspec.Raw(b"null")
    annotations: _Annotations | None = None
    owner_references: list[_Owner] | None = None


class _Named(_Object):
    """A container of the spec."""

    name: Name = ""
    restart_policy: Name = ""
    """The container's own policy. An init container with Always is a sidecar."""


class _Spec(_Object):
    node_name: Name = ""
    restart_policy: Name = "Always"
    init_containers: list[_Named] | None = None
    containers: list[_Named] | None = None
    ephemeral_containers: list[_Named] | None = None


class _Terminated(_Object):
    container_id: Name = msgspec.field(name="containerID", default="")
    exit_code: Number = 0


class _ContainerState(_Object):
    terminated: _Terminated | None = None


class _ContainerStatus(_Object):
    """The status of a container. It has an id once the container exists, prefixed by the runtime (`containerd://`)."""

    name: Name = ""
    container_id: Name = msgspec.field(name="containerID", default="")
    restart_count: Number = 0
    state: _ContainerState | None = None
    last_state: _ContainerState | None = None


class _Status(_Object):
    phase: Name = ""
    qos_class: Name = ""
    init_container_statuses: list[_ContainerStatus] | None = None
    container_statuses: list[_ContainerStatus] | None = None
    ephemeral_container_statuses: list[_ContainerStatus] | None = None


class Item(_Object):
    """A pod. A bookmark's object is one too, with a resourceVersion only."""

    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class _ListMetadata(_Plain):
    resource_version: Name = ""
    more: Annotated[str, msgspec.Meta(max_length=4096)] = msgspec.field(name="continue", default="")
    """Where the next page begins; empty on the last page."""


class Items(_Plain):
    """A list without its pods (`stream.Page` reads them). Go encodes an empty list as null."""

    metadata: _ListMetadata = msgspec.field(default_factory=_ListMetadata)
    items: Annotated[list[None], msgspec.Meta(max_length=0)] | None = None


class Event(_Plain):
    """An event of a watch. Its object is decoded when the type is known: a pod, or a Refusal in an ERROR event."""

    type: str
    object: msgspec.Raw


class Refusal(_Plain):
    """The API's type Status: the body of an HTTP error, the object of an ERROR event."""

    message: str = ""
    code: Number = 0


class _Node(_Plain):
    node_name: Name = ""


class _Names(_Plain):
    name: Name = ""
    namespace: Name = ""
    uid: Name = ""
    resource_version: Name = ""
    labels: msgspec.Raw = msgspec.Raw(b"null")


class _Bare(_Plain):
    """A pod with too many objects: only its names."""

    metadata: _Names = msgspec.field(default_factory=_Names)
    spec: _Node = msgspec.field(default_factory=_Node)


items_of = msgspec.json.Decoder(Items).decode
event_of = msgspec.json.Decoder(Event).decode
refusal_of = msgspec.json.Decoder(Refusal).decode
_item = msgspec.json.Decoder(Item).decode
_bare = msgspec.json.Decoder(_Bare).decode


Decoded = TypeVar("Decoded")
Given = ParamSpec("Given")


def decoded(decode: Callable[Given, Decoded], *given: Given.args, **named: Given.kwargs) -> Decoded:
    """Decode what a server sent; raises RequestError."""
    try:
        return decode(*given, **named)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # RecursionError: objects within each other, also where the decoder skips them.
        raise RequestError(f"the server's response is not of Kubernetes: {shown(str(error))}") from None


def item_of(body: Data) -> Item:
    """Decode a pod, without its containers if it has too many objects; raises the errors of msgspec."""
    _Budget.left = MAX_OBJECTS
    try:
        return _item(body)
    except msgspec.ValidationError:
        if _Budget.left >= 0:
            raise
    _Budget.left = MAX_OBJECTS
    bare = _bare(body)
    names = bare.metadata
    metadata = _Metadata(names.name, names.namespace, names.uid, names.resource_version, labels=names.labels)
    return Item(metadata, _Spec(bare.spec.node_name))


class Labels:
    """Reads the labels that the agent needs, and skips the others: a pod can have a hundred thousand of them."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = tuple(dict.fromkeys((*names, _TEMPLATE_HASH)))
        fields = [
            (f"label{at}", str | None, msgspec.field(name=name, default=None)) for at, name in enumerate(self._names)
        ]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("_Labels", fields) | None).decode

    def of(self, labels: msgspec.Raw) -> dict[str, str]:
        """Return those of a pod; raises the errors of msgspec."""
        found = self._decode(labels)
        values = () if found is None else msgspec.structs.astuple(found)
        return {name: value for name, value in zip(self._names, values, strict=False) if value is not None}


def pod_of(item: Item, wanted: Labels) -> Pod:
    """Translate a pod, with the wanted labels; raises the errors of msgspec."""
    metadata, spec, status = item.metadata, item.spec, item.status
    labels = wanted.of(metadata.labels)
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
        # An annotation, which users write: it can have 256 KiB.
        cgroup_uid=(annotations.mirror if len(annotations.mirror) <= MAX_UID else "") or metadata.uid,
        created=metadata.creation_timestamp or "",
        terminating=metadata.deletion_timestamp is not None,
        ended=status.phase in _ENDED,
    )


def _container(name: str, status: _ContainerStatus | None, phase: str, policy: str) -> Container:
    if status is None:
        return Container(name)
    before = status.last_state.terminated if status.last_state else None
    ids = [before.container_id if before else "", status.container_id]
    now = status.state.terminated if status.state else None
    ended = phase in _ENDED or (
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
            suffix = f"-{labels.get(_TEMPLATE_HASH, '')}"
            if owner.kind == "ReplicaSet" and len(suffix) > 1 and owner.name.endswith(suffix):
                return "Deployment", clipped(owner.name.removesuffix(suffix))
            return clipped(owner.kind), clipped(owner.name)
    # In a kubelet's list, static pods have no owner reference to the node; their mirrors in the API have one.
    return ("Node", item.spec.node_name) if annotations.source != "api" else ("Pod", item.metadata.name)


def merge(old: Pod | None, new: Pod) -> Pod:
    """Return the new state of a pod, with the earlier ids of its containers."""
    if old is None:
        return new
    known = {container.name: container.ids for container in old.containers}
    containers = tuple(replace(one, ids=_newest([*known.get(one.name, ()), *one.ids])) for one in new.containers)
    return replace(new, containers=containers)
