"""Attacks of a tenant: the pods beside it have exact counts, and the agent stays within its bounds.

The attacks are declared in `tests/reliability/tenants`. Each runs on a real agent, as a user without rights in
namespaces of its own, in a cgroup that it owns, beside pods all of whose events are known.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kpod_metrics.settings.declared import Limits
from tests.forced import needs
from tests.live.agents import eventually
from tests.reliability.tenants.catalogue import ATTACKS
from tests.reliability.tenants.declared import Attack
from tests.reliability.tenants.inside import CALLS
from tests.reliability.tenants.node import MEMORY_LIMIT, Fight, Node, Pod, Sampler, Victim

CYCLES = 5
"""Cycles of which the quickest is compared: others of this machine slow some down."""
SPARE = 0.05
"""Seconds that the quickest cycle may take for the attacker alone."""


def sized(attacks: list[type[Attack]]) -> Iterator[object]:
    """Each of these attacks in each size."""
    for attack in attacks:
        missing = bool(attack.device) and not Path(attack.device).exists()
        own = [needs(*attack.needs), pytest.mark.skipif(missing, reason=f"needs {attack.device}")]
        first = [] if "quick" in vars(attack) else [pytest.mark.slow]
        for size, marks in zip(attack.sizes, (first, [pytest.mark.slow], [pytest.mark.long]), strict=True):
            yield pytest.param(attack, size, id=f"{attack.__name__}-{size}", marks=[*own, *marks])


class Nodes:
    """A node for each choice of settings, until a test on it fails."""

    def __init__(self, folders: pytest.TempPathFactory, cgroup_root: str) -> None:
        self._folders, self._root = folders, cgroup_root
        self._nodes: dict[tuple[str, ...], tuple[ExitStack, Node]] = {}

    def get(self, settings: tuple[str, ...], *, alone: bool) -> Node:
        """Start one, or take the one that runs unless it must be `alone`."""
        if alone or settings not in self._nodes:
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
    """The page of the next whole cycle has what the kernel says of each victim."""
    wanted = {(victim.pod.name, name): value for victim in victims for name, value in victim.kernel().items()}
    page = node.whole_cycles()
    exported = {(victim.pod.name, name): value for victim in victims for name, value in victim.exported(page).items()}
    assert {key: (exported[key], value) for key, value in wanted.items() if exported[key] != value} == {}


ON_NODES = [attack for attack in ATTACKS if not attack.is_file]
ON_FILES = [attack for attack in ATTACKS if attack.is_file]


@pytest.mark.usefixtures("mount_namespaces")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("attack", "size"), list(sized(ON_NODES)))
def test_attack(attack: type[Attack], size: int, nodes: Nodes, tell: Callable[..., None]) -> None:
    node = nodes.get(attack.settings, alone=attack.alone)
    try:
        with ExitStack() as stack:
            happened = run(Fight(node, stack, attack.__name__, size), attack())
    except BaseException:
        nodes.close()
        raise
    if attack.alone:
        nodes.close()
    tell("Tenants", attack.does, f"{size:,}", happened, attack.at_bound)


@pytest.mark.parametrize(("attack", "size"), list(sized(ON_FILES)))
def test_file(attack: type[Attack], size: int, tmp_path: Path, tell: Callable[..., None]) -> None:
    attack().file(tmp_path, size)
    tell("Tenants", attack.does, f"{size:,}", "refused", attack.at_bound)


def run(fight: Fight, attack: Attack) -> str:
    """Run an attack; return what happened."""
    node, steady = fight.node, fight.steady
    attack.before(fight)
    fight.start(unit=attack.unit)
    steady.begin(node.whole_cycles())
    steady.work(101)
    with Sampler(node) as before:
        exact(node, [steady])
        eventually(lambda: len(before.cycles) >= CYCLES)
    errors = node.errors(node.page())
    node.forget_peak()

    with Sampler(node) as during:
        fight.step(attack.line(fight))
        attack.attack(fight)
        steady.work(211)
        late = fight.victim(announced=False)
        late.work(401)
        brief = fight.brief(301, announced=attack.names_pods)
        if attack.names_pods:
            late.pod.announce()
            counted(node, late.pod, 401)
            late.begin(node.whole_cycles())
            late.work(53)
            exact(node, [steady, late])
            counted(node, brief, 301)
        else:
            exact(node, [steady])
        attack.check(fight)
        # One that is no slower is enough: an attack that others of this machine do not make slows all of them down.
        allowed = 2 * min(before.cycles.values()) + SPARE
        eventually(lambda: len(during.cycles) >= CYCLES and min(during.cycles.values()) <= allowed)
    page = node.page()
    peak = node.peak()
    assert node.errors(page) == errors
    exceeded = fight.exceeded(page)
    assert {pod for pod, _ in exceeded} <= {fight.pod.name}
    assert not attack.limit or attack.unit or (fight.pod.name, attack.limit) in exceeded
    assert fight.samples(page) <= Limits.pod_series_limit + 2 * fight.samples(page, of=steady.pod)
    assert peak <= 1.1 * MEMORY_LIMIT
    quickest, then = min(before.cycles.values()), min(during.cycles.values())

    attack.stop(fight)
    fight.step()
    if not attack.names_pods:
        late.pod.announce()
        brief.announce()
        counted(node, late.pod, 401)
        counted(node, brief, 301)
        late.begin(node.whole_cycles())
    steady.work(17)
    exact(node, [steady, late])
    assert node.get("readyz") == "ready\n"
    assert "Traceback" not in node.log.read_text()
    return (
        f"a cycle took {1000 * quickest:.0f} ms before, {1000 * then:.0f} ms meanwhile; {peak >> 20} MiB resident; "
        f"{during.samples - before.samples} samples more"
    )


def counted(node: Node, pod: Pod, calls: int) -> None:
    """A page has these calls of a pod, as soon as it has its name."""
    eventually(lambda: node.page().sum(CALLS, pod=pod.name))
    assert node.whole_cycles().sum(CALLS, pod=pod.name) == calls
