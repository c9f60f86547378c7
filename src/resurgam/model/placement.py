"""Where the bytes of a component may lie. A placement belongs to a whole shred domain, since chunks are shared within one and never
over two; and each pack holds chunks of one placement, so that a pack can go somewhere, or not, as a whole.

``residency`` is a word of the owner's for a jurisdiction or a region (``eu``). What has one goes to replicas of that region only
(``vault.replicas``); what has none goes anywhere. What quotes several components, such as the answers of probes, goes only where
every one of them may go (:func:`of_all`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

WORD: Final = (
    r"[a-z0-9][a-z0-9-]{0,30}"  # of a residency and of a replica's region; 32 bytes of a pack's header hold it
)
COLD: Final = "cold"  # the tier of components that lie in a colder class of storage
DEFAULT_DOMAIN: Final = "default"
_AND: Final = "+"  # no word has it: what must stay in two regions at once may go to neither


class Placement(NamedTuple):
    """``residency`` is a region's word, empty where it does not matter; ``cold`` asks for a class of storage
    that is slow to read."""

    residency: str = ""
    cold: bool = False

    def may_go_to(self, region: str) -> bool:
        """Whether what is so placed may lie at a replica of ``region``."""
        return self.residency in ("", region)


ANYWHERE: Final = Placement()
NOWHERE: Final = Placement(_AND)  # what is damaged so that nobody can tell goes nowhere


class Placed(Protocol):
    """A component, as far as its place goes."""

    @property
    def name(self) -> str: ...
    @property
    def shred_domain(self) -> str: ...
    @property
    def placement(self) -> Placement: ...


def misplaced(components: Sequence[Placed]) -> Iterator[tuple[Placed, str]]:
    """The components whose domain cannot keep the promise of their placement, each with the reason."""
    first: dict[str, Placed] = {}
    for component in components:
        domain, placement = component.shred_domain, component.placement
        if placement != ANYWHERE and domain == DEFAULT_DOMAIN:
            yield (
                component,
                f"{_said(placement)} needs a shred_domain of its own: what lies in `default` shares chunks.",
            )
            continue
        other = first.setdefault(domain, component)
        if other.placement != placement:
            others = f"{other.name}, which has {_said(other.placement)}"
            yield (
                component,
                f"{_said(placement)}, in one shred_domain with {others}. Expected the same, or another domain.",
            )


def of_all(residencies: Iterable[str]) -> Placement:
    """Where something may go that quotes parts of these residencies: only where each part may go."""
    return Placement(_AND.join(sorted({word for word in residencies if word})))


def _said(placement: Placement) -> str:
    said = [f"residency: {placement.residency}"] * bool(placement.residency) + [f"tier: {COLD}"] * placement.cold
    return " and ".join(said) or "no residency"
