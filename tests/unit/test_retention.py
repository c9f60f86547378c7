"""Which points stay, and why: histories that people have read, and each rule at its edge. The attacks are P9's and P12's."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from resurgam.model.system import Retention
from resurgam.vault.history import Hold
from resurgam.vault.retention import PointFacts, PolicyInForce, Standing, decide
from resurgam.vault.retention_words import at, changes, span, told, weakens
from tests.unit.retention_histories import DAY, FOLDER, HISTORIES, HOUR, History, every, point, policy, shown, when

NOW = when("2026-03-09 04:00")


def kept(retention: Retention, points: list[PointFacts], now: float = NOW) -> list[str]:
    return [d.point for d in decide([policy(retention)], points, now) if d.keep]


def why(retention: Retention, points: list[PointFacts], now: float = NOW) -> dict[str, str]:
    return {d.point: d.why for d in decide([policy(retention)], points, now)}


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
def test_what_becomes_of_points_is_what_people_agreed_to(history: Callable[[], History]) -> None:
    """Each file of ``tests/unit/retention`` says *kept and why*; a change of it is made on purpose."""
    file = FOLDER / f"{history.__name__}.txt"
    assert shown(history) == file.read_text(encoding="utf-8"), "python -m tests.unit.retention_histories"


def test_every_file_is_of_a_history() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == {history.__name__ for history in HISTORIES}


def test_no_policy_lets_nothing_expire() -> None:
    """P12: nobody has said how long, so nothing goes; also where all that was said has ended."""
    points = every(DAY, 9, "2026-03-09 02:00", lambda _: False)
    assert all(d.keep for d in decide([], points, NOW))
    assert all(d.keep for d in decide([policy(Retention(last=1), until=NOW - 1)], points, NOW))
    assert all(d.keep for d in decide([policy(Retention(last=1), system="another")], points, NOW))


@pytest.mark.parametrize(
    "retention", [Retention(), Retention(at_least=5), Retention(keep_tags=("a",)), Retention(never=True, last=1)]
)
def test_a_policy_without_a_rule_lets_nothing_expire(retention: Retention) -> None:
    """A floor or a tag says what stays, not that the rest goes."""
    assert len(kept(retention, every(DAY, 9, "2026-03-09 02:00", lambda _: False))) == 9


def test_a_window_ends_to_the_second_by_the_store_s_time() -> None:
    old, new = point(1, NOW - 10 * DAY), point(2, NOW)
    rules = Retention(window=10 * DAY)
    assert kept(rules, [old, new], NOW) == ["p002"]
    assert kept(rules, [old, new], NOW - 0.001) == ["p001", "p002"]
    assert why(rules, [old, new], NOW - 0.001)["p001"] == "younger than 10 d"


def test_the_first_of_a_day_stays_and_not_the_last() -> None:
    """So whoever seals later on the same day pushes nothing out."""
    points = [point(n, when("2026-03-08 01:00") + n * HOUR) for n in range(4)] + [point(9, NOW)]
    assert kept(Retention(daily=2), points) == ["p000", "p009"]


def test_days_without_a_point_count_for_nothing() -> None:
    """A system that was captured last a month ago keeps what it has."""
    points = every(DAY, 5, "2026-02-01 02:00", lambda _: False)
    assert len(kept(Retention(daily=5), points)) == 5


@pytest.mark.parametrize("standing", list(Standing))
def test_at_least_so_many_of_each_standing_stay(standing: Standing) -> None:
    points = [msgspec.structs.replace(p, standing=standing) for p in every(DAY, 9, "2026-03-09 02:00", lambda _: False)]
    noise = [point(50 + n, NOW + n) for n in range(9)]
    assert set(kept(Retention(window=1.0, at_least=4), points + noise)) >= (
        {"p005", "p006", "p007", "p008"} if standing else {"p055", "p056", "p057", "p058"}
    )


def test_fakes_push_out_no_point_that_was_proven() -> None:
    """P9: a stolen capture key seals as many as it likes, on any day, before and after; what was proven is decided as before."""
    honest = every(DAY, 30, "2026-03-08 02:00", lambda n: n % 3 == 0)
    rules = Retention(last=3, hourly=2, daily=5, weekly=3, monthly=2, yearly=1, at_least=4)
    fakes = [point(100 + n, NOW - 40 * DAY + n * HOUR) for n in range(1000)]
    before = {p for p in kept(rules, honest) if int(p[1:]) % 3 == 0}
    assert before <= set(kept(rules, honest + fakes))


def test_a_stolen_verifier_pushes_out_nothing_by_its_word() -> None:
    """What was proven once stands above what never was, whatever is said of it later."""
    points = every(DAY, 9, "2026-03-08 02:00", lambda n: n < 4)
    doubted = [
        msgspec.structs.replace(p, standing=Standing.ONCE_PROVEN) if p.standing is Standing.PROVEN else p
        for p in points
    ]
    rules = Retention(last=4)
    assert (
        set(kept(rules, points))
        == set(kept(rules, doubted))
        == {"p000", "p001", "p002", "p003", "p005", "p006", "p007", "p008"}
    )


def test_a_hold_outlives_every_rule_and_ends_by_the_store_s_time() -> None:
    hold = Hold(id="c" * 16, reason="case 118", owner="legal", until=NOW)
    points = [point(1, NOW - 900 * DAY, holds=(hold,)), *every(DAY, 9, "2026-03-09 02:00", lambda _: True)]
    assert "p001" in kept(Retention(last=1), points, NOW - 1)
    assert why(Retention(last=1), points, NOW - 1)["p001"] == "held by legal: case 118 until 2026-03-09 04:00"
    assert "p001" not in kept(Retention(last=1), points, NOW)


def test_a_replaced_policy_keeps_until_its_cooling_is_over() -> None:
    """A weaker policy expires nothing that the one before keeps, until the store's time has passed its end."""
    points = every(DAY, 9, "2026-03-09 02:00", lambda _: True)
    rules = [policy(Retention(daily=9), 1, until=NOW + 60), policy(Retention(last=1), 2)]
    assert all(d.keep for d in decide(rules, points, NOW + 59))
    assert sum(d.keep for d in decide(rules, points, NOW + 60)) == 1


def test_when_a_point_may_expire_at_the_earliest() -> None:
    """The latest of what keeps it; never, where somebody must decide; and so it comes."""
    points = every(DAY, 5, "2026-03-09 02:00", lambda _: False)
    rules = Retention(daily=5, window=DAY)
    by = {d.point: d for d in decide([policy(rules)], points, NOW)}
    assert by["p004"].not_before == when("2026-03-14")  # five more days must begin, the first of them tomorrow
    assert by["p000"].not_before == when("2026-03-10")
    assert {d.not_before for d in decide([], points, NOW)} == {None}
    assert decide([policy(Retention(last=1))], points, NOW)[0].not_before == 0.0
    coming = [point(10 + n, when("2026-03-10") + n * DAY) for n in range(5)]
    for count in range(5):
        now = coming[count].received
        assert ("p004" in kept(rules, points + coming[: count + 1], now)) is (count < 4), count


def test_times_and_durations_in_words() -> None:
    assert at(when("2026-03-09")) == "2026-03-09"
    assert at(when("2026-03-09 04:00") - 0.5) == "2026-03-09 04:00", "never earlier than it is"
    assert [span(s) for s in (14 * DAY, 36 * HOUR, 90 * 60, 1.5)] == ["14 d", "36 h", "90 min", "1.5 s"]
    assert (
        told(Retention(last=2, window=DAY, keep_tags=("a",)))
        == "last 2, at least 1, younger than 1 d, tag a; cooling 14 d"
    )
    assert at(1e18).startswith("9999")


FULL = Retention(last=5, hourly=5, daily=5, weekly=5, monthly=5, yearly=5, window=DAY, at_least=5, keep_tags=("a", "b"))


@pytest.mark.parametrize(
    "less",
    [{rule: 4} for rule in ("last", "hourly", "daily", "weekly", "monthly", "yearly", "at_least")]
    + [{"window": HOUR}, {"window": None}, {"keep_tags": ("a", "c")}, {"cooling": DAY}],
    ids=str,
)
def test_less_of_any_rule_is_weaker_and_more_is_not(less: dict[str, object]) -> None:
    """Four eyes are asked for what weakens, so no rule may be forgotten."""
    weak = msgspec.structs.replace(FULL, **less)
    assert weakens(FULL, weak)
    assert weakens(Retention(never=True), FULL)
    assert weakens(Retention(), FULL), "before a policy nothing expired"
    assert not weakens(FULL, FULL)
    assert not weakens(FULL, Retention(never=True))
    (rule,) = less
    assert [change.rule for change in changes(FULL, weak) if change.weaker] == [rule]


def test_every_rule_is_told_and_compared() -> None:
    """A rule that is added must be added to what weakens, too."""
    named = {change.rule for change in changes(Retention(never=True), msgspec.structs.replace(FULL, cooling=DAY))}
    assert named - {"expires"} == {field.name for field in msgspec.structs.fields(Retention)} - {"never"}


def test_points_of_the_future_and_of_no_time_are_no_trouble() -> None:
    """A store's clock may have been anywhere."""
    points = [point(1, -5.0), point(2, 1e15), point(3, NOW)]
    rules = Retention(hourly=3, daily=3, weekly=3, monthly=3, yearly=3, window=1.0)
    assert len(kept(rules, points)) == 3


def test_policies_are_of_one_system() -> None:
    rules = [PolicyInForce(serial=1, system="desk", retention=Retention(last=1))]
    points = [*every(DAY, 3, "2026-03-09 02:00", lambda _: True)]
    theirs = [msgspec.structs.replace(p, system="mill") for p in points]
    assert sum(d.keep for d in decide(rules, points + theirs, NOW)) == 1 + 3
