"""What holds of every decision, over drawn histories and policies, and beside an oracle that applies each rule three times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from resurgam.model.system import Retention
from resurgam.vault.history import Hold
from resurgam.vault.retention import PointFacts, PolicyInForce, Standing, decide
from resurgam.vault.retention_words import weakens

START, HOUR = 1_767_225_600.0 - 40 * 86400, 3600.0  # forty days around the new year of 2026
SPAN = 80 * 24 * 4  # quarters of an hour
NOW = START + SPAN * HOUR / 4

few = st.integers(0, 4)
retentions = st.builds(
    Retention,
    last=few, hourly=few, daily=few, weekly=few, monthly=few, yearly=st.integers(0, 2),
    window=st.none() | st.sampled_from([HOUR, 86400.0, 20 * 86400.0]),
    at_least=st.integers(1, 4),
    keep_tags=st.sampled_from([(), ("a",), ("a", "b")]),
    never=st.sampled_from([False, False, False, True]),
    cooling=st.sampled_from([HOUR, 86400.0]),
)  # fmt: skip
holds = st.lists(st.builds(Hold, id=st.just("h"), until=st.none() | st.floats(START, NOW * 1.01)), max_size=1).map(
    tuple
)
facts = st.builds(
    PointFacts,
    point=st.uuids().map(str),
    system=st.sampled_from(["one", "two"]),
    received=st.integers(0, SPAN).map(lambda n: START + n * HOUR / 4),
    standing=st.sampled_from(Standing),
    tags=st.sampled_from([(), (), ("a",), ("b", "c")]),
    reference=st.sampled_from([False, False, False, True]),
    promoted=st.sampled_from(["", "", "", "2026-01-01T00:00:00Z"]),
    damaged=st.sampled_from(["", "", "", "torn"]),
    holds=holds,
)
histories = st.lists(facts, max_size=40, unique_by=lambda p: p.point)


@st.composite
def in_force(draw: st.DrawFn) -> list[PolicyInForce]:
    """A newest policy, and some that are cooling, or have cooled."""
    ends = draw(st.lists(st.floats(NOW - 86400, NOW + 86400), max_size=2))
    rows = [*ends, None]
    return [
        PolicyInForce(serial=n + 1, system=system, retention=draw(retentions), until=until)
        for system in ("one", "two")
        for n, until in enumerate(rows)
    ]


def kept(policies: Sequence[PolicyInForce], points: Sequence[PointFacts], now: float = NOW) -> set[str]:
    return {decision.point for decision in decide(policies, points, now) if decision.keep}


@given(in_force(), histories)
def test_the_oracle_agrees(policies: list[PolicyInForce], points: list[PointFacts]) -> None:
    """Every rule over all points, over those ever proven and over those that are, and the union of all that any policy keeps."""
    assert kept(policies, points) == _oracle(policies, points, NOW)


@given(in_force(), histories, histories)
def test_fakes_make_no_proven_point_expire(
    policies: list[PolicyInForce], points: list[PointFacts], drawn: list[PointFacts]
) -> None:
    """P9: whatever nobody proved, of whatever time, tag and number, takes no place of what was."""
    known = {point.point for point in points}
    fakes = [
        msgspec.structs.replace(p, standing=Standing.SEALED, reference=False, promoted="")
        for p in drawn
        if p.point not in known
    ]
    proven = {point.point for point in points if point.standing > Standing.SEALED}
    assert kept(policies, points) & proven <= kept(policies, [*points, *fakes])


@given(in_force(), histories, st.floats(0, 10 * 86400))
def test_time_alone_brings_nothing_back(policies: list[PolicyInForce], points: list[PointFacts], later: float) -> None:
    """What has expired is not kept later on, while nothing else happens; so an early clock errs on the side of keeping."""
    assert kept(policies, points, NOW + later) <= kept(policies, points, NOW)


@given(in_force(), histories)
def test_what_stays_stays_when_the_rest_is_gone(policies: list[PolicyInForce], points: list[PointFacts]) -> None:
    """To expire twice is to expire once."""
    once = kept(policies, points)
    assert kept(policies, [point for point in points if point.point in once]) == once


@given(in_force(), histories, st.randoms(use_true_random=False))
def test_the_order_of_what_is_given_is_of_no_account(
    policies: list[PolicyInForce], points: list[PointFacts], random: object
) -> None:
    """Reasons and all."""
    shuffled, mixed = list(points), list(policies)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    random.shuffle(mixed)  # type: ignore[attr-defined]
    first, second = decide(policies, points, NOW), decide(mixed, shuffled, NOW)
    assert [(d.point, d.keep, sorted(r.words for r in d.reasons)) for d in first] == [
        (d.point, d.keep, sorted(r.words for r in d.reasons)) for d in second
    ]


@given(in_force(), histories)
def test_the_floor_and_what_no_policy_takes_away(policies: list[PolicyInForce], points: list[PointFacts]) -> None:
    """``at_least`` of each standing; held, newest, newest proven, reference, live, damaged."""
    stay = kept(policies, points)
    for system in ("one", "two"):
        line = sorted((p for p in points if p.system == system), key=lambda p: (p.received, p.point))
        (newest,) = (p.retention for p in policies if p.system == system and p.until is None)
        for standing in Standing:
            among = [p.point for p in line if p.standing >= standing]
            assert set(among[-newest.at_least :]) <= stay
        for p in line:
            if p.reference or p.promoted or p.damaged or any(hold.stands(NOW) for hold in p.holds):
                assert p.point in stay


@given(retentions, retentions, histories)
def test_what_is_not_weaker_keeps_no_less(before: Retention, after: Retention, points: list[PointFacts]) -> None:
    """The question that decides on four eyes: where it says *not weaker*, no point of any history is lost."""
    old = [PolicyInForce(serial=1, system=system, retention=before) for system in ("one", "two")]
    new = [PolicyInForce(serial=2, system=system, retention=after) for system in ("one", "two")]
    more = msgspec.structs.replace(
        after,
        **{rule: max(getattr(before, rule), getattr(after, rule)) for rule in (*BY_COUNT, "at_least", "cooling")},
        window=max(before.window or 0.0, after.window or 0.0) or None,
        keep_tags=tuple({*before.keep_tags, *after.keep_tags}),
        never=before.expires_nothing or after.never,
    )
    assert not weakens(before, more)
    assert kept(old, points) <= kept([msgspec.structs.replace(p, retention=more) for p in new], points)
    if not weakens(before, after):
        assert kept(old, points) <= kept(new, points)


@settings(max_examples=200)
@given(in_force(), histories, histories, st.floats(0, 90 * 86400))
def test_no_point_expires_before_it_was_said_to(
    policies: list[PolicyInForce], points: list[PointFacts], coming: list[PointFacts], later: float
) -> None:
    """However many newer points come, as long as nobody decides anything and no verdict is given."""
    known, now = {point.point for point in points}, NOW + later
    new = [
        msgspec.structs.replace(
            p, standing=Standing.SEALED, received=NOW + (p.received - START) / (NOW - START) * later
        )
        for p in coming
        if p.point not in known
    ]
    gone = {d.point for d in decide(policies, [*points, *new], now) if not d.keep}
    for decision in decide(policies, points, NOW):
        if decision.point in gone:
            assert decision.not_before is not None
            assert decision.not_before <= now


BY_COUNT = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
BUCKETS: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda t: (t.date(), t.hour),
    "daily": lambda t: t.date(),
    "weekly": lambda t: t.isocalendar()[:2],
    "monthly": lambda t: (t.year, t.month),
    "yearly": lambda t: t.year,
}


def _oracle(policies: Sequence[PolicyInForce], points: Sequence[PointFacts], now: float) -> set[str]:
    stay: set[str] = set()
    for system in {p.system for p in points}:
        line = sorted((p for p in points if p.system == system), key=lambda p: (p.received, p.point))
        proven = [p for p in line if p.standing == Standing.PROVEN]
        stay |= {p.point for p in (*line[-1:], *proven[-1:])}
        stay |= {p.point for p in line if p.reference or p.promoted or p.damaged}
        stay |= {p.point for p in line for h in p.holds if h.until is None or h.until > now}
        for policy in policies:
            if policy.system == system and (policy.until is None or policy.until > now):
                for least in Standing:
                    stay |= _naive(policy.retention, [p for p in line if p.standing >= least], now)
    return stay


def _naive(rules: Retention, line: Sequence[PointFacts], now: float) -> set[str]:
    counts = [getattr(rules, rule) for rule in BY_COUNT]
    if rules.never or (not any(counts) and rules.window is None):
        return {p.point for p in line}
    stay = [*line[len(line) - min(rules.last, len(line)) :], *line[-rules.at_least :]]
    stay += [p for p in line if {*p.tags} & {*rules.keep_tags}]
    stay += [p for p in line if rules.window is not None and p.received > now - rules.window]
    for rule, bucket in BUCKETS.items():
        seen: dict[object, PointFacts] = {}
        for p in line:
            seen.setdefault(bucket(datetime.fromtimestamp(p.received, UTC)), p)
        firsts = list(seen.values())
        stay += firsts[len(firsts) - min(getattr(rules, rule), len(firsts)) :]
    return {p.point for p in stay}
