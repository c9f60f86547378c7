"""Stages: what matters most comes back first, and never without what it stands on. Values only.

    hot        tier `hot` or `critical`, and whatever such a component is derived from or reads
    standard   every other word, and what those need
    cold       tier `cold`: kept in a colder class, where it may have to be woken first

The words are the owner's (``Component.tier``); these three say when.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

from resurgam.errors import UsageError
from resurgam.model.placement import COLD
from resurgam.model.system import System


class Stage(IntEnum):
    """When a component is restored; the lower, the sooner."""

    HOT = 1
    STANDARD = 2
    COLD = 3

    @property
    def word(self) -> str:
        """As people write it."""
        return self.name.lower()


_OF = {"hot": Stage.HOT, "critical": Stage.HOT, COLD: Stage.COLD}


def stages(system: System) -> dict[str, Stage]:
    """The stage of each component: that of its own tier, or the earliest of those that need it."""
    found = {component.name: _OF.get(component.tier, Stage.STANDARD) for component in system.components}
    needs = {
        component.name: [name for name in component.derived_from + component.reads if name in found]
        for component in system.components
    }
    open_ = list(found)
    while open_:
        name = open_.pop()
        for needed in needs[name]:
            if found[name] < found[needed]:
                found[needed] = found[name]
                open_.append(needed)
    return found


def of_stages(system: System, words: Iterable[str]) -> tuple[str, ...]:
    """The components of the stages that ``words`` name, in the manifest's order. Raises UsageError."""
    known = {stage.word: stage for stage in Stage}
    wrong = [word for word in words if word not in known]
    if wrong:
        raise UsageError(
            f"There is no tier {', '.join(wrong)} to restore by.",
            untouched="Nothing was written.",
            next_step=f"Give one of {', '.join(known)}; every other word of a manifest counts as standard.",
        )
    wanted = {known[word] for word in words}
    return tuple(name for name, stage in stages(system).items() if stage in wanted)


def seconds_of(system: System, took: Mapping[str, float]) -> dict[str, tuple[tuple[str, ...], float]]:
    """By stage, the components that ``took`` some seconds each, and their sum: what came when."""
    by_stage: dict[str, tuple[tuple[str, ...], float]] = {}
    for name, stage in sorted(stages(system).items(), key=lambda pair: pair[1]):
        if name in took:
            names, seconds = by_stage.get(stage.word, ((), 0.0))
            by_stage[stage.word] = ((*names, name), seconds + took[name])
    return by_stage
