"""Which points stay, and why: a pure function of policies, points and the store's time (design 4).

    kept whatever a policy says    held; the newest; the newest proven; the reference rests on it; live; not to be believed
    kept by the policy             last, hourly .. yearly, window, at_least, tags, never
    kept by a policy before it     until that one's cooling period is over: so weakening is slow, and strengthening is at once
    expires                        what nothing of this keeps

Three decisions make a stolen capture key harmless here, however many points it seals:

* Times are those at which the store received a point, not those that its writer states.
* Of each hour, day, week, month and year the *first* point stays, so one that comes later takes nobody's place.
* Each point is counted among those only that are proven at least as well as itself. That is the same as applying every rule to all
  points, again to those that were ever proven, again to those that are, and keeping what any of the three keeps: a rank among
  fewer is never a worse rank. So one that nobody proved pushes out none that was.

And two make a stolen verifier's key harmless: what was proven once stays in a class above what never was, whatever is said of it
later; and a policy or point that cannot be believed keeps more, not less. A system without a policy loses nothing (P12).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from itertools import groupby

import msgspec

from resurgam.model.system import Retention
from resurgam.vault.history import Hold
from resurgam.vault.retention_words import at, counted, day, span


class Standing(IntEnum):
    """How well a point is proven; more is better. Rules count a point among those that stand no lower."""

    SEALED = 0
    ONCE_PROVEN = 1  # it passed, and was found different, or quarantined, later
    PROVEN = 2

    @property
    def among(self) -> str:
        """For people, after a rank."""
        return ("", ", of those once proven", ", of the proven")[self]


class PointFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision needs to know of a sealed point. ``received`` is the store's time, seconds since 1970;
    ``promoted`` since when it is live, empty where it is not; ``reference`` whether the system's reference rests on it; ``damaged``
    why its history cannot be believed, empty where it can."""

    point: str
    system: str
    received: float
    standing: Standing = Standing.SEALED
    reference: bool = False
    promoted: str = ""
    tags: tuple[str, ...] = ()
    holds: tuple[Hold, ...] = ()
    damaged: str = ""


class PolicyInForce(msgspec.Struct, frozen=True, kw_only=True):
    """One policy for one system. ``until`` is None for the newest; one that was replaced keeps until then (the store's time).
    ``lacking`` says why it stands for one that is not there, and keeps everything; empty for one that is."""

    serial: int
    system: str
    retention: Retention
    until: float | None = None
    lacking: str = ""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why a point stays. ``ends`` says what ends that; before ``not_before`` (the store's time) nothing does. None where
    neither time nor newer points will: somebody must decide."""

    words: str
    ends: str
    not_before: float | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a point: it is kept for every one of ``reasons``, or expires for want of any."""

    point: str
    system: str
    reasons: tuple[Reason, ...]

    @property
    def keep(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)

    @property
    def why(self) -> str:
        """All reasons, on one line."""
        return "; ".join(reason.words for reason in self.reasons) or "no rule keeps it"

    @property
    def not_before(self) -> float | None:
        """When it may expire at the earliest, if points go on to come and nobody decides anything. None: it will not. 0: now."""
        times = [reason.not_before for reason in self.reasons]
        return None if None in times else max((time for time in times if time is not None), default=0.0)


def decide(policies: Sequence[PolicyInForce], points: Sequence[PointFacts], now: float) -> tuple[Decision, ...]:
    """What becomes of each of ``points`` at ``now``, the store's time: by system, oldest first, whatever order they came in."""
    found: list[Decision] = []
    ordered = sorted(points, key=lambda point: (point.system, *_age(point)))
    for system, line in groupby(ordered, key=lambda point: point.system):
        own = [policy for policy in policies if policy.system == system]
        found += _of_system([p for p in own if p.until is None or now < p.until], list(line), now)
    return tuple(found)


def _of_system(policies: Sequence[PolicyInForce], line: Sequence[PointFacts], now: float) -> Iterator[Decision]:
    reasons: dict[str, list[Reason]] = {point.point: [] for point in line}
    for point, reason in _whatever_a_policy_says(line, now):
        reasons[point.point].append(reason)
    newest = [policy for policy in policies if policy.until is None]
    if not newest:
        why = Reason(words="no policy says how long points of this system stay", ends="when one is set, and later")
        for found in reasons.values():
            found.append(why)
    for policy in newest:
        for point, reason in _by_policy(policy, line, now):
            reasons[point.point].append(reason)
    kept = {point for point, found in reasons.items() if found}
    for policy in (policy for policy in policies if policy.until is not None):
        for point, reason in _still(policy, line, kept, now):
            reasons[point.point].append(reason)
    for point in line:
        yield Decision(point=point.point, system=point.system, reasons=tuple(reasons[point.point]))


# What no policy takes away -------------------------------------------------------------------------------------------


def _whatever_a_policy_says(line: Sequence[PointFacts], now: float) -> Iterator[tuple[PointFacts, Reason]]:
    """``line`` is of one system, oldest first."""
    for point in line:
        for hold in point.holds:
            if hold.stands(now):
                yield point, _held(hold)
        if point.damaged:
            yield (
                point,
                Reason(words="what became known of it cannot be believed", ends="when `vault check` finds no damage"),
            )
        if point.reference:
            yield point, Reason(words="the reference rests on it", ends="when another reference is approved")
        if point.promoted:
            words = f"it went live on {point.promoted[:10]}"
            yield point, Reason(words=words, ends="when that promotion is undone")
    if line:
        yield line[-1], Reason(words="the newest point", ends="when a newer one is sealed", not_before=now)
    proven = [point for point in line if point.standing is Standing.PROVEN]
    if proven:
        words = "the only proven point" if len(proven) == 1 else "the newest proven point"
        yield proven[-1], Reason(words=words, ends="when a newer one is proven", not_before=now)


def _held(hold: Hold) -> Reason:
    by = f"held by {hold.owner}: {hold.reason}"
    if hold.until is None:
        return Reason(words=by, ends=f"when hold {hold.id} is lifted")
    return Reason(words=f"{by} until {at(hold.until)}", ends=f"on {at(hold.until)}", not_before=hold.until)


# What a policy keeps -------------------------------------------------------------------------------------------------


def _still(
    policy: PolicyInForce, line: Sequence[PointFacts], kept: Collection[str], now: float
) -> Iterator[tuple[PointFacts, Reason]]:
    """What a policy keeps that was replaced, and whose cooling period is not over: one reason for each point. ``kept`` are those
    that stay without it."""
    assert policy.until is not None
    found: dict[str, tuple[PointFacts, list[str]]] = {}
    for point, reason in _by_policy(policy, line, now):
        found.setdefault(point.point, (point, []))[1].append(reason.words)
    who = f"policy {policy.serial}" if not policy.lacking else "what was before"
    for point, words in found.values():
        how = "also kept" if point.point in kept else "policy being weakened: still kept"
        said = f"{how} by {who} until {at(policy.until)} ({'; '.join(words)})"
        yield point, Reason(words=said, ends=f"on {at(policy.until)}", not_before=policy.until)


def _by_policy(policy: PolicyInForce, line: Sequence[PointFacts], now: float) -> Iterator[tuple[PointFacts, Reason]]:
    retention = policy.retention
    if retention.expires_nothing:
        words = policy.lacking or f"policy {policy.serial} lets nothing expire"
        yield from ((point, Reason(words=words, ends="when another policy is set, and later")) for point in line)
        return
    for standing in Standing:
        among = [point for point in reversed(line) if point.standing >= standing]
        for point, reason in _by_count(retention, among, standing, now, settled=len(among) == len(line)):
            if point.standing is standing:  # better ones are counted among their own, where no worse one stands
                yield point, reason
    yield from _by_itself(retention, line, now)


def _by_itself(retention: Retention, line: Sequence[PointFacts], now: float) -> Iterator[tuple[PointFacts, Reason]]:
    """The rules that look at no other point."""
    for point in line:
        if retention.window is not None and now - point.received < retention.window:
            ends = point.received + retention.window
            yield point, Reason(words=f"younger than {span(retention.window)}", ends=f"on {at(ends)}", not_before=ends)
        for tag in sorted({*point.tags} & {*retention.keep_tags}):
            yield point, Reason(words=f"tag {tag}", ends="when another policy is set, and later")


def _by_count(
    retention: Retention, among: Sequence[PointFacts], standing: Standing, now: float, *, settled: bool
) -> Iterator[tuple[PointFacts, Reason]]:
    """The rules that count, over ``among``, newest first. Where that is not ``settled``, since points that are there
    may yet come to stand as high, nothing can be said of when a rank is lost."""
    kind = ("", "once proven ", "proven ")[standing]
    among_whom = "" if settled else standing.among
    for count, words in ((retention.last, "last {} of {}"), (retention.at_least, "newest {} of at least {}")):
        for rank, point in enumerate(among[:count], 1):
            ends = f"when {counted(count - rank + 1, f'newer {kind}point')} {'is' if rank == count else 'are'} there"
            yield point, Reason(words=words.format(rank, count) + among_whom, ends=ends, not_before=now)
    for period in PERIODS:
        count = period.of(retention)
        for rank, point in enumerate(_firsts(among, period, count), 1):
            left = count - rank + 1
            ends = f"when {counted(left, f'newer {period.noun}')} {'has' if left == 1 else 'have'} a {kind}point"
            begins = max(period.number(among[0].received) + 1, period.number(now)) + left - 1
            not_before = max(now, period.start(begins)) if settled else now
            words = f"{period.rule} {rank} of {count}{among_whom}"
            yield point, Reason(words=words, ends=ends, not_before=not_before)


def _firsts(among: Sequence[PointFacts], period: Period, count: int) -> list[PointFacts]:
    """The first point of each of the newest ``count`` periods that have one; the newest period first."""
    first: dict[int, PointFacts] = {}
    for point in among:  # newest first, so that of each period the oldest stays
        number = period.number(point.received)
        if number not in first and len(first) == count:
            break
        first[number] = point
    return list(first.values())


class Period(msgspec.Struct, frozen=True):
    """A rule's stretch of the calendar, in UTC: ``number`` counts those of a time, ``start`` is when one begins."""

    rule: str
    noun: str
    number: Callable[[float], int]
    start: Callable[[int], float]

    def of(self, retention: Retention) -> int:
        """How many of them ``retention`` keeps."""
        counts: Mapping[str, int] = msgspec.structs.asdict(retention)
        return counts[self.rule]


def _month(number: int) -> float:
    return datetime(min(number // 12, 9999), number % 12 + 1, 1, tzinfo=UTC).timestamp()


PERIODS = (
    Period("hourly", "hour", lambda t: int(t // 3600), lambda n: n * 3600.0),
    Period("daily", "day", lambda t: int(t // 86400), lambda n: n * 86400.0),
    # 1970 began on a Thursday, weeks begin on Mondays (ISO 8601)
    Period("weekly", "week", lambda t: int((t // 86400 + 3) // 7), lambda n: (n * 7 - 3) * 86400.0),
    Period("monthly", "month", lambda t: day(t).year * 12 + day(t).month - 1, _month),
    Period("yearly", "year", lambda t: day(t).year, lambda n: _month(n * 12)),
)


def _age(point: PointFacts) -> tuple[float, str]:
    return point.received, point.point
