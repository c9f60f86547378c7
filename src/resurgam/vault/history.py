"""How a recovery point stands: a fold over the records that name it (P2). Nothing is stored but the records; audit and
state are the same thing.

Records are taken in the order of the log when every one of them has a number there, else by their writers' clocks; what
is the same in both is ordered by the record itself, so that any two readers come to the same state.

A point is *proven* by a passing verdict until a later one says that it behaves differently. A later inconclusive verdict
takes nothing back: it saw nothing.

Holds stand side by side, each under an id of its own. One ends when a record lifts it, whichever clock that bears, or when the
store's time has passed its ``until``; the fold keeps no clock, so that :meth:`Hold.stands` is asked with one.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from resurgam.model.codec import to_json
from resurgam.model.verdict import Judgement
from resurgam.vault.records import Record, RecordType
from resurgam.vault.signing import broken


class Life(StrEnum):
    """Whether there is a point under this name."""

    NONE = "none"  # nobody has reserved the name, as far as these records tell
    LEASED = "leased"  # a capture is under way, or was stopped
    REVOKED = "revoked"  # it was stopped, and its name is spent
    SEALED = "sealed"  # the point exists (P1)


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a hold: the point stays, for ``reason``, says ``owner``, until ``until`` (seconds since 1970, by the store's
    clock; None is until somebody lifts it). A later one of the same ``id`` that is ``lifted`` ends it."""

    id: str
    reason: str = ""
    owner: str = ""
    until: float | None = None
    lifted: bool = False

    def stands(self, now: float) -> bool:
        """Whether it holds at ``now``, the store's time."""
        return self.until is None or now < self.until


class Lifted(msgspec.Struct, frozen=True):
    """A hold, and the record that lifted it."""

    hold: Hold
    by: Hold


class PointState(msgspec.Struct, frozen=True, kw_only=True):
    """How a point stands. Times are those of the records, None where there is none."""

    life: Life = Life.NONE
    digest: str | None = None
    verdict: Judgement | None = None  # the latest
    proven: str | None = None  # since when a passing verdict stands
    once_proven: str | None = None  # when one was first given; what was said later does not take that back
    baseline: str | None = None
    reference: str | None = None
    quarantined: str | None = None
    promoted: str | None = None
    unverified: str | None = None  # since when it is known that it went live without a passing verdict; never forgotten
    holds: tuple[Hold, ...] = ()  # that nobody lifted, by id
    lifted: tuple[Lifted, ...] = ()  # the others
    damaged: str | None = None  # why its history cannot be believed; then nothing else of it is known

    @property
    def word(self) -> str:
        """How it was judged, for people."""
        if self.damaged is not None:
            return "not known"
        word = self.verdict.word if self.verdict is not None else "not judged"
        return word if self.unverified is None else f"{word}, PROMOTED UNVERIFIED"

    @property
    def sealed(self) -> bool:
        """Whether the point exists."""
        return self.life is Life.SEALED

    @property
    def may_be_promoted(self) -> bool:
        """Sealed, proven (P4), and not quarantined."""
        return self.sealed and self.proven is not None and self.quarantined is None


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a quarantine record; ``lifted`` ends what an earlier one began."""

    reason: str = ""
    lifted: bool = False


class _Promoted(msgspec.Struct, frozen=True):
    """So much of a promotion's body as the fold needs: ``unverified`` is how it had been judged, empty where it had passed."""

    unverified: str = ""


class _Judged(msgspec.Struct, frozen=True):
    """So much of a verdict's body as the fold needs: ``judgement`` is a number of :class:`Judgement`."""

    judgement: Judgement


def fold(records: Iterable[tuple[int | None, Record]]) -> PointState:
    """The state of one point from all records about it, each with its number in the log, or None.

    Raises IntegrityError when they do not agree on what the point is.
    """
    known = list(records)
    _require_one_subject([record for _, record in known])
    state = PointState()
    for record in _ordered(known):
        state = _after(state, record)
    holds, lifted = _holds(record for _, record in known)
    return _with(state, holds=holds, lifted=lifted)


def _holds(records: Iterable[Record]) -> tuple[tuple[Hold, ...], tuple[Lifted, ...]]:
    """The holds that nobody lifted, and the others. Their order says nothing: an id is lifted or it is not."""
    said = sorted(
        (r.read(Hold) for r in records if r.type is RecordType.HOLD), key=lambda hold: (hold.id, to_json(hold))
    )
    lifts = {hold.id: hold for hold in said if hold.lifted}
    holds = [hold for hold in said if not hold.lifted]
    lifted = tuple(Lifted(hold, lifts[hold.id]) for hold in holds if hold.id in lifts)
    return tuple(hold for hold in holds if hold.id not in lifts), lifted


def _ordered(records: list[tuple[int | None, Record]]) -> list[Record]:
    numbered = [(number, record) for number, record in records if number is not None]
    if len(numbered) == len(records):
        return [record for _, record in sorted(numbered, key=lambda pair: (pair[0], to_json(pair[1])))]
    return sorted((record for _, record in records), key=lambda record: (record.made, to_json(record)))


def _after(state: PointState, record: Record) -> PointState:
    made = record.made
    match record.type:
        case RecordType.POINT:
            return _with(state, life=Life.SEALED, digest=record.subject.digest)
        case RecordType.REVOCATION:
            return _with(state, life=Life.REVOKED)
        case RecordType.LEASE:
            return _with(state, life=Life.LEASED) if state.life is Life.NONE else state
        case RecordType.VERDICT:
            return _judged(state, record.read(_Judged).judgement, made)
        case RecordType.BASELINE:
            return _with(state, baseline=made)
        case RecordType.REFERENCE:
            return _with(state, reference=made)
        case RecordType.QUARANTINE:
            return _with(state, quarantined=None if record.read(Quarantined).lifted else made)
        case RecordType.PROMOTION:
            unverified = made if record.read(_Promoted).unverified else state.unverified
            return _with(state, promoted=made, unverified=unverified)
        case RecordType.UNDO:
            return _with(state, promoted=None)
        case _:
            return state  # the others say nothing of how the point stands


def _judged(state: PointState, judgement: Judgement, made: str) -> PointState:
    if judgement.passes:
        return _with(state, verdict=judgement, proven=made, once_proven=state.once_proven or made)
    if judgement is Judgement.DIFFERENT:
        return _with(state, verdict=judgement, proven=None)
    return _with(state, verdict=judgement)


def _with(state: PointState, **changes: object) -> PointState:
    return msgspec.structs.replace(state, **changes)


def _require_one_subject(records: list[Record]) -> None:
    """One name; one digest among all that speak of the sealed point; and not both sealed and revoked, since one create-only
    put decides between them."""
    names = {record.subject.name for record in records}
    if len(names) > 1:
        raise broken(f"The history of {min(names)}", f"a record in it is about {max(names)}")
    about = [record for record in records if record.type not in {RecordType.LEASE, RecordType.REVOCATION}]
    if len({record.subject.digest for record in about}) > 1:
        raise broken(f"The history of {min(names)}", "its records name different points by one name")
    lives = {record.type for record in records} & {RecordType.POINT, RecordType.REVOCATION}
    if len(lives) > 1:
        raise broken(f"The history of {min(names)}", "it is both sealed and revoked")
