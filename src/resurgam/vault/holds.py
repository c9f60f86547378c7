"""Holds: points that must stay, each for a reason that somebody answers for. A legal hold survives policies, prune and time.

Several stand side by side on one point, each with an id of its own, and each is lifted by its own id. Both are records that an
approver signs; nothing is ever taken back but by another record (P2). Where the vault asks approvals for what lets points go,
lifting a hold is one of those acts: for whoever lifts it, and for whoever decides by it later (``vault.policies``).
"""

from __future__ import annotations

import secrets

import msgspec

from resurgam.clock import Clock
from resurgam.errors import Ambiguous, NotFound, UsageError
from resurgam.vault.approvals import plan_digest, require_approvals
from resurgam.vault.history import Hold
from resurgam.vault.leases import require_promised
from resurgam.vault.naming import Sealed
from resurgam.vault.policies import ACT, store_time
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import at
from resurgam.vault.signing import Role


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A hold that nobody lifted, and the point that it holds."""

    point: str
    system: str
    hold: Hold


def add(repository: Repository, sealed: Sealed, hold: Hold, clock: Clock) -> Hold:
    """Hold ``sealed``; returns the hold under its new id. Raises Denied without an approver's key, UsageError for a hold that says
    nothing or is over already, NotFound where the point expired meanwhile: then the hold stands, and what is promised does not."""
    made = msgspec.structs.replace(hold, id=secrets.token_hex(8), lifted=False)
    if not made.reason or not made.owner:
        raise UsageError("A hold needs a reason and an owner.", untouched="Nothing is held.", next_step="Give both.")
    if not made.stands(store_time(repository.store)):
        raise UsageError(
            f"A hold until {at(made.until or 0.0)} is over already.",
            untouched="Nothing is held.",
            next_step="Name a later date.",
        )
    repository.put_record(RecordType.HOLD, sealed.body.id, made, Role.APPROVER, clock)
    require_promised(repository, sealed.body.id)  # a prune that begins from now on sees the hold
    return made


def lifting(hold: Hold, reason: str) -> Hold:
    """The record that would lift ``hold``: what approvers say yes to."""
    if not reason:
        raise UsageError("Lifting a hold needs a reason.", untouched="It stands.", next_step="Give one with --reason.")
    return Hold(id=hold.id, reason=reason, owner=hold.owner, lifted=True)


def lift(repository: Repository, held: Held, lifted: Hold, clock: Clock) -> None:
    """End a hold. Raises Denied without an approver's key, or where too few have approved."""
    require_approvals(repository, ACT, plan_digest(repository, ACT, lifted))
    repository.put_record(RecordType.HOLD, held.point, lifted, Role.APPROVER, clock)


def standing(repository: Repository, system: str | None = None) -> list[Held]:
    """Every hold that nobody lifted, those whose time is over included, by point in their order. What cannot be read of
    a point is said in ``repository.refused_records``."""
    held = {
        entry.name.split("/")[1] for entry in repository.store.list("records/") if f"/{RecordType.HOLD}-" in entry.name
    }
    return [
        Held(point=sealed.body.id, system=sealed.body.system, hold=hold)
        for sealed in repository.points(system)
        if sealed.body.id in held
        for hold in repository.state(sealed).holds
    ]


def find(repository: Repository, words: str) -> Held:
    """The hold whose id begins with ``words``. Raises NotFound, Ambiguous."""
    found = [held for held in standing(repository) if words and held.hold.id.startswith(words.lower())]
    if not found:
        raise NotFound(
            f"There is no hold {words!r}.",
            untouched="Nothing was lifted.",
            next_step="`resurgam hold list` shows them.",
        )
    if len(found) > 1:
        raise Ambiguous(
            f"{len(found)} holds begin with {words!r}.",
            untouched="Nothing was lifted.",
            next_step="Give more of the id.",
        )
    return found[0]
