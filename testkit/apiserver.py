"""A fake Kubernetes API server for tests: pods over real HTTP(S), and every fault that a client must survive.

It lists and watches pods as a real one does (versions, bookmarks, pages, selectors, 410), with objects of the shape
that a real one sends, so that kubectl works against it; `/pods` is the kubelet's. It stores no other resource and
does not validate requests. By itself: `python -m testkit.apiserver --pods 10`.
"""

import argparse
import base64
import copy
import hashlib
import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]


class Request(NamedTuple):
    """A request that the server received."""

    path: str
    query: dict[str, str]
    authorization: str
    user_agent: str = ""

    @property
    def kind(self) -> str:
        """Kind of the request: list, watch, or other."""
        if not self.path.endswith("/pods"):
            return "other"
        return "watch" if self.query.get("watch") in ("true", "1") else "list"


class Change(NamedTuple):
    """One change of a pod. None: it did not exist yet, or was deleted."""

    version: int
    old: Object | None
    new: Object | None


@dataclass
class Fault:
    """An error for the next `times` requests of a kind."""

    kind: str
    status: int
    headers: Mapping[str, str]
    message: str
    times: int


@dataclass
class Watch:
    """An open watch, and what its thread has to send."""

    raw: list[bytes] = field(default_factory=list)
    hangs: bool = False
    ending: bytes | None = None
    """Sent before the connection is dropped."""
    cleanly: bool = False
    """Whether the response ends as HTTP requires; otherwise the connection is dropped."""


class ApiServer:
    """The server and its pods. Methods are safe from any thread; the server answers from `start` to `stop`."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        certificate: tuple[str, str] | None = None,
        time_scale: float = 1.0,
        bookmark_interval: float = 60.0,
    ) -> None:
        """`certificate`: files of certificate and key, for HTTPS; `time_scale`: real seconds per second of a watch."""
        self.tokens: set[str] = set()
        """Accepted bearer tokens; if empty, every request is accepted."""
        self.page_size = 0
        """Maximum pods in a page; 0: the limit of the request."""
        self.ignores_selectors = False
        self.list_lags_at = 0
        """If not 0: lists at resourceVersion 0 have this version, as of a server that is behind the others."""
        self.chunk_size = 0
        """Bytes in a chunk of a watch; 0: one event per chunk."""
        self.chunk_delay = 0.0
        """Seconds between two chunks."""
        self.requests: list[Request] = []
        self._certificate = certificate
        self._time_scale = time_scale
        self._bookmark_interval = bookmark_interval
        self._host = host
        self._port = port
        self._changed = threading.Condition()
        self._version = 1000
        self._compacted = 0
        self._pods: dict[tuple[str, str], Object] = {}
        self._changes: list[Change] = []
        self._faults: list[Fault] = []
        self._watches: list[Watch] = []
        self._sockets: set[socket.socket] = set()
        self._http: _Server | None = None
        self._thread: threading.Thread | None = None

    # The server

    def start(self) -> Self:
        """Listen, on the same port as before after a `stop`."""
        self._http = _Server((self._host, self._port), self, self._certificate)
        self._port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the listener and every connection."""
        if self._http is None or self._thread is None:
            return
        http, self._http = self._http, None
        http.shutdown()
        self._thread.join()
        self.end_watches()
        with self._changed:
            for connection in self._sockets:
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        http.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Its URL."""
        return f"{'https' if self._certificate else 'http'}://{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """Its port."""
        return self._port

    @property
    def version(self) -> int:
        """The version of the last change."""
        with self._changed:
            return self._version

    def asked(self, kind: str) -> list[Request]:
        """The requests of a kind so far."""
        with self._changed:
            return [request for request in self.requests if request.kind == kind]

    @property
    def watches(self) -> int:
        """Number of open watches."""
        with self._changed:
            return len(self._watches)

    # Pods

    def create_pod(self, name: str, **shape: Any) -> Object:
        """Create a pod, `shape` as in `pod_object`; return it."""
        pod = pod_object(name, **shape)
        key = (pod["metadata"]["namespace"], name)
        with self._changed:
            assert key not in self._pods, f"{key} is there already"
            self._change(key, pod)
        return copy.deepcopy(pod)

    def update_pod(self, namespace: str, name: str, change: Callable[[Object], object]) -> Object:
        """Change a pod in place by a function; return it."""
        with self._changed:
            pod = copy.deepcopy(self._pods[namespace, name])
            change(pod)
            self._change((namespace, name), pod)
        return copy.deepcopy(pod)

    def delete_pod(self, namespace: str, name: str) -> None:
        """Delete a pod."""
        with self._changed:
            self._change((namespace, name), None)

    def run_container(self, namespace: str, pod: str, container: str, container_id: str = "") -> str:
        """Start or restart a container of a pod; return its id, without the runtime's prefix."""
        container_id = container_id or hashlib.sha256(uuid.uuid4().bytes).hexdigest()
        self.update_pod(namespace, pod, lambda shape: _run(shape, container, container_id))
        return container_id

    def get_pod(self, namespace: str, name: str) -> Object:
        """Return a pod."""
        with self._changed:
            return copy.deepcopy(self._pods[namespace, name])

    def at_once(self) -> threading.Condition:
        """Return a lock that, while held, makes several changes arrive at a watch together."""
        return self._changed

    def _change(self, key: tuple[str, str], new: Object | None) -> None:
        old = self._pods.get(key)
        self._version += 1
        stamped = copy.deepcopy(new or old)
        assert stamped is not None, f"{key} is not there"
        stamped["metadata"]["resourceVersion"] = str(self._version)
        if new is None:
            del self._pods[key]
            old = stamped  # a DELETED event has the last state with the version of the deletion
            self._changes.append(Change(self._version, old, None))
        else:
            new["metadata"]["resourceVersion"] = str(self._version)
            self._pods[key] = stamped
            self._changes.append(Change(self._version, old, stamped))
        self._changed.notify_all()

    # Faults

    def fail(
        self,
        status: int,
        kind: str = "any",
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        message: str = "injected",
    ) -> None:
        """Answer the next requests of a kind (list, page: one after the first, watch, any) with an error."""
        with self._changed:
            self._faults.append(Fault(kind, status, headers or {}, message, times))

    def heal(self) -> None:
        """Remove the errors that were not sent yet."""
        with self._changed:
            self._faults.clear()

    def compact(self) -> None:
        """Forget the history: an older watch or page gets 410, in the stream as from a real server."""
        with self._changed:
            self._compacted = self._version

    def leap(self, by: int) -> None:
        """Change the version, as other resources do, or a restored backup (negative)."""
        with self._changed:
            self._version += by
            if by < 0:
                self._changes.clear()
                self._compacted = 0
            self._changed.notify_all()

    def send(self, kind: str, obj: Object) -> None:
        """Send any event to every open watch: a duplicate, a stale one, an ERROR."""
        self.send_raw(_event(kind, obj))

    def send_raw(self, line: bytes) -> None:
        """Send bytes to every open watch."""
        with self._changed:
            for watch in self._watches:
                watch.raw.append(line)
            self._changed.notify_all()

    def hang_watches(self) -> None:
        """Send no more bytes to the watches that are open now, and keep them open."""
        with self._changed:
            for watch in self._watches:
                watch.hangs = True

    def end_watches(self, ending: bytes = b"", cleanly: bool = False) -> None:
        """Drop the connections of all watches after some bytes of an event, or end them as HTTP requires."""
        with self._changed:
            for watch in self._watches:
                watch.ending, watch.cleanly = ending, cleanly
            self._watches.clear()
            self._changed.notify_all()

    # Responses: called by the handler's thread

    def _fault(self, request: Request) -> Fault | None:
        kinds = {"any", request.kind, "page" if "continue" in request.query else request.kind}
        with self._changed:
            for fault in self._faults:
                if fault.kind in kinds:
                    fault.times -= 1
                    if not fault.times:
                        self._faults.remove(fault)
                    return fault
        return None

    def _list(self, matches: "Callable[[Object | None], bool]", query: Mapping[str, str]) -> Object | None:
        """Return a page; None if it begins at a version that no longer exists."""
        with self._changed:
            version, start = self._version, ""
            if query.get("resourceVersion") == "0" and self.list_lags_at:
                version = self.list_lags_at
            if token := query.get("continue"):
                version, start = json.loads(base64.b64decode(token))
                if version < self._compacted:
                    return None
            pods = dict(self._pods)
            for change in reversed(self._changes):
                if change.version <= version:
                    break
                some = change.new or change.old
                assert some is not None
                key = (some["metadata"]["namespace"], some["metadata"]["name"])
                if change.old is None:
                    pods.pop(key, None)
                else:
                    pods[key] = change.old
        chosen = sorted((f"{space}/{name}", pod) for (space, name), pod in pods.items() if matches(pod))
        chosen = [(key, pod) for key, pod in chosen if key > start]
        limit = self.page_size or int(query.get("limit", "0") or 0) or len(chosen)
        metadata: Object = {"resourceVersion": str(version)}
        if len(chosen) > limit:
            token = json.dumps([version, chosen[limit - 1][0]])
            metadata |= {
                "continue": base64.b64encode(token.encode()).decode(),
                "remainingItemCount": len(chosen) - limit,
            }
        return {
            "kind": "PodList",
            "apiVersion": "v1",
            "metadata": metadata,
            "items": [pod for _, pod in chosen[:limit]],
        }

    def _events(
        self, watch: Watch, matches: "Callable[[Object | None], bool]", query: Mapping[str, str]
    ) -> Iterator[bytes]:
        """Yield the bytes of a watch, until it ends.

        As of a real one, bookmarks come only if the version has moved since the watch began: never on a quiet cluster.
        """
        position = began = int(query.get("resourceVersion", "0") or 0) or self._version
        seconds = float(query.get("timeoutSeconds", "0") or 0) or 1800.0
        end = time.monotonic() + seconds * self._time_scale
        bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        bookmark = time.monotonic() + self._bookmark_interval
        while True:
            with self._changed:
                if position < self._compacted:
                    expired = _status(410, f"too old resource version: {position} ({self._compacted})", "Expired")
                    yield _event("ERROR", expired)
                    return
                now = time.monotonic()
                lines, watch.raw = watch.raw, []
                for change in self._changes:
                    if change.version > position:
                        kind = {(False, True): "ADDED", (True, True): "MODIFIED", (True, False): "DELETED"}
                        if seen := kind.get((matches(change.old), matches(change.new))):
                            lines.append(_event(seen, change.new or change.old or {}))
                last = now >= end
                due = now >= bookmark
                if bookmarks and (last or due) and self._version > began:
                    stamp = {"resourceVersion": str(self._version), "creationTimestamp": None}
                    lines.append(_event("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": stamp}))
                if due:
                    bookmark = now + self._bookmark_interval
                position = max(position, self._version)
                if watch.ending is None and (watch.hangs or not (lines or last)):
                    self._changed.wait(60.0 if watch.hangs else max(0.0, min(end, bookmark) - now) + 0.001)
                    if watch.hangs:
                        end = float("inf")
                        continue
            yield from lines
            if last or watch.ending is not None:
                return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Do not refuse a thousand agents that connect at once.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], api: ApiServer, certificate: tuple[str, str] | None) -> None:
        super().__init__(address, _Handler)
        self.api = api
        self.context: ssl.SSLContext | None = None
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*certificate)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.context:
            # The handler does the handshake: one that hangs must not block the listener.
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self.api._changed:
            self.api._sockets.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self.api._changed:
            self.api._sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect or refuse the certificate: tests do this on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        api = self.server.api
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        request = Request(parts.path, query, self.headers.get("Authorization", ""), self.headers.get("User-Agent", ""))
        with api._changed:
            api.requests.append(request)
        if api.tokens and request.authorization.removeprefix("Bearer ") not in api.tokens:
            self._answer(401, _status(401, "Unauthorized", "Unauthorized"))
        elif fault := api._fault(request):
            self._answer(fault.status, _status(fault.status, fault.message, "Injected"), fault.headers)
        else:
            self._route(request)

    def _route(self, request: Request) -> None:
        match request.path.strip("/").split("/"):
            case ["version"]:
                self._answer(200, {"major": "1", "minor": "35", "gitVersion": "v1.35.0", "platform": "linux/amd64"})
            case ["api"]:
                self._answer(200, {"kind": "APIVersions", "versions": ["v1"]})
            case ["apis"]:
                self._answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
            case ["api", "v1"]:
                self._answer(200, RESOURCES)
            case ["api", "v1", "pods"]:
                self._pods(request, "")
            case ["api", "v1", "namespaces", namespace, "pods"]:
                self._pods(request, namespace)
            case ["api", "v1", "namespaces", namespace, "pods", name]:
                try:
                    self._answer(200, self.server.api.get_pod(namespace, name))
                except KeyError:
                    self._answer(404, _status(404, f'pods "{name}" not found', "NotFound"))
            case ["pods"]:
                listed = self.server.api._list(lambda _: True, {})
                assert listed is not None
                pods = [_as_kubelet(pod) for pod in listed["items"]]
                self._answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods or None})
            case _:
                self._answer(404, _status(404, "the server could not find the requested resource", "NotFound"))

    def _pods(self, request: Request, namespace: str) -> None:
        api = self.server.api

        def matches(pod: Object | None) -> bool:
            if pod is None or (namespace and pod["metadata"]["namespace"] != namespace):
                return False
            return api.ignores_selectors or selected(
                pod, request.query.get("fieldSelector", ""), request.query.get("labelSelector", "")
            )

        if request.kind == "watch":
            self._watch(matches, request.query)
            return
        listed = api._list(matches, request.query)
        if listed is None:
            self._answer(410, _status(410, "The provided continue parameter is too old", "Expired"))
        else:
            self._answer(200, listed)

    def _watch(self, matches: Callable[[Object | None], bool], query: Mapping[str, str]) -> None:
        api, watch = self.server.api, Watch()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with api._changed:
            api._watches.append(watch)
        try:
            for line in api._events(watch, matches, query):
                size = api.chunk_size or len(line)
                for start in range(0, len(line), size):
                    self._chunk(line[start : start + size])
                    if api.chunk_delay:
                        time.sleep(api.chunk_delay)
            if watch.ending is not None and not watch.cleanly:
                # A chunk that is announced and never sent.
                self.wfile.write(b"%x\r\n%b" % (len(watch.ending) + 1000, watch.ending))
                self.close_connection = True
                return
            if watch.ending:
                self._chunk(watch.ending)
            self.wfile.write(b"0\r\n\r\n")
        finally:
            with api._changed, suppress(ValueError):
                api._watches.remove(watch)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _answer(self, status: int, body: Object, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


RESOURCES: Object = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": "v1",
    "resources": [
        {
            "name": "pods",
            "singularName": "pod",
            "namespaced": True,
            "kind": "Pod",
            "verbs": ["get", "list", "watch"],
            "shortNames": ["po"],
            "categories": ["all"],
        }
    ],
}


def _status(code: int, message: str, reason: str) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def _event(kind: str, obj: Object) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def selected(pod: Object, fields: str, labels: str) -> bool:
    """Whether a pod has the fields and labels of two selectors (`=`, `==`, `!=`; of labels, existence too)."""
    known = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "status.phase": pod["status"]["phase"],
    }
    wanted = [(known, term) for term in fields.split(",") if term]
    wanted += [(pod["metadata"].get("labels", {}), term) for term in labels.split(",") if term]
    return all(_has(values, term) for values, term in wanted)


def _has(values: Mapping[str, str], term: str) -> bool:
    for sign, equal in (("!=", False), ("==", True), ("=", True)):
        if sign in term:
            key, _, value = term.partition(sign)
            return (values.get(key.strip()) == value.strip()) is equal
    return (term.lstrip("!").strip() in values) is not term.startswith("!")


# The shape of a pod

STAMP = "2026-01-01T00:00:00Z"


def pod_object(
    name: str,
    *,
    namespace: str = "default",
    node: str = "node-1",
    uid: str = "",
    containers: tuple[str, ...] = ("app",),
    init: tuple[str, ...] = (),
    sidecars: tuple[str, ...] = (),
    ephemeral: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
    owner: tuple[str, str] | None = None,
    qos: str = "Burstable",
    static_hash: str = "",
) -> Object:
    """Return a pod as a real API server sends it, before its containers run.

    `owner` is kind and name of its controller; `static_hash`: it mirrors the static pod of that UID.
    """
    annotations = {"kpod.example/checksum": hashlib.sha256(name.encode()).hexdigest()}
    if static_hash:
        annotations |= {
            "kubernetes.io/config.hash": static_hash,
            "kubernetes.io/config.mirror": static_hash,
            "kubernetes.io/config.seen": STAMP,
            "kubernetes.io/config.source": "file",
        }
        owner = ("Node", node)
    metadata: Object = {
        "name": name,
        "namespace": namespace,
        "uid": uid or str(uuid.uuid4()),
        "resourceVersion": "",
        "creationTimestamp": STAMP,
        "labels": dict(labels or {"app": name}),
        "annotations": annotations,
    }
    if owner:
        kind, owner_name = owner
        metadata["ownerReferences"] = [
            # First an owner that is not the controller, as some operators set it.
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "not-the-owner", "uid": str(uuid.uuid4())},
            {
                "apiVersion": "v1" if kind == "Node" else "apps/v1",
                "kind": kind,
                "name": owner_name,
                "uid": str(uuid.uuid4()),
                "controller": True,
                "blockOwnerDeletion": True,
            },
        ]
    metadata["managedFields"] = [_managed("kube-controller-manager", containers), _managed("kubelet", containers)]
    spec: Object = {
        "volumes": [{"name": "kube-api-access-x2x4z", "projected": {"sources": [], "defaultMode": 420}}],
        "containers": [_container(one) for one in containers],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "serviceAccount": "default",
        "nodeName": node,
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "tolerations": [
            {"key": f"node.kubernetes.io/{one}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for one in ("not-ready", "unreachable")
        ],
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }
    if init or sidecars:
        spec["initContainers"] = [_container(one) for one in init]
        spec["initContainers"] += [_container(one) | {"restartPolicy": "Always"} for one in sidecars]
    if ephemeral:
        spec["ephemeralContainers"] = [_container(one) for one in ephemeral]
    status: Object = {
        "phase": "Pending",
        "conditions": [
            {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": STAMP}
            for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "hostIP": "10.0.0.1",
        "hostIPs": [{"ip": "10.0.0.1"}],
        "startTime": STAMP,
        "qosClass": qos,
    }
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": status}


def _managed(manager: str, containers: tuple[str, ...]) -> Object:
    keys = ("image", "imagePullPolicy", "name", "resources", "terminationMessagePath", "volumeMounts")
    of_container: Object = {f"f:{key}": {} for key in keys}
    fields = {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:ownerReferences": {".": {}}},
        "f:spec": {"f:containers": {f'k:{{"name":"{one}"}}': of_container for one in containers}, "f:dnsPolicy": {}},
        "f:status": {"f:conditions": {f'k:{{"type":"{one}"}}': {".": {}} for one in ("Initialized", "Ready")}},
    }
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "time": STAMP,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }


def _container(name: str) -> Object:
    return {
        "name": name,
        "image": f"registry.example/{name}:1.0",
        "args": ["--listen=:8080", "--verbose"],
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": "MODE", "value": "production"}],
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [
            {
                "name": "kube-api-access-x2x4z",
                "readOnly": True,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            }
        ],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
    }


def _run(pod: Object, name: str, container_id: str) -> None:
    """Start a container of a pod, with a new id."""
    kinds = {"initContainers": "init", "containers": "", "ephemeralContainers": "ephemeral"}
    kind = next(kind for kind in kinds if any(one["name"] == name for one in pod["spec"].get(kind, ())))
    key = f"{kinds[kind]}{'C' if kinds[kind] else 'c'}ontainerStatuses"
    statuses: list[Object] = pod["status"].setdefault(key, [])
    before = next((one for one in statuses if one["name"] == name), None)
    after: Object = {
        "name": name,
        "state": {"running": {"startedAt": STAMP}},
        "lastState": {},
        "ready": True,
        "restartCount": 0,
        "image": f"registry.example/{name}:1.0",
        "imageID": f"registry.example/{name}@sha256:{'0' * 64}",
        "containerID": f"containerd://{container_id}",
        "started": True,
    }
    if before:
        ended = {"exitCode": 1, "reason": "Error", "startedAt": STAMP, "finishedAt": STAMP}
        after["lastState"] = {"terminated": ended | {"containerID": before["containerID"]}}
        after["restartCount"] = before["restartCount"] + 1
        statuses.remove(before)
    statuses.append(after)
    pod["status"]["phase"] = "Running"


def _as_kubelet(pod: Object) -> Object:
    """Return a pod as the kubelet lists it: a static pod itself, not its mirror in the API."""
    annotations = dict(pod["metadata"]["annotations"])
    static_hash = annotations.pop("kubernetes.io/config.mirror", "")
    if not static_hash:
        annotations |= {"kubernetes.io/config.source": "api", "kubernetes.io/config.seen": STAMP}
        return pod | {"metadata": pod["metadata"] | {"annotations": annotations}}
    metadata = pod["metadata"] | {"annotations": annotations, "uid": static_hash}
    for key in ("ownerReferences", "managedFields", "resourceVersion"):
        metadata.pop(key, None)
    return pod | {"metadata": metadata}


def main() -> None:
    """Serve some pods that start and end, until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m testkit.apiserver", description=main.__doc__)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--node", default=socket.gethostname(), help="node that the pods are on")
    parser.add_argument("--pods", type=int, default=3, help="how many there are")
    parser.add_argument("--every", type=float, default=5.0, help="seconds until one is replaced")
    parser.add_argument("--certificate", nargs=2, metavar=("CERTIFICATE", "KEY"), help="files, for HTTPS")
    arguments = parser.parse_args()
    certificate = tuple(arguments.certificate) if arguments.certificate else None
    with ApiServer(port=arguments.port, certificate=certificate) as server:
        print(f"{server.url}: kubectl --server {server.url} get pods --all-namespaces --watch", flush=True)
        names: list[str] = []
        with suppress(KeyboardInterrupt):
            for number in range(10**9):
                if len(names) >= arguments.pods:
                    time.sleep(arguments.every)
                    server.delete_pod("default", names.pop(0))
                names.append(f"pod-{number}")
                server.create_pod(names[-1], node=arguments.node)
                server.run_container("default", names[-1], "app")


if __name__ == "__main__":
    main()
