"""How long locks protect points, in the words of several verbs: capture, points, show, status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec

from resurgam.cli import output
from resurgam.cli.context import Context
from resurgam.errors import Denied, ResurgamError
from resurgam.stores.lock import may_lock
from resurgam.vault.protected import NEVER, RENEW_BELOW, WARN_BELOW, Protected

if TYPE_CHECKING:  # loaded where there may be locks
    from resurgam.vault.protection_notes import LockNotes

T = TypeVar("T")

_LOOKED = ("keys/", "points/", "roles/", "vault.json")  # of these few names one look at each prefix tells
_RENEW = "`resurgam vault renew --yes`"


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """How ``status`` finds the locks: which point loses its protection ``first``, and the seconds ``left`` until then. If it does
    not last, that is too soon, or ``unknown`` for the reason given. Who has no right to see it is not warned."""

    lasts: bool
    first: Protected | None = None
    left: float | None = None
    unknown: str = ""


def of_all(context: Context) -> dict[str, Protected] | None:
    """Until when each promised point is protected; None where the store locks nothing, or nobody here can see it, which is told."""
    return _seen(context, lambda: {one.point: one for one in _looked(context, _now(context))})


def of_point(context: Context, point: str) -> Protected | None:
    """The same of one point."""
    found = _seen(context, lambda: _looked(context, _now(context), only=point))
    return found[0] if found else None


def guard(context: Context, points: Sequence[str], warning: float | None) -> Guard | None:
    """How things stand with ``points``; None where the manifest asks for no locks. What this host remembers is enough as long as it
    says that all is well; else it is looked anew. Points that the policies let go lose their locks by rights."""
    lock = context.system.vault.lock
    if lock is None or not points:
        return None
    soon = _now(context) + (lock.period * WARN_BELOW if warning is None else warning)
    try:
        found = _notes(context).points(context.repository.prunes().last)
        if any(point not in found or found[point].until < soon for point in points):
            seen = _looked(context, soon)
            found = {one.point: one for one in seen}
        short = [point for point in points if point not in found or found[point].until < soon]
        promised = set(points) - (_expiring(context) if short else set())
    except Denied as error:  # a capture host reads no packs (P9): whoever renews is told
        return Guard(lasts=True, unknown=error.message)
    except ResurgamError as error:
        return Guard(lasts=False, unknown=error.message)
    first = min((found[point] for point in promised if point in found), key=lambda one: one.until, default=None)
    if first is None:
        return Guard(lasts=not promised, unknown="" if not promised else "no point could be looked at")
    return Guard(lasts=first.until >= soon, first=first, left=first.until - _now(context))


def covered(context: Context, prefixes: Sequence[str] = ("points/",)) -> dict[str, str]:
    """What lies under these prefixes, and under something that somebody put there later, a deletion's marker too: by name, what
    that is and since when. Empty where the store keeps no versions, or may not list them, which is told if locks are asked for."""
    from resurgam.stores.asof import Originals, originals

    try:
        view = originals(context.store)
        if isinstance(view, Originals):
            for prefix in prefixes:
                view.look(prefix)
            return view.covered
    except Denied as error:
        if context.system_name is not None and context.system.vault.lock is not None:
            output.note(f"whether something lies on top of what was written cannot be seen here: {error.message}")
    return {}


def covered_anywhere(context: Context) -> dict[str, str]:
    """The same of the whole vault: of points and keys as it is now, of all else as this host's last look at locks saw it."""
    found = covered(context, _LOOKED)
    with suppress(Denied):  # without the index key there are no notes
        seen = _notes(context).covered()
        found |= {name: what for name, what in seen.items() if not name.startswith(_LOOKED)}
    return found


def told_covered(name: str, what: str) -> str:
    """One line for people."""
    return f"{what}: {name}; its first version is kept: see it with `--as-of first`"


def told(found: Protected) -> str:
    """One line for people."""
    if found.why:
        return f"not known to be protected: {found.why}"
    if found.until == NEVER:
        return f"not protected: {found.first} is not locked"
    return f"protected until {when(found)} UTC, when the lock of {found.first} ends"


def told_guard(found: Guard) -> str:
    """One line for people."""
    if found.first is None:
        return f"not known: {found.unknown}" if found.unknown else "nothing is promised"
    advice = "" if found.lasts else f"; run {'`resurgam vault check`' if found.first.why else _RENEW}"
    return f"point {found.first.point} is {told(found.first)}{advice}"


def advise(found: Protected, now: float, period: float) -> None:
    """Warn where a new point rests on locks that end early: those of packs that it shares with older points."""
    if found.until < now + RENEW_BELOW * period:
        output.warning(f"the point shares objects with older ones, whose locks end sooner: {_RENEW} makes them longer")


def when(found: Protected | None) -> str:
    """The time alone."""
    if found is None or found.why:
        return "not known"
    return "not locked" if found.until == NEVER else f"{datetime.fromtimestamp(found.until, UTC):%Y-%m-%d %H:%M}"


def _seen(context: Context, look: Callable[[], T]) -> T | None:
    if not may_lock(context.store):
        return None
    try:
        return look()
    except ResurgamError as error:  # all else is answered; of a capture, the point is sealed (P1)
        output.note(f"until when points are protected cannot be seen here: {error.message}")
        return None


def _looked(context: Context, enough: float, only: str | None = None) -> tuple[Protected, ...]:
    from resurgam.vault.protection_look import protection

    return protection(context.repository, _notes(context), enough, only=only)


def _expiring(context: Context) -> set[str]:
    from resurgam.vault.pruning import expiring

    return {*expiring(context.repository)}


def _notes(context: Context) -> LockNotes:
    from resurgam.vault.protection_notes import LockNotes

    return LockNotes(context.repository, context.vault_host)


def _now(context: Context) -> float:
    return context.clock.now().timestamp()
