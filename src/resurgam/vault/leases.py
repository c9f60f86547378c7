"""Leases: who writes chunks says first which names its session will seal, and a prune waits for those names.

    leases/<id>            a capture reserves points/<id>, and nothing else
    leases/evidence-<id>   a verification, or an approval, reserves records/<point>/<type>-<id>

A lease is put before the session reads the index and the tombstones. Each name that it reserves ends by one create-only put:
the session's, or a revocation under the same name by whoever may; the first wins, and the other one's put fails. A lease is
*settled* when every name that it reserves is there. No age and no clock ends one: a writer that slept for a week and was revoked
finds its name taken, whatever it stored is garbage, and it starts over.

A session may die and leave its lease open. The next capture of the same host revokes its own; any other is revoked by hand
(``resurgam vault leases --revoke``), or by a prune that is told how old is dead.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import msgspec

from resurgam.clock import Clock
from resurgam.errors import Busy, Denied, IntegrityError, NotFound
from resurgam.stores.base import AlreadyThere, Entry, Store, require_listed
from resurgam.vault.naming import expired
from resurgam.vault.records import RecordType, Subject, itself, timestamp
from resurgam.vault.roles import Disowned
from resurgam.vault.signing import Role, SigningKey, broken

if TYPE_CHECKING:
    from resurgam.vault.repository import Repository

PREFIX = "leases/"
EVIDENCE = "evidence-"
_CAPTURE = re.compile(r"[0-9a-f]{16}")
_RECORD = re.compile(r"records/[0-9a-f]{16}/[a-z]+-([0-9a-f]{16})")


class LeaseBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease says: the names that its session will ``seal``, when it began by its own clock, and for whom. Leases of the
    first releases have only ``point``."""

    started: str = ""
    point: str = ""
    system: str = ""
    seals: tuple[str, ...] = ()


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease as the vault holds it. ``received`` is the store's time; ``refused`` says why it is not believed, empty where it
    is."""

    id: str
    names: tuple[str, ...]
    started: str = ""
    point: str = ""
    system: str = ""
    by: str = ""
    signer: str = ""
    received: float = 0.0
    refused: str = ""


def reserve_point(repository: Repository, system: str, signer: SigningKey, clock: Clock, point: str) -> Lease:
    """Reserve ``points/<point>`` for a capture of ``system``."""
    return _reserve(repository, point, LeaseBody(point=point, system=system), (f"points/{point}",), signer, clock)


def reserve_records(
    repository: Repository, point: str, types: Sequence[RecordType], signer: SigningKey, clock: Clock
) -> Lease:
    """Reserve a record of each of ``types`` about ``point``. They all end in the id of the lease, so no two leases share one."""
    number = secrets.token_hex(8)
    names = tuple(f"records/{point}/{kind}-{number}" for kind in types)
    return _reserve(repository, f"{EVIDENCE}{number}", LeaseBody(point=point, seals=names), names, signer, clock)


def _reserve(
    repository: Repository, id: str, body: LeaseBody, names: tuple[str, ...], signer: SigningKey, clock: Clock
) -> Lease:
    """Put a lease and be sure that it is listed: what the session reads from now on, a prune will wait for."""
    body = msgspec.structs.replace(body, started=timestamp(clock.now()), seals=names)
    repository.put_signed(f"{PREFIX}{id}", RecordType.LEASE, itself(f"lease/{id}", body), body, signer, clock)
    require_listed(repository.store, f"{PREFIX}{id}")
    return _lease(id, body, names, signer.role, signer.key_id)


def put_leased(repository: Repository, type: RecordType, point: str, body: object, role: Role, clock: Clock) -> str:
    """Sign, store and announce a record that rests on documents which others stored: they stay until it is there. Returns its name.
    Raises NotFound where the point expired, Busy where the lease was revoked meanwhile."""
    signer, subject = repository.keyring.signer(role), repository.sealed(point).record.subject
    (name,) = reserve_records(repository, point, [type], signer, clock).names
    try:
        require_promised(repository, point)
    except NotFound:
        revoke_name(repository, name, "the point expired", signer, clock)
        raise
    try:
        repository.put_signed(name, type, subject, body, signer, clock)
    except AlreadyThere as error:
        raise revoked(f"The lease of {name}") from error
    repository.announce(type, name, signer, clock)
    return name


def require_promised(repository: Repository, point: str) -> None:
    """Raises NotFound where ``point`` expired. To be asked under a lease: then it stays promised until that is settled."""
    over = repository.prunes().expired
    if point in over:
        raise expired(point, over[point])


def revoked(what: str) -> Busy:
    """That a session has to start over."""
    return Busy(
        f"{what} was revoked while its session was at work.",
        untouched="Nothing was sealed; of what was stored, what is still there will be reused.",
        next_step="Run the same command again.",
    )


def open_leases(repository: Repository) -> list[Lease]:
    """The leases that are not settled, oldest first by the store's time. One that is not believed is among them, since it may
    be a damaged one whose session runs; one of a key that was removed is not, since nothing that it seals will count."""
    entries = list(repository.store.list(PREFIX))  # before the names: what is sealed meanwhile is settled
    there = _names(repository.store)
    leases = (_read(repository, entry) for entry in entries if not _sealed_capture(entry, there))
    found = [lease for lease in leases if lease is not None and not settled(lease, there)]
    return sorted(found, key=lambda lease: (lease.received, lease.id))


def settled(lease: Lease, there: Collection[str]) -> bool:
    """Whether every name that ``lease`` reserves is ``there``. What a lease reserves that cannot be read is not known."""
    return bool(lease.names) and all(name in there for name in lease.names)


def revoke(repository: Repository, lease: Lease, role: Role, why: str, clock: Clock) -> tuple[str, ...]:
    """End ``lease``: put a revocation under each of its names that is free; returns those names. Where none was, its session has
    sealed them all. Raises Denied without the key of ``role``; NotFound where the lease does not say what it reserves."""
    if not lease.names:
        raise NotFound(
            f"Lease {lease.id} cannot be believed, so it is not known what it reserves. {lease.refused}",
            untouched="Nothing was revoked.",
            next_step="See that its session has ended, then have whoever keeps the store remove the object.",
        )
    signer = repository.keyring.signer(role)
    revoked = [name for name in lease.names if revoke_name(repository, name, why, signer, clock)]
    return tuple(revoked)


def role_to_revoke(repository: Repository, lease: Lease) -> Role:
    """The role in which this host may revoke ``lease``: pruner and approver any, capture and verifier what their own key has put.
    Raises Denied."""
    keyring = repository.keyring
    here = [role for role in (Role.PRUNER, Role.APPROVER, Role.CAPTURE, Role.VERIFIER) if keyring.has(f"{role}.json")]
    for role in here:
        own = role == lease.by and keyring.signer(role).key_id == lease.signer
        if role in (Role.PRUNER, Role.APPROVER) or own:
            return role
    raise Denied(
        f"Lease {lease.id} is another's ({lease.by or 'not known'}), and there is no pruner's or approver's key here.",
        untouched="It was left open.",
        next_step="Run this where pruner.json or approver.json is kept, or where the session ran.",
    )


def revoke_name(repository: Repository, name: str, why: str, signer: SigningKey, clock: Clock) -> bool:
    """Put a revocation as ``name``; False where something stands there already: seal or revoke, the first wins."""
    body = {"why": why}
    try:
        repository.put_signed(name, RecordType.REVOCATION, _about(repository, name, body), body, signer, clock)
    except AlreadyThere:
        return False
    return True


def _about(repository: Repository, name: str, body: object) -> Subject:
    """A revocation stands where a point or a record would, and is about the same."""
    point = name.split("/")[1]
    if name.startswith("points/"):
        return itself(f"point/{point}", body)
    return repository.sealed(point).record.subject


def _read(repository: Repository, entry: Entry) -> Lease | None:
    """The lease in ``entry``; None where its key was removed."""
    lease = entry.name.removeprefix(PREFIX)
    certain = (f"points/{lease}",) if _CAPTURE.fullmatch(lease) else ()  # which needs no reading
    try:
        record = repository.record(entry, {RecordType.LEASE}, about=f"lease/{lease}")
        body = record.read(LeaseBody)
        names = certain or _reserved(lease, body, entry.name)
    except Disowned:
        return None
    except IntegrityError as error:
        return Lease(id=lease, names=certain, received=entry.received, refused=error.message)
    return _lease(lease, body, names, record.by, record.signer, entry.received)


def _reserved(id: str, body: LeaseBody, what: str) -> tuple[str, ...]:
    """The names in a lease of evidence. One that reserves other names than its own records is none: who revokes it would put
    something under a name of the liar's choice."""
    for name in body.seals:
        match = _RECORD.fullmatch(name)
        if match is None or f"{EVIDENCE}{match[1]}" != id:
            raise broken(what, f"it reserves {name[:80]}, which is no record of its own")
    if not body.seals:
        raise broken(what, "it reserves nothing")
    return body.seals


def _lease(id: str, body: LeaseBody, names: tuple[str, ...], by: str, signer: str, received: float = 0.0) -> Lease:
    return Lease(
        id=id,
        names=names,
        started=body.started,
        point=body.point,
        system=body.system,
        by=by,
        signer=signer,
        received=received,
    )


def _names(store: Store) -> frozenset[str]:
    return frozenset(entry.name for prefix in ("points/", "records/") for entry in store.list(prefix))


def _sealed_capture(entry: Entry, there: Collection[str]) -> bool:
    """Whether this is a capture's lease whose one name is there: by far the most are, and are not read."""
    lease = entry.name.removeprefix(PREFIX)
    return bool(_CAPTURE.fullmatch(lease)) and f"points/{lease}" in there
