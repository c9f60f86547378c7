"""State is a fold over records (P2)."""

from __future__ import annotations

from itertools import permutations

import pytest

from resurgam.errors import IntegrityError
from resurgam.model.codec import to_json
from resurgam.model.verdict import Judgement
from resurgam.vault.history import Life, PointState, fold
from resurgam.vault.records import Record, RecordType, Subject
from resurgam.vault.signing import Role

DIGEST = "ab" * 32


def said(type: RecordType, minute: int, body: object = None, *, digest: str = DIGEST, name: str = "point/p1") -> Record:
    """A record as ``read_record`` gives it; ``minute`` orders."""
    return Record(
        type=type,
        subject=Subject(name, digest),
        made=f"2026-03-01T12:{minute:02d}:00.000000Z",
        by=Role.ROOT,
        signer="00",
        resurgam="0",
        body=to_json(body if body is not None else {}),
    )


def verdict(minute: int, judgement: Judgement) -> Record:
    return said(RecordType.VERDICT, minute, {"judgement": judgement, "other": "fields"})


def unnumbered(*records: Record) -> list[tuple[int | None, Record]]:
    return [(None, record) for record in records]


LEASE = said(RecordType.LEASE, 0, digest="00" * 32)
POINT = said(RecordType.POINT, 1)


def test_nothing_is_no_point() -> None:
    assert fold([]) == PointState()
    assert not fold([]).sealed


def test_the_life_of_a_name() -> None:
    """P1: leased is not sealed; a revoked name is spent."""
    assert fold(unnumbered(LEASE)).life is Life.LEASED
    assert fold(unnumbered(LEASE, POINT)).sealed
    assert fold(unnumbered(LEASE, said(RecordType.REVOCATION, 2, digest="00" * 32))).life is Life.REVOKED
    assert fold(unnumbered(said(RecordType.LEASE, 9), POINT)).sealed, "a clock that went back takes no point away"


@pytest.mark.parametrize(
    ("verdicts", "proven"),
    [
        ([], False),
        ([Judgement.IDENTICAL], True),
        ([Judgement.EQUIVALENT], True),
        ([Judgement.INCONCLUSIVE], False),
        ([Judgement.DIFFERENT], False),
        ([Judgement.IDENTICAL, Judgement.DIFFERENT], False),
        ([Judgement.DIFFERENT, Judgement.IDENTICAL], True),
        ([Judgement.IDENTICAL, Judgement.INCONCLUSIVE], True),
        ([Judgement.IDENTICAL, Judgement.DIFFERENT, Judgement.INCONCLUSIVE], False),
    ],
)
def test_proven_until_a_later_verdict_differs(verdicts: list[Judgement], proven: bool) -> None:
    """P4: only a passing verdict proves, and what was seen to differ is no longer proven."""
    records = unnumbered(POINT, *(verdict(n + 2, judgement) for n, judgement in enumerate(verdicts)))
    state = fold(records)
    assert (state.proven is not None) is proven
    assert state.may_be_promoted is proven
    assert state.verdict is (verdicts[-1] if verdicts else None)


def test_verdict_without_a_point_promotes_nothing() -> None:
    assert not fold(unnumbered(verdict(2, Judgement.IDENTICAL))).may_be_promoted


def test_quarantine_holds_until_lifted() -> None:
    quarantine = said(RecordType.QUARANTINE, 3, {"reason": "poisoned"})
    lifted = said(RecordType.QUARANTINE, 4, {"reason": "false alarm", "lifted": True})
    proven = unnumbered(POINT, verdict(2, Judgement.IDENTICAL))
    assert not fold([*proven, (None, quarantine)]).may_be_promoted
    assert fold([*proven, (None, quarantine), (None, lifted)]).may_be_promoted


def test_promotion_and_its_undo() -> None:
    promoted, undone = said(RecordType.PROMOTION, 3), said(RecordType.UNDO, 4)
    assert fold(unnumbered(POINT, promoted)).promoted == promoted.made
    assert fold(unnumbered(POINT, promoted, undone)).promoted is None
    assert fold(unnumbered(POINT, promoted, undone, said(RecordType.PROMOTION, 5))).promoted


def test_reference_and_baseline_are_kept() -> None:
    state = fold(unnumbered(POINT, said(RecordType.BASELINE, 2), said(RecordType.REFERENCE, 3)))
    assert (state.baseline, state.reference) == (said(RecordType.BASELINE, 2).made, said(RecordType.REFERENCE, 3).made)


def test_any_reader_comes_to_the_same_state() -> None:
    """Listings have no order of their own; ties in time are broken by the records themselves."""
    records = unnumbered(
        POINT,
        verdict(2, Judgement.IDENTICAL),
        verdict(2, Judgement.DIFFERENT),
        said(RecordType.PROMOTION, 2),
        said(RecordType.UNDO, 2),
    )
    assert len({to_json(fold(order)) for order in permutations(records)}) == 1


def test_the_log_orders_before_clocks() -> None:
    """A writer's clock may go back; the log does not. One record without a number, and clocks decide for all."""
    good, bad = verdict(5, Judgement.IDENTICAL), verdict(4, Judgement.DIFFERENT)
    assert fold([(1, POINT), (2, good), (3, bad)]).proven is None
    assert fold([(1, POINT), (2, good), (None, bad)]).proven == good.made
    assert fold([(10, POINT), (12, bad), (11, good)]).proven is None


def test_records_must_be_about_one_point() -> None:
    """A record of another point under this name is refused, though each is well signed."""
    with pytest.raises(IntegrityError, match="a record in it is about"):
        fold(unnumbered(POINT, said(RecordType.VERDICT, 2, name="point/p2")))
    with pytest.raises(IntegrityError, match="different points"):
        fold(unnumbered(POINT, said(RecordType.VERDICT, 2, {"judgement": 1}, digest="cd" * 32)))
    with pytest.raises(IntegrityError, match="both sealed and revoked"):
        fold(unnumbered(POINT, said(RecordType.REVOCATION, 2)))


def test_verdict_of_no_known_judgement_is_refused() -> None:
    with pytest.raises(IntegrityError):
        fold(unnumbered(POINT, said(RecordType.VERDICT, 2, {"judgement": 9})))
