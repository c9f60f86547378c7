"""What a retention says, in words for people: its rules, its times, and in what it is weaker than another.

*Weaker* is said of rules, not of the points that happen to be there: there could be a point that the one keeps and the other lets
go. So the question has one answer for the approver who signs today and for the reader who checks next year.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from resurgam.model.system import Retention

COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly", "at_least")
_LAST_SECOND = 253_402_300_799.0  # of the year 9999: what a calendar can tell


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One rule that is otherwise now. ``weaker`` where points may expire by it that stayed before."""

    rule: str
    before: str
    after: str
    weaker: bool


def changes(before: Retention, after: Retention) -> tuple[Change, ...]:
    """What is otherwise in ``after``, rule by rule."""
    free = after.expires_nothing  # then nothing else in it can make a point expire
    found = [
        Change(
            rule="cooling",
            before=span(before.cooling),
            after=span(after.cooling),
            weaker=after.cooling < before.cooling,
        )
    ]
    for rule in COUNTS:
        old, new = getattr(before, rule), getattr(after, rule)
        found.append(Change(rule=rule, before=str(old), after=str(new), weaker=not free and new < old))
    old, new = before.window or 0.0, after.window or 0.0
    found.append(Change(rule="window", before=span(old), after=span(new), weaker=not free and new < old))
    tags = sorted(before.keep_tags), sorted(after.keep_tags)
    lost = not free and bool({*before.keep_tags} - {*after.keep_tags})
    found.append(
        Change(rule="keep_tags", before=" ".join(tags[0]) or "none", after=" ".join(tags[1]) or "none", weaker=lost)
    )
    may = {True: "nothing", False: "what no rule keeps"}
    ends = before.expires_nothing and not free
    found.append(Change(rule="expires", before=may[before.expires_nothing], after=may[free], weaker=ends))
    return tuple(change for change in found if change.before != change.after)


def weakens(before: Retention, after: Retention) -> bool:
    """Whether a point could expire by ``after`` that stays by ``before``, or sooner be let go of."""
    return any(change.weaker for change in changes(before, after))


def told(retention: Retention) -> str:
    """All that a retention says, on one line."""
    cooling = f"cooling {span(retention.cooling)}"
    if retention.expires_nothing:
        return f"nothing expires; {cooling}"
    said = [f"{rule.replace('_', ' ')} {count}" for rule in COUNTS if (count := getattr(retention, rule))]
    said += [f"younger than {span(retention.window)}"] if retention.window is not None else []
    said += [f"tag {tag}" for tag in retention.keep_tags]
    return f"{', '.join(said)}; {cooling}"


def day(moment: float) -> datetime:
    """A time of the store, which may tell any, in the calendar (UTC)."""
    return datetime.fromtimestamp(min(max(moment, 0.0), _LAST_SECOND), UTC)


def at(moment: float) -> str:
    """A time of the store for people, in UTC, never before the moment itself."""
    shown = day(-(-moment // 60) * 60)
    return f"{shown:%Y-%m-%d}" if (shown.hour, shown.minute) == (0, 0) else f"{shown:%Y-%m-%d %H:%M}"


def span(seconds: float) -> str:
    """A duration for people, in the largest unit that tells it whole."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s"


def counted(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
