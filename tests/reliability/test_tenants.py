"""Attacks of a tenant: the pods beside it have exact counts, and the agent stays within its bounds.

The attacks are declared in `tests/reliability/tenants`. Each runs on a real agent, as a user without rights in
namespaces of its own, in a cgroup that it owns, beside pods all of whose events are known.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.live.agents import eventually
from tests.reliability.tenants import ATTACKS
from tests.reliability.tenants.declared import Attack
from tests.reliability.tenants.node import CALLS, MEMORY_LIMIT, Fight, Node, Sampler, Victim

CYCLES = 5
"""Cycles of which the quickest is compared: others of this machine slow some down."""
MARKS = ((), (pytest.mark.slow,), (pytest.mark.slow,))


def sized() -> Iterator[object]:
    """Each attack in each size."""
    for attack in ATTACKS:
        for size, marks in zip(attack.sizes, MARKS, strict=True):
            yield pytest.param(attack, size, id=f"{attack.__name__}-{size}", marks=marks)


class Nodes:
    """A node for each choice of settings, until a test on it fails."""

    def __init__(self, folders: pytest.TempPathFactory, cgroup_root: str) -> None:
        self._folders, self._root = folders, cgroup_root
        self._nodes: dict[tuple[str, ...], tuple[ExitStack, Node]] = {}

    def get(self, settings: tuple[str, ...]) -> Node:
        """Start one, or take the one that runs."""
        if settings not in self._nodes:
            self.close()
            stack = ExitStack()
            with ExitStack() as failed:
                failed.push(stack)
                node = Node(stack, self._folders.mktemp("node"), self._root, settings)
                failed.pop_all()
            self._nodes[settings] = stack, node
        return self._nodes[settings][1]

    def close(self) -> None:
        """End all."""
        while self._nodes:
            _, (stack, _) = self._nodes.popitem()
            stack.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, cgroup_root: str) -> Iterator[Nodes]:
    found = Nodes(tmp_path_factory, cgroup_root)
    yield found
    found.close()


def exact(node: Node, victims: list[Victim]) -> None:
    """A page within two cycles has what the kernel says of each victim."""
    node.whole_cycles()
    wanted = {victim.pod.name: victim.kernel() for victim in victims}
    page = node.whole_cycles()
    assert {victim.pod.name: victim.exported(page) for victim in victims} == wanted


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("attack", "size"), list(sized()))
def test_attack(attack: type[Attack], size: int, nodes: Nodes, tell: Callable[..., None]) -> None:
    node = nodes.get(attack.settings)
    try:
        with ExitStack() as stack:
            happened = run(Fight(node, stack, attack.__name__, size), attack())
    except BaseException:
        nodes.close()
        raise
    tell("Tenants", attack.does, f"{size:,}", happened, attack.at_bound)


def run(fight: Fight, attack: Attack) -> str:
    """Run an attack; return what happened."""
    node = fight.node
    steady = fight.victim()
    steady.begin(node.whole_cycles())
    fight.start()
    steady.work(101)
    with Sampler(node) as before:
        exact(node, [steady])
        eventually(lambda: len(before.cycles) >= CYCLES)
    errors = node.errors(node.page())
    node.forget_peak()

    with Sampler(node) as during:
        fight.step()
        attack.attack(fight)
        steady.work(211)
        late = fight.victim(announced=False)
        late.work(401)
        brief = fight.brief(301)
        late.pod.announce()
        eventually(lambda: node.page().sum(CALLS, pod=late.pod.name) == 401)
        late.begin(node.whole_cycles())
        late.work(53)
        exact(node, [steady, late])
        assert node.page().sum(CALLS, pod=brief.name) == 301
        attack.check(fight)
        eventually(lambda: len(during.cycles) >= CYCLES)
    page = node.page()
    peak = node.peak_of()
    assert node.errors(page) == errors
    assert fight.exceeded(page) == ({(fight.pod.name, attack.limit)} if attack.limit else set())
    assert peak <= 1.1 * MEMORY_LIMIT
    fight.step()
    steady.work(17)
    exact(node, [steady, late])
    assert node.get("readyz") == "ready\n"
    assert "Traceback" not in node.log.read_text()
    quickest, then = min(before.cycles.values()), min(during.cycles.values())
    return (
        f"a cycle took {1000 * quickest:.0f} ms before, {1000 * then:.0f} ms meanwhile; {peak >> 20} MiB resident, "
        f"{during.samples - before.samples} samples more"
    )
