"""Which point a recovery goes to: the newest that is clean and proven, or can be proven. Reads the vault, and changes nothing.

A point is passed over, with its reason told, where it is quarantined, its invariants did not hold, it was found to behave
differently or could not be judged, or its history cannot be believed. One that nobody judged yet is taken: a recovery judges
every restore before it is promoted (P4). A point that was *named* is taken even with findings, which the plan then shows; a
quarantined one never is.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from resurgam.errors import IntegrityError, NotFound, NotProven
from resurgam.model.point import Severity
from resurgam.vault.history import PointState
from resurgam.vault.repository import Repository, Sealed

LATEST = "latest"


class PassedOver(msgspec.Struct, frozen=True):
    """A newer point that was not chosen, and why."""

    point: str
    why: str


class Choice(NamedTuple):
    """The chosen point, how it stands, and what was passed over, newest first."""

    sealed: Sealed
    state: PointState
    passed_over: tuple[PassedOver, ...]


def choose(repository: Repository, system: str, words: str = "") -> Choice:
    """The point that ``words`` mean: an id's beginning or ``latest`` that very one, a time the newest clean point sealed by then;
    none at all the newest clean point.

    Raises NotFound, Ambiguous, NotProven (it is quarantined), IntegrityError (its history cannot be believed).
    """
    last = repository.resolve(words or LATEST, system)
    if words and (words == LATEST or last.body.id.startswith(words.lower())):
        return _named(repository, last)
    points = repository.points(system)
    ids = [sealed.body.id for sealed in points]
    passed: list[PassedOver] = []
    for sealed in reversed(points[: ids.index(last.body.id) + 1]):
        state = repository.state(sealed)
        why = unfit(sealed, state)
        if not why:
            return Choice(sealed, state, tuple(passed))
        passed.append(PassedOver(sealed.body.id, why))
    told = ", ".join(f"{over.point} ({over.why})" for over in passed[:5])
    raise NotFound(
        f"No point of {system} is clean: {told}.",
        untouched="Nothing was changed.",
        next_step="Look at them with `resurgam points` and `resurgam show POINT`; `--to POINT` takes one all the same.",
    )


def unfit(sealed: Sealed, state: PointState) -> str:
    """Why a point is not chosen by itself; empty where it may be."""
    if state.damaged is not None:
        return "its history cannot be believed"
    if state.quarantined is not None:
        return f"quarantined since {state.quarantined}"
    if broken := sealed.body.findings.get(Severity.BROKEN, 0):
        return f"{broken} broken invariants or items"
    if state.verdict is not None and state.proven is None:
        return state.word
    return ""


def _named(repository: Repository, sealed: Sealed) -> Choice:
    state = repository.state(sealed)
    if state.damaged is not None:
        raise IntegrityError(
            f"The history of point {sealed.body.id} cannot be believed: {state.damaged}",
            untouched="Nothing was changed.",
            next_step="Run `resurgam vault check`, or take another point.",
        )
    if state.quarantined is not None:
        raise NotProven(
            f"Point {sealed.body.id} is quarantined since {state.quarantined}.",
            untouched="Nothing was changed.",
            next_step="`resurgam recover` without --to takes the newest clean point.",
        )
    return Choice(sealed, state, ())
