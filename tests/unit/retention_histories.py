"""Histories of points, and what becomes of them: kept as text in ``tests/unit/retention`` for people to read and to agree with.

Made again, after a rule was meant to change, by ``python -m tests.unit.retention_histories``; the difference is the review.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from resurgam.model.system import Retention
from resurgam.vault.history import Hold
from resurgam.vault.retention import PointFacts, PolicyInForce, Standing, decide
from resurgam.vault.retention_words import at, told

FOLDER = Path(__file__).parent / "retention"
HOUR, DAY = 3600.0, 86400.0
History = tuple[list[PolicyInForce], list[PointFacts], float]


def when(text: str) -> float:
    """Seconds since 1970 of a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def policy(retention: Retention, serial: int = 1, until: float | None = None, system: str = "desk") -> PolicyInForce:
    return PolicyInForce(serial=serial, system=system, retention=retention, until=until)


def point(number: int, received: float, standing: Standing = Standing.SEALED, **more: object) -> PointFacts:
    made = PointFacts(point=f"p{number:03d}", system="desk", received=received, standing=standing)
    return msgspec.structs.replace(made, **more)


def every(step: float, count: int, end: str, proven: Callable[[int], bool]) -> list[PointFacts]:
    """``count`` points, one each ``step`` seconds, the last at ``end``; ``proven`` by their number from the oldest, 0."""
    last = when(end)
    times = [last - step * (count - 1 - number) for number in range(count)]
    return [point(n, t, Standing.PROVEN if proven(n) else Standing.SEALED) for n, t in enumerate(times)]


def usual() -> History:
    """Four points a day for five weeks, the one of midnight proven each night."""
    rules = Retention(last=4, daily=7, weekly=4, monthly=2, window=DAY, at_least=3)
    return [policy(rules)], every(6 * HOUR, 140, "2026-03-09 18:00", lambda n: n % 4 == 0), when("2026-03-09 20:00")


def sealed_only() -> History:
    """Nobody has proven anything yet."""
    return (
        [policy(Retention(last=2, hourly=3, daily=2))],
        every(HOUR / 2, 60, "2026-03-09 18:00", lambda _: False),
        when("2026-03-09 18:10"),
    )


def flooded() -> History:
    """A stolen capture key seals a point each minute, after five honest nights."""
    honest = every(DAY, 5, "2026-03-08 02:00", lambda _: True)
    fakes = [point(100 + n, when("2026-03-08 03:00") + 60 * n) for n in range(8)]
    return [policy(Retention(last=3, daily=3))], [*honest, *fakes], when("2026-03-08 04:00")


def backfilled() -> History:
    """A stolen capture key seals one early each day, before the honest one; those are proven, and it is not."""
    honest = every(DAY, 6, "2026-03-08 02:00", lambda n: n < 5)
    fakes = [point(100 + n, when("2026-03-03 00:01") + DAY * n) for n in range(6)]
    return [policy(Retention(daily=4))], [*honest, *fakes], when("2026-03-08 04:00")


def doubted() -> History:
    """A stolen verifier's key finds good points different: they still stand above those that nobody ever proved."""
    points = every(DAY, 8, "2026-03-08 02:00", lambda n: n in (0, 7))
    doubted = [
        msgspec.structs.replace(p, standing=Standing.ONCE_PROVEN) if 2 <= n <= 5 else p for n, p in enumerate(points)
    ]
    return [policy(Retention(last=3))], doubted, when("2026-03-08 04:00")


def weakened() -> History:
    """Policy 2 keeps less than policy 1, which is still cooling; policy 3 keeps less again."""
    points = every(DAY, 20, "2026-03-20 02:00", lambda n: n % 2 == 0)
    rules = [
        policy(Retention(daily=14, cooling=14 * DAY), 1, when("2026-03-21 12:00")),
        policy(Retention(daily=7, cooling=7 * DAY), 2, when("2026-03-25 00:00")),
        policy(Retention(last=1, cooling=DAY), 3),
    ]
    return rules, points, when("2026-03-20 03:00")


def cooled() -> History:
    """The same a day and a half later: policy 1 has let go."""
    rules, points, _ = weakened()
    return rules, points, when("2026-03-21 12:00")


def held() -> History:
    """Two holds on one point, one that is over on another, tags, the reference, what went live, and damage."""
    points = every(DAY, 9, "2026-03-09 02:00", lambda n: n == 3)
    audit = Hold(id="a" * 16, reason="audit 2026", owner="finance", until=when("2027-02-01"))
    case = Hold(id="c" * 16, reason="case 118", owner="legal")
    over = Hold(id="e" * 16, reason="case 7", owner="legal", until=when("2026-03-09 00:00"))
    told: dict[int, dict[str, object]] = {
        0: {"holds": (audit, case)},
        1: {"holds": (over,)},
        2: {"tags": ("nightly", "release-7")},
        4: {"reference": True},
        5: {"promoted": "2026-03-06T03:00:00.000000Z"},
        6: {"damaged": "records/… cannot be read"},
    }
    points = [msgspec.structs.replace(p, **told.get(n, {})) for n, p in enumerate(points)]
    return [policy(Retention(last=1, keep_tags=("release-7", "release-8")))], points, when("2026-03-09 04:00")


def calendar() -> History:
    """Around new year: ISO weeks do not end with years, and the first point of a month may lie in a week of the month before."""
    points = every(36 * HOUR, 40, "2027-01-20 12:00", lambda _: True)
    return [policy(Retention(weekly=5, monthly=3, yearly=2))], points, when("2027-01-20 13:00")


def two_systems() -> History:
    """What is said of one system is not said of the other."""
    ours = every(DAY, 4, "2026-03-08 02:00", lambda _: True)
    theirs = [msgspec.structs.replace(p, system="mill", point=f"m{p.point}") for p in ours]
    return [policy(Retention(last=1))], [*ours, *theirs], when("2026-03-08 04:00")


def never() -> History:
    """Nothing expires, since that is said; nor where no rule is."""
    ours = every(DAY, 2, "2026-03-08 02:00", lambda _: False)
    theirs = [msgspec.structs.replace(p, system="mill", point=f"m{p.point}") for p in ours]
    rules = [policy(Retention(never=True, last=1)), policy(Retention(at_least=1), system="mill")]
    return rules, [*ours, *theirs], when("2026-03-08 04:00")


HISTORIES = (usual, sealed_only, flooded, backfilled, doubted, weakened, cooled, held, calendar, two_systems, never)


def shown(history: Callable[[], History]) -> str:
    """What becomes of the points of ``history``, newest last, as text."""
    policies, points, now = history()
    known = {(p.system, p.point): p for p in points}
    lines = [f"# {history.__doc__}", "", f"the store's time is {at(now)}", *_told(policies), ""]
    for decision in decide(policies, points, now):
        about = known[decision.system, decision.point]
        received = datetime.fromtimestamp(about.received, UTC).strftime("%Y-%m-%d %a %H:%M")
        word = "keep  " if decision.keep else "EXPIRE"
        standing = about.standing.name.lower().replace("_", " ")
        lines.append(f"{word} {decision.system} {decision.point} {received} {standing:<11} {decision.why}")
    return "\n".join(lines) + "\n"


def _told(policies: Iterable[PolicyInForce]) -> list[str]:
    ends = {p.serial: f" (until {at(p.until)})" if p.until is not None else "" for p in policies}
    return [f"policy {p.serial} of {p.system}{ends[p.serial]}: {told(p.retention)}" for p in policies]


def main() -> None:
    """Write every file again."""
    for history in HISTORIES:
        (FOLDER / f"{history.__name__}.txt").write_text(shown(history), encoding="utf-8")


if __name__ == "__main__":
    main()
