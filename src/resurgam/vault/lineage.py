"""Points name the one that their host sealed before them: what was taken away is missed by what came after it.

Nothing ever removes an object of ``points/``: a prune leaves the record of what it expires (P2), and a name that was given up holds
a revocation. So one that somebody names and that is not there was deleted, or the vault is an older one that was put in its
place. The newest point is named by none; the host that sealed it remembers it, until its notes are lost (P3).

Whoever can seal points can name one before them that never was: that raises an alarm, and hides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from resurgam.errors import IntegrityError, NotFound
from resurgam.stores.base import Store
from resurgam.vault.host import HostState
from resurgam.vault.naming import POINT_NAME

if TYPE_CHECKING:
    from resurgam.vault.repository import Repository, Sealed

PLACE = "points/"


class Follows(msgspec.Struct, frozen=True):
    """So much of a point's body as it takes to know which point it came after."""

    previous: str | None = None


def is_there(store: Store, point: str) -> bool:
    """Whether something holds the name of ``point``: itself, or its revocation. One small listing."""
    return any(entry.name == PLACE + point for entry in store.list(PLACE + point))


def missing(follows: Iterable[tuple[str, str | None]], there: Callable[[str], bool]) -> dict[str, str]:
    """The points that are named by others, and not there, each with one that names it; of pairs of a point and its ``previous``."""
    return {
        before: point
        for point, before in follows
        if before and POINT_NAME.fullmatch(PLACE + before) and not there(before)
    }


def missing_in(repository: Repository, promised: Iterable[Sealed]) -> dict[str, str]:
    """The same of a whole vault, of which the ``promised`` points were read already: linear in all its points. Those that expired
    are read too, since most that are kept for long are named by such."""
    follows = [(sealed.body.id, sealed.body.previous) for sealed in promised]
    expired = repository.prunes().expired
    for entry in repository.store.list(PLACE):
        if entry.name.removeprefix(PLACE) in expired:
            with suppress(IntegrityError, NotFound):  # what cannot be believed names nothing
                if (sealed := repository.sealed_as(entry)) is not None:
                    follows.append((sealed.body.id, sealed.body.previous))
    # Listed last: a point was there before any that names it.
    names = {entry.name for entry in repository.store.list(PLACE)}
    return missing(follows, lambda point: PLACE + point in names)


def forgotten(store: Store, host: HostState) -> str:
    """What to say where the vault lacks the point that ``host`` sealed last; empty where it is there, or none is remembered."""
    last = host.last()
    if last is None or is_there(store, last.point):
        return ""
    return (
        f"the point {last.point} of {last.sealed[:16]}Z that this host sealed last is not in the vault: it was rolled back, or "
        "somebody can delete there."
    )
