"""Which recovery point somebody means: by the beginning of its id, as ``latest``, or by a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from resurgam.errors import Ambiguous, IntegrityError, NotFound
from resurgam.model.point import PointBody
from resurgam.vault.prunes import Prune, Stage
from resurgam.vault.records import Record

POINT_NAME = re.compile(r"points/[0-9a-f]{16}")  # of the object that makes a point; writers reserve no other


@dataclass(frozen=True)
class Sealed:
    """A recovery point as its record tells it; ``received`` is when the store got it, by the store's clock."""

    body: PointBody
    record: Record
    received: float


def meant(
    words: str, points: Sequence[Sealed], refused: Sequence[str], over: Callable[[], Mapping[str, Prune]] = dict
) -> Sealed:
    """The point that ``words`` mean among ``points``, oldest first. ``refused`` says what stands there and is not believed,
    ``over`` which points expired, by which prune: asked where none is meant.

    Raises NotFound, also for one that expired, Ambiguous, and IntegrityError for ``latest`` or a time where a point cannot be
    believed: it may be the one that is meant, and an older one in its place would be a wrong restore that nobody notices (P12).
    """
    moment = _moment(words)
    if refused and (words == "latest" or moment is not None):
        raise _not_surely(words, refused, points)
    if words == "latest":
        matching = points[-1:]
    elif moment is not None:
        matching = [s for s in points if datetime.fromisoformat(s.body.sealed) <= moment][-1:]
    else:
        matching = [s for s in points if words and s.body.id.startswith(words.lower())]
    if not matching:
        prunes = over()
        ended = [point for point in prunes if moment is None and words and point.startswith(words.lower())]
        raise expired(ended[0], prunes[ended[0]]) if len(ended) == 1 else no_point(words)
    if len(matching) > 1:
        raise Ambiguous(
            f"{len(matching)} points begin with {words!r}: {', '.join(s.body.id for s in matching[:5])}.",
            untouched="Nothing was changed.",
            next_step="Give more of the id.",
        )
    return matching[0]


def beginning(words: str) -> str:
    """With what the id of the point begins that ``words`` mean; empty where they mean one that only all points together tell."""
    return words.lower() if re.fullmatch("[0-9a-f]{1,16}", words.lower()) else ""


def _moment(words: str) -> datetime | None:
    """A time in ISO 8601; without an offset it is UTC, as all times that are printed. Ids are no times."""
    if "-" not in words:
        return None
    try:
        moment = datetime.fromisoformat(words)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def in_order(points: Sequence[Sealed]) -> list[Sealed]:
    """Oldest first by their writers' clocks, but none before the one that it says it came after: clocks go back."""
    known = {sealed.body.id: sealed for sealed in points}
    places: dict[str, tuple[str, int]] = {}
    for sealed in points:
        line: dict[str, PointBody] = {}
        at: Sealed | None = sealed
        while at is not None and at.body.id not in places and at.body.id not in line:
            line[at.body.id] = at.body
            at = known.get(at.body.previous or "")
        for body in reversed(line.values()):
            time, steps = places.get(body.previous or "", ("", 0))
            places[body.id] = (body.sealed, 0) if body.sealed > time else (time, steps + 1)
    return sorted(points, key=lambda sealed: places[sealed.body.id])


def _not_surely(words: str, refused: Sequence[str], points: Sequence[Sealed]) -> IntegrityError:
    newest = f"; the newest of those is {points[-1].body.id}" if points else ""
    return IntegrityError(
        f"It is not known which point {words!r} is: {' '.join(refused[:3])}",
        untouched="Nothing was changed.",
        next_step=f"Run `resurgam vault check`, or name by its id a point that `resurgam points` lists{newest}.",
    )


def no_point(words: str) -> NotFound:
    """That ``words`` name no point."""
    return NotFound(
        f"There is no recovery point {words!r}.",
        untouched="Nothing was changed.",
        next_step="`resurgam points` lists them; a point is named by the beginning of its id, `latest`, or a time.",
    )


def expired(point: str, prune: Prune) -> NotFound:
    """That ``point`` is not promised any more, and what is left of it."""
    swept = prune.stage is Stage.SWEPT
    left = "Its records are kept; its contents are not." if swept else "What it needs is still there."
    back = f"`resurgam vault prune --undo {prune.number}` brings it back, until the next sweep."
    return NotFound(
        f"Point {point} expired with prune {prune.number} of {prune.made[:10]}: {prune.plan.expire[point]}.",
        untouched=left,
        next_step="`resurgam points` lists those that are promised." if swept else back,
    )
