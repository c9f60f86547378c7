"""All that a point is, in words: each fold tells its own, and nothing is stored but records (P2)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from resurgam.model.point import PointBody
from resurgam.model.verdict import Judgement
from resurgam.vault.check import EVERYTHING, Check
from resurgam.vault.history import Hold, Life, PointState
from resurgam.vault.lives import checked, lives, standings, words
from resurgam.vault.records import RecordType
from resurgam.vault.roles import Shredded
from resurgam.vault.signing import Role
from tests.audited import Audited
from tests.support import replaced


@pytest.fixture
def world(tmp_path: Path) -> Audited:
    return Audited(str(tmp_path))


def test_a_point_is_all_that_its_records_say(world: Audited) -> None:
    """Sealed and proven; the other one quarantined as well, until that is lifted."""
    repository = world.repository()
    assert [one.word for one in lives(repository, world.two)] == ["sealed", "proven"]
    assert [one.word for one in lives(repository, world.one)] == ["sealed", "proven", "quarantined"]
    world.quarantine(world.one, lifted=True)
    assert [one.word for one in lives(repository, world.one)] == ["sealed", "proven"]
    proven = lives(repository, world.one)[1]
    assert words([proven]) == f"proven {proven.since[:10]}"
    world.say(RecordType.VERDICT, world.one, {"judgement": 4, "word": "different"}, Role.VERIFIER)
    assert [one.word for one in lives(repository, world.one)] == ["sealed"]


def test_every_word_has_its_time() -> None:
    """A pure function of what the folds say."""
    body = msgspec.convert(
        {
            "format": 1,
            "id": "0" * 16,
            "system": "s",
            "started": "",
            "sealed": "2026-01-01T00:00:00.000000Z",
            "skew": 0.0,
            "freeze": 0.0,
            "freezes": {},
            "snapshots": [],
            "particulars": "",
            "findings": {},
            "host_can_read": False,
            "resurgam": "0",
            "answers": "ab",
            "evidence": "evidence",
        },
        type=PointBody,
    )
    state = PointState(
        life=Life.SEALED,
        verdict=Judgement.IDENTICAL,
        proven="2026-01-03",
        reference="2026-01-04",
        quarantined="2026-01-05",
        promoted="2026-01-06",
        unverified="2026-01-06",
        holds=(Hold(id="a", owner="legal", reason="case 118"), Hold(id="b", owner="ops", reason="x", until=10.0)),
    )
    shredded = {"evidence": Shredded("2026-01-08", "request 7"), "other": Shredded("2026-01-09")}
    found = standings(body, state, shredded=shredded, expired="2026-01-07", checked="2026-01-02", now=11.0)
    assert [(one.word, one.since[:10], one.what) for one in found] == [
        ("sealed", "2026-01-01", ""),
        ("checked", "2026-01-02", ""),
        ("proven", "2026-01-03", ""),
        ("reference", "2026-01-04", ""),
        ("quarantined", "2026-01-05", ""),
        ("held", "", "by legal: case 118"),
        ("promoted", "2026-01-06", "without a passing verdict"),
        ("expired", "2026-01-07", ""),
        ("shredded", "2026-01-08", "evidence: request 7"),
    ]
    assert [one.word for one in standings(body, state, shredded={}, now=9.0)].count("held") == 2


def test_a_history_that_cannot_be_believed_says_only_that(world: Audited) -> None:
    """P12: nothing else is known of it."""
    store = replaced(world.store, world.verdict_of(world.one), b"rubbish")
    assert [one.word for one in lives(world.repository(store), world.one)] == ["sealed", "not known"]


def test_a_point_is_checked_when_all_that_it_needs_was_read(world: Audited) -> None:
    """P9: by a verifier, pruner or auditor; and who cannot find its chunks cannot tell."""
    repository = world.repository()
    assert checked(repository, world.one) == ""
    before = world.clock.now()
    Check(repository, EVERYTHING, world.clock, remember=True).run()
    since = checked(world.repository(), world.one)
    assert since[:19] >= before.strftime("%Y-%m-%dT%H:%M:%S")
    assert "checked" in [one.word for one in lives(world.repository(), world.one, checks=True)]
    assert checked(world.repository(keys=world.auditor), world.one) == ""
