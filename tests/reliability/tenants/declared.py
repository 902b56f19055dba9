"""What an attack is, and the table of all attacks in docs/security.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from tests.reliability.tenants.inside import Tenant
    from tests.reliability.tenants.node import Fight


class Attack:
    """One way in which a pod, a client or a server can spend the agent's time, memory, series or truth.

    Subclasses declare it. Its page and its test come from the declaration.
    """

    name: ClassVar[str]
    does: ClassVar[str]
    """What the attacker does: a sentence."""
    bound: ClassVar[str]
    """The bound: a sentence with the constant or the setting."""
    at_bound: ClassVar[str]
    """What happens at the bound: a sentence."""
    limit: ClassVar[str] = ""
    """The value of the label `limit` that names the attacker; empty if the attacker is no pod."""
    metric: ClassVar[str] = ""
    """The agent's own metric, with its label, where there is no `limit`."""
    quick: ClassVar[bool] = False
    """Whether its smallest size is in `make test`."""
    sizes: ClassVar[tuple[int, int, int]]
    """Small for every run, and two that are larger."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Flags of the agent for this attack, beside the usual ones."""
    namespaces: ClassVar[tuple[str, ...]] = ("mount", "network")
    """Namespaces that the tenant has of its own, beside that of users."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Features of the kernel (`features.py`) without which the agent cannot keep to the bound."""
    device: ClassVar[str] = ""
    """A device that the attack needs."""
    alone: ClassVar[bool] = False
    """Whether it has an agent for itself: after several failures, that takes longer to try again."""
    names_pods: ClassVar[bool] = True
    """Whether the agent can get the names of new pods during the attack."""
    is_file: ClassVar[bool] = False
    """Whether it needs no running agent."""
    unit: ClassVar[bool] = False
    """Whether it is a user of the node with a delegated unit of systemd, and no pod."""

    def inside(self, tenant: Tenant, size: int) -> Iterator[None]:
        """What the tenant runs, in three steps with a `yield` after each: get ready, attack, stop; or nothing."""
        yield
        yield
        yield

    def line(self, fight: Fight) -> str:
        """What the tenant knows of others when it attacks, in one line."""
        return "go"

    def before(self, fight: Fight) -> None:
        """What is there before the tenant starts."""

    def attack(self, fight: Fight) -> None:
        """Attack from outside, if the attacker is no process."""

    def check(self, fight: Fight) -> None:
        """Check during the attack what only this attack can change."""

    def stop(self, fight: Fight) -> None:
        """Stop the attack from outside."""

    def file(self, folder: Path, size: int) -> None:
        """Attack by a file alone, without a node."""

    @classmethod
    def counted(cls) -> str:
        """The metric that counts it, for the table."""
        if cls.limit:
            return f'`limit="{cls.limit}"`'
        return f"`{cls.metric}`" if cls.metric else "-"


HEAD = "| attack | bound | at the bound | counted in |\n|---|---|---|---|\n"


def as_markdown(attacks: Iterable[type[Attack]]) -> str:
    """The table of the page."""
    return HEAD + "".join(f"| {a.does} | {a.bound} | {a.at_bound} | {a.counted()} |\n" for a in attacks)
