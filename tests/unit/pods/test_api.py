"""A pod of the API in our terms: owner, containers and their ids, what its cgroups are named by."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.pods.api import MAX_CONTAINER_IDS, Labels, event_of, item_of, items_of, merge, pod_of, refusal_of
from kpod_metrics.pods.model import Container, Pod
from testkit.apiserver import _as_kubelet, _run, pod_object


def translated(shape: dict[str, Any]) -> Pod:
    return pod_of(item_of(json.dumps(shape)), Labels(("app",)))


def test_all_of_a_pod() -> None:
    shape = pod_object(
        "web-5d9c7b8f6d-x2x4z",
        namespace="shop",
        uid="u1",
        init=("migrate",),
        sidecars=("proxy",),
        containers=("app", "log"),
        ephemeral=("debug",),
        labels={"app": "web", "pod-template-hash": "5d9c7b8f6d"},
        owner=("ReplicaSet", "web-5d9c7b8f6d"),
        qos="Guaranteed",
    )
    for name, container_id in (("migrate", "i1"), ("proxy", "s1"), ("app", "a1"), ("app", "a2"), ("debug", "e1")):
        _run(shape, name, container_id)
    assert translated(shape) == Pod(
        uid="u1",
        namespace="shop",
        name="web-5d9c7b8f6d-x2x4z",
        containers=(
            Container("migrate", ("i1",)),
            Container("proxy", ("s1",)),
            Container("app", ("a1", "a2"), 1),
            Container("log"),
            Container("debug", ("e1",)),
        ),
        labels={"app": "web", "pod-template-hash": "5d9c7b8f6d"},
        owner_kind="Deployment",
        owner="web",
        qos="Guaranteed",
        cgroup_uid="u1",
        created="2026-01-01T00:00:00Z",
    )


@pytest.mark.parametrize(
    ("owner", "labels", "expected"),
    [
        (("ReplicaSet", "web-abc"), {"pod-template-hash": "abc"}, ("Deployment", "web")),
        (("ReplicaSet", "a-b-c-abc"), {"pod-template-hash": "abc"}, ("Deployment", "a-b-c")),
        (("ReplicaSet", "web-abc"), {}, ("ReplicaSet", "web-abc")),
        (("ReplicaSet", "web-"), {"pod-template-hash": ""}, ("ReplicaSet", "web-")),
        (("ReplicaSet", "webabc"), {"pod-template-hash": "abc"}, ("ReplicaSet", "webabc")),
        (("ReplicaSet", "web-abc"), {"rollouts-pod-template-hash": "abc"}, ("ReplicaSet", "web-abc")),
        (("StatefulSet", "db"), {}, ("StatefulSet", "db")),
        (("DaemonSet", "log-abc"), {"pod-template-hash": "abc"}, ("DaemonSet", "log-abc")),
        (("Node", "node-1"), {}, ("Node", "node-1")),
        (None, {"pod-template-hash": "abc"}, ("Pod", "p")),
    ],
)
def test_owner(owner: tuple[str, str] | None, labels: dict[str, str], expected: tuple[str, str]) -> None:
    pod = translated(pod_object("p", owner=owner, labels=labels or {"app": "x"}))
    assert (pod.owner_kind, pod.owner) == expected


def test_owner_that_does_not_control_is_none() -> None:
    shape = pod_object("p", owner=("Job", "j"))
    del shape["metadata"]["ownerReferences"][1]
    assert translated(shape).owner_kind == "Pod"


def test_static_pod_from_the_api_and_from_the_kubelet() -> None:
    """The API has a mirror with its own UID; cgroups carry the kubelet's, which is the hash of the file."""
    mirror = pod_object("etcd-node-1", uid="u1", static_hash="6f1a")
    pod = translated(mirror)
    assert (pod.uid, pod.cgroup_uid, pod.owner_kind, pod.owner) == ("u1", "6f1a", "Node", "node-1")
    pod = translated(_as_kubelet(mirror))
    assert (pod.uid, pod.cgroup_uid, pod.owner_kind, pod.owner) == ("6f1a", "6f1a", "Node", "node-1")
    ordinary = translated(_as_kubelet(pod_object("p", uid="u2")))
    assert (ordinary.uid, ordinary.cgroup_uid, ordinary.owner_kind) == ("u2", "u2", "Pod")


def test_least_of_a_pod() -> None:
    """What a pod has before the kubelet heard of it; Go's empty lists are null."""
    assert translated({}) == Pod("", "", "", owner_kind="Pod")
    shape = {
        "metadata": {"uid": "u", "labels": None, "annotations": None, "ownerReferences": None},
        "spec": {"containers": [{"name": "c"}], "initContainers": None},
        "status": {
            "containerStatuses": [{"name": "c", "containerID": "", "lastState": {}}],
            "initContainerStatuses": None,
        },
    }
    assert translated(shape).containers == (Container("c"),)
    assert items_of(b'{"metadata":{},"items":null}').items is None


@pytest.mark.parametrize("runtime", ["containerd", "cri-o", "docker"])
def test_id_without_the_runtime(runtime: str) -> None:
    shape = pod_object("p")
    _run(shape, "app", "a1")
    shape["status"]["containerStatuses"][0]["containerID"] = f"{runtime}://a1"
    assert translated(shape).containers == (Container("app", ("a1",)),)


def test_ids_stay_known_and_are_bounded() -> None:
    shape, pod = pod_object("p"), None
    for number in range(MAX_CONTAINER_IDS + 5):
        _run(shape, "app", f"a{number}")
        pod = merge(pod, translated(shape))
        assert pod.containers[0].restarts == number
    assert pod is not None
    assert pod.containers[0].ids == tuple(f"a{number}" for number in range(5, MAX_CONTAINER_IDS + 5))
    again = merge(pod, translated(shape))
    assert again == pod


@given(st.lists(st.lists(st.sampled_from("abcdefghijklmnopqrstuv"), min_size=1, max_size=2), min_size=1))
def test_newest_id_is_last_and_none_is_there_twice(reports: list[list[str]]) -> None:
    pod = None
    for ids in reports:
        pod = merge(pod, Pod("u", "n", "p", (Container("c", tuple(dict.fromkeys(ids))),)))
    assert pod is not None
    known = pod.containers[0].ids
    assert known[-1] == list(dict.fromkeys(reports[-1]))[-1]
    assert len(known) == len(set(known)) <= MAX_CONTAINER_IDS


def test_error_event_is_no_pod() -> None:
    """Its `status` is a string where a pod has an object."""
    event = event_of(b'{"type":"ERROR","object":{"kind":"Status","status":"Failure","message":"gone","code":410}}')
    refusal = refusal_of(event.object)
    assert (event.type, refusal.code, refusal.message) == ("ERROR", 410, "gone")
