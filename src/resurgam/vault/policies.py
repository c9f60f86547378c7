"""The policies that are in force, and what they are decided upon: gathered from a vault for ``vault.retention``.

A policy is a record, ``retention/<8 digits>``, signed by an approver and created once. It names a retention for each system,
and what the one before said of other systems is said again. So the highest serial counts alone, except that each one before it
keeps what it kept for its own cooling period, counted from when the store received its successor.

What cannot be believed keeps everything, until it is replaced and the usual cooling period is over: a policy that is missing in
the row, one that is damaged, one whose signer was disowned, and the state before any policy. So neither taking policies away nor
putting rubbish in their place makes a point expire (P12). What is taken from the *end* of the row shows to whoever remembers its
serial: :func:`require_newest_policy`.

The store's time is when it received what it received last. Nobody's clock moves it but the store's, and it is never ahead of that.
But a store's clock can be wrong, and in a folder whoever may write can date a file: one time of the future would end every hold
and every cooling period. So whoever acts compares it with the host's clock as well, and ends nothing where the two contradict.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from resurgam.clock import Clock
from resurgam.errors import Busy, IntegrityError
from resurgam.model.codec import versioned
from resurgam.model.system import Retention
from resurgam.stores.base import AlreadyThere, Entry, Store
from resurgam.vault.approvals import approvers, plan_digest, require_approvals, required
from resurgam.vault.history import PointState
from resurgam.vault.host import HostState
from resurgam.vault.known import states
from resurgam.vault.naming import Sealed
from resurgam.vault.records import Record, RecordType, itself, read_record
from resurgam.vault.references import references_of
from resurgam.vault.repository import Repository
from resurgam.vault.retention import PointFacts, PolicyInForce, Standing
from resurgam.vault.retention_words import Change, at, changes, weakens
from resurgam.vault.signing import Role

FORMAT = 1  # a rule that keeps more MUST raise it: a release that does not know the rule would let points expire
PREFIX = "retention/"
ACT = "retention"  # what approvers are asked for where a policy weakens, or a hold is lifted
AHEAD = 86_400.0  # seconds by which the store's time may be ahead of a host's clock; beyond it one of the two is wrong
_EVERYTHING = Retention(never=True)
_TELLING = ("leases/", "log/", "points/", "prune/", PREFIX)  # what is put in any act that changes what stays


class PolicyBody(msgspec.Struct, frozen=True, kw_only=True):
    """What an approver signs: how long points of each system stay, and why it was so decided."""

    format: int
    serial: int
    systems: dict[str, Retention]
    why: str = ""


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """One policy as the vault holds it; ``refused`` says why there is none to be believed. ``received`` is the store's time (of one
    that is missing, that of the next)."""

    serial: int
    received: float
    body: PolicyBody | None = None
    made: str = ""
    signer: str = ""
    refused: str = ""

    def of(self, system: str) -> tuple[Retention, str]:
        """What it says of ``system``; where it says nothing, everything stays, and why."""
        if self.body is None:
            return _EVERYTHING, f"policy {self.serial} cannot be believed, so nothing expires"
        if system not in self.body.systems:
            return _EVERYTHING, "no policy said how long points of this system stay"
        return self.body.systems[system], ""


_BEFORE_ANY = Signed(serial=0, received=0.0, body=PolicyBody(format=FORMAT, serial=0, systems={}))


def policies(repository: Repository) -> tuple[Signed, ...]:
    """Every policy that was ever set, by serial; one that is missing in the row stands there as refused.

    The row ends with the last that is believed and what follows it without a gap. What lies beyond is rubbish: nobody who sets a
    policy leaves a number out, and a row up to a number that anybody may write would never end. Raises NewerFormat.
    """
    entries = {entry.name.removeprefix(PREFIX): entry for entry in repository.store.list(PREFIX)}
    numbered = {int(number): entry for number, entry in entries.items() if number.isdecimal() and len(number) == 8}
    known = {serial: _believed(repository, serial, entry) for serial, entry in numbered.items()}
    end = max((serial for serial, signed in known.items() if signed.body is not None), default=0) + 1
    while end in known:
        end += 1
    found: list[Signed] = []
    for serial in range(end - 1, 0, -1):
        missing = Signed(
            serial=serial, received=found[-1].received if found else 0.0, refused=f"{policy_name(serial)} is missing"
        )
        found.append(known.get(serial, missing))
    row = tuple(reversed(found))
    return tuple(_approved(repository, before, one) for before, one in pairwise([_BEFORE_ANY, *row]))


def weaker(before: Signed, body: PolicyBody) -> dict[str, tuple[Change, ...]]:
    """What ``body`` changes where it weakens what was ``before``, by system."""
    systems = body.systems.keys() | (before.body.systems.keys() if before.body else ())
    after = Signed(serial=body.serial, received=0.0, body=body)
    pairs = {system: (before.of(system)[0], after.of(system)[0]) for system in sorted(systems)}
    return {system: changes(*pair) for system, pair in pairs.items() if weakens(*pair)}


def said_before(signed: Sequence[Signed]) -> Signed:
    """The newest policy, believed or not; of a vault that has none, one that lets nothing expire."""
    return signed[-1] if signed else _BEFORE_ANY


def in_force(signed: Sequence[Signed]) -> tuple[PolicyInForce, ...]:
    """For each system that a policy names: all policies in turn, each with when it ends."""
    systems = sorted({system for one in signed if one.body for system in one.body.systems})
    return tuple(policy for system in systems for policy in _row(system, [_BEFORE_ANY, *signed]))


def _row(system: str, signed: Sequence[Signed]) -> list[PolicyInForce]:
    row = []
    for one, following in [*pairwise(signed), (signed[-1], None)]:
        retention, lacking = one.of(system)
        until = following.received + retention.cooling if following is not None else None
        row.append(PolicyInForce(serial=one.serial, system=system, retention=retention, until=until, lacking=lacking))
    return row


def _approved(repository: Repository, before: Signed, signed: Signed) -> Signed:
    """As it is, or refused where it weakens and fewer approvers have said yes than the vault asks for: one stolen key is not
    enough for whoever reads, either."""
    needed = required(repository, ACT)
    if signed.body is None or not needed or not weaker(before, signed.body):
        return signed
    digest = plan_digest(repository, ACT, signed.body)
    given = len(approvers(repository, digest))
    if given >= needed:
        return signed
    name = policy_name(signed.serial)
    refused = f"{name} weakens what was before, and {given} of {needed} approvers said yes to its plan {digest}"
    return msgspec.structs.replace(signed, body=None, refused=refused)


def facts(repository: Repository, system: str | None = None, besides: Sequence[Sealed] = ()) -> tuple[PointFacts, ...]:
    """What a decision needs to know of every promised point, of ``system`` or of all, and of those ``besides``. What stands where a
    point should and is not believed is in ``repository.refused_points``: nothing is decided about it."""
    points = [*repository.points(system), *besides]
    references = {_reference(repository, name) for name in {sealed.body.system for sealed in points}}
    stand = states(repository, points)
    return tuple(_facts(repository, sealed, stand[sealed.body.id], references) for sealed in points)


def _facts(repository: Repository, sealed: Sealed, state: PointState, references: set[str]) -> PointFacts:
    body, needed = sealed.body, required(repository, ACT)
    lifted = state.lifted if needed else ()
    unapproved = [
        one.hold for one in lifted if len(approvers(repository, plan_digest(repository, ACT, one.by))) < needed
    ]
    return PointFacts(
        point=body.id,
        system=body.system,
        received=repository.as_told(Entry(f"points/{body.id}", 0, sealed.received), always=True).received,
        standing=standing(state),
        reference=f"point/{body.id}" in references,
        promoted=state.promoted or "",
        tags=body.tags,
        holds=(*state.holds, *unapproved),
        damaged=state.damaged or "",
    )


def standing(state: PointState) -> Standing:
    """How well a point is proven, for retention: what is quarantined may go nowhere, so it takes no better one's place."""
    if state.may_be_promoted:
        return Standing.PROVEN
    return Standing.ONCE_PROVEN if state.once_proven is not None else Standing.SEALED


def _reference(repository: Repository, system: str) -> str:
    """The point on which the reference of ``system`` rests; empty where none was approved. Raises IntegrityError."""
    approved = references_of(repository, system)
    return approved[-1].subject.name if approved else ""


def store_time(store: Store) -> float:
    """Seconds since 1970 by the store's clock, as far as what it received tells: never ahead of it. Exact after a put."""
    last = _last_received(store)
    return last.received if last is not None else 0.0


def from_the_future(store: Store, clock: Clock) -> str:
    """Which object's time is more than a day ahead of the host's ``clock``, in words; empty where none is."""
    last, now = _last_received(store), clock.now().timestamp()
    if last is None or last.received - now <= AHEAD:
        return ""
    return f"{last.name} was received {at(last.received)} by the store's clock, and by this host's it is {at(now)} now."


def require_present(store: Store, clock: Clock) -> None:
    """Raises IntegrityError where the store's time is more than a day ahead of ``clock``: holds and cooling periods would end
    before their time."""
    if wrong := from_the_future(store, clock):
        raise IntegrityError(
            f"Nothing can expire by a time of the future: {wrong}",
            untouched="No point expired, and no pack was removed.",
            next_step="Set right whichever clock is wrong. If it was the store's, have whoever keeps the store bring that object "
            "back from a replica, or give its file the right time (`touch`); then run the same command again.",
        )


def _last_received(store: Store) -> Entry | None:
    entries = (entry for prefix in _TELLING for entry in store.list(prefix))
    return max(entries, key=lambda entry: entry.received, default=None)


def require_newest_policy(signed: Sequence[Signed], host: HostState) -> None:
    """Raises IntegrityError where ``host`` has seen a newer policy than the vault serves now: whoever took it away may have made
    points expire."""
    serial = signed[-1].serial if signed else 0
    seen = host.newest_policy(serial)
    if seen > serial:
        raise IntegrityError(
            f"The vault serves retention policy {serial}, and this host has seen {seen}: it was rolled back.",
            untouched="Nothing expired, and nothing was changed.",
            next_step="Bring retention/ back from a replica, and find out who can delete objects there.",
        )


# Setting one ---------------------------------------------------------------------------------------------------------


def next_policy(signed: Sequence[Signed], system: str, retention: Retention, why: str = "") -> PolicyBody:
    """The policy that says ``retention`` of ``system``, and of all others what the newest that can be believed says."""
    before = next((one.body for one in reversed(signed) if one.body is not None), None)
    systems = (before.systems if before else {}) | {system: retention}
    return PolicyBody(format=FORMAT, serial=signed[-1].serial + 1 if signed else 1, systems=systems, why=why)


def put_policy(repository: Repository, body: PolicyBody, clock: Clock) -> Signed:
    """Sign ``body`` as the approver, and set it: it is in force from then on. Raises Denied, also where it weakens and too few have
    approved; Busy where another came first."""
    signer, name = repository.keyring.signer(Role.APPROVER), policy_name(body.serial)
    if weaker(said_before(policies(repository)), body):
        require_approvals(repository, ACT, plan_digest(repository, ACT, body))
    try:
        repository.put_signed(name, RecordType.RETENTION, itself(name, body), body, signer, clock)
    except AlreadyThere as error:
        raise Busy(
            f"Another retention policy {body.serial} was set meanwhile.",
            untouched="That one holds, and nothing of this was done.",
            next_step="Look at it with `resurgam retention show`, and give the same command again.",
        ) from error
    repository.announce(RecordType.RETENTION, name, signer, clock)
    return policies(repository)[body.serial - 1]


def _believed(repository: Repository, serial: int, entry: Entry) -> Signed:
    name = entry.name
    try:
        record = read_record(
            repository.store.get(name),
            repository.roles,
            repository.vault,
            {RecordType.RETENTION},
            about=name,
            what=name,
        )
        body = _body(record, serial)
    except IntegrityError as error:
        return Signed(serial=serial, received=entry.received, refused=error.message)
    return Signed(serial=serial, received=entry.received, body=body, made=record.made, signer=record.signer)


def _body(record: Record, serial: int) -> PolicyBody:
    body = versioned(record.body, PolicyBody, FORMAT, what=policy_name(serial))
    if body.serial != serial:
        raise IntegrityError(f"{policy_name(serial)} holds policy {body.serial}.", untouched="Nothing was changed.")
    return body


def policy_name(serial: int) -> str:
    """Where a policy is stored."""
    return f"{PREFIX}{serial:08d}"
