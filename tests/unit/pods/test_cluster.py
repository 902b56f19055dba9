"""Names by Kubernetes, on trees that the test describes; the source of pods and the time are the test's."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from kpod_metrics.cgroup.tree import Directory, is_container
from kpod_metrics.pods.cluster import NAME_TIMEOUT, ClusterNamer, Filter
from kpod_metrics.pods.finder import Finder
from kpod_metrics.pods.model import (
    FILTERED,
    HOST,
    PENDING,
    UNRESOLVED,
    Container,
    Identity,
    Pod,
    Snapshot,
    Workload,
)
from kpod_metrics.pods.source import Source as PodSource
from kpod_metrics.selector import parse

GRACE = 5.0
UID = "3f1c0b1e-0d3c-4b7e-9a51-0c1d2e3f4a5b"
OTHER = "4f1c0b1e-0d3c-4b7e-9a51-0c1d2e3f4a5b"
HASH = "a5363f4f31e043bdae3c93aca4991903"
IDS = [f"{digit}" * 64 for digit in "0123456789"]


class Source:
    """A source of pods whose pods the test sets."""

    name = "kubernetes"

    def __init__(self) -> None:
        self.connected = True
        self.relists = 0
        self.deletions_lost = self.excess = 0
        self.pods: dict[str, Pod] = {}
        self._deleted: list[Pod] = []
        self.closed = self.started = False
        self.hurried = 0

    def set(self, *pods: Pod) -> None:
        """These are there now; what was there before and is not is deleted."""
        now = {pod.uid: pod for pod in pods}
        self._deleted += [pod for uid, pod in self.pods.items() if uid not in now]
        self.pods = now

    def start(self) -> None:
        self.started = True

    def poll(self) -> tuple[Mapping[str, Pod], tuple[Pod, ...]]:
        deleted, self._deleted = tuple(self._deleted), []
        return self.pods, deleted

    def hurry(self) -> None:
        self.hurried += 1

    def problem(self) -> str:
        return "" if self.connected else "down"

    def close(self) -> None:
        self.closed = True


class World:
    """A tree, a source, and the namer that brings them together."""

    def __init__(self, wanted: Filter) -> None:
        self.now = 1000.0
        self.source = Source()
        self.namer = ClusterNamer(cast(PodSource, self.source), wanted, GRACE, lambda: self.now)
        self.tree: dict[str, tuple[int, ...]] = {}
        self.delegated = ""
        """A directory that a user owns, with all below it."""
        self._numbers: dict[str, int] = {}

    def id(self, path: str) -> int:
        """The id of a cgroup: the same as long as it is there."""
        return self._numbers.setdefault(path, len(self._numbers) + 1)

    def look(self, vanished: Iterable[str] = ()) -> Snapshot:
        """What is there now, and `vanished`, that has come and gone."""
        directories = [self._directory(path, pids) for path, pids in sorted(self.tree.items())]
        return self.namer.snapshot("/cg", directories, {self.id(path): path for path in vanished}, frozenset())

    def _directory(self, path: str, pids: tuple[int, ...]) -> Directory:
        delegated = bool(self.delegated) and f"{path}/".startswith(f"{self.delegated}/")
        holds = delegated or is_container(path.rpartition("/")[2])
        return Directory(self.id(path), path, pids, delegated, self.id(path) if holds else 0)

    def owner(self, path: str, snapshot: Snapshot | None = None) -> Identity | str | None:
        """The owner of a cgroup, or why it has none."""
        snapshot = snapshot or self.look()
        id_ = self.id(path)
        assert not (id_ in snapshot.identities and id_ in snapshot.reasons)
        return snapshot.identities.get(id_) or snapshot.reasons.get(id_)


@pytest.fixture
def world() -> World:
    return World(Filter())


def pod(uid: str = UID, name: str = "web-1", *containers: Container, **fields: Any) -> Pod:
    default = (Container("app", (IDS[0],)),)
    made = Pod(uid, "shop", name, containers or default, owner_kind="Deployment", owner="web", qos="Burstable")
    return replace(made, **fields)


def slice_of(uid: str = UID) -> str:
    return f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid.replace('-', '_')}.slice"


def scope(container: str, uid: str = UID) -> str:
    return f"{slice_of(uid)}/cri-containerd-{container}.scope"


def identity(container: str = "app", name: str = "web-1", *extra: str) -> Identity:
    return Identity("shop", name, container, extra)


def test_a_pod_and_its_host(world: World) -> None:
    world.source.set(pod())
    world.tree = {"": (1,), "system.slice/kubelet.service": (2,), slice_of(): (), scope(IDS[0]): (3, 4)}
    snapshot = world.look()
    assert [world.owner(path, snapshot) for path in world.tree] == [HOST, HOST, identity(""), identity()]
    assert snapshot.reported == {world.id(scope(IDS[0])): identity()}
    [group] = snapshot.groups
    assert (group.id, group.path, group.pids, group.identity) == (
        world.id(scope(IDS[0])),
        f"/cg/{scope(IDS[0])}",
        (3, 4),
        identity(),
    )
    assert snapshot.present == {world.id(path) for path in world.tree}
    assert snapshot.workloads == (Workload(identity(""), "Deployment", "web", "Burstable", ((identity(), 0),)),)


def test_what_is_nested_in_a_container_is_the_containers(world: World) -> None:
    """Files count the subtree, so the container has one group, with all processes below it."""
    world.source.set(pod())
    inner = f"{scope(IDS[0])}/init.scope"
    world.tree = {slice_of(): (), scope(IDS[0]): (), inner: (5,), f"{inner}/{IDS[9]}": (6,)}
    snapshot = world.look()
    assert world.owner(inner, snapshot) == world.owner(f"{inner}/{IDS[9]}", snapshot) == identity()
    assert [(group.id, group.pids) for group in snapshot.groups] == [(world.id(scope(IDS[0])), (5, 6))]


def test_containers_of_every_kind_and_restarts(world: World) -> None:
    containers = (Container("init", (IDS[0],), ended=True), Container("app", (IDS[1], IDS[2]), restarts=1))
    world.source.set(pod(UID, "web-1", *containers))
    world.tree = {slice_of(): (), **{scope(IDS[at]): (at + 1,) for at in range(3)}}
    snapshot = world.look()
    assert [world.owner(scope(IDS[at]), snapshot) for at in range(3)] == [identity("init"), identity(), identity()]
    assert snapshot.kept == {identity()}
    assert snapshot.workloads[0].restarts == ((identity(), 1),)


def test_nothing_new_is_the_same_snapshot(world: World) -> None:
    world.source.set(pod())
    world.tree = {slice_of(): (), scope(IDS[0]): (1,), scope(IDS[1]): (2,)}
    assert world.look() is not world.look()  # the sandbox waits
    world.now += NAME_TIMEOUT
    snapshot = world.look()
    assert world.look() is snapshot
    world.tree[scope(IDS[0])] = (1, 7)
    assert world.look().groups[0].pids == (1, 7)
    world.source.set(pod(labels={"a": "b"}))
    assert world.look() is not world.look(vanished=["other"])
    later = world.look()  # without what had vanished
    assert world.look() is later
    world.source.set()
    assert world.look() is not later


def test_static_pod_is_found_by_the_hash_of_its_file(world: World) -> None:
    world.source.set(pod(UID, "apiserver", cgroup_uid=HASH))
    path = f"kubepods.slice/kubepods-pod{HASH}.slice/crio-{IDS[0]}.scope"
    world.tree = {path: (1,)}
    assert world.owner(path) == identity("app", "apiserver")


def test_no_pod_can_claim_anothers_cgroups(world: World) -> None:
    """The hash is an annotation, which every user who creates a pod can write."""
    world.source.set(pod(), pod(OTHER, "thief", Container("app", (IDS[0],)), cgroup_uid=UID))
    world.tree = {scope(IDS[0]): (1,)}
    assert world.owner(scope(IDS[0])) == identity()


def test_container_before_its_status_names_it(world: World) -> None:
    """The cgroup is there first: nothing is decided until the name comes."""
    world.source.set(pod(UID, "web-1", Container("app")))
    world.tree = {slice_of(): (), scope(IDS[0]): (1,)}
    assert world.owner(scope(IDS[0])) == PENDING
    world.now += NAME_TIMEOUT / 2
    assert world.owner(scope(IDS[0])) == PENDING
    world.source.set(pod())
    assert world.owner(scope(IDS[0])) == identity()


def test_sandbox_is_the_pods_own(world: World) -> None:
    """No status ever names it: it is the pod's when its time is over, and has no files and no series at 0."""
    world.source.set(pod())
    world.tree = {slice_of(): (), scope(IDS[0]): (1,), scope(IDS[1]): (2,)}
    assert world.owner(scope(IDS[1])) == PENDING
    world.now += NAME_TIMEOUT
    for connected in (True, False, True):  # what is settled stays so, whatever becomes of the source
        world.source.connected = connected
        snapshot = world.look()
        assert world.owner(scope(IDS[1]), snapshot) == identity("")
        assert set(snapshot.reported.values()) == {identity()}
        assert len(snapshot.groups) == 1


def test_pod_before_it_is_heard_of(world: World) -> None:
    world.tree = {scope(IDS[0]): (1,)}
    assert world.owner(scope(IDS[0])) == PENDING
    world.source.set(pod())
    assert world.owner(scope(IDS[0])) == identity()


def test_new_cgroup_without_a_name_hurries_the_source_once(world: World) -> None:
    world.tree = {scope(IDS[0]): (1,)}
    for _ in range(3):
        assert world.owner(scope(IDS[0])) == PENDING
    hurried = world.source.hurried
    world.source.set(pod())
    assert world.owner(scope(IDS[0])) == identity()
    assert (hurried, world.source.hurried) == (1, 1)


def test_pod_that_nobody_ever_names(world: World) -> None:
    world.tree = {scope(IDS[0]): (1,)}
    assert world.owner(scope(IDS[0])) == PENDING
    world.now += NAME_TIMEOUT
    for _ in range(3):
        assert world.owner(scope(IDS[0])) == UNRESOLVED
    world.source.set(pod())
    assert world.owner(scope(IDS[0])) == identity()


def test_source_that_is_away_is_waited_for(world: World) -> None:
    """Whatever time it takes, and its whole patience from its return on."""
    world.source.connected = False
    world.tree = {scope(IDS[0]): (1,)}
    for _ in range(3):
        assert world.owner(scope(IDS[0])) == PENDING
        world.now += 10 * NAME_TIMEOUT
    world.source.connected = True
    assert world.owner(scope(IDS[0])) == PENDING
    world.now += NAME_TIMEOUT - 1
    assert world.owner(scope(IDS[0])) == PENDING
    world.now += 1
    assert world.owner(scope(IDS[0])) == UNRESOLVED


def test_what_came_and_went_between_two_looks(world: World) -> None:
    world.source.set(pod())
    snapshot = world.look(vanished=[scope(IDS[0]), "system.slice/cron.service"])
    assert world.owner(scope(IDS[0]), snapshot) == identity()
    assert world.owner("system.slice/cron.service", snapshot) == HOST
    assert snapshot.reported == {}
    assert world.look().identities == {}  # the resolver has its grace time


def test_what_came_and_went_before_its_name(world: World) -> None:
    """Its pod is heard of later, perhaps as one that was deleted already."""
    assert world.owner(scope(IDS[0]), world.look(vanished=[scope(IDS[0])])) == PENDING
    assert world.owner(scope(IDS[0])) == PENDING
    world.source.set(pod())
    world.source.set()
    assert world.owner(scope(IDS[0])) == identity()
    assert world.owner(scope(IDS[0])) is None
    assert not world.namer._waiting


def test_what_came_and_went_and_nobody_named(world: World) -> None:
    world.look(vanished=[scope(IDS[0])])
    world.now += NAME_TIMEOUT
    assert world.owner(scope(IDS[0])) == UNRESOLVED
    assert world.owner(scope(IDS[0])) is None
    assert not world.namer._waiting


def test_deleted_pod_is_known_as_long_as_it_has_cgroups(world: World) -> None:
    world.source.set(pod())
    world.tree = {scope(IDS[0]): (1,)}
    world.look()
    world.source.set()
    for _ in range(3):
        assert world.owner(scope(IDS[0])) == identity()
        world.now += 10 * NAME_TIMEOUT
    world.tree = {}
    world.look()
    world.now += NAME_TIMEOUT + 1
    world.look()
    assert not world.namer._recent
    world.tree = {scope(IDS[0]): (1,)}
    assert world.owner(scope(IDS[0])) == PENDING


def test_waiting_and_deleted_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpod_metrics.pods.cluster.CAPACITY", 3)
    monkeypatch.setattr("kpod_metrics.pods.cluster.FEW", 0)
    uids = [f"{number:08x}-0d3c-4b7e-9a51-0c1d2e3f4a5b" for number in range(5)]
    snapshot = world.look(vanished=[scope(IDS[0], uid) for uid in uids])
    assert [world.owner(scope(IDS[0], uid), snapshot) for uid in uids] == [PENDING] * 3 + [UNRESOLVED] * 2
    assert len(world.namer._waiting) == 3
    world.source.set(*(pod(uid, f"p{at}") for at, uid in enumerate(uids)))
    world.look()
    world.source.set()
    world.look()
    assert list(world.namer._recent) == uids[2:]


def test_series_stay_with_what_will_be_started_again(world: World) -> None:
    """In a crash loop's pause there is no cgroup; a job that is done leaves none."""
    world.source.set(pod(), pod(OTHER, "job-1", Container("main", (IDS[1],), ended=True)))
    world.tree = {scope(IDS[0]): (1,), scope(IDS[1], OTHER): (2,)}
    snapshot = world.look()
    assert {pod.pod for pod in snapshot.workloads} == {identity(""), identity("", "job-1")}
    world.tree = {}
    snapshot = world.look()
    assert snapshot.reported == {}
    assert snapshot.kept == {identity()}
    assert {pod.pod for pod in snapshot.workloads} == {identity("")}


def test_filters() -> None:
    world = World(Filter(frozenset({"shop", "bank"}), frozenset({"bank"}), parse("app=web")))
    pods = [
        pod(labels={"app": "web"}),
        pod(OTHER, "db-1", Container("app", (IDS[1],)), labels={"app": "db"}),
        replace(
            pod(OTHER.replace("4", "5", 1), "b", Container("app", (IDS[2],)), labels={"app": "web"}), namespace="bank"
        ),
        replace(
            pod(OTHER.replace("4", "6", 1), "c", Container("app", (IDS[3],)), labels={"app": "web"}), namespace="dev"
        ),
    ]
    world.source.set(*pods)
    paths = [scope(IDS[at], one.uid) for at, one in enumerate(pods)]
    world.tree = dict.fromkeys(paths, (1,))
    snapshot = world.look()
    assert [world.owner(path, snapshot) for path in paths] == [identity(), FILTERED, FILTERED, FILTERED]
    assert snapshot.kept == {identity()}
    assert len(snapshot.workloads) == 1
    world.source.set(pod(labels={"app": "db"}))
    assert world.owner(paths[0]) == FILTERED


def test_chosen_labels_are_part_of_who_it_is() -> None:
    world = World(Filter(labels=("app", "team")))
    world.source.set(pod(labels={"app": "w" * 100, "x": "y"}))
    world.tree = {scope(IDS[0]): (1,)}
    assert world.owner(scope(IDS[0])) == identity("app", "web-1", "w" * 63, "")
    world.source.set(pod(labels={"app": "w", "team": "t"}))
    assert world.owner(scope(IDS[0])) == identity("app", "web-1", "w", "t")


def test_the_finder_has_the_source(world: World) -> None:
    finder = Finder("", world.namer)
    finder.start()
    assert (finder.name, finder.connected, finder.relists, finder.problem()) == ("kubernetes", True, 0, "")
    world.source.connected, world.source.relists = False, 3
    assert (finder.connected, finder.relists, finder.problem()) == (False, 3, "down")
    finder.close()
    assert world.source.started
    assert world.source.closed


@pytest.mark.parametrize("labels", [(), ("version",)], ids=["same labels", "another label"])
@pytest.mark.parametrize("source", ["watch", "kubelet"])
def test_a_pod_made_again_under_its_name_is_one_workload(source: str, labels: tuple[str, ...]) -> None:
    """A StatefulSet's, while the last one's series are there; a kubelet's list has both for two polls."""
    world = World(Filter(labels=labels))
    old = pod(UID, "db-0", Container("app", (IDS[0],), 5), created="2026-01-01T00:00:00Z", labels={"version": "1"})
    new = pod(OTHER, "db-0", Container("app", (IDS[1],), 0), created="2026-01-02T00:00:00Z", labels={"version": "2"})
    world.source.set(old)
    world.tree = {slice_of(): (), scope(IDS[0]): (1,)}
    assert [workload.restarts[0][1] for workload in world.look().workloads] == [5]
    world.source.set(*((replace(old, terminating=True), new) if source == "kubelet" else (new,)))
    world.tree |= {slice_of(OTHER): (), scope(IDS[1], OTHER): (2,)}
    for _ in range(3):
        snapshot = world.look()
        [workload] = snapshot.workloads
        assert workload.pod == identity("", "db-0", *("2" for _ in labels))
        assert workload.restarts == ((identity("app", "db-0", *("2" for _ in labels)), 0),)
        world.now += 10
    # What the old one's cgroups do is its own as long as they are there.
    assert world.owner(scope(IDS[0]), snapshot) == identity("app", "db-0", *("1" for _ in labels))


@pytest.mark.parametrize("first_is_newer", [True, False])
def test_of_two_pods_of_a_name_the_one_that_runs_is_the_workload(world: World, first_is_newer: bool) -> None:
    """Static pods have no time in a kubelet's list: the later entry is the newer one there."""
    times = ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z") if first_is_newer else ("", "")
    pods = [
        pod(uid, "static", Container("app", (id_,), restarts), created=created)
        for uid, id_, restarts, created in zip((UID, OTHER), IDS, (3, 4), times, strict=False)
    ]
    world.source.set(*pods)
    world.tree = {slice_of(): (), scope(IDS[0]): (1,), slice_of(OTHER): (), scope(IDS[1], OTHER): (2,)}
    assert [workload.restarts[0][1] for workload in world.look().workloads] == [3 if first_is_newer else 4]
    world.source.set(*(replace(one, terminating=one.uid == (UID if first_is_newer else OTHER)) for one in pods))
    assert [workload.restarts[0][1] for workload in world.look().workloads] == [4 if first_is_newer else 3]


def test_what_makes_room_is_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpod_metrics.pods.cluster.CAPACITY", 2)
    monkeypatch.setattr("kpod_metrics.pods.cluster.FEW", 0)
    assert world.namer.forgotten == {"deletion": 0, "excess": 0, "pod": 0, "waiting": 0}
    uids = [f"{digit}f1c0b1e-0d3c-4b7e-9a51-0c1d2e3f4a5b" for digit in range(5)]
    world.tree = {scope(IDS[0], uid): (1,) for uid in uids}
    for _ in range(2):  # each is counted once
        snapshot = world.look()
        assert sorted(str(world.owner(path, snapshot)) for path in world.tree) == [PENDING] * 2 + [UNRESOLVED] * 3
        assert world.namer.forgotten == {"deletion": 0, "excess": 0, "pod": 0, "waiting": 3}
    world.source.set(*(pod(uid, f"web-{uid}") for uid in uids))
    world.look()
    world.source.set()
    world.source.deletions_lost, world.source.excess = 7, 8
    world.look()
    assert world.namer.forgotten == {"deletion": 7, "excess": 8, "pod": 3, "waiting": 3}


def static_scope(container: str) -> str:
    return f"kubepods.slice/kubepods-pod{HASH}.slice/crio-{container}.scope"


def test_annotation_alone_takes_no_static_pods_events(world: World) -> None:
    """Neither before the mirror is known, nor after, whichever is listed first, nor with its sandbox."""
    thief = pod(OTHER, "thief", Container("app", (IDS[5],)), cgroup_uid=HASH)
    mirror = pod(UID, "apiserver", cgroup_uid=HASH)
    world.tree = {static_scope(IDS[0]): (1,), static_scope(IDS[1]): (2,), scope(IDS[5], OTHER): (3,)}
    world.source.set(thief)
    assert world.owner(static_scope(IDS[0])) == PENDING
    assert world.owner(scope(IDS[5], OTHER)) == identity("app", "thief")
    for pods in ((thief, mirror), (mirror, thief)):
        world.source.set(*pods)
        assert world.owner(static_scope(IDS[0])) == identity("app", "apiserver")
        assert world.owner(static_scope(IDS[1])) == PENDING
    world.now += NAME_TIMEOUT
    assert world.owner(static_scope(IDS[1])) == identity("", "apiserver")
    assert world.owner(scope(IDS[5], OTHER)) == identity("app", "thief")


def test_thief_alone_never_gets_a_static_pod(world: World) -> None:
    world.source.set(pod(OTHER, "thief", Container("app", (IDS[5],)), cgroup_uid=HASH))
    world.tree = {static_scope(IDS[0]): (1,)}
    assert world.owner(static_scope(IDS[0])) == PENDING
    world.now += NAME_TIMEOUT
    assert world.owner(static_scope(IDS[0])) == UNRESOLVED


def test_static_pod_waits_for_its_first_id(world: World) -> None:
    world.source.set(pod(UID, "apiserver", Container("app"), cgroup_uid=HASH))
    world.tree = {static_scope(IDS[0]): (1,)}
    assert world.owner(static_scope(IDS[0])) == PENDING
    world.source.set(pod(UID, "apiserver", cgroup_uid=HASH))
    assert world.owner(static_scope(IDS[0])) == identity("app", "apiserver")


def test_static_pod_stays_proven_while_its_container_restarts(world: World) -> None:
    """Also if its mirror is deleted and created again; and a pod that claims the hash meanwhile gets nothing."""
    thief = pod(OTHER, "thief", Container("app", (IDS[5],)), cgroup_uid=HASH)
    mirror = pod(UID, "apiserver", cgroup_uid=HASH)
    world.source.set(mirror)
    parent = static_scope("").rpartition("/")[0]
    world.tree = {parent: (), static_scope(IDS[0]): (1,)}
    assert world.owner(parent) == identity("", "apiserver")
    world.tree = {parent: ()}
    world.source.set(mirror, thief)
    assert world.owner(parent) == identity("", "apiserver")
    again = pod("5f1c0b1e-0d3c-4b7e-9a51-0c1d2e3f4a5b", "apiserver", Container("app", (IDS[2],)), cgroup_uid=HASH)
    world.source.set(thief, again)
    world.tree = {parent: (), static_scope(IDS[2]): (1,)}
    assert world.owner(static_scope(IDS[2])) == identity("app", "apiserver")
    assert world.owner(parent) == identity("", "apiserver")


def test_hash_that_two_pods_prove_stays_with_the_first(world: World) -> None:
    """No user can write a status: if one could, it would still not take what is another pod's."""
    one, two = (pod(uid, name, cgroup_uid=HASH) for uid, name in ((UID, "one"), (OTHER, "two")))
    world.tree = {static_scope(IDS[0]): (1,)}
    world.source.set(one, two)
    assert world.owner(static_scope(IDS[0])) == PENDING
    world.source.set(one)
    assert world.owner(static_scope(IDS[0])) == identity("app", "one")
    world.source.set(two, one)
    assert world.owner(static_scope(IDS[0])) == identity("app", "one")


def test_excluded_pod_excludes_no_other_by_an_annotation() -> None:
    world = World(Filter(without=frozenset({"dev"})))
    thief = replace(pod(OTHER, "thief", Container("app", (IDS[5],)), cgroup_uid=HASH), namespace="dev")
    world.source.set(pod(UID, "apiserver", cgroup_uid=HASH), thief)
    world.tree = {static_scope(IDS[0]): (1,), scope(IDS[5], OTHER): (2,)}
    assert world.owner(static_scope(IDS[0])) == identity("app", "apiserver")
    assert world.owner(scope(IDS[5], OTHER)) == FILTERED
    world.source.set(replace(pod(UID, "apiserver", cgroup_uid=HASH), namespace="dev"))
    assert world.owner(static_scope(IDS[0])) == FILTERED


def test_cgroup_elsewhere_with_a_pods_name_is_the_hosts(world: World) -> None:
    """Also if it is empty, comes first, or comes and goes."""
    world.source.set(pod())
    fake = f"a.slice/docker-{IDS[9]}.scope/{scope(IDS[0])}"
    world.tree = {fake: (), slice_of(): (), scope(IDS[0]): (1,)}
    snapshot = world.look(vanished=[f"{fake}x", f"{fake.rpartition('/')[0]}/crio-{IDS[0]}.scope"])
    assert world.owner(fake, snapshot) == HOST
    assert {snapshot.reasons[world.id(path)] for path in (f"{fake}x",)} == {HOST}
    assert world.owner(scope(IDS[0]), snapshot) == identity()
    assert [group.path for group in snapshot.groups] == [f"/cg/{scope(IDS[0])}"]
    assert world.namer.refused_claims == 1


def test_pods_in_what_a_user_owns_are_the_hosts(world: World) -> None:
    world.source.set(pod())
    world.delegated = "delegated"
    fake = f"delegated/{scope(IDS[0])}"
    world.tree = {"delegated": (), fake: (1,), scope(IDS[0]): (2,)}
    snapshot = world.look(vanished=[f"delegated/x/{scope(IDS[0])}"])
    assert world.owner(fake, snapshot) == world.owner(f"delegated/x/{scope(IDS[0])}", snapshot) == HOST
    assert world.owner(scope(IDS[0]), snapshot) == identity()


def test_a_pod_with_many_waiting_cgroups_displaces_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpod_metrics.pods.cluster.CAPACITY", 40)
    flood = [f"{scope(IDS[0])}/{number}" for number in range(60)]
    late = [scope(IDS[at], OTHER) for at in range(3)]
    world.tree = dict.fromkeys((scope(IDS[0]), *flood), (1,))
    snapshot = world.look(vanished=late)
    assert [world.owner(path, snapshot) for path in late] == [PENDING] * 3
    assert [*snapshot.reasons.values()].count(PENDING) == 43
    world.source.set(pod(), pod(OTHER, "late", *(Container(f"c{at}", (IDS[at],)) for at in range(3))))
    snapshot = world.look()
    assert [world.owner(path, snapshot) for path in late] == [identity(f"c{at}", "late") for at in range(3)]
    assert {world.owner(path, snapshot) for path in flood} == {identity()}


def test_where_all_below_has_one_owner(world: World) -> None:
    """Containers, also unnamed ones; users; other containers only if the kubelet is known to be elsewhere."""
    docker, delegated, service = f"docker-{IDS[9]}.scope", "delegated", "system.slice/containerd.service"
    world.delegated = delegated
    world.tree = dict.fromkeys(("user.slice", docker, delegated, service, f"{docker}/{service}"), ())
    assert world.look().holders == {world.id("user.slice"): 0, world.id(delegated): 0}
    world.source.set(pod())
    world.tree |= dict.fromkeys(("kubepods.slice", slice_of(), scope(IDS[0]), scope(IDS[1]), f"{scope(IDS[0])}/a"), ())
    containers = dict.fromkeys(map(world.id, ("user.slice", docker, delegated, scope(IDS[0]), scope(IDS[1]))), 0)
    assert world.look().holders == containers | {world.id(slice_of()): 1}
    del world.tree[slice_of()], world.tree[scope(IDS[0])], world.tree[scope(IDS[1])], world.tree[f"{scope(IDS[0])}/a"]
    world.tree |= dict.fromkeys((f"{docker}/{slice_of()}", f"{docker}/{scope(IDS[0])}"), ())
    assert world.look().holders == {
        world.id("user.slice"): 0,
        world.id(delegated): 0,
        world.id(f"{docker}/{slice_of()}"): 1,
        world.id(f"{docker}/{scope(IDS[0])}"): 0,
    }
