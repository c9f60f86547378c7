"""Renewal: locks that last as long as what they protect is promised.

    draft      look, and decide which locks are to be made longer. Changes nothing in the vault (P10)
    renew      make them so, object by object

A lock is never made shorter, so renewing can be stopped anywhere and given again, also by two at once. What cannot be known, as of
a point whose list of chunks is damaged, stops nothing: a prune must know everything before it lets go, a renewal holds on to
all that it can.

Needs the index key, and credentials that may lengthen locks; no key that signs or opens contents (P9).
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from resurgam.errors import Denied, NotFound
from resurgam.stores.lock import Locks
from resurgam.vault.protected import RENEW_BELOW
from resurgam.vault.protection import Reach, Renewal, plan_renewal, protected
from resurgam.vault.protection_look import AT_ONCE, Progress, as_written, covered_in, ends_of, locking, reach_of
from resurgam.vault.protection_notes import LockNotes
from resurgam.vault.repository import Repository


class Draft(NamedTuple):
    """A plan, and what it was made from. ``covered`` are objects over which somebody has put something, or a deletion's marker, by
    name with when: their first versions are renewed."""

    plan: Renewal
    reach: Reach
    ends: dict[str, float]
    store: Locks
    covered: dict[str, str]


def draft(
    repository: Repository,
    period: float,
    lapsing: Mapping[str, str],
    now: float,
    notes: LockNotes | None = None,
    progress: Progress | None = None,
) -> Draft:
    """What is to be renewed for ``period`` seconds from ``now``; nothing that the points ``lapsing`` alone need, given with why.
    Raises UsageError where the store locks nothing, Denied, Unreachable."""
    locking(repository.store)
    view = as_written(repository)
    store = locking(view.store)
    reach = reach_of(view, without=lapsing)
    ends = ends_of(store, reach.names(), notes, now + RENEW_BELOW * period, progress)
    if notes is not None:
        notes.forget_all_but(reach.names())
        notes.saw_covered(covered_in(view))
        notes.write(repository.prunes().last, protected(reach, ends), whole=True)
    return Draft(plan_renewal(reach, ends, now, period, lapsing), reach, ends, store, covered_in(view))


def renew(
    repository: Repository, drafted: Draft, notes: LockNotes | None = None, progress: Progress | None = None
) -> Draft:
    """Do what the plan says; returns it with ``ends`` and ``points`` as they are then. Raises Unreachable, and Denied for an object
    whose lock may not be made longer, after all others were renewed: what was renewed until then stays so."""
    plan, until = drafted.plan, datetime.fromtimestamp(drafted.plan.until, UTC)

    def lengthen(name: str) -> Denied | None:
        refusal = _lengthen(drafted.store, name, until)
        if progress is not None:
            progress(1)
        return refusal

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="locks") as pool:
        refusals = [refusal for refusal in pool.map(lengthen, plan.names) if refusal is not None]
    # As the store says: a server that takes the request and keeps its lock as it was is found out here.
    ends = drafted.ends | ends_of(drafted.store, plan.names, notes, plan.until + 1.0)
    after = protected(drafted.reach, ends)
    if notes is not None:
        notes.write(repository.prunes().last, after, whole=True)
    if refusals:
        raise refusals[0]
    return drafted._replace(ends=ends, plan=msgspec.structs.replace(plan, points=after))


def _lengthen(store: Locks, name: str, until: datetime) -> Denied | None:
    """Lock ``name`` until then, unless somebody has locked it for longer meanwhile. What is gone is left to the look that follows:
    a prune took it, or somebody did. Returns a refusal, which is to stop no other object's renewal. Raises Unreachable."""
    with suppress(NotFound):
        try:
            store.protect(name, until)
        except Denied as refusal:
            there = store.protected(name)
            if there is None or there.until < until:
                return refusal
    return None
