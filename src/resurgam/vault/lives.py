"""What a recovery point is by now, in words with times: folds over records, put side by side (P2).

    sealed        it exists                                        its own record
    checked       every pack that it needs was read, and is whole  the records of checks (``vault.checked``)
    proven        a restore of it behaved the same                 verdicts
    reference     how it behaves is right, says the owner          references
    quarantined   it must not go to production                     quarantines
    held          it must stay                                     holds
    promoted      a restore of it is live                          promotions and their undoing
    expired       it is promised no more                           prunes that have begun and were not undone
    shredded      part of it can be read by nobody                 the role table

This is the one place that knows all the words; each fold is told where it belongs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf

import msgspec

from resurgam.errors import Denied, IntegrityError
from resurgam.model.point import PointBody
from resurgam.vault.history import PointState
from resurgam.vault.naming import Sealed
from resurgam.vault.records import timestamp
from resurgam.vault.repository import Repository
from resurgam.vault.roles import Shredded


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a point is: the ``word``, since when (RFC 3339; empty where that is not told), and what else is to be said."""

    word: str
    since: str = ""
    what: str = ""


def standings(
    body: PointBody,
    state: PointState,
    *,
    shredded: Mapping[str, Shredded],
    expired: str = "",
    checked: str = "",
    now: float | None = None,
) -> tuple[Standing, ...]:
    """All that a point is. ``expired`` and ``checked`` say since when, empty where it is not so. Holds that have ended by ``now``,
    the store's time, are left out; none is where that is not known."""
    if state.damaged is not None:
        return (Standing(word="sealed", since=body.sealed), Standing(word="not known", what=state.damaged))
    since = {
        "sealed": body.sealed,
        "checked": checked,
        "proven": state.proven,
        "reference": state.reference,
        "quarantined": state.quarantined,
    }
    found = [Standing(word=word, since=time) for word, time in since.items() if time]
    found += [
        Standing(word="held", what=f"by {hold.owner}: {hold.reason}")
        for hold in state.holds
        if now is None or hold.stands(now)
    ]
    if state.promoted:
        how = "without a passing verdict" if state.unverified else ""
        found.append(Standing(word="promoted", since=state.promoted, what=how))
    if expired:
        found.append(Standing(word="expired", since=expired))
    found += [
        Standing(word="shredded", since=shredded[domain].at, what=f"{domain}: {shredded[domain].why}".rstrip(": "))
        for domain in domains_of(body)
        if domain in shredded
    ]
    return tuple(found)


def domains_of(body: PointBody) -> Sequence[str]:
    """The shred domains in which parts of a point lie."""
    answers = [body.evidence] if body.answers else []
    return sorted({*(snapshot.domain for snapshot in body.snapshots), *answers})


def lives(
    repository: Repository,
    sealed: Sealed,
    *,
    now: float | None = None,
    checks: bool = False,
    state: PointState | None = None,
) -> tuple[Standing, ...]:
    """All that the point ``sealed`` is, as the vault says; its ``state`` is asked for where it is not known. With ``checks`` also
    since when it is checked, which asks where each of its chunks lies."""
    prune = repository.prunes().expired.get(sealed.body.id)
    return standings(
        sealed.body,
        repository.state(sealed) if state is None else state,
        shredded=repository.roles.shredded,
        expired=prune.made if prune is not None else "",
        checked=checked(repository, sealed) if checks else "",
        now=now,
    )


def checked(repository: Repository, sealed: Sealed) -> str:
    """Since when every pack that a point needs was read and found whole (RFC 3339): the time of the one that was read longest ago;
    empty where one never was, was found damaged or is not known, and where nobody here can tell."""
    from resurgam.vault import checked as checks  # here: nothing else that is told of a point asks for chunks
    from resurgam.vault.needs import needs_of

    try:
        needs = needs_of(repository, [(sealed, repository.records(sealed.body.id))])
    except (
        Denied,
        IntegrityError,
    ):  # which packs they are opens with the index key; of a damaged history nothing is known
        return ""
    if needs.unlisted or not needs.known.all():
        return ""
    packs = sorted(_packs(repository, needs.entries["pack"].tolist()))
    memory = checks.fold(packs, checks.remembered(repository)[0])
    oldest = min(memory.digest, default=inf) if not memory.damaged else 0.0
    return timestamp(datetime.fromtimestamp(oldest, UTC)) if 0 < oldest < inf else ""


def _packs(repository: Repository, ordinals: Iterable[int]) -> set[str]:
    names = repository.index.packs
    return {names[ordinal] for ordinal in set(ordinals)}


def words(found: Iterable[Standing]) -> str:
    """On one line, for people: each with its day."""
    return ", ".join(f"{one.word} {one.since[:10]}".rstrip() for one in found)
