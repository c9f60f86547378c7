"""Pruning: what expired gives its room back, and nothing that is promised loses a byte. The protocol is docs/adr/0017-prune.md.

    draft        look, and decide: which points expire, which packs go. Writes nothing (P10)
    propose      put the plan, signed. Nothing has happened
    begin        put the tombstones, where enough approvers said yes to exactly this plan: its points are expired
    sweep        when the leases of then are settled: mark anew, copy what is needed still, put the end, delete
    undo         instead of the sweep: put the end the other way; the first wins
    clear_away   delete what an ended prune still has to delete

Each step is one create-only put after what may be repeated, so any of them can be stopped anywhere and given again, also by
another pruner, also by two at once. Nothing is deleted but what the ``end`` that stands says is gone, and that the plan named.

Needs the pruner's signing key and the index key; it opens no contents (P9).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

import msgspec

from resurgam.clock import Clock
from resurgam.errors import Busy, IntegrityError, NotFound, StoreFull
from resurgam.stores.base import AlreadyThere, require_listed
from resurgam.vault.approvals import plan_digest, require_approvals
from resurgam.vault.leases import Lease, open_leases
from resurgam.vault.log import announced_since
from resurgam.vault.marking import Survey, survey
from resurgam.vault.policies import facts, in_force, policies, require_present, store_time
from resurgam.vault.prune import Economics, PackUse, choose
from resurgam.vault.prunes import FORMAT, OBJECTS, Awaited, Prune, PruneEnd, PrunePlan, Stage, object_name, plan_subject
from resurgam.vault.records import RecordType, itself
from resurgam.vault.references import references_of
from resurgam.vault.repack import Repacker, merge_segments
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.retention import Decision, decide
from resurgam.vault.retention_words import counted
from resurgam.vault.signing import Role, SigningKey

ACT = "prune"  # what a quorum of approvers is set for
Progress = Callable[[int], None]  # bytes of packs dealt with since the last call


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that nobody has put, and what it was made from: ``points`` that stay, bytes of all ``packs`` and of what is ``needed``
    in them, packs that ``strange`` keys vouch for (they stay), and the ``leases`` that are open now."""

    plan: PrunePlan
    points: int
    packs: int
    needed: int
    strange: tuple[str, ...]
    leases: tuple[Lease, ...]


def expiring(repository: Repository) -> dict[str, str]:
    """The points that nothing keeps any more by the policies in force, at the store's time, each with the reason."""
    return {decision.point: decision.why for decision in _decisions(repository) if not decision.keep}


def _decisions(repository: Repository, besides: Sequence[Sealed] = ()) -> tuple[Decision, ...]:
    """What the policies in force say of every promised point, and of those ``besides``, as if they were."""
    now = store_time(repository.store)
    return decide(in_force(policies(repository)), facts(repository, besides=besides), now)


def draft(
    repository: Repository,
    expire: Mapping[str, str],
    economics: Economics = Economics(),  # noqa: B008 (a frozen value)
    accept: Collection[str] = (),
) -> Draft:
    """What a prune would do that lets ``expire`` go, points by id with their reasons. Writes nothing.

    Raises IntegrityError where what a promised point needs is not known and not accepted by name.
    """
    found = survey(repository, without=expire)
    found.require_sound(accept)
    chosen = choose(uses(found), economics)
    plan = PrunePlan(
        format=FORMAT,
        number=repository.prunes().last + 1,
        expire=dict(sorted(expire.items())),
        remove=chosen.remove,
        repack=chosen.repack,
        decided=expire.keys() <= expiring(repository).keys(),
        frees=chosen.frees,
        copies=chosen.copies,
        unused=chosen.unused,
    )
    return Draft(
        plan=plan,
        points=len(found.points),
        packs=sum(found.sizes.values()),
        needed=int(found.inventory.needed().sum()),
        strange=tuple(found.inventory.strange),
        leases=tuple(open_leases(repository)),
    )


def uses(found: Survey) -> list[PackUse]:
    """What is used of each pack that somebody who is believed vouches for."""
    inventory = found.inventory
    held, needed = inventory.held.tolist(), inventory.needed().tolist()
    return [
        PackUse(name, found.sizes[name], held[at], needed[at], name in found.cold)
        for at, name in enumerate(inventory.packs)
    ]


def propose(repository: Repository, plan: PrunePlan, clock: Clock) -> Prune:
    """Put ``plan``. Raises Busy where another prune is open: there is never more than one."""
    announce_rest(repository, clock)
    prunes = repository.prunes()
    if prunes.open is not None or plan.number != prunes.last + 1:
        raise _other(prunes.open)
    _put(repository, plan.number, "plan", RecordType.PRUNE, plan, clock)
    stands = repository.prunes().open
    if stands is None or stands.plan != plan:
        raise _other(stands)
    return stands


def require(repository: Repository, number: int) -> Prune:
    """The prune of that number. Raises NotFound, and IntegrityError where an object of it cannot be believed."""
    found = next((prune for prune in repository.prunes().all if prune.number == number), None)
    if found is None:
        raise NotFound(
            f"There is no prune {number}.",
            untouched="Nothing was changed.",
            next_step="`resurgam vault prune --list` shows which there were.",
        )
    if found.broken:
        raise IntegrityError(
            f"Prune {number} cannot go on: {found.broken}",
            untouched="Its packs are where they were.",
            next_step="Bring the object back from a replica, or have whoever keeps the store remove what is not to be believed.",
        )
    return found


def digest(repository: Repository, prune: Prune) -> str:
    """What approvers say yes to: the digest of exactly this plan."""
    return plan_digest(repository, ACT, prune.plan)


def begin(repository: Repository, prune: Prune, clock: Clock) -> Prune:
    """Put the tombstones: the points count as expired, and no session that begins now builds on the packs. Then note which leases
    are open. Raises Denied where too few have approved, Busy where a point in it is held, IntegrityError where the store's time
    is of the future."""
    require_present(repository.store, clock)
    announce_rest(repository, clock)
    if prune.stage is Stage.PLANNED:
        require_approvals(repository, ACT, digest(repository, prune))
        require_free(repository, prune)
        _put(repository, prune.number, "tombstones", RecordType.TOMBSTONES, {}, clock, prune)
    prune = require(repository, prune.number)
    if prune.stage is Stage.BEGUN and prune.awaited is None:
        require_listed(repository.store, object_name(prune.number, "tombstones"))
        leases = tuple(lease.id for lease in open_leases(repository))  # after the tombstones: later ones saw them
        _put(repository, prune.number, "awaited", RecordType.AWAITED, Awaited(leases=leases), clock, prune)
    return require(repository, prune.number)


def waits_for(repository: Repository, prune: Prune) -> list[Lease]:
    """The leases that were open when the tombstones were listed, and still are."""
    return [lease for lease in open_leases(repository) if lease.id in (prune.awaited or ())]


def require_free(repository: Repository, prune: Prune) -> None:
    """Raises Busy where a point that the plan lets go has come to be held, to be the reference, or live; or where the policies
    let it go and keep it now: another may be in force by then, or the points that stood before it were found different."""
    going = [
        sealed
        for sealed in (*repository.points(), *repository.points(expired=True))
        if sealed.body.id in prune.plan.expire
    ]
    kept = _kept_by_now(repository, prune) if prune.plan.decided else {}
    kept |= {sealed.body.id: why for sealed in going if (why := _wanted(repository, sealed))}
    if kept:
        told = "; ".join(f"{point}: {why}" for point, why in sorted(kept.items()))
        raise Busy(
            f"Prune {prune.number} lets points go that must stay now: {told}.",
            untouched="No pack was removed.",
            next_step=f"Run `resurgam vault prune --undo {prune.number}`, then plan anew.",
        )


def _kept_by_now(repository: Repository, prune: Prune) -> dict[str, str]:
    """The points of a plan that the policies would keep if it were made now, each with the reason."""
    already = [sealed for sealed in repository.points(expired=True) if sealed.body.id in prune.plan.expire]
    decisions = _decisions(repository, already)
    return {one.point: one.why for one in decisions if one.keep and one.point in prune.plan.expire}


def sweep(
    repository: Repository,
    prune: Prune,
    clock: Clock,
    accept: Collection[str] = (),
    progress: Progress | None = None,
) -> Prune:
    """Phase two: mark anew, copy, say what is gone, delete. Given again it goes on where it was stopped.

    Raises Busy where leases are open or a point of the plan is held now, IntegrityError as :func:`draft` and :func:`begin` do.
    """
    if prune.stage is Stage.PLANNED or prune.awaited is None:
        raise Busy(
            f"Prune {prune.number} has not begun.", untouched="Nothing was changed.", next_step="Begin it first."
        )
    if prune.stage is Stage.BEGUN:
        if waiting := waits_for(repository, prune):
            raise _waiting(prune, waiting)
        require_present(repository.store, clock)
        require_free(repository, prune)
        end = _decide(repository, prune, accept, progress)
        _end(repository, prune, end, clock)
    clear_away(repository)
    return require(repository, prune.number)


def undo(repository: Repository, number: int, why: str, clock: Clock) -> Prune:
    """Take a prune back that is not swept: its points are promised again, its packs as before. Raises Busy where it was swept."""
    prune = require(repository, number)
    announce_rest(repository, clock)
    if not prune.ended:
        _end(repository, prune, PruneEnd(swept=False, why=why), clock)
        prune = require(repository, number)
    if prune.stage is not Stage.UNDONE:
        raise Busy(
            f"Prune {number} was swept: what its points alone needed is gone.",
            untouched="Nothing was changed.",
            next_step="Restore from a copy of the vault that the prune has not reached: `resurgam restore POINT --vault COPY`.",
        )
    return prune


def announce_rest(repository: Repository, clock: Clock) -> None:
    """Say in the log what stands of the newest prune and is not in it: whoever put it was stopped before saying so."""
    newest = repository.prunes().all[-1:]
    if not newest or newest[0].broken:
        return
    names = {object_name(newest[0].number, what): kind for what, kind in OBJECTS.items()}
    plan, *_ = there = [entry for name in names for entry in repository.store.list(name) if entry.name == name]
    # Entries that the store received before the plan cannot speak of it.
    said = announced_since(repository.store, plan.received, repository.roles, repository.vault)
    for entry in there:
        if entry.name not in said:
            repository.announce(names[entry.name], entry.name, repository.keyring.signer(Role.PRUNER), clock)


def clear_away(repository: Repository) -> int:
    """Delete what the last sweep says is gone and is still there; returns how many objects that were. Raises Denied where the
    store does not let go of it yet."""
    ends = [prune.end for prune in repository.prunes().all if prune.stage is Stage.SWEPT and prune.end is not None]
    gone = {f"packs/{name[:2]}/{name}" for end in ends for name in end.gone}
    gone.update(name for end in ends for name in end.segments)
    left = [
        entry.name for prefix in ("packs/", "index/") for entry in repository.store.list(prefix) if entry.name in gone
    ]
    for name in left:
        repository.store.delete(name)
    return len(left)


def _decide(repository: Repository, prune: Prune, accept: Collection[str], progress: Progress | None) -> PruneEnd:
    """Mark anew and copy: what of the plan's packs goes, and what is spared."""
    signer = repository.keyring.signer(Role.PRUNER)
    found = survey(repository)
    found.require_sound(accept)
    try:
        spared = _copy(repository, prune, found, signer, progress)
    except StoreFull:  # it gives back what asks for no copy; of what was copied, nothing is relied on
        spared = dict.fromkeys(
            found.inventory.wanted(prune.plan.packs), "there is no room for a copy of what is needed in it"
        )
    gone = prune.plan.packs & frozenset(found.inventory.packs) - spared.keys()
    segments = merge_segments(repository, signer, gone)
    return PruneEnd(swept=True, gone=tuple(sorted(gone)), segments=segments, spared=spared)


def _copy(
    repository: Repository, prune: Prune, found: Survey, signer: SigningKey, progress: Progress | None
) -> dict[str, str]:
    """Copy what is needed out of the packs that go; returns those that are spared, with the reasons. Raises StoreFull."""
    wanted = found.inventory.wanted(prune.plan.packs)
    spared: dict[str, str] = {}
    repacker = Repacker(repository, signer)
    for pack in sorted(prune.plan.packs & found.sizes.keys()):
        if pack in wanted and pack not in prune.plan.repack:
            spared[pack] = "a point needs it that was sealed since the plan"
        elif pack in wanted:
            try:
                repacker.copy(pack, found.sizes[pack], wanted[pack])
            except (IntegrityError, NotFound) as error:  # not there: another pruner's end stands by now, and counts
                spared[pack] = error.message
        if progress is not None:
            progress(found.sizes[pack])
    repacker.close()
    return spared


def _wanted(repository: Repository, sealed: Sealed) -> str:
    """Why a point must stay, whatever a plan says; empty where nothing asks for it."""
    state, now = repository.state(sealed), store_time(repository.store)
    if state.damaged is not None:
        return "what became known of it cannot be believed"
    if any(hold.stands(now) for hold in state.holds):
        return "it is held"
    if state.promoted is not None:
        return "it is live"
    approved = references_of(repository, sealed.body.system)
    return "the reference rests on it" if approved and approved[-1].subject == sealed.record.subject else ""


def _end(repository: Repository, prune: Prune, end: PruneEnd, clock: Clock) -> None:
    """Sweep or undo: the first put wins, and what stands then is what counts. Raises Busy where it is the other one."""
    _put(repository, prune.number, "end", RecordType.PRUNED, end, clock, prune)
    stands = require(repository, prune.number)
    if end.swept and stands.stage is not Stage.SWEPT:
        raise Busy(
            f"Prune {prune.number} was undone meanwhile.",
            untouched="No pack was removed; what was copied is garbage, for a later prune.",
            next_step="Plan anew with `resurgam vault prune`.",
        )


def _put(
    repository: Repository,
    number: int,
    what: str,
    type: RecordType,
    body: object,
    clock: Clock,
    prune: Prune | None = None,
) -> None:
    """Put an object of a prune, unless another pruner did so first: whoever goes on reads what stands."""
    signer, name = repository.keyring.signer(Role.PRUNER), object_name(number, what)
    subject = prune.subject if prune is not None else itself(plan_subject(number), body)
    with suppress(AlreadyThere):
        repository.put_signed(name, type, subject, body, signer, clock)
        repository.announce(type, name, signer, clock)


def _other(open_one: Prune | None) -> Busy:
    number = open_one.number if open_one else "another"
    return Busy(
        f"Prune {number} is open, and there is never more than one.",
        untouched="Nothing was changed.",
        next_step=f"Go on with it (`resurgam vault prune --yes`), or end it: `resurgam vault prune --undo {number}`.",
    )


def _waiting(prune: Prune, leases: Sequence[Lease]) -> Busy:
    names = ", ".join(lease.id for lease in leases[:5])
    return Busy(
        f"Prune {prune.number} waits for {counted(len(leases), 'lease')} from before it began: {names}.",
        untouched="No pack was removed.",
        next_step="Run it again when their sessions have ended; `resurgam vault leases` shows them, and revokes dead ones.",
    )
