"""Which cgroups are pods': attackers of several sizes beside the kubelet's tree, and one directory for each id."""

from collections.abc import Collection, Mapping

import pytest

from kpod_metrics.bounds import Ledger
from kpod_metrics.cgroup.tree import Directory
from kpod_metrics.pods.kubelet_tree import KubeletTree

UIDS = [f"{number:08x}-0d3c-4b7e-9a51-0c1d2e3f4a5b" for number in range(4)]
IDS = [f"{digit}" * 64 for digit in "0123456789abcdef"]
NODE = f"system.slice/docker-{IDS[15]}.scope"
OTHER_NODE = f"system.slice/docker-{IDS[14]}.scope"
USER = "user.slice/user-1000.slice/user@1000.service"
NUMBERS = (10, 1_000, 10_050)
"""Sizes of an attack."""


def pod(uid: str, tree: str = "kubepods.slice", qos: str = "burstable") -> str:
    return f"{tree}/kubepods-{qos}.slice/kubepods-{qos}-pod{uid.replace('-', '_')}.slice"


def container(uid: str, id_: str, tree: str = "kubepods.slice", qos: str = "burstable") -> str:
    return f"{pod(uid, tree, qos)}/cri-containerd-{id_}.scope"


def many(number: int, tree: str) -> list[str]:
    return [pod(f"{at:08x}-ffff-4b7e-9a51-0c1d2e3f4a5b", tree) for at in range(number)]


class Node:
    """Its cgroups, all of root but for those below `delegated`."""

    def __init__(self, root: str = "", known: Collection[str] | None = None) -> None:
        self.exceeded = Ledger()
        self.tree = KubeletTree(root, self.exceeded)
        self.known = known
        self.delegated: list[str] = []
        self._ids: dict[str, int] = {"": 1}

    def id(self, path: str) -> int:
        return self._ids.setdefault(path, len(self._ids) + 1)

    def look(self, *paths: str) -> Mapping[str, str]:
        """These are there, and what is above them; return the ids of what counts as a pod's."""
        every: dict[str, None] = {"": None}
        for path in paths:
            names = path.split("/")
            every.update(("/".join(names[: at + 1]), None) for at in range(len(names)))
        directories = [
            Directory(self.id(path), path, (), any(f"{path}/".startswith(f"{own}/") for own in self.delegated))
            for path in sorted(every, key=lambda path: path.count("/"))
        ]
        self.tree.look(directories, self.known)
        return {path: f"{place.uid}/{place.container}" for path, place in self.tree.places.items() if path in paths}

    def exceeds(self) -> dict[str, object]:
        """How many claims each container made."""
        paths = {id_: path for path, id_ in self._ids.items()}
        return {paths[row.owner]: row.values[0] for row in self.exceeded.rows()}


VICTIM = container(UIDS[0], IDS[0])
SEEN = {VICTIM: f"{UIDS[0]}/{IDS[0]}"}


@pytest.mark.parametrize("known", [None, frozenset(UIDS)], ids=["cgroup", "kubernetes"])
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("first", [True, False], ids=["before the agent", "after the agent"])
def test_delegated_user_cannot_move_the_tree(known: Collection[str] | None, number: int, first: bool) -> None:
    """However many pods it makes up, and if it names the real one too."""
    for tree in (f"{USER}/kubepods.slice", "delegated/kubepods.slice"):
        node = Node(known=known)
        node.delegated = [USER, "delegated"]
        fakes = [container(UIDS[0], IDS[0], tree), *many(number, tree)]
        if first:
            assert node.look(*fakes) == {}
            assert node.tree.root is None
        else:
            assert node.look(VICTIM) == SEEN
        assert node.look(*fakes, VICTIM) == SEEN
        assert node.tree.root == "kubepods.slice"
        # The fake container and its fake pod, each once.
        assert node.look(VICTIM, *fakes) == SEEN
        assert (node.tree.refused, node.exceeds()) == (2, {})


@pytest.mark.parametrize("number", NUMBERS)
def test_user_slice_has_no_kubelet_though_root_owns_it(number: int) -> None:
    node = Node()
    assert node.look(*many(number, "user.slice/kubepods.slice")) == {}
    assert node.look(*many(number, "user.slice/kubepods.slice"), VICTIM) == SEEN


@pytest.mark.parametrize("number", NUMBERS)
def test_root_in_a_container_beside_the_kubelet_cannot_move_the_tree(number: int) -> None:
    """Neither before the first pod starts, nor with the names of real pods."""
    fakes = many(number, f"{NODE}/kubepods.slice")
    for known in (None, frozenset(UIDS)):
        node = Node(known=known)
        node.look(*fakes)
        assert node.tree.root == (None if known else f"{NODE}/kubepods.slice")
        assert node.look(*fakes, container(UIDS[0], IDS[0], f"{NODE}/kubepods.slice"), VICTIM) == SEEN
        assert node.look(*fakes, VICTIM) == SEEN


def test_pod_owns_the_cluster_that_runs_in_it() -> None:
    node = Node()
    inner = f"{VICTIM}/{container(UIDS[1], IDS[1])}"
    assert node.look(VICTIM, inner) == SEEN | {inner: f"{UIDS[0]}/{IDS[0]}"}
    # Nobody else has these ids.
    assert (node.tree.refused, node.exceeds()) == (0, {})


def test_container_that_claims_another_pods_ids_is_counted() -> None:
    node = Node()
    attacker = container(UIDS[1], IDS[1])
    claims = [f"{attacker}/{VICTIM}", f"{attacker}/x/kubepods/pod{UIDS[0]}"]
    own = dict.fromkeys((attacker, *claims), f"{UIDS[1]}/{IDS[1]}")
    for _ in range(2):
        assert node.look(VICTIM, attacker, *claims) == SEEN | own
        # The victim's pod and container below the first, its pod below the second.
        assert (node.tree.refused, node.exceeds()) == (0, {attacker: 3})
    node.look(VICTIM, attacker)
    node.look(VICTIM, attacker, claims[1])
    assert node.exceeds() == {attacker: 4}


@pytest.mark.parametrize(
    "tree",
    [
        "kubepods.slice",
        "kubelet.slice/kubelet-kubepods.slice",
        f"{NODE}/kubelet.slice/kubelet-kubepods.slice",
        f"docker/{IDS[13]}/kubelet/kubepods",
        "custom/kubepods",
        "a.slice/a-b_c.slice/a-b_c-kubepods.slice",
    ],
)
def test_tree_is_learned_wherever_it_is(tree: str) -> None:
    for known in (None, frozenset(UIDS)):
        node = Node(known=known)
        path = container(UIDS[0], IDS[0], tree)
        assert node.look(path) == {path: f"{UIDS[0]}/{IDS[0]}"}
        assert node.tree.root == tree


def test_two_nodes_in_containers_are_never_both_taken() -> None:
    """The one with more pods, which stays while it has any; or the one of the cluster."""
    one = [container(UIDS[0], IDS[0], f"{NODE}/kubepods.slice")]
    two = [container(uid, IDS[1], f"{OTHER_NODE}/kubepods.slice") for uid in UIDS[1:]]
    node = Node()
    assert [*node.look(*one, *two)] == two
    assert [*node.look(*one, two[0])] == two[:1]
    assert [*node.look(*one)] == one
    assert [*node.look(*one, *two)] == one
    node = Node(known={UIDS[0]})
    assert [*node.look(*one, *two)] == one
    assert node.tree.root == f"{NODE}/kubepods.slice"


def test_between_equal_trees_the_highest_is_taken_then_the_first() -> None:
    high, low = container(UIDS[0], IDS[0], "a/kubepods.slice"), container(UIDS[1], IDS[1], "b/c/kubepods.slice")
    assert [*Node().look(low, high)] == [high]
    node = Node()
    other = container(UIDS[1], IDS[1], "b/kubepods.slice")
    assert [*node.look(high, other)] == [high]
    assert [*node.look(other)] == [other]


def test_before_a_pod_is_known_all_trees_wait_for_names() -> None:
    """With a source of pods: none of them can be charged to a wrong pod, as none is known."""
    node = Node(known=())
    one, two = container(UIDS[0], IDS[0], f"{NODE}/kubepods.slice"), container(UIDS[1], IDS[1])
    assert {*node.look(one, two)} == {one, two}
    node.known = {UIDS[0]}
    assert [*node.look(one, two)] == [one]
    node.known = {UIDS[1]}
    assert [*node.look(one, two)] == [two]


def test_set_tree_is_the_only_one() -> None:
    for root in (f"/{USER}", f"/{USER}/kubepods.slice/"):
        node = Node(root)
        mine = container(UIDS[1], IDS[1], f"{USER}/kubepods.slice")
        assert [*node.look(VICTIM, mine)] == [mine]
        assert [*node.look(VICTIM)] == []
    node = Node("/")
    assert [*node.look(VICTIM, mine)] == [VICTIM, mine]
    node.delegated = [f"{USER}/kubepods.slice"]
    assert [*node.look(VICTIM, mine, "x")] == [VICTIM]


def test_of_two_directories_of_a_pod_or_container_the_first_counts() -> None:
    """The known one, also if the other comes first in the walk; of two new ones the older."""
    node = Node()
    same_pod = container(UIDS[0], IDS[0], qos="besteffort")
    same_container = f"{pod(UIDS[0])}/crio-{IDS[0]}.scope"
    assert node.look(VICTIM) == SEEN
    assert node.look(same_pod, same_container, VICTIM) == SEEN
    assert node.tree.refused == 3  # the pod with its container, the container
    assert node.look(same_pod, same_container) == {same_container: f"{UIDS[0]}/{IDS[0]}"}
    assert node.look(same_pod) == {same_pod: f"{UIDS[0]}/{IDS[0]}"}
    node = Node()
    node.id(pod(UIDS[0], qos="besteffort"))
    assert node.look(VICTIM, same_pod) == {same_pod: f"{UIDS[0]}/{IDS[0]}"}


def test_runtime_without_systemd_and_kata_have_their_own_directories() -> None:
    node = Node()
    slice_name = f"kubepods-burstable-pod{UIDS[0].replace('-', '_')}.slice"
    mixed = f"system.slice/containerd.service/{slice_name}:cri-containerd:{IDS[1]}"
    below = f"{slice_name}:crio:{IDS[2]}"
    overhead = f"kata_overhead/{pod(UIDS[0])}/{IDS[3]}"
    expected = {mixed: f"{UIDS[0]}/{IDS[1]}", below: f"{UIDS[0]}/{IDS[2]}", overhead: f"{UIDS[0]}/{IDS[3]}"}
    assert node.look(VICTIM, mixed, below, overhead) == SEEN | expected
    # Not in a container, not of a pod that is not there, not by a user.
    node.delegated = ["delegated"]
    fakes = [f"{NODE}/{below}", below.replace("00000000", "00000001"), f"delegated/{below}"]
    assert node.look(VICTIM, *fakes) == SEEN


def test_what_came_and_went() -> None:
    node = Node()
    node.delegated = [USER]
    node.look(VICTIM, f"{USER}/x")
    brief = [container(UIDS[1], IDS[1]), f"{VICTIM}/inner", f"{pod(UIDS[0])}/crio-{IDS[2]}.scope"]
    assert [place and place[:2] for place in map(node.tree.place_of_vanished, brief)] == [
        (UIDS[1], IDS[1]),
        (UIDS[0], IDS[0]),
        (UIDS[0], IDS[2]),
    ]
    for fake in (
        container(UIDS[0], IDS[0], f"{USER}/kubepods.slice"),
        container(UIDS[0], IDS[0], f"{NODE}/kubepods.slice"),
        container(UIDS[0], IDS[0], qos="besteffort"),
        f"{pod(UIDS[0])}/crio-{IDS[0]}.scope",
        "system.slice/cron.service",
    ):
        assert node.tree.place_of_vanished(fake) is None


def test_levels_above_containers() -> None:
    node = Node()
    guaranteed = f"kubepods.slice/kubepods-pod{UIDS[1].replace('-', '_')}.slice"
    node.look(VICTIM, f"{VICTIM}/inner", f"{pod(UIDS[0])}/helper", guaranteed, f"{USER}/{pod(UIDS[0])}")
    directories = [Directory(id_, path, ()) for path, id_ in node._ids.items()]
    assert node.tree.levels(directories) == {
        node.id("kubepods.slice"): 2,
        node.id("kubepods.slice/kubepods-burstable.slice"): 2,
        node.id(pod(UIDS[0])): 1,
        node.id(guaranteed): 1,
        node.id(VICTIM): 0,
    }
